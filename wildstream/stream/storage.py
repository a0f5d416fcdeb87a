"""Where shards lie → bytes: members of local tar files, mapped into memory.

Planned reading never parses a tar: the index names offset and size. Opened files are kept per process.
"""

from __future__ import annotations

import mmap
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from wildstream.errors import ShardError

OPEN_SHARDS = 128
"""Shards that stay mapped at a time; below the usual limit of open files."""


def read_member(shard: Path, offset: int, size: int) -> Tensor:
    """A member of a shard as (size,) uint8, CPU; a view of the mapped file, nothing is copied.

    Raises:
        ShardError: The shard is missing, or shorter than the index says.
    """
    try:
        status = shard.stat()
        mapped = _map(shard, (status.st_ino, status.st_mtime_ns, status.st_size))
    except (OSError, ValueError) as error:
        raise ShardError(f"shard {shard} cannot be opened: {error}. Pack the videos again, or restore it.") from error
    if offset + size > mapped.numel():
        raise ShardError(
            f"shard {shard} has {mapped.numel():,} bytes, the index says that a video ends at {offset + size:,}; "
            "it is truncated or of another packing. Restore it, or pack the videos again."
        )
    return mapped[offset : offset + size]


@lru_cache(maxsize=OPEN_SHARDS)
def _map(shard: Path, identity: tuple[int, int, int]) -> Tensor:
    """A whole shard as uint8. Copy-on-write, because torch wants memory that it may write to.

    `identity` (inode, time of writing, size) tells a shard from another one that was packed in its place.
    """
    with shard.open("rb") as file:
        return torch.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), dtype=torch.uint8)

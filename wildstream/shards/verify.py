"""Packed shards → whether they still are what their index says, video by video.

Compared are the bytes with their checksum, the frames that decode and those that are lost with the index, and the key
frames that can be trusted with those that the index names. Nothing is changed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from wildstream.errors import SampleError, ShardError
from wildstream.facts import FrameTable
from wildstream.probe import probe_for
from wildstream.shards.index import Index, open_index
from wildstream.storage.access import Storage
from wildstream.video import name_runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One video that is not what the index says."""

    key: str
    """Key of the video."""
    shard: str
    """Name of the shard that it lies in."""
    reason: str
    """What is wrong, and the remedy."""


def verify(
    path: str | Path, *, workers: int | None = None, progress: bool = True, storage: Storage | None = None
) -> list[Fault]:
    """Check every video of one packed split against its index.

    Args:
        path: Path or URL of one packed split, such as "shards/train".
        workers: Threads; the number of available cores by default.
        progress: Show a progress bar on stderr.
        storage: Reads the shards; one without options by default.

    Returns:
        The faults that were found, in order of key; none where all is well.

    Raises:
        ShardError: There is no index, or it is damaged.
    """
    index = open_index(path, storage)
    threads = workers or len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads, "verify") as executor:
        found = executor.map(lambda video: _check(index, video), range(len(index)))
        bar = tqdm(found, total=len(index), desc="verify", unit="video", disable=not progress)
        return [fault for fault in bar if fault is not None]


def _check(index: Index, video: int) -> Fault | None:
    """The fault of one video, if it has one."""
    shard, _, _ = index.place(video)
    try:
        reason = next(_differences(index, video), None)
    except (OSError, SampleError, ShardError) as error:
        reason = str(error)
    return None if reason is None else Fault(key=index.keys[video], shard=shard.rpartition("/")[2], reason=reason)


def _differences(index: Index, video: int) -> Iterator[str]:
    """What differs between a video and its row of the index, the gravest first."""
    shard, offset, size = index.place(video)
    data = bytearray(index.storage.read(shard, offset, offset + size))
    expected = index.checksum(video)
    if hashlib.sha256(data).hexdigest() != expected:
        found = _damage(data, index.frame_table(video))
        yield f"its bytes are not those that were packed (checksum{found}); restore the shard, or pack the videos again"
        return
    table = index.frame_table(video)
    facts = probe_for(torch.frombuffer(data, dtype=torch.uint8), len(table.pts))
    if facts.pts.tolist() != table.pts.tolist():
        yield (
            f"{facts.num_frames} frames decode, the index has {len(table.pts)}, or others; pack the videos again, with "
            "the FFmpeg that trains"
        )
    elif facts.lost.tolist() != table.lost.tolist():
        found, expected = (name_runs(lost.tolist()) if len(lost) else "none" for lost in (facts.lost, table.lost))
        yield f"{found} do not decode, by the index {expected}; pack the videos again, with the FFmpeg that trains"
    elif untrusted := sorted(set(table.key_frames.tolist()) - set(facts.key_frames.tolist())):
        yield f"decoding from key frame {untrusted[0]} gives other pixels than from the start; pack the videos again"


def _damage(data: bytearray, table: FrameTable) -> str:
    """What other bytes than the packed ones cost: words to put behind "checksum"."""
    try:
        facts = probe_for(torch.frombuffer(data, dtype=torch.uint8), len(table.pts))
    except SampleError as error:
        return f"; {error}"
    known = {number for first, stop in table.lost.tolist() for number in range(first, stop)}
    gone = [run for run in facts.lost.tolist() if not known.issuperset(range(*run))]
    if gone:
        return f"; {name_runs(gone)} do not decode any more"
    return "" if facts.num_frames == len(table.pts) else f"; {facts.num_frames} of {len(table.pts)} frames decode"

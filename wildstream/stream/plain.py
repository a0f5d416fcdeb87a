"""Shards without an index → WebDataset's own stream of samples, from wherever they lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import webdataset

from wildstream.errors import ConfigError, ShardError
from wildstream.storage import urls
from wildstream.storage.access import Storage
from wildstream.storage.streams import check_end, is_tar


def open_shards(
    shards: str | Path | Sequence[str | Path],
    *,
    allow_pipe: bool = False,
    **options: Any,  # noqa: ANN401 - webdataset's own
) -> webdataset.WebDataset:
    """A `webdataset.WebDataset` of tar shards; order and length are WebDataset's: not exact.

        open_shards("s3://bucket/train/{000000..000041}.tar").compose(ParseSamples(...), Decode(...), Windows(), ...)

    Args:
        shards: Paths or URLs, with braces for many.
        allow_pipe: Let `pipe:` URLs run their commands in a shell. Never do that with names that others gave you.
        options: Of `webdataset.WebDataset`; `shardshuffle=False` by default.

    Raises:
        ConfigError: A URL is of no known scheme, or runs a command without leave.
        ShardError: A local shard is missing or was cut off; of remote ones that comes when they are read.
    """
    given = [shards] if isinstance(shards, (str, Path)) else list(shards)
    names = [name for pattern in given for name in _names(str(pattern), allow_pipe=allow_pipe)]
    if not names:
        raise ConfigError(f"shards={shards!r} names no shard.")
    return webdataset.WebDataset(names, **{"shardshuffle": False, **options})


def _names(pattern: str, *, allow_pipe: bool) -> list[str]:
    """The shards that a pattern stands for; local ones are looked at."""
    if pattern.startswith("pipe:") and allow_pipe:
        return [pattern]
    if pattern.startswith("pipe:"):
        raise ConfigError(f"{pattern!r} would run a command. Give allow_pipe=True if it is your own.")
    names = urls.expand(pattern)
    for name in names:
        if not urls.is_remote(name):
            _check(urls.local_path(name))
    return names


def _check(path: Path) -> None:
    """Refuse a local shard that is missing or was cut off."""
    if not path.is_file():
        raise ShardError(f"there is no shard {path}. Check the name.")
    if not is_tar(path):
        return
    storage = Storage()
    check_end(str(path), path.stat().st_size, lambda start, stop: storage.read(path, start, stop))

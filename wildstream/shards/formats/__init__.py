"""Dataset layouts on disk → sources: which video belongs to which labels and split.

A format is a small class that finds sources (`scan`) and reads the labels of one of them (`read`). It never opens a
video, and what it cannot pair it names instead of passing over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from wildstream.errors import ConfigError, FormatError
from wildstream.shards.formats.annotated import EventAnnotated, FrameAnnotated, VideoAnnotated
from wildstream.shards.formats.boris import BorisCoded
from wildstream.shards.formats.scanning import (
    WHOLE,
    Format,
    Refusal,
    Scan,
    Source,
    Task,
    check_folder,
    find_categories,
    safe_name,
)

__all__ = [
    "FORMATS",
    "Format",
    "Refusal",
    "Scan",
    "Source",
    "Task",
    "check_folder",
    "find_categories",
    "get_format",
    "safe_name",
    "select_splits",
]

FORMATS: dict[str, Format] = {
    "frames": FrameAnnotated(),
    "videos": VideoAnnotated(),
    "events": EventAnnotated(),
    "boris": BorisCoded(),
}


def get_format(name: str) -> Format:
    """The format of that name; ConfigError where there is none."""
    if name not in FORMATS:
        raise ConfigError(f"format={name!r} is not known. Take one of {', '.join(FORMATS)}.")
    return FORMATS[name]


def select_splits(scan: Scan, splits: Sequence[str]) -> Scan:
    """Keep these splits; a source without split folders takes the one name that is asked for.

    Raises:
        FormatError: A split is not in the source.
    """
    found = {source.split for source in scan.sources} | {refusal.split for refusal in scan.refused}
    if found == {WHOLE} and len(splits) == 1:
        named = [replace(source, split=splits[0]) for source in scan.sources]
        refused, unused = ([replace(it, split=splits[0]) for it in part] for part in (scan.refused, scan.unused))
        return Scan(scan.categories, named, refused, unused)
    if missing := [split for split in splits if split not in found]:
        raise FormatError(f"split {', '.join(missing)} is not in the source; it has {', '.join(sorted(found))}")
    sources = [source for source in scan.sources if source.split in splits]
    refused, unused = ([it for it in part if it.split in splits] for part in (scan.refused, scan.unused))
    return Scan(scan.categories, sources, refused, unused)

"""Dataset layouts on disk → sources: which video belongs to which labels and split.

A format is a small class that finds sources (`scan`) and reads the labels of one of them (`read`). It never opens a
video, and what it cannot pair it names instead of passing over it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from wildstream.errors import ConfigError, FormatError, LabelError
from wildstream.shards.formats.annotated import EventAnnotated, FrameAnnotated, VideoAnnotated
from wildstream.shards.formats.boris import BorisCoded
from wildstream.shards.formats.class_folders import ClassFolders
from wildstream.shards.formats.clip_tables import ClipTable
from wildstream.shards.formats.deepethogram import DeepEthogramLabelled
from wildstream.shards.formats.elan import ElanAnnotated
from wildstream.shards.formats.images import FrameFolders, ImageFolders
from wildstream.shards.formats.scanning import (
    WHOLE,
    Format,
    Listing,
    Refusal,
    Scan,
    Source,
    Task,
    check_folder,
    find_categories,
    safe_name,
)
from wildstream.shards.formats.tidying import tidy
from wildstream.shards.formats.wlasl import Wlasl
from wildstream.shards.label_files import read_text

__all__ = [
    "AUTO",
    "FORMATS",
    "Format",
    "Refusal",
    "Scan",
    "Source",
    "Task",
    "check_folder",
    "find_categories",
    "get_format",
    "recognise_format",
    "safe_name",
    "select_splits",
    "tidy",
]

AUTO = "auto"
"""The format that is found by looking."""
FORMATS: dict[str, type[Format]] = {
    layout.name: layout
    for layout in (
        FrameAnnotated,
        VideoAnnotated,
        EventAnnotated,
        BorisCoded,
        ElanAnnotated,
        DeepEthogramLabelled,
        Wlasl,
        ClipTable,
        ClassFolders,
        FrameFolders,
        ImageFolders,
    )
}

HEADS = 3
"""Files whose beginning is told where no format is recognised."""
FOLDERS_ALONE = (ClassFolders.name, FrameFolders.name, ImageFolders.name)
"""Formats of which folders may be the only sign; the signs of others count more."""


def get_format(name: str, options: Mapping[str, object] | None = None) -> Format:
    """The format of that name.

    Args:
        name: One of `FORMATS`.
        options: Values of the fields of its class, also as text.

    Raises:
        ConfigError: There is no such format, or no such option of it, or its value is none.
    """
    if name not in FORMATS:
        near = get_close_matches(name, FORMATS, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Take one of {', '.join(FORMATS)}, or {AUTO}."
        raise ConfigError(f"format={name!r} is not known. {hint}")
    layout: Any = FORMATS[name]
    known = [field.name for field in fields(layout)]
    given = dict(options or {})
    for option in given:
        if option not in known:
            hint = f"It has {', '.join(known)}." if known else "It has none."
            raise ConfigError(f"format={name!r} has no option {option!r}. {hint}")
    try:
        made: Format = TypeAdapter(layout).validate_python(given)
    except ValidationError as error:
        fault = error.errors()[0]
        option = str(fault["loc"][0]) if fault["loc"] else ""
        raise ConfigError(f"format option {option}={fault['input']!r:.60}: {fault['msg']}. Change it.") from error
    return made


def recognise_format(root: str | Path, options: Mapping[str, object] | None = None) -> tuple[str, str]:
    """The name of the format that a source folder is in, and what says so.

    Args:
        root: The source folder.
        options: Options of the format; only such as have these are looked for.

    Raises:
        FormatError: It looks like none, or like several.
    """
    root = Path(root)
    check_folder(root)
    listing = Listing.of(root)
    for names in ([name for name in FORMATS if name not in FOLDERS_ALONE], FOLDERS_ALONE):
        able = [name for name in names if set(options or {}) <= {option.name for option in _options_of(name)}]
        found = {name: told for name in able if (told := get_format(name, options).recognise(listing))}
        if len(found) == 1:
            return next(iter(found.items()))
        if found:
            break
    if not found:
        videos, images = len(listing.videos), len(listing.images)
        raise FormatError(
            f"{root} looks like no layout that is known: {videos:,} videos, {images:,} images and "
            f"{len(listing) - videos - images:,} other files{_heads_of(listing)}. Say --format, one of "
            f"{', '.join(FORMATS)}"
        )
    told = "; ".join(f"{name}: {reason}" for name, reason in found.items())
    raise FormatError(f"{root} looks like {len(found)} layouts ({told}). Say which, by --format")


def _options_of(name: str) -> Sequence[Field[Any]]:
    """The options of a format."""
    layout: Any = FORMATS[name]
    return fields(layout)


def _heads_of(listing: Listing) -> str:
    """How the first tables and JSONs begin, or why they cannot be read, for a message."""
    told = []
    for path in listing.having("csv", "tsv", "json")[:HEADS]:
        try:
            text = read_text(path).strip()
            told.append(f"{listing.told(path)} begins {text.partition(chr(10))[0]!r:.80}")
        except LabelError as error:
            told.append(str(error))
    return f" ({'; '.join(told)})" if told else ""


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

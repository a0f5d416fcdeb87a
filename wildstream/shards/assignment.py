"""Sources → shards: which sources go into which, and a fingerprint of all that a shard's content depends on.

Both follow from the sources as the file system knows them, and from the options, alone. So a second call finds the
shards that it has not to pack again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path

from wildstream.facts import USUAL_FPS
from wildstream.shards.encoders import Transcode
from wildstream.shards.formats import FORMATS, Format, Source, get_format
from wildstream.shards.index_schema import SCHEMA_VERSION

TIMED_VIDEOS = 8
"""Videos of a split, at most, whose decoding is timed before and after re-encoding."""


def assign(
    sources: Sequence[Source],
    *,
    root: Path,
    layout: Format,
    categories: Sequence[str],
    shard_bytes: int,
    transcode: Transcode | None = None,
) -> list[tuple[list[Source], str]]:
    """Fill shards with the sources of a split, in order of key.

    Args:
        sources: In any order.
        root: The source folder.
        layout: How the labels are written.
        categories: Class names, in order of class number.
        shard_bytes: Videos go into one shard until their files would have more bytes.
        transcode: How they are re-encoded.

    Returns:
        The sources of each shard, and its fingerprint.
    """
    groups: list[list[Source]] = []
    told: list[list[object]] = []
    room = 0
    for source in sorted(sources, key=lambda entry: entry.key):
        stats = [(stat.st_size, stat.st_mtime_ns) for stat in (path.stat() for path in source.files())]
        size = sum(size for size, _ in stats)
        if not groups or size > room:
            groups.append([])
            told.append([])
            room = shard_bytes
        groups[-1].append(source)
        told[-1].append(_facts_of(source, stats, root))
        room -= size
    general: list[object] = [SCHEMA_VERSION, layout.name, list(categories)]
    if options := _changed_options(layout):
        general.append(options)
    if transcode is not None:
        general.append(transcode.options())
    marks = [hashlib.sha256(json.dumps([*general, *facts]).encode()).hexdigest() for facts in told]
    return list(zip(groups, marks, strict=True))


def choose_timed(keys: Sequence[str]) -> set[str]:
    """The videos of a split whose decoding is timed, spread over it."""
    return set(keys[:: -(-len(keys) // TIMED_VIDEOS) or 1])


def _facts_of(source: Source, stats: list[tuple[int, int]], root: Path) -> list[object]:
    """What the sample of a source depends on; stats are size and time of change of its files."""
    facts: list[object] = [source.key, str(source.video.relative_to(root)), list(stats)]
    if source.labels is not None:
        stat = source.labels.stat()
        facts[-1] = [*stats, (stat.st_size, stat.st_mtime_ns)]
    if source.part:
        facts.append(source.part)
    if source.cut is not None:
        facts.append(source.cut.as_dict())
    if source.fps != USUAL_FPS:
        facts.append(str(source.fps))
    if source.prefix:
        facts.append(source.prefix)
    return facts


def _changed_options(layout: Format) -> dict[str, str]:
    """The options of a layout that have other values than usual."""
    usual = get_format(layout.name) if layout.name in FORMATS else layout
    names: list[str] = [option.name for option in fields(layout)] if is_dataclass(layout) else []
    return {name: str(getattr(layout, name)) for name in names if getattr(layout, name) != getattr(usual, name)}

"""Projects of DeepEthogram."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from wildstream.errors import FormatError, LabelError
from wildstream.facts import VideoFacts
from wildstream.shards.event_table import table_header, table_lines
from wildstream.shards.formats.scanning import (
    LOOKED_AT,
    WHOLE,
    Listing,
    Refusal,
    Scan,
    Source,
    Task,
    add_source,
    find_categories,
    first_lines,
    list_videos,
)
from wildstream.shards.label_files import UNLABELLED
from wildstream.shards.labels import LabelTrack

BACKGROUND = "background"
"""The column that says that no behaviour happens."""
ENDING = "_labels"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepEthogramLabelled:
    """A project of DeepEthogram, or its folder DATA.

    DATA/mouse_1/mouse_1.avi
    DATA/mouse_1/mouse_1_labels.csv   a column "background", a column per behaviour, a row per frame: 0, 1, or -1 for
                                      frames that were not labelled yet
    categories.json                   optional; else the first table names the behaviours, and all have the same

    The background is no class: it says that none happens.
    """

    name: ClassVar[str] = "deepethogram"
    task: ClassVar[Task] = "multi_label"
    counts_frames: ClassVar[bool] = True

    def recognise(self, listing: Listing) -> str:
        """See Format."""
        for path in _tables(listing.having("csv"))[:LOOKED_AT]:
            if BACKGROUND in first_lines(path, 1)[0].split(","):
                return f"{listing.told(path)} has the column {BACKGROUND} of DeepEthogram"
        return ""

    def scan(self, root: Path) -> Scan:
        """See Format."""
        listing = list_videos(root)
        videos, tables = listing.videos, _tables(listing.having("csv"))
        scan, data = Scan([]), root / "DATA" if (root / "DATA").is_dir() else root
        if not tables:
            raise FormatError(f"no …{ENDING}.csv below {root}")
        first = tables[0]
        try:
            scan.categories = find_categories(root) or _behaviours(first)
        except LabelError as error:
            raise FormatError(f"{listing.told(first)}: {error}") from error
        labels: dict[tuple[Path, str], list[tuple[Path | None, str]]] = defaultdict(list)
        for path in tables:
            labels[path.parent, path.stem.removesuffix(ENDING)].append((path, ""))
        taken: dict[tuple[str, str], Path] = {}
        for video in videos:
            if not video.is_relative_to(data):
                if labels.pop((video.parent, video.stem), []):
                    reason = "lies outside DATA; move it there, with its labels"
                    scan.refused.append(Refusal(split=WHOLE, path=listing.told(video), reason=reason))
                continue
            found = labels.pop((video.parent, video.stem), [])
            lacking = f"no {video.stem}{ENDING}.csv beside it"
            add_source(scan, data, video, found, lacking=lacking, taken=taken)
        lonely = sorted(listing.told(path) for found in labels.values() for path, _ in found if path is not None)
        scan.unused += [Refusal(split=WHOLE, path=told, reason="has no video beside it") for told in lonely]
        return scan

    def read(self, source: Source, *, facts: VideoFacts, categories: list[str]) -> LabelTrack:
        """See Format."""
        path = source.label_file
        if (there := _behaviours(path)) and sorted(there) != sorted(categories):
            raise LabelError(f"{path.name} has the behaviours {', '.join(there)}, not {', '.join(categories)}")
        rows, known = [], []
        for origin, (background, *cells) in table_lines(path, (BACKGROUND, *categories)):
            values = [_value(cell, origin) for cell in (background, *cells)]
            if UNLABELLED in values and set(values) != {UNLABELLED}:
                raise LabelError(f"{origin}: {UNLABELLED}, not labelled yet, is of whole rows, not of single cells")
            if values[0] == "1" and "1" in values[1:]:
                raise LabelError(f"{origin}: {BACKGROUND} is 1, and so is a behaviour. Correct one of them")
            known.append(UNLABELLED not in values)
            rows.append([value == "1" for value in values[1:]])
        if len(rows) != facts.num_frames:
            raise LabelError(
                f"{path.name} has {len(rows)} rows, but {facts.num_frames} frames of the video decode; a row per frame "
                "is needed"
            )
        return LabelTrack.from_rows(np.array(rows, np.bool_), np.array(known, np.bool_))


def _tables(files: list[Path]) -> list[Path]:
    """The label files."""
    return [path for path in files if path.stem.endswith(ENDING)]


def _behaviours(path: Path) -> list[str]:
    """The columns of a label file that are behaviours; LabelError where it is none."""
    header = table_header(path)
    if BACKGROUND not in header:
        raise LabelError(f"{path.name} has no column {BACKGROUND!r} in its header {header!r:.100}")
    return [name for name in header if name not in ("", BACKGROUND) and not name.startswith("Unnamed")]


def _value(cell: str, origin: str) -> str:
    """A cell, as whole numbers are written; LabelError where it is neither 0, 1 nor -1."""
    text = cell.strip().removesuffix(".0")
    if text not in ("0", "1", UNLABELLED):
        raise LabelError(f"{origin}: {cell!r:.40} is neither 0, 1 nor -1")
    return text

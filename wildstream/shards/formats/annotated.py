"""Formats with a label file beside each video: WildFins' two layouts, and tables of events in seconds."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from wildstream.errors import FormatError, LabelError
from wildstream.facts import VideoFacts
from wildstream.shards.event_table import EVENT_COLUMNS, read_event_names, read_events
from wildstream.shards.formats.scanning import (
    MOST_SECONDS,
    Listing,
    Scan,
    Source,
    Task,
    check_folder,
    find_categories,
    first_lines,
    labels_beside_videos,
    pair,
)
from wildstream.shards.label_files import read_clip_class, read_frame_rows
from wildstream.shards.labels import LabelTrack, widen_points


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameAnnotated:
    """A video and a row of 0/1 per frame (WildFins' frame-annotated layout).

    categories.json                   or in the folder above
    [split/]video_001.mp4             or video_001/video_001.mp4
    [split/]video_001.tsv             or .txt: headerless, tab-separated, a row per frame, a column per class
    """

    name: ClassVar[str] = "frames"
    task: ClassVar[Task] = "multi_label"
    counts_frames: ClassVar[bool] = True

    def recognise(self, listing: Listing) -> str:
        """See Format."""
        for path in labels_beside_videos(listing, "tsv", "txt"):
            rows = [line.split("\t") for line in first_lines(path, 2)]
            if (len(rows) > 1 or len(rows[0]) > 1) and {*rows[0], *rows[-1]} <= {"0", "1", "-1"}:
                return f"{listing.told(path)} has a row of 0 and 1 for each frame"
        return ""

    def scan(self, root: Path) -> Scan:
        """See Format."""
        check_folder(root)
        categories = find_categories(root)
        if categories is None:
            raise FormatError(
                f"no categories.json in {root} or the folder above; the columns of the labels need names. Write a "
                'list of them there, such as ["feeding", "chasing"].'
            )
        return pair(root, categories, label_extensions=("tsv", "txt"), folders_in_key=0)

    def read(self, source: Source, *, facts: VideoFacts, categories: list[str]) -> LabelTrack:
        """See Format."""
        return read_frame_rows(source.label_file, num_frames=facts.num_frames, categories=categories)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoAnnotated:
    """A class folder of videos, each with a text file that holds its class number (WildFins' video-annotated layout).

    [split/]dance/clip_001.avi
    [split/]dance/clip_001.txt        one integer: the place of the class in categories.json
    categories.json                   optional; without it the class folders give the names
    """

    name: ClassVar[str] = "videos"
    task: ClassVar[Task] = "single_label"
    counts_frames: ClassVar[bool] = False

    def recognise(self, listing: Listing) -> str:
        """See Format."""
        for path in labels_beside_videos(listing, "txt"):
            lines = first_lines(path, 2)
            if len(lines) == 1 and lines[0].strip().isdecimal():
                return f"{listing.told(path)} holds one class number"
        return ""

    def scan(self, root: Path) -> Scan:
        """See Format."""
        scan = pair(root, [], label_extensions=("txt",), folders_in_key=1)
        scan.categories = find_categories(root) or _categories_from_folders(scan.sources)
        return scan

    def read(self, source: Source, *, facts: VideoFacts, categories: list[str]) -> LabelTrack:
        """See Format."""
        label = read_clip_class(source.label_file)
        if label >= len(categories):
            raise LabelError(f"{source.label_file.name} says class {label}, but there are {len(categories)} categories")
        return LabelTrack.from_class(label, num_frames=facts.num_frames, num_classes=len(categories))


@dataclass(frozen=True, slots=True, kw_only=True)
class EventAnnotated:
    """A video and a table of what happens in it, from when until when, in seconds since its first frame.

    [split/]video_001.mp4             or video_001/video_001.mp4
    [split/]video_001.csv             or .tsv: a header with the columns start, stop, class; a line per event
    categories.json                   optional, may be in the folder above; without it the tables give the names
    """

    radius: Annotated[Decimal, Field(ge=0, le=MOST_SECONDS)] = Decimal(0)
    """Seconds before and after a point in time, an event without stop or that stops when it starts, where its class is
    seen; 0: there are no points."""

    name: ClassVar[str] = "events"
    task: ClassVar[Task] = "multi_label"
    counts_frames: ClassVar[bool] = False

    def recognise(self, listing: Listing) -> str:
        """See Format."""
        for path in labels_beside_videos(listing, "csv", "tsv"):
            cells = re.split("[,;\t]", first_lines(path, 1)[0])
            if set(EVENT_COLUMNS) <= {cell.strip('"') for cell in cells}:
                return f"{listing.told(path)} has the columns {', '.join(EVENT_COLUMNS)}"
        return ""

    def scan(self, root: Path) -> Scan:
        """See Format."""
        scan = pair(root, [], label_extensions=("csv", "tsv"), folders_in_key=0)
        scan.categories = find_categories(root) or _categories_from_events(root, scan.sources)
        return scan

    def read(self, source: Source, *, facts: VideoFacts, categories: list[str]) -> LabelTrack:
        """See Format."""
        events = read_events(source.label_file, categories=categories, points=self.radius > 0)
        events = widen_points(events, Fraction(self.radius), pts=facts.pts, time_base=facts.time_base)
        return LabelTrack.from_seconds(events, pts=facts.pts, time_base=facts.time_base, num_classes=len(categories))


def _categories_from_folders(sources: Sequence[Source]) -> list[str]:
    """Class names from the folders that the videos lie in; each number must belong to one folder."""
    names: dict[int, set[str]] = defaultdict(set)
    for source in sources:
        try:
            names[read_clip_class(source.label_file)].add(source.video.parent.name)
        except LabelError:
            continue  # named when the video is packed
    numbers: dict[str, set[int]] = defaultdict(set)
    for number, folders in names.items():
        for folder in folders:
            numbers[folder].add(number)
    if mixed := {folder: sorted(found) for folder, found in numbers.items() if len(found) > 1}:
        raise FormatError(
            f"folders whose videos have several class numbers: {mixed}; a class folder has one. Correct the label "
            "files, or add a categories.json that names the classes by number"
        )
    if unclear := {number: sorted(folders) for number, folders in names.items() if len(folders) > 1}:
        raise FormatError(f"class numbers that several folders use: {unclear}; add a categories.json")
    if sorted(names) != list(range(len(names))):
        raise FormatError(f"class numbers are {sorted(names)}, not 0 to {len(names) - 1}; add a categories.json")
    return [next(iter(names[number])) for number in sorted(names)]


def _categories_from_events(root: Path, sources: Sequence[Source]) -> list[str]:
    """Class names from the tables of events in all splits, sorted, so that every split has the same."""
    names: set[str] = set()
    for source in sources:
        try:
            names |= read_event_names(source.label_file)
        except LabelError as error:
            # Left out, it would take its names along, and the numbers of the classes would change when it is mended.
            folder = source.label_file.relative_to(root).parent.as_posix()
            raise FormatError(
                f"{error} (in folder {folder}). Without a categories.json the tables name the classes, so each must be "
                "readable: correct it, or add a categories.json"
            ) from error
    if sources and not names:
        raise FormatError(
            f"no table of events below {root} has an event, so no class has a name; add a categories.json"
        )
    return sorted(names)

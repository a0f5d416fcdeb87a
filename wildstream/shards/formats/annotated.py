"""Formats with a label file beside each video: WildFins' two layouts, and tables of events in seconds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from wildstream.errors import FormatError, LabelError
from wildstream.facts import VideoFacts
from wildstream.shards.event_table import read_event_names, read_events
from wildstream.shards.formats.scanning import Scan, Source, Task, check_folder, find_categories, pair
from wildstream.shards.labels import LabelTrack, read_clip_class, read_frame_rows


class FrameAnnotated:
    """A video and a row of 0/1 per frame (WildFins' frame-annotated layout).

    categories.json                   or in the folder above
    [split/]video_001.mp4             or video_001/video_001.mp4
    [split/]video_001.tsv             or .txt: headerless, tab-separated, a row per frame, a column per class
    """

    name = "frames"
    task: Task = "multi_label"
    counts_frames = True

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
        return read_frame_rows(source.labels, num_frames=facts.num_frames, categories=categories)


class VideoAnnotated:
    """A class folder of videos, each with a text file that holds its class number (WildFins' video-annotated layout).

    [split/]dance/clip_001.avi
    [split/]dance/clip_001.txt        one integer: the place of the class in categories.json
    categories.json                   optional; without it the class folders give the names
    """

    name = "videos"
    task: Task = "single_label"
    counts_frames = False

    def scan(self, root: Path) -> Scan:
        """See Format."""
        scan = pair(root, [], label_extensions=("txt",), folders_in_key=1)
        scan.categories = find_categories(root) or _categories_from_folders(scan.sources)
        return scan

    def read(self, source: Source, *, facts: VideoFacts, categories: list[str]) -> LabelTrack:
        """See Format."""
        label = read_clip_class(source.labels)
        if label >= len(categories):
            raise LabelError(f"{source.labels.name} says class {label}, but there are {len(categories)} categories")
        return LabelTrack.from_class(label, num_frames=facts.num_frames, num_classes=len(categories))


class EventAnnotated:
    """A video and a table of what happens in it, from when until when, in seconds since its first frame.

    [split/]video_001.mp4             or video_001/video_001.mp4
    [split/]video_001.csv             or .tsv: a header with the columns start, stop, class; a line per event
    categories.json                   optional, may be in the folder above; without it the tables give the names
    """

    name = "events"
    task: Task = "multi_label"
    counts_frames = False

    def scan(self, root: Path) -> Scan:
        """See Format."""
        scan = pair(root, [], label_extensions=("csv", "tsv"), folders_in_key=0)
        scan.categories = find_categories(root) or _categories_from_events(root, scan.sources)
        return scan

    def read(self, source: Source, *, facts: VideoFacts, categories: list[str]) -> LabelTrack:
        """See Format."""
        events = read_events(source.labels, categories=categories)
        return LabelTrack.from_seconds(events, pts=facts.pts, time_base=facts.time_base, num_classes=len(categories))


def _categories_from_folders(sources: Sequence[Source]) -> list[str]:
    """Class names from the folders that the videos lie in; each number must belong to one folder."""
    names: dict[int, set[str]] = defaultdict(set)
    for source in sources:
        try:
            names[read_clip_class(source.labels)].add(source.video.parent.name)
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
            names |= read_event_names(source.labels)
        except LabelError as error:
            # Left out, it would take its names along, and the numbers of the classes would change when it is mended.
            folder = source.labels.relative_to(root).parent.as_posix()
            raise FormatError(
                f"{error} (in folder {folder}). Without a categories.json the tables name the classes, so each must be "
                "readable: correct it, or add a categories.json"
            ) from error
    if sources and not names:
        raise FormatError(
            f"no table of events below {root} has an event, so no class has a name; add a categories.json"
        )
    return sorted(names)

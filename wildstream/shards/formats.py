"""Dataset layouts on disk → sources: which video belongs to which labels and split.

A format is a small class that finds sources (`scan`) and reads the labels of one of them (`read`). It never opens a
video, and what it cannot pair it names instead of passing over it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from wildstream.errors import ConfigError, FormatError, LabelError
from wildstream.facts import VideoFacts
from wildstream.shards.event_table import read_event_names, read_events
from wildstream.shards.labels import (
    LabelTrack,
    read_categories,
    read_clip_class,
    read_frame_rows,
)
from wildstream.video import VIDEO_EXTENSIONS

Task = Literal["multi_label", "single_label"]
"""Whether classes may overlap (binary cross entropy) or exclude each other (cross entropy)."""

WHOLE = "all"
"""The split of a source folder that has no split folders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One video on disk and where its labels are."""

    key: str
    """Name within the split: relative, unique, safe as a path and as the name of a tar sample."""
    split: str
    """Name of the split folder, or "all"."""
    video: Path
    """The video file."""
    labels: Path
    """The label file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A file that is left out, and why."""

    split: str
    path: str
    """The file as the user knows it, relative to the source folder."""
    reason: str


@dataclass(slots=True)
class Scan:
    """What a format found in a source folder."""

    categories: list[str]
    sources: list[Source] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    """Videos that cannot be packed."""
    unused: list[Refusal] = field(default_factory=list)
    """Label files that belong to no video."""


class Format(Protocol):
    """A dataset layout."""

    name: str
    """What `--format` takes."""
    task: Task
    """What its labels mean."""
    counts_frames: bool
    """Whether its labels tell how many frames a video has."""

    def scan(self, root: Path) -> Scan:
        """Find all videos below root and pair them with their labels.

        Raises:
            FormatError: Nothing below root looks like this layout, or its categories cannot be read.
        """

    def read(self, source: Source, *, facts: VideoFacts, categories: list[str]) -> LabelTrack:
        """Read the labels of one video, of which `facts` tell number and times of the frames.

        Raises:
            LabelError: The labels are malformed or do not fit the video.
        """


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
        return _pair(root, categories, label_extensions=("tsv", "txt"), folders_in_key=0)

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
        scan = _pair(root, [], label_extensions=("txt",), folders_in_key=1)
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
        scan = _pair(root, [], label_extensions=("csv", "tsv"), folders_in_key=0)
        scan.categories = find_categories(root) or _categories_from_events(root, scan.sources)
        return scan

    def read(self, source: Source, *, facts: VideoFacts, categories: list[str]) -> LabelTrack:
        """See Format."""
        events = read_events(source.labels, categories=categories)
        return LabelTrack.from_seconds(events, pts=facts.pts, time_base=facts.time_base, num_classes=len(categories))


FORMATS: dict[str, Format] = {
    "frames": FrameAnnotated(),
    "videos": VideoAnnotated(),
    "events": EventAnnotated(),
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


def find_categories(root: Path) -> list[str] | None:
    """The categories.json in the source folder or the one above, if there is one."""
    for folder in (root, root.resolve().parent):
        if (path := folder / "categories.json").is_file():
            return read_categories(path)
    return None


def check_folder(root: Path) -> None:
    """Refuse a source that is no folder."""
    if not root.is_dir():
        raise FormatError(f"{root} is not a folder" + ("." if root.exists() else ": it does not exist."))


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


def _pair(root: Path, categories: list[str], *, label_extensions: Sequence[str], folders_in_key: int) -> Scan:
    """Pair every video below root with the label file of the same name; name what stays alone."""
    check_folder(root)
    scan = Scan(categories)
    files = sorted(path for path in root.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(root)))
    videos = [path for path in files if path.suffix[1:].lower() in VIDEO_EXTENSIONS]
    if not videos:
        raise FormatError(f"no video ({', '.join(VIDEO_EXTENSIONS)}) in {root} or below")
    labels: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in files:
        if path.suffix[1:].lower() in label_extensions:
            labels[path.parent, path.stem].append(path)
    taken: dict[tuple[str, str], Path] = {}
    for video in videos:
        relative = video.relative_to(root)
        split, key = _split_and_key(relative, folders_in_key)
        candidates = labels.pop((video.parent, video.stem), [])
        if other := taken.get((split, key)):
            reason = f"its key {key!r} is taken by {other}; rename one of them"
        elif not candidates:
            wanted = " or ".join(f"{video.stem}.{extension}" for extension in label_extensions)
            reason = f"has no labels: no {wanted} beside it"
        elif len(candidates) > 1:
            reason = f"has two label files, {' and '.join(path.name for path in candidates)}; remove one"
        else:
            taken[split, key] = relative
            scan.sources.append(Source(key=key, split=split, video=video, labels=candidates[0]))
            continue
        scan.refused.append(Refusal(split=split, path=relative.as_posix(), reason=reason))
    for path in sorted(path.relative_to(root) for lonely in labels.values() for path in lonely):
        split, _ = _split_and_key(path, folders_in_key)
        scan.unused.append(Refusal(split=split, path=path.as_posix(), reason="has no video beside it"))
    return scan


def _is_hidden(relative: Path) -> bool:
    """Whether a file or a folder on the way to it has a name that begins with a dot."""
    return any(part.startswith(".") for part in relative.parts)


def _split_and_key(relative: Path, folders_in_key: int) -> tuple[str, str]:
    """Split folder and key of a file, from its path below the source folder.

    frames:  train/fish_1/fish_1.mp4 → train, fish_1     fish_1.mp4 → all, fish_1
    videos:  train/dance/a.avi → train, dance/a          dance/a.avi → all, dance/a
    """
    folders = list(relative.parts[:-1])
    if folders_in_key == 0 and folders and folders[-1] == relative.stem:
        folders.pop()
    split = folders.pop(0) if len(folders) > folders_in_key else WHOLE
    return split, "/".join(safe_name(part) for part in (*folders, relative.stem))


def safe_name(name: str) -> str:
    """A name that is one path component, and that WebDataset reads as a key.

    WebDataset cuts a member's name at its first dot and passes over names that begin with two underscores.
    """
    cleaned = re.sub(r"[^\w\-+=@,() ]", "_", name).strip() or "_"
    return f"video{cleaned}" if cleaned.startswith("__") else cleaned

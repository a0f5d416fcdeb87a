"""What every format is made of: sources, what is refused, and how videos and label files are found below a folder."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from wildstream.errors import FormatError
from wildstream.facts import VideoFacts
from wildstream.shards.labels import LabelTrack, read_categories
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
    part: str = ""
    """Which part of the label file, where that holds the labels of several videos."""


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


def pair(root: Path, categories: list[str], *, label_extensions: Sequence[str], folders_in_key: int) -> Scan:
    """Pair every video below root with the label file of the same name; name what stays alone."""
    videos, files = find_files(root, label_extensions)
    scan = Scan(categories)
    labels: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in files:
        labels[path.parent, path.stem].append(path)
    taken: dict[tuple[str, str], Path] = {}
    for video in videos:
        relative = video.relative_to(root)
        split, key = split_and_key(relative, folders_in_key)
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
        split, _ = split_and_key(path, folders_in_key)
        scan.unused.append(Refusal(split=split, path=path.as_posix(), reason="has no video beside it"))
    return scan


def find_files(root: Path, label_extensions: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """The videos below a folder, and the files with these endings."""
    check_folder(root)
    files = sorted(path for path in root.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(root)))
    videos = [path for path in files if path.suffix[1:].lower() in VIDEO_EXTENSIONS]
    if not videos:
        raise FormatError(f"no video ({', '.join(VIDEO_EXTENSIONS)}) in {root} or below")
    return videos, [path for path in files if path.suffix[1:].lower() in label_extensions]


def add_source(
    scan: Scan,
    root: Path,
    video: Path,
    labels: Sequence[tuple[Path, str]],
    *,
    lacking: str,
    taken: dict[tuple[str, str], Path],
) -> None:
    """Take a video with its one label, or refuse it.

    Args:
        scan: What it is added to.
        root: The source folder.
        video: Below it.
        labels: File and part of each label that is there for it.
        lacking: What to say where there is none.
        taken: Videos by split and key; this one is added.
    """
    relative = video.relative_to(root)
    split, key = split_and_key(relative, 0)
    if other := taken.get((split, key)):
        reason = f"its key {key!r} is taken by {other}; rename one of them"
    elif not labels:
        reason = f"has no labels: {lacking}"
    elif len(labels) > 1:
        both = " and ".join(f"{part} of {path.name}" for path, part in labels[:2])
        reason = f"has {len(labels)} labels, {both}; keep one"
    else:
        (path, part), *_ = labels
        taken[split, key] = relative
        scan.sources.append(Source(key=key, split=split, video=video, labels=path, part=part))
        return
    scan.refused.append(Refusal(split=split, path=relative.as_posix(), reason=reason))


def _is_hidden(relative: Path) -> bool:
    """Whether a file or a folder on the way to it has a name that begins with a dot."""
    return any(part.startswith(".") for part in relative.parts)


def split_and_key(relative: Path, folders_in_key: int) -> tuple[str, str]:
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

"""What every format is made of: sources, what is refused, and how videos and label files are found below a folder."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import ClassVar, Literal, Protocol

from wildstream.errors import FormatError
from wildstream.facts import USUAL_FPS, VideoFacts
from wildstream.shards.cut import Cut
from wildstream.shards.label_files import read_categories
from wildstream.shards.labels import LabelTrack
from wildstream.video import VIDEO_EXTENSIONS

Task = Literal["multi_label", "single_label"]
"""Whether classes may overlap (binary cross entropy) or exclude each other (cross entropy)."""

WHOLE = "all"
"""The split of a source folder that has no split folders."""
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""Splits by what folders, lists and columns call them."""
MOST_SECONDS = 3600
"""A radius around points, at most; what is larger is a slip."""
LINE_BYTES = 1 << 16
"""Bytes of a line that are looked at."""
LOOKED_AT = 8
"""Files of a kind that are opened, at most, to recognise a layout."""
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "bmp", "webp", "tif", "tiff")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One video on disk and where its labels are."""

    key: str
    """Name within the split: relative, unique, safe as a path and as the name of a tar sample."""
    split: str
    """Name of the split folder, or "all"."""
    video: Path
    """The video file; an image, or a folder of images that are its frames."""
    labels: Path | None = None
    """The label file; None where the part says it all."""
    part: str = ""
    """Which part of the label file, where that holds the labels of several videos; or the name of the one class."""
    cut: Cut | None = None
    """The part of the video that is the sample; None: all of it."""
    fps: Fraction = Fraction(USUAL_FPS)
    """Frames per second of images that are frames; videos know their own."""

    @property
    def label_file(self) -> Path:
        """The label file, where the format has one for each source."""
        assert self.labels is not None
        return self.labels

    prefix: str = ""
    """What the names of the images begin with that are frames."""

    def files(self) -> list[Path]:
        """The video file, or the images that are its frames."""
        if not self.video.is_dir():
            return [self.video]
        return [path for path in list_images(self.video) if path.name.startswith(self.prefix)]


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
    """Labels that belong to no video, and what a list of videos leaves out on purpose."""


class Format(Protocol):
    """A dataset layout: a frozen dataclass, whose fields are its options."""

    name: ClassVar[str]
    """What `--format` takes."""
    task: ClassVar[Task]
    """What its labels mean."""
    counts_frames: ClassVar[bool]
    """Whether its labels tell how many frames a video has."""

    def recognise(self, listing: Listing) -> str:
        """What of the files says that they are in this layout; empty where nothing does. Opens few of them."""

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
    listing = list_videos(root)
    scan = Scan(categories)
    labels: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in listing.having(*label_extensions):
        labels[path.parent, path.stem].append(path)
    taken: dict[tuple[str, str], Path] = {}
    for video in listing.videos:
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


def list_videos(root: Path) -> Listing:
    """The files of a source folder; FormatError where none of them is a video."""
    listing = Listing.of(root)
    if not listing.videos:
        raise FormatError(f"no video ({', '.join(VIDEO_EXTENSIONS)}) in {root} or below")
    return listing


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a source folder, hidden ones and those in hidden folders left out."""

    root: Path
    by_extension: dict[str, list[Path]]
    """In small letters, without the dot; the files of each in order."""

    @classmethod
    def of(cls, root: Path) -> Listing:
        """The files below a folder, those in linked folders too."""
        check_folder(root)
        found: dict[str, list[Path]] = defaultdict(list)
        for path in walk(str(root), {os.path.realpath(root)}):
            found[parted(path)[1]].append(Path(path))
        return cls(root, dict(found))

    def __len__(self) -> int:
        """Number of files."""
        return sum(map(len, self.by_extension.values()))

    @property
    def videos(self) -> list[Path]:
        """The videos."""
        return self.having(*VIDEO_EXTENSIONS)

    @property
    def images(self) -> list[Path]:
        """The images."""
        return self.having(*IMAGE_EXTENSIONS)

    def having(self, *extensions: str) -> list[Path]:
        """The files with these endings, in order."""
        parts = [part for extension in extensions if (part := self.by_extension.get(extension))]
        return parts[0] if len(parts) == 1 else sorted(path for part in parts for path in part)

    def told(self, path: Path) -> str:
        """A file as the user knows it."""
        return path.relative_to(self.root).as_posix()


def labels_beside_videos(listing: Listing, *extensions: str) -> list[Path]:
    """A few of the files with these endings that lie beside a video of their name."""
    named = {parted(str(video))[0] for video in listing.videos}
    found = (path for path in listing.having(*extensions) if parted(str(path))[0] in named)
    return list(islice(found, LOOKED_AT))


def first_lines(path: Path, count: int) -> list[str]:
    """The first lines of a text file, one at least, and what of them is text."""
    with path.open("rb") as file:
        lines = [file.readline(LINE_BYTES).decode("utf-8-sig", errors="ignore") for _ in range(count)]
    return [line.rstrip("\r\n") for line in lines if line.strip()] or [""]


def parted(path: str) -> tuple[str, str]:
    """A path without its extension, and that in small letters; of 100,000 paths, pathlib takes seconds for it."""
    stem, dot, extension = path.rpartition(".")
    return (stem, extension.lower()) if dot and os.sep not in extension and stem[-1:] != os.sep else (path, "")


def walk(folder: str, open_folders: set[str], *, dangling: bool = False) -> Iterator[str]:
    """The files below a folder, in order, and links that lead nowhere if asked for.

    A link to a folder that it lies in is not followed.
    """
    with os.scandir(folder) as entries:
        found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in found:
        if entry.is_file() or (dangling and entry.is_symlink() and not entry.is_dir()):
            yield entry.path
        elif entry.is_dir() and (real := os.path.realpath(entry.path)) not in open_folders:
            yield from walk(entry.path, open_folders | {real}, dangling=dangling)


def list_images(folder: Path) -> list[Path]:
    """The images in a folder, in order of the numbers in their names: 2.jpg comes before 10.jpg."""
    images = [path for path in folder.iterdir() if path.suffix[1:].lower() in IMAGE_EXTENSIONS]
    return sorted((path for path in images if not path.name.startswith(".")), key=_natural)


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    """What orders names as people do."""
    pieces = re.split(r"(\d+)", path.name)
    return [(piece.isdecimal(), int(piece) if piece.isdecimal() else 0, piece) for piece in pieces]


def add_source(
    scan: Scan,
    root: Path,
    video: Path,
    labels: Sequence[tuple[Path | None, str]],
    *,
    lacking: str,
    taken: dict[tuple[str, str], Path],
) -> None:
    """Take a video with its one label, or refuse it.

    Args:
        scan: What it is added to.
        root: The source folder.
        video: Below it.
        labels: File and part of each label that is there for it; or the name of its class.
        lacking: What to say where there is none.
        taken: Videos by split and key; this one is added.
    """
    relative = video.relative_to(root)
    split, folders = folders_below_split(video, root)
    if folders[-1:] == [video.stem]:
        folders.pop()
    key = "/".join(safe_name(part) for part in (*folders, video.stem))
    if other := taken.get((split, key)):
        reason = f"its key {key!r} is taken by {other}; rename one of them"
    elif not labels:
        reason = f"has no labels: {lacking}"
    elif len(labels) > 1:
        both = " and ".join(f"{part} of {path.name}" if path else part for path, part in labels[:2])
        reason = f"has {len(labels)} labels, {both}; keep one"
    else:
        (path, part), *_ = labels
        taken[split, key] = relative
        scan.sources.append(Source(key=key, split=split, video=video, labels=path, part=part))
        return
    scan.refused.append(Refusal(split=split, path=relative.as_posix(), reason=reason))


def is_split(folder: str) -> bool:
    """Whether a folder has the name of a split."""
    return folder.strip().lower() in SPLIT_NAMES


def split_of(folders: Sequence[str]) -> str:
    """The split that the last of these folders with the name of one is of; WHOLE where none is."""
    return next(
        (SPLIT_NAMES[name] for folder in reversed(folders) if (name := folder.strip().lower()) in SPLIT_NAMES), WHOLE
    )


def folders_below_split(sample: Path, root: Path) -> tuple[str, list[str]]:
    """Split of a sample, by the folder that is called so, and the other folders that it lies in, the outmost first."""
    folders = list(sample.relative_to(root).parts[:-1])
    split = split_of(folders)
    place = next((place for place in reversed(range(len(folders))) if is_split(folders[place])), None)
    if place is not None:
        folders.pop(place)
    return split, folders


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

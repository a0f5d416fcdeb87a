"""Images: folders of frames, each a video, and single images in folders of their class, each a video of one frame."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import PlainValidator

from wildstream.errors import FormatError
from wildstream.facts import USUAL_FPS, VideoFacts
from wildstream.shards.formats.class_folders import scan_class_folders
from wildstream.shards.formats.clip_lists import LIST_EXTENSIONS, ListReader, describe_list
from wildstream.shards.formats.clip_tables import gather
from wildstream.shards.formats.listed import Finder
from wildstream.shards.formats.scanning import (
    IMAGE_EXTENSIONS,
    LOOKED_AT,
    WHOLE,
    Listing,
    Refusal,
    Scan,
    Source,
    Task,
    find_categories,
    folders_below_split,
    list_images,
)
from wildstream.shards.labels import LabelTrack
from wildstream.shards.stills import PILLOW_FORMATS

LARGEST_FPS, FINEST_FPS = 1000, 1001
"""Frames per second, and the denominator of its fraction, at most."""


def _read_fps(value: object) -> Fraction:
    """Frames per second from 30, 29.97, "30000/1001"; as a fraction of small numbers, which a .mov can count with."""
    try:
        fps = Fraction(str(value)[:40]).limit_denominator(FINEST_FPS)
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError("write a number such as 25, 29.97 or 30000/1001") from error
    if not 0 < fps <= LARGEST_FPS:
        raise ValueError(f"must be above 0, and at most {LARGEST_FPS}")
    return fps


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameFolders:
    """A folder of JPEG or PNG frames for each clip.

    [anywhere/]clip_001/000001.jpg    in order of the numbers in their names
    labels.csv                        or .tsv, .txt, .json: which folder is of which class, and perhaps its split, as
                                      for the format table: path,label or {"clip_001": {"label": …, "split": …}}

    or, without any such list, [split/]class/clip_001/000001.jpg. Frames are packed as they are, as the packets of a
    .mov, of which each can be decoded by itself; `--transcode` makes smaller videos of them.
    """

    fps: Annotated[Fraction, PlainValidator(_read_fps)] = Fraction(USUAL_FPS)
    """Frames per second, such as 29.97 or 30000/1001."""
    path: str = ""
    """Column of the folders; by default the one that is called as usual."""
    label: str = ""
    """Column of the classes; the same."""

    prefix: str = ""
    """What the names of the frames begin with, where a folder holds images of several kinds: img_ beside flow_x_."""

    name: ClassVar[str] = "frame-folders"
    task: ClassVar[Task] = "single_label"
    counts_frames: ClassVar[bool] = False

    def recognise(self, listing: Listing) -> str:
        """See Format."""
        clips = _folders(listing)
        if not clips or listing.videos:
            return ""
        if told := self.recognise_list(listing):
            return told
        deep = all(folders_below_split(clip, listing.root)[1] for clip in clips)  # a class above each
        alone = len({clip.name for clip in clips}) == len(
            clips
        )  # a class would be there again in another split or source
        return (
            f"{len(clips):,} folders of numbered images lie in folders" if deep and alone and _are_clips(clips) else ""
        )

    def recognise_list(self, listing: Listing) -> str:
        """What of the files lists folders of images; empty where none does."""
        clips = _folders(listing)
        reader = ListReader(Finder(clips), find_categories(listing.root), self.path, self.label)
        for path in _lists(listing)[:LOOKED_AT]:
            if told := describe_list(path, reader):
                return f"{listing.told(path)} {told}, and {len(clips):,} folders hold images"
        return ""

    def scan(self, root: Path) -> Scan:
        """See Format."""
        listing = _images(root)
        folders, lists = _folders(listing), _lists(listing)
        reader = ListReader(Finder(folders), find_categories(root), self.path, self.label)
        if self.path or self.label or any(describe_list(path, reader) for path in lists):
            scan = gather(listing, folders, lists, reader)
        else:
            scan = scan_class_folders(folders, root)
            scan.unused += [_unread(listing, path) for path in lists]
        scan.sources = [replace(source, cut=None, fps=self.fps, prefix=self.prefix) for source in scan.sources]
        return scan

    def read(self, source: Source, *, facts: VideoFacts, categories: list[str]) -> LabelTrack:
        """See Format."""
        label = categories.index(source.part)
        return LabelTrack.from_class(label, num_frames=facts.num_frames, num_classes=len(categories))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFolders:
    """Images in folders of their class, such as species; of one source, or of several side by side.

    [split/][source/]parus major/photo_001.jpg
    labels.csv                        or .tsv, .txt, .json, instead of class folders: which image is of which class
    categories.json                   optional; without it the folders or the list give the names, sorted

    A folder that is called train, val, test or the like is a split; any other above the class is a source, and becomes
    part of the key. Each image is a video of one frame: take a style with window_size=1, data_ndim=3. A table of genus
    and family is not packed; model.hierarchy reads it when a model is trained.
    """

    path: str = ""
    """Column of the images in a list; by default the one that is called as usual."""
    label: str = ""
    """Column of the classes; the same."""

    name: ClassVar[str] = "image-folders"
    task: ClassVar[Task] = "single_label"
    counts_frames: ClassVar[bool] = False

    def recognise(self, listing: Listing) -> str:
        """See Format."""
        images = listing.images
        if not images or listing.videos or FrameFolders().recognise_list(listing):
            return ""
        reader = ListReader(Finder(images), find_categories(listing.root), self.path, self.label)
        for path in _lists(listing)[:LOOKED_AT]:
            if told := describe_list(path, reader):
                return f"{listing.told(path)} {told}, and there are {len(images):,} images"
        folders = {image.parent for image in images}
        deep = all(folders_below_split(image, listing.root)[1] for image in images)
        return f"{len(images):,} images lie in {len(folders):,} folders" if deep else ""

    def scan(self, root: Path) -> Scan:
        """See Format."""
        listing = _images(root)
        images, lists = listing.images, _lists(listing)
        reader = ListReader(Finder(images), find_categories(root), self.path, self.label)
        if self.path or self.label or any(describe_list(path, reader) for path in lists):
            return gather(listing, images, lists, reader)
        scan = scan_class_folders(images, root)
        scan.unused += [_unread(listing, path) for path in lists]
        return scan

    def read(self, source: Source, *, facts: VideoFacts, categories: list[str]) -> LabelTrack:
        """See Format."""
        label = categories.index(source.part)
        return LabelTrack.from_class(label, num_frames=facts.num_frames, num_classes=len(categories))


def _unread(listing: Listing, path: Path) -> Refusal:
    """A note of a file that might have been meant as a list."""
    reason = "lists nothing that is here; folders give the classes"
    return Refusal(split=WHOLE, path=listing.told(path), reason=reason)


def _are_clips(folders: Sequence[Path]) -> bool:
    """Whether the images of folders are frames: of one size, and numbered one after the other behind one prefix."""
    from PIL import Image

    for folder in folders[:LOOKED_AT]:
        images = list_images(folder)
        numbers = [re.fullmatch(r"(.*?)(\d+)", image.stem) for image in images]
        if len(images) < 2 or not all(numbers) or len({found[1] for found in numbers if found}) > 1:
            return False
        counted = [int(found[2]) for found in numbers if found]
        if counted != list(range(counted[0], counted[0] + len(counted))):
            return False
        try:
            sizes = set()
            for path in images[:2]:
                with Image.open(path, formats=PILLOW_FORMATS) as image:
                    sizes.add(image.size)
            if len(sizes) > 1:
                return False
        except (OSError, ValueError, SyntaxError):
            return False
    return True


def _images(root: Path) -> Listing:
    """The files of a source folder, of which some must be images."""
    listing = Listing.of(root)
    if not listing.images:
        raise FormatError(f"no image ({', '.join(IMAGE_EXTENSIONS)}) in {root} or below")
    return listing


def _folders(listing: Listing) -> list[Path]:
    """The folders that images lie in, but for the source folder itself."""
    return sorted({image.parent for image in listing.images} - {listing.root})


def _lists(listing: Listing) -> list[Path]:
    """The files that may list clips."""
    return [path for path in listing.having(*LIST_EXTENSIONS) if path.name != "categories.json"]

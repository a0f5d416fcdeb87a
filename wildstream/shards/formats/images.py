"""Images: folders of frames, each a video, and single images in folders of their class, each a video of one frame."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from wildstream.errors import FormatError
from wildstream.facts import USUAL_FPS, VideoFacts
from wildstream.shards.formats.class_folders import refuse_unknown
from wildstream.shards.formats.clip_lists import LIST_EXTENSIONS, ListReader, describe_list
from wildstream.shards.formats.clip_tables import gather
from wildstream.shards.formats.listed import Finder, is_split, sorted_names
from wildstream.shards.formats.scanning import (
    IMAGE_EXTENSIONS,
    LOOKED_AT,
    WHOLE,
    Listing,
    Refusal,
    Scan,
    Source,
    Task,
    add_source,
    check_folder,
    find_categories,
    safe_name,
)
from wildstream.shards.labels import LabelTrack


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameFolders:
    """A folder of JPEG or PNG frames for each clip.

    [anywhere/]clip_001/000001.jpg    in order of the numbers in their names
    labels.csv                        or .tsv, .txt, .json: which folder is of which class, and perhaps its split, as
                                      for the format table: path,label or {"clip_001": {"label": …, "split": …}}

    or, without any such list, [split/]class/clip_001/000001.jpg. Frames are packed as they are, as the packets of a
    .mov, of which each can be decoded by itself; `--transcode` makes smaller videos of them.
    """

    fps: Annotated[Decimal, Field(gt=0, le=1000)] = Decimal(USUAL_FPS)
    """Frames per second."""
    path: str = ""
    """Column of the folders; by default the one that is called as usual."""
    label: str = ""
    """Column of the classes; the same."""

    name: ClassVar[str] = "frame-folders"
    task: ClassVar[Task] = "single_label"
    counts_frames: ClassVar[bool] = False

    def recognise(self, listing: Listing) -> str:
        """See Format."""
        clips = _folders(listing)
        if not clips or listing.videos or len(listing.images) < 2 * len(clips):
            return ""
        lists = [path for path in _lists(listing)[:LOOKED_AT] if describe_list(path)]
        if lists:
            return f"{listing.told(lists[0])} {describe_list(lists[0])}, and {len(clips):,} folders hold images"
        deep = all(len(folder.relative_to(listing.root).parts) > 1 for folder in clips)
        numbered = all(any(letter.isdecimal() for letter in path.stem) for path in listing.images[:LOOKED_AT])
        return f"{len(clips):,} folders of numbered images lie in folders" if deep and numbered else ""

    def scan(self, root: Path) -> Scan:
        """See Format."""
        listing = _images(root)
        folders = _folders(listing)
        reader = ListReader(Finder(folders), find_categories(root), self.path, self.label, cut=False)
        lists = _lists(listing)
        if any(describe_list(path) or reader.path for path in lists):
            scan = gather(listing, folders, lists, reader)
        else:
            scan, taken = Scan([]), dict[tuple[str, str], Path]()
            for folder in folders:
                parts = folder.relative_to(root).parts
                if len(parts) < 2:
                    reason = "lies in no class folder, and no .csv, .txt or .json lists it with its class"
                    scan.refused.append(Refusal(split=WHOLE, path=listing.told(folder), reason=reason))
                else:
                    named = [(None, folder.parent.name)]
                    add_source(scan, root, folder, named, lacking="", taken=taken, folders_in_key=1)
            scan.categories = find_categories(root) or sorted_names({source.part for source in scan.sources})
            scan = refuse_unknown(scan, root)
        scan.sources = [replace(source, fps=Fraction(self.fps)) for source in scan.sources]
        return scan

    def read(self, source: Source, *, facts: VideoFacts, categories: list[str]) -> LabelTrack:
        """See Format."""
        label = categories.index(source.part)
        return LabelTrack.from_class(label, num_frames=facts.num_frames, num_classes=len(categories))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFolders:
    """Images in folders of their class, such as species; of one source, or of several side by side.

    [split/][source/]parus major/photo_001.jpg
    categories.json                   optional; without it the folders give the names, sorted

    The topmost folder is a split if it is called train, val, test or the like; any other above the class is a source,
    and becomes part of the key. Each image is a video of one frame: take a style with window_size=1, data_ndim=3. A
    table of genus and family is not packed; model.hierarchy reads it when a model is trained.
    """

    name: ClassVar[str] = "image-folders"
    task: ClassVar[Task] = "single_label"
    counts_frames: ClassVar[bool] = False

    def recognise(self, listing: Listing) -> str:
        """See Format."""
        images = listing.images
        deep = all(len(image.relative_to(listing.root).parts) > 1 for image in images)
        folders = {image.parent for image in images}
        if not images or listing.videos or not deep or FrameFolders().recognise(listing):
            return ""
        return f"{len(images):,} images lie in {len(folders):,} folders"

    def scan(self, root: Path) -> Scan:
        """See Format."""
        listing = _images(root)
        scan = Scan([])
        taken: dict[tuple[str, str], Path] = {}
        for image in listing.images:
            relative = image.relative_to(root)
            *above, label = ("", *relative.parts[:-1])
            folders = [part for part in above if part]
            if not label:
                reason = "lies in no class folder; move it into one"
                scan.refused.append(Refusal(split=WHOLE, path=relative.as_posix(), reason=reason))
                continue
            split = folders.pop(0) if folders and is_split(folders[0]) else WHOLE
            key = "/".join(safe_name(part) for part in (*folders, label, image.stem))
            if other := taken.get((split, key)):
                reason = f"its key {key!r} is taken by {other}; rename one of them"
                scan.refused.append(Refusal(split=split, path=relative.as_posix(), reason=reason))
                continue
            taken[split, key] = relative
            scan.sources.append(Source(key=key, split=split, video=image, part=label))
        scan.categories = find_categories(root) or sorted_names({source.part for source in scan.sources})
        return refuse_unknown(scan, root)

    def read(self, source: Source, *, facts: VideoFacts, categories: list[str]) -> LabelTrack:
        """See Format."""
        label = categories.index(source.part)
        return LabelTrack.from_class(label, num_frames=facts.num_frames, num_classes=len(categories))


def _images(root: Path) -> Listing:
    """The files of a source folder, of which some must be images."""
    check_folder(root)
    listing = Listing.of(root)
    if not listing.images:
        raise FormatError(f"no image ({', '.join(IMAGE_EXTENSIONS)}) in {root} or below")
    return listing


def _folders(listing: Listing) -> list[Path]:
    """The folders that images lie in, but for the source folder itself."""
    held: dict[Path, int] = defaultdict(int)
    for image in listing.images:
        held[image.parent] += 1
    return sorted(folder for folder in held if folder != listing.root)


def _lists(listing: Listing) -> list[Path]:
    """The files that may list clips, but for such as lie among frames."""
    folders = set(_folders(listing))
    found = listing.having(*LIST_EXTENSIONS)
    return [path for path in found if path.name != "categories.json" and path.parent not in folders]

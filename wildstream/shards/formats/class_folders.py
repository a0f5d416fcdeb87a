"""Class folders: the folder that a clip lies in is its class; UCF-101 and HMDB-51 with their official splits too."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from wildstream.errors import FormatError, LabelError
from wildstream.facts import VideoFacts
from wildstream.shards.formats.clip_lists import LIST_EXTENSIONS, ListReader, describe_list
from wildstream.shards.formats.listed import Clip, Finder, ListedSources, sorted_names
from wildstream.shards.formats.scanning import (
    LOOKED_AT,
    WHOLE,
    Listing,
    Refusal,
    Scan,
    Source,
    Task,
    find_categories,
    folders_below_split,
    list_videos,
    safe_name,
)
from wildstream.shards.label_files import text_lines
from wildstream.shards.labels import LabelTrack

_UCF = re.compile(r"(train|test)list(\d\d)\.txt")
_HMDB = re.compile(r"(.+)_test_split(\d)\.txt")
_HMDB_SPLITS = {"1": "train", "2": "test"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFolders:
    """Clips in a folder per class.

    [split/]dance/clip_001.avi
    categories.json                   optional; without it the folders give the names, sorted

    With the official lists of UCF-101 (trainlist01.txt, testlist01.txt) or HMDB-51 (dance_test_split1.txt) anywhere
    below, these say which split a clip belongs to, and what of HMDB-51 they leave out.
    """

    fold: Annotated[int, Field(ge=1, le=99)] = 1
    """Which of the official splits of UCF-101 or HMDB-51: 1, 2 or 3."""

    name: ClassVar[str] = "folders"
    task: ClassVar[Task] = "single_label"
    counts_frames: ClassVar[bool] = False

    def recognise(self, listing: Listing) -> str:
        """See Format."""
        for path in listing.having("txt"):
            if is_official(path) and listing.videos:
                return f"{listing.told(path)} is a list of UCF-101 or HMDB-51"
        videos = listing.videos
        reader = ListReader(Finder(videos), find_categories(listing.root))
        if any(describe_list(path, reader) for path in listing.having(*LIST_EXTENSIONS)[:LOOKED_AT]):
            return ""
        beside = {path.with_suffix("") for path in listing.having("txt", "tsv", "csv", "json", "eaf")}
        below = [folders_below_split(video, listing.root)[1] for video in videos]
        folders = {video.parent for video in videos}
        names = {found[-1] for found in below if found}
        if not (videos and all(len(found) == 1 for found in below) and 1 < len(names) < len(videos)):
            return ""
        if any(video.with_suffix("") in beside or video.parent.name == video.stem for video in videos):
            return ""
        return f"{len(videos):,} videos without label files lie in {len(folders):,} folders"

    def scan(self, root: Path) -> Scan:
        """See Format."""
        listing = list_videos(root)
        videos = listing.videos
        official = [path for path in listing.having("txt") if is_official(path)]
        if official:
            return self._listed(listing, videos, official)
        return scan_class_folders(videos, root)

    def read(self, source: Source, *, facts: VideoFacts, categories: list[str]) -> LabelTrack:
        """See Format."""
        label = categories.index(source.part)
        return LabelTrack.from_class(label, num_frames=facts.num_frames, num_classes=len(categories))

    def _listed(self, listing: Listing, videos: list[Path], official: list[Path]) -> Scan:
        """The clips that the official lists of one fold name."""
        gathered = ListedSources(listing, videos)
        clips: list[Clip] = []
        folds = set()
        for path in official:
            found = _UCF.fullmatch(path.name) or _HMDB.fullmatch(path.name)
            assert found is not None
            folds.add(int(found[2]))
            if int(found[2]) != self.fold:
                continue
            read = _ucf if _UCF.fullmatch(path.name) else _hmdb
            try:
                listed = list(read(path, found[1]))
            except LabelError as error:
                raise FormatError(f"{listing.told(path)}: {error}. Correct it, or download it again") from error
            for clip in listed:
                told = replace(clip, origin=clip.origin.replace(path.name, listing.told(path), 1))
                if told.split:
                    clips.append(told)
                else:
                    note = Refusal(split=WHOLE, path=f"{told.origin}: {told.video}", reason="is in neither split there")
                    gathered.scan.unused.append(note)
        if self.fold not in folds:
            raise FormatError(f"fold={self.fold} has no list; there are {', '.join(map(str, sorted(folds)))}")
        if not clips:
            raise FormatError(f"{listing.told(official[0])} and the other lists of fold={self.fold} name no clip")
        scan = gathered.add(clips, categories=find_categories(listing.root), lacking="is in no list of this fold")
        left_out = {
            Path(note.path.rpartition(": ")[2]).with_suffix("").parts[-2:] for note in scan.unused if ": " in note.path
        }
        scan.unused = [
            note
            for note in scan.unused
            if ": " in note.path or Path(note.path).with_suffix("").parts[-2:] not in left_out
        ]
        return scan


def scan_class_folders(samples: Sequence[Path], root: Path) -> Scan:
    """The sources of videos, images or folders of frames that lie in a folder of their class.

    A folder above the class that is called train, val, test or the like is the split; others become part of the key.
    """
    scan, taken = Scan([]), dict[tuple[str, str], Path]()
    for sample in samples:
        relative = sample.relative_to(root)
        split, folders = folders_below_split(sample, root)
        if not folders:
            reason = "lies in no class folder; move it into one"
            scan.refused.append(Refusal(split=split, path=relative.as_posix(), reason=reason))
            continue
        stem = sample.name if sample.is_dir() else sample.stem
        key = "/".join(safe_name(part) for part in (*folders, stem))
        if other := taken.get((split, key)):
            reason = f"its key {key!r} is taken by {other}; rename one of them"
            scan.refused.append(Refusal(split=split, path=relative.as_posix(), reason=reason))
            continue
        taken[split, key] = relative
        scan.sources.append(Source(key=key, split=split, video=sample, part=folders[-1]))
    scan.categories = find_categories(root) or sorted_names({source.part for source in scan.sources})
    return refuse_unknown(scan, root)


def is_official(path: Path) -> bool:
    """Whether a file has the name of one of the lists that say which split a clip of UCF-101 or HMDB-51 is in."""
    return bool(_UCF.fullmatch(path.name) or _HMDB.fullmatch(path.name))


def _ucf(path: Path, split: str) -> Iterator[Clip]:
    """The clips of a list of UCF-101: "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1", the number in some alone."""
    for number, line in enumerate(text_lines(path), start=1):
        if line.strip():
            video = line.split()[0]
            label = video.rpartition("/")[0].rpartition("/")[2]
            problem = "" if label else "names no class folder"
            yield Clip(video=video, label=label, origin=f"{path.name}, line {number}", split=split, problem=problem)


def _hmdb(path: Path, label: str) -> Iterator[Clip]:
    """The clips of a list of HMDB-51: "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1"; without split where it is 0."""
    for number, line in enumerate(text_lines(path), start=1):
        if not line.strip():
            continue
        video, _, which = line.strip().rpartition(" ")
        problem = "" if video and which in ("0", *_HMDB_SPLITS) else "must be a file and 0, 1 (train) or 2 (test)"
        yield Clip(
            video=f"{label}/{video.strip()}",
            label=label,
            origin=f"{path.name}, line {number}",
            split=_HMDB_SPLITS.get(which, "" if not problem else WHOLE),
            problem=problem,
        )


def refuse_unknown(scan: Scan, root: Path) -> Scan:
    """The scan without the sources of classes that are not among the categories; these are noted."""
    known = set(scan.categories)
    for source in (source for source in scan.sources if source.part not in known):
        reason = f"its folder {source.part!r:.40} is not one of the categories {', '.join(scan.categories):.200}"
        path = source.video.relative_to(root).as_posix()
        scan.refused.append(Refusal(split=source.split, path=path, reason=reason))
    scan.sources = [source for source in scan.sources if source.part in known]
    return scan

"""Lists of clips, as tables and JSON files hold them → sources: which video each line means, its class and its split.

A line names a file as another computer knew it: by a path, a name, or a name without its ending. It means the video
below the source folder of which most of that agrees.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path, PurePath, PureWindowsPath

from wildstream.errors import FormatError
from wildstream.shards.cut import Cut
from wildstream.shards.formats.scanning import WHOLE, Listing, Refusal, Scan, Source, safe_name
from wildstream.video import VIDEO_EXTENSIONS

_SPLITS = {
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
SHOWN = 200
"""Characters of the name of a file in a message, at most."""
_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One line of a list."""

    video: str
    """The file that it names."""
    label: str
    """The name of its class."""
    origin: str
    """File and line, for messages."""
    split: str = WHOLE
    cut: Cut | None = None
    labels: Path | None = None
    """The list; a change of it is a change of the sample."""
    name: str = ""
    """What tells it from other clips of the same video; by default its cut does, where there are others."""
    problem: str = ""
    """Why it cannot be used."""


class Finder:
    """Finds the videos that names mean."""

    def __init__(self, videos: Iterable[Path]) -> None:
        """Take files, or folders of frames."""
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for video in videos:
            for name in {video.name.lower(), video.stem.lower()}:
                self._by_name[name].append(video)

    def find(self, named: str) -> tuple[Path | None, str]:
        """The video that is meant; or None, and why there is none."""
        wanted = _names(PureWindowsPath(named))  # which reads either slash
        if not wanted:
            return None, "names no file"
        there = self._by_name.get(wanted[0], [])
        if not there and PurePath(wanted[0]).suffix[1:] in VIDEO_EXTENSIONS:  # converted since
            there = self._by_name.get(PurePath(wanted[0]).stem, [])
        name = PureWindowsPath(named).name
        there = [video for video in there if name in (video.name, video.stem)] or there  # ids differ in case alone
        alike = {video: _common(_names(video)[1:], wanted[1:]) for video in there}
        most = max(alike.values(), default=0)
        found = [video for video, common in alike.items() if common == most]  # below folders of the same names
        if len(found) == 1:
            return found[0], ""
        missing = (
            "is not there" if not found else f"is there {len(found)} times, as {found[0].name} and {found[1].name}"
        )
        return None, f"its video {PureWindowsPath(named).name[:SHOWN]} {missing}"


@dataclass(slots=True)
class ListedSources:
    """Gathers the sources that lists of clips name."""

    listing: Listing
    videos: Sequence[Path]
    """Those that the lists may name."""
    scan: Scan = field(default_factory=lambda: Scan([]))

    def add(self, clips: Iterable[Clip], *, categories: Sequence[str] | None, lacking: str) -> Scan:
        """Make a source of each clip; what cannot be is noted.

        Args:
            clips: In order of the lists.
            categories: Names of the classes; None: those of the clips, sorted.
            lacking: What to say of a video that no clip is of.

        Raises:
            FormatError: There is no clip that can be used.
        """
        scan, finder = self.scan, Finder(self.videos)
        found: dict[Path, list[Clip]] = {}
        kept = list(clips)
        for clip in kept:
            video, reason = (None, clip.problem) if clip.problem else finder.find(clip.video)
            if video is None:
                self._note(scan.refused if clip.problem else scan.unused, clip, reason)
            else:
                found.setdefault(video, []).append(clip)
        labels = {clip.label for clip in kept if not clip.problem}
        if not labels:
            raise FormatError(f"no list of clips below {self.listing.root} has a line that can be used")
        scan.categories = list(categories) if categories is not None else sorted_names(labels)
        known = set(scan.categories)
        keys: Counter[tuple[str, str]] = Counter()
        for video, clips_of in found.items():
            single = self._without_doubles(clips_of)
            for clip in single:
                if clip.label not in known:
                    self._note(scan.refused, clip, f"class {clip.label!r:.40} is not one of the categories")
                    continue
                source = self._source(video, clip, alone=len(single) == 1)
                keys[source.split, source.key] += 1
                if (times := keys[source.split, source.key]) > 1:
                    source = replace(source, key=f"{source.key}-{times}")
                scan.sources.append(source)
        for video in self.videos:
            if video not in found:
                scan.refused.append(Refusal(split=WHOLE, path=self.listing.told(video), reason=lacking))
        return scan

    def _source(self, video: Path, clip: Clip, *, alone: bool) -> Source:
        """One clip as a source; its key is class, video, and what tells it from others of that video."""
        suffix = clip.name or ("" if alone else _cut_name(clip.cut))
        stem = video.name if video.is_dir() else video.stem
        key = f"{safe_name(clip.label)}/{safe_name(f'{stem}_{suffix}' if suffix else stem)}"
        return Source(key=key, split=clip.split, video=video, labels=clip.labels, part=clip.label, cut=clip.cut)

    def _without_doubles(self, clips: Sequence[Clip]) -> list[Clip]:
        """The clips of one video, those that are named twice once; of what has two classes or two splits, none."""
        parts: dict[object, list[Clip]] = defaultdict(list)
        for clip in clips:
            cut = clip.cut
            parts[None if cut is None else (cut.frames, cut.seconds, cut.box)].append(clip)
        kept = []
        for same in parts.values():
            first = same[0]
            other = next((clip for clip in same if (clip.label, clip.split) != (first.label, first.split)), None)
            if other is None:
                kept.append(first)
                continue
            what = "classes" if other.label != first.label else "splits"
            both = (first.label, other.label) if other.label != first.label else (first.split, other.split)
            self._note(
                self.scan.refused,
                first,
                f"is of two {what}, {both[0]!r:.40} here and {both[1]!r:.40} in {other.origin}; keep one line",
            )
        return kept

    def _note(self, notes: list[Refusal], clip: Clip, reason: str) -> None:
        """Note what is not a source."""
        named = clip.video if clip.video.isprintable() else repr(clip.video)
        notes.append(Refusal(split=clip.split, path=f"{clip.origin}: {named[:SHOWN] or 'no file'}", reason=reason))


def split_named(text: str) -> str | None:
    """The split that a word in a name means: "kinetics400_train_list.txt" is train, "validation.csv" val; else None."""
    found = [_SPLITS[word] for word in _WORD.findall(text.lower()) if word in _SPLITS]
    return found[-1] if found else None


def is_split(folder: str) -> bool:
    """Whether a folder has the name of a split."""
    return folder.strip().lower() in _SPLITS


def split_called(text: str) -> str:
    """The name of a split: train, val or test for their many spellings, else as it is written."""
    return _SPLITS.get(text.strip().lower(), safe_name(text.strip())) if text.strip() else WHOLE


def sorted_names(labels: Iterable[str]) -> list[str]:
    """Names of classes in order: of numbers by number."""
    found = set(labels)
    return sorted(found, key=int) if all(name.isascii() and name.isdigit() for name in found) else sorted(found)


def class_of(source: Source, categories: Sequence[str]) -> int:
    """The class number of a source whose part is the name of its class."""
    return categories.index(source.part)


def _cut_name(cut: Cut | None) -> str:
    """A part of a video, in its key."""
    if cut is None:
        return "whole"
    if cut.seconds is not None:
        return "-".join(f"{float(time):.3f}".rstrip("0").rstrip(".") for time in cut.seconds)
    first, stop = cut.frames or (0, None)
    return f"{first}-{'end' if stop is None else stop}"


def _names(path: PurePath) -> list[str]:
    """The names of a file and the folders on its way, from the file on, in small letters."""
    return [part.lower() for part in path.parts][::-1]


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """How many names agree, from the first on."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))

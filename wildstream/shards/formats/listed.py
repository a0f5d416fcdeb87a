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
from wildstream.shards.formats.scanning import SPLIT_NAMES, WHOLE, Listing, Refusal, Scan, Source, safe_name, split_of
from wildstream.video import VIDEO_EXTENSIONS

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
    name: str = ""
    """What tells it from other clips of the same video; by default its cut does, where there are others."""
    num_frames: int | None = None
    """Images of a folder, where the list says it."""
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

    def find(self, named: str, *, split: str = WHOLE, least: int = 0) -> tuple[Path | None, str]:
        """The video that is meant; or None, and why there is none.

        Args:
            named: A path, a name, or a name without its ending.
            split: Of several that could be meant, the one in a folder of this split is.
            least: How many of the folders that are named must be the video's, from the inmost on.
        """
        alike = self._alike(named)
        most = max(alike.values(), default=0)
        found = [video for video, common in alike.items() if common == most >= least]  # below folders of the same names
        if len(found) > 1:
            found = [video for video in found if split_of(video.parts[:-1]) == split] or found
        name = PureWindowsPath(named).name[:SHOWN]
        if not name:
            return None, "names no file"
        if len(found) == 1:
            return found[0], ""
        if not found:
            return None, f"its video {name} is not there"
        both = " and ".join("/".join(video.parts[-2:]) for video in found[:2])
        return None, f"its video {name} is there {len(found)} times, as {both}; name its folder too"

    def folders_missed(self, named: str) -> int | None:
        """How many of the folders that are named are not those of the best video; None where there is no video."""
        alike = self._alike(named)
        return max(0, len(_names(PureWindowsPath(named))) - 1 - max(alike.values())) if alike else None

    def _alike(self, named: str) -> dict[Path, int]:
        """The videos of that name, and how many folders agree, from the inmost on."""
        wanted = _names(PureWindowsPath(named))  # which reads either slash
        if not wanted:
            return {}
        there = self._by_name.get(wanted[0], [])
        if not there and PurePath(wanted[0]).suffix[1:] in VIDEO_EXTENSIONS:  # converted since
            there = self._by_name.get(PurePath(wanted[0]).stem, [])
        name = PureWindowsPath(named).name
        there = [video for video in there if name in (video.name, video.stem)] or there  # ids differ in case alone
        return {video: _common(_names(video)[1:], wanted[1:]) for video in there}


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
        labels: set[str] = set()
        blamed: list[Clip] = []
        for told, listed in _by_list(clips).items():
            usual = _usually_missed(finder, listed)
            if usual is None and not any(clip.problem for clip in listed):
                reason = f"names no video that is here, in none of {len(listed):,} lines"
                scan.unused.append(Refusal(split=listed[0].split, path=told, reason=reason))
                continue
            for clip in listed:
                least = max(0, len(_names(PureWindowsPath(clip.video))) - 1 - (usual or 0))
                video, reason = None, clip.problem
                if not clip.problem:
                    labels.add(clip.label)
                    video, reason = finder.find(clip.video, split=clip.split, least=least)
                if clip.problem:
                    blamed.append(clip)
                if video is None:
                    self._note(scan.refused if clip.problem else scan.unused, clip, reason)
                else:
                    found.setdefault(video, []).append(clip)
        if not labels:
            told = "; ".join(f"{note.path}: {note.reason}" for note in (*scan.refused, *scan.unused)[:2])
            raise FormatError(f"no list of clips below {self.listing.root} has a line that can be used ({told:.400})")
        scan.categories = list(categories) if categories is not None else sorted_names(labels)
        known = set(scan.categories)
        taken: set[tuple[str, str]] = set()
        for video, clips_of in found.items():
            single = self._without_doubles(clips_of)
            for clip in single:
                if clip.label not in known:
                    self._note(scan.refused, clip, f"class {clip.label!r:.40} is not one of the categories")
                    continue
                source = self._source(video, clip, alone=len(single) == 1)
                key, number = source.key, 1
                while (source.split, key) in taken:
                    number += 1
                    key = f"{source.key}-{number}"
                taken.add((source.split, key))
                scan.sources.append(replace(source, key=key))
        named = {video for clip in blamed if (video := finder.find(clip.video)[0]) is not None}
        for video in self.videos:
            if video not in found and video not in named:
                scan.unused.append(Refusal(split=WHOLE, path=self.listing.told(video), reason=lacking))
        return scan

    def _source(self, video: Path, clip: Clip, *, alone: bool) -> Source:
        """One clip as a source; its key is class, video, and what tells it from others of that video."""
        suffix = clip.name or ("" if alone else _cut_name(clip.cut))
        stem = video.name if video.is_dir() else video.stem
        key = f"{safe_name(clip.label)}/{safe_name(f'{stem}_{suffix}' if suffix else stem)}"
        return Source(key=key, split=clip.split, video=video, part=clip.label, cut=clip.cut)

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
    found = [SPLIT_NAMES[word] for word in _WORD.findall(text.lower()) if word in SPLIT_NAMES]
    return found[-1] if found else None


def split_called(text: str) -> str:
    """The name of a split: train, val or test for their many spellings, else as it is written."""
    return SPLIT_NAMES.get(text.strip().lower(), safe_name(text.strip())) if text.strip() else WHOLE


def sorted_names(labels: Iterable[str]) -> list[str]:
    """Names of classes in order: of numbers by number."""
    found = set(labels)
    return sorted(found, key=int) if all(name.isascii() and name.isdigit() for name in found) else sorted(found)


def _by_list(clips: Iterable[Clip]) -> dict[str, list[Clip]]:
    """Clips by the list that they stand in."""
    found: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        found[clip.origin.partition(", ")[0]].append(clip)
    return found


def _usually_missed(finder: Finder, clips: Sequence[Clip]) -> int | None:
    """How many of the folders that a line names are usually not the video's; None where no line finds a video.

    A list may come from another computer, where everything lay elsewhere. But where the folders of most lines are right
    those of all must be: else a file that is missing would be taken for one of its name in the folder of another class.
    """
    missed = [finder.folders_missed(clip.video) for clip in clips if not clip.problem]
    counted = Counter(count for count in missed if count is not None)
    return max(counted, key=lambda count: (counted[count], -count)) if counted else None


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
    return [part.lower() for part in path.parts if part != path.anchor][::-1]


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """How many names agree, from the first on."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))

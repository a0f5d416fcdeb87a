"""Videos that were coded with BORIS."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path, PurePath, PureWindowsPath

from wildstream.errors import FormatError, LabelError
from wildstream.facts import VideoFacts
from wildstream.shards.boris import EXTENSIONS, boris_events, read_boris
from wildstream.shards.formats.scanning import (
    WHOLE,
    Refusal,
    Scan,
    Source,
    Task,
    add_source,
    find_categories,
    find_files,
)
from wildstream.shards.labels import LabelTrack


class BorisCoded:
    """Videos, and what was coded of them with BORIS: projects, or exports of aggregated or tabular events.

    anything.boris                    or .csv or .tsv, as many as there are, anywhere
    [split/][…/]video_001.mp4         found by the name that an observation has for its media file
    categories.json                   optional, may be in the folder above; else ethogram and tables give the names

    A state event covers its last frame too, a point event the one frame that is shown then.
    """

    name = "boris"
    task: Task = "multi_label"
    counts_frames = False

    def scan(self, root: Path) -> Scan:
        """See Format."""
        videos, files = find_files(root, EXTENSIONS)
        scan = Scan([])
        names: dict[str, None] = {}
        by_name: dict[str, list[Path]] = defaultdict(list)
        for video in videos:
            by_name[video.name.lower()].append(video)
        coded: dict[Path, list[tuple[Path, str]]] = defaultdict(list)
        for path in files:
            told = path.relative_to(root).as_posix()
            try:
                coding = read_boris(path)
            except LabelError as error:
                if path.suffix.lower() == ".boris":
                    raise FormatError(f"{told}: {error}") from error
                scan.unused.append(Refusal(split=WHOLE, path=told, reason=str(error)))
                continue
            names |= dict.fromkeys(coding.behaviors)
            for name, observation in coding.observations.items():
                found, reason = _video_of(observation.media, by_name)
                if found is None:
                    scan.unused.append(Refusal(split=WHOLE, path=f"{told}, observation {name}", reason=reason))
                else:
                    coded[found].append((path, name))
        scan.categories = find_categories(root) or list(names)
        if not scan.categories:
            raise FormatError(f"no .boris, .csv or .tsv below {root} has a behavior; is it another layout?")
        taken: dict[tuple[str, str], Path] = {}
        lacking = "no observation of BORIS names it as its media file"
        for video in videos:
            add_source(scan, root, video, coded[video], lacking=lacking, taken=taken)
        return scan

    def read(self, source: Source, *, facts: VideoFacts, categories: list[str]) -> LabelTrack:
        """See Format."""
        events = boris_events(source.labels, source.part, categories=categories)
        return LabelTrack.from_seconds(
            events, pts=facts.pts, time_base=facts.time_base, num_classes=len(categories), closed=True
        )


def _video_of(media: Sequence[str], by_name: Mapping[str, Sequence[Path]]) -> tuple[Path | None, str]:
    """The video that is meant by the names of media files, as another computer knew them; or why there is none."""
    if not media:
        return None, "names no media file"
    if len(media) > 1:
        return None, f"has {len(media)} media files, one after the other; observe each by itself"
    wanted = _names(PureWindowsPath(media[0]))  # which reads either slash
    alike = {video: _common(_names(video), wanted) for video in by_name.get(wanted[0], ())}
    most = max(alike.values(), default=0)
    found = [video for video, common in alike.items() if common == most]  # below folders of the same names
    if len(found) == 1:
        return found[0], ""
    there = "is not there" if not found else f"is there {len(found)} times"
    return None, f"its media file {PureWindowsPath(media[0]).name} {there}"


def _names(path: PurePath) -> list[str]:
    """The names of a file and the folders on its way, from the file on, in small letters."""
    return [part.lower() for part in path.parts][::-1]


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """How many names agree, from the first on."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))

"""Videos that were coded with BORIS."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from wildstream.errors import FormatError, LabelError
from wildstream.facts import VideoFacts
from wildstream.shards.boris import EXTENSIONS, boris_events, is_boris_table, read_boris
from wildstream.shards.formats.listed import Finder
from wildstream.shards.formats.scanning import (
    LOOKED_AT,
    MOST_SECONDS,
    WHOLE,
    Listing,
    Refusal,
    Scan,
    Source,
    Task,
    add_source,
    find_categories,
    list_videos,
)
from wildstream.shards.labels import LabelTrack, widen_points


@dataclass(frozen=True, slots=True, kw_only=True)
class BorisCoded:
    """Videos, and what was coded of them with BORIS: projects, or exports of aggregated or tabular events.

    anything.boris                    or .csv or .tsv, as many as there are, anywhere
    [split/][…/]video_001.mp4         found by the name that an observation has for its media file
    categories.json                   optional, may be in the folder above; else ethogram and tables give the names

    A state event covers its last frame too, a point event the one frame that is shown then.
    """

    radius: Annotated[Decimal, Field(ge=0, le=MOST_SECONDS)] = Decimal(0)
    """Seconds before and after a point event that it covers too."""

    name: ClassVar[str] = "boris"
    task: ClassVar[Task] = "multi_label"
    counts_frames: ClassVar[bool] = False

    def recognise(self, listing: Listing) -> str:
        """See Format."""
        if projects := listing.having("boris"):
            return f"{listing.told(projects[0])} is a project of BORIS"
        for path in listing.having("csv", "tsv")[:LOOKED_AT]:
            if is_boris_table(path):
                return f"{listing.told(path)} has the columns of BORIS"
        return ""

    def scan(self, root: Path) -> Scan:
        """See Format."""
        listing = list_videos(root)
        videos = listing.videos
        scan = Scan([])
        names: dict[str, None] = {}
        finder = Finder(videos)
        coded: dict[Path, list[tuple[Path, str]]] = defaultdict(list)
        for path in listing.having(*EXTENSIONS):
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
                found, reason = _video_of(observation.media, finder)
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
        events = boris_events(source.label_file, source.part, categories=categories)
        events = widen_points(events, Fraction(self.radius), pts=facts.pts, time_base=facts.time_base)
        return LabelTrack.from_seconds(
            events, pts=facts.pts, time_base=facts.time_base, num_classes=len(categories), closed=True
        )


def _video_of(media: Sequence[str], finder: Finder) -> tuple[Path | None, str]:
    """The video that is meant by the names of media files, as another computer knew them; or why there is none."""
    if not media:
        return None, "names no media file"
    if len(media) > 1:
        return None, f"has {len(media)} media files, one after the other; observe each by itself"
    return finder.find(media[0])

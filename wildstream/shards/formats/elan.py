"""Videos that were annotated with ELAN."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote

from wildstream.errors import FormatError, LabelError
from wildstream.facts import VideoFacts
from wildstream.shards.elan import Annotation, Transcript, read_elan
from wildstream.shards.formats.listed import Finder
from wildstream.shards.formats.scanning import (
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
from wildstream.shards.labels import LabelTrack, TimedEvent

ONE_TIER, ALL_TIERS = "value", "tier:value"
"""How classes are called, where annotations of one tier are used, or of several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ElanAnnotated:
    """Videos and ELAN's .eaf files.

    [split/][…/]video_001.mp4
    [anywhere/]video_001.eaf          of the video that it names as its medium, or else that has its name
    categories.json                   optional, may be in the folder above; else the annotations give the names

    The class of an annotation is its value, "hold"; where annotations of several tiers are used, its tier too,
    "left hand: hold". An annotation without a value is of its tier's class. In the pauses of a tier its
    classes do not happen.
    """

    tiers: tuple[str, ...] = ()
    """Tiers whose annotations are classes; by default all."""

    name: ClassVar[str] = "elan"
    task: ClassVar[Task] = "multi_label"
    counts_frames: ClassVar[bool] = False

    def recognise(self, listing: Listing) -> str:
        """See Format."""
        found = listing.having("eaf")
        return f"{listing.told(found[0])} is a file of ELAN" if found else ""

    def scan(self, root: Path) -> Scan:
        """See Format."""
        listing = list_videos(root)
        videos = listing.videos
        scan, finder = Scan([]), Finder(videos)
        told: dict[Path, list[tuple[Path | None, str]]] = defaultdict(list)
        read: dict[Path, Transcript] = {}
        for path in listing.having("eaf"):
            try:
                read[path] = read_elan(path)
            except LabelError as error:
                # Left out, it would take its classes along, and those of the others would get other numbers.
                raise FormatError(f"{listing.told(path)}: {error}") from error
        tiers = {annotation.tier for transcript in read.values() for annotation in self._used(transcript)}
        naming = ALL_TIERS if len(tiers) > 1 else ONE_TIER
        self._check_tiers(read)
        for path, transcript in read.items():
            media, reason = _videos_of(path, transcript, finder)
            if not media:
                scan.unused.append(Refusal(split=WHOLE, path=listing.told(path), reason=reason))
            for video, origin in media.items():
                told[video].append((path, f"{naming} {origin}"))
        names = {_class_of(annotation, naming) for part in read.values() for annotation in self._used(part)}
        scan.categories = find_categories(root) or sorted(names)
        if not scan.categories:
            raise FormatError(f"no .eaf below {root} has an annotation, so no class has a name; add a categories.json")
        taken: dict[tuple[str, str], Path] = {}
        for video in videos:
            add_source(scan, root, video, told[video], lacking="no .eaf names it as its medium", taken=taken)
        return scan

    def read(self, source: Source, *, facts: VideoFacts, categories: list[str]) -> LabelTrack:
        """See Format."""
        numbers = {name: number for number, name in enumerate(categories)}
        events = []
        naming, _, origin = source.part.partition(" ")
        shift = Fraction(origin)
        for annotation in self._used(read_elan(source.label_file)):
            name = _class_of(annotation, naming)
            if name not in numbers:
                raise LabelError(
                    f"{annotation.origin}: class {name!r:.60} is not one of the categories {', '.join(categories):.200}"
                )
            begun, ended = annotation.start + shift, annotation.stop + shift
            events.append(TimedEvent(numbers[name], begun, ended, annotation.origin))
        return LabelTrack.from_seconds(events, pts=facts.pts, time_base=facts.time_base, num_classes=len(categories))

    def _used(self, transcript: Transcript) -> Iterator[Annotation]:
        """The annotations of the tiers that are classes."""
        return (one for one in transcript.annotations if not self.tiers or one.tier in self.tiers)

    def _check_tiers(self, read: dict[Path, Transcript]) -> None:
        """Refuse tiers that no file has."""
        there = {tier for transcript in read.values() for tier in transcript.tiers}
        if missing := [tier for tier in self.tiers if tier not in there]:
            raise FormatError(f"no .eaf has the tier {missing[0]!r}; there are {', '.join(sorted(there)):.300}")


def _class_of(annotation: Annotation, naming: str) -> str:
    """The class that an annotation is of."""
    if not annotation.value:
        return annotation.tier
    return f"{annotation.tier}: {annotation.value}" if naming == ALL_TIERS else annotation.value


def _videos_of(path: Path, transcript: Transcript, finder: Finder) -> tuple[dict[Path, Fraction], str]:
    """The videos that an .eaf is of, several cameras too, and where in each time 0 is; or why there is none.

    They are those that it names as its media and that are there; without any, the one of its own name.
    """
    found: dict[Path, Fraction] = {}
    reasons = []
    for medium in transcript.media:
        for name in medium.names:
            video, reason = finder.find(unquote(name.removeprefix("file://")))
            if video is not None:
                found.setdefault(video, medium.origin)
                break
            reasons.append(reason)
    if not found:
        video, reason = finder.find(path.with_suffix("").as_posix())
        if video is not None:
            found[video] = Fraction(0)
        reasons.append(reason)
    return found, reasons[0] if reasons else ""

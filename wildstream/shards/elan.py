"""ELAN's .eaf files: annotations on tiers, in milliseconds.

Tiers hold annotations from one time slot to another, or annotations of other annotations, which last as long as
these. Slots that nobody placed, as between the parts of a subdivided annotation, lie evenly between those beside them,
which is how ELAN shows them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree

from wildstream.errors import LabelError

MILLISECONDS = 1000


@dataclass(frozen=True, slots=True)
class Annotation:
    """What somebody wrote on a tier."""

    tier: str
    value: str
    """Without blanks around it; may be empty."""
    start: Fraction
    """Seconds; of a medium, its origin comes to it."""
    stop: Fraction
    origin: str
    """File and annotation, for messages."""


@dataclass(frozen=True, slots=True)
class Medium:
    """A file that an .eaf is about."""

    names: tuple[str, ...]
    """Its addresses, absolute and relative, as its computer knew it."""
    origin: Fraction
    """Seconds of it that lie before the time 0 of the annotations."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """What an .eaf holds."""

    media: tuple[Medium, ...]
    annotations: tuple[Annotation, ...]
    """In order of the file."""
    tiers: tuple[str, ...]


def read_elan(path: Path) -> Transcript:
    """Read an .eaf file.

    Raises:
        LabelError: It is none, or an annotation has no time.
    """
    stat = path.stat()
    return _read(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=16)
def _read(path: Path, _changed: int, _size: int) -> Transcript:
    """The same; a file is read once for finding and labelling."""
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise LabelError(f"{path.name} is no XML that can be read: {error}") from error
    if root.tag != "ANNOTATION_DOCUMENT":
        raise LabelError(f"{path.name} is no file of ELAN: it begins with {root.tag[:40]!r}, not ANNOTATION_DOCUMENT")
    header = root.find("HEADER")
    units = "milliseconds" if header is None else header.get("TIME_UNITS", "milliseconds")
    if units != "milliseconds":
        raise LabelError(f"{path.name} counts time in {units[:40]}, not milliseconds; save it with ELAN anew")
    media = []
    for described in root.iter("MEDIA_DESCRIPTOR"):
        origin = described.get("TIME_ORIGIN") or "0"
        if not re.fullmatch(r"-?\d{1,10}", origin, re.ASCII):
            raise LabelError(f"{path.name}: the TIME_ORIGIN {origin[:40]!r} of a medium is no time in ms")
        names = tuple(name for kind in ("MEDIA_URL", "RELATIVE_MEDIA_URL") if (name := described.get(kind)))
        media.append(Medium(names, Fraction(int(origin), MILLISECONDS)))
    tiers = tuple(tier.get("TIER_ID", "") for tier in root.iter("TIER"))
    return Transcript(tuple(media), tuple(_annotations(root, path.name)), tiers)


def _annotations(root: ElementTree.Element, name: str) -> Iterator[Annotation]:
    """All annotations, in order."""
    slots = _slots(root, name)
    tiers = [
        (tier.get("TIER_ID", ""), [entry for annotation in tier.iter("ANNOTATION") for entry in annotation])
        for tier in root.iter("TIER")
    ]
    for _, entries in tiers:
        slots |= _spread([_ends(entry) for entry in entries if entry.tag != "REF_ANNOTATION"], slots)
    by_id = {entry.get("ANNOTATION_ID", ""): entry for _, entries in tiers for entry in entries}
    for tier, entries in tiers:
        for entry in entries:
            origin = f"{name}, tier {tier!r:.40}, annotation {entry.get('ANNOTATION_ID', '?')[:40]}"
            begun, ended = _times(entry, by_id, slots, origin)
            value = " ".join((entry.findtext("ANNOTATION_VALUE") or "").split())
            yield Annotation(tier, value, begun, ended, origin)


def _times(
    entry: ElementTree.Element, by_id: dict[str, ElementTree.Element], slots: dict[str, Fraction], origin: str
) -> tuple[Fraction, Fraction]:
    """From when until when an annotation lasts, in seconds; one of another lasts as long as that."""
    seen: set[str] = set()
    while entry.tag == "REF_ANNOTATION":
        other = entry.get("ANNOTATION_REF", "")
        if other in seen or other not in by_id:
            raise LabelError(
                f"{origin} is of the annotation {other[:40]!r}, which is not there. Save it with ELAN anew"
            )
        seen.add(other)
        entry = by_id[other]
    begun, ended = (slots.get(slot) for slot in _ends(entry))
    if begun is None or ended is None:
        raise LabelError(f"{origin} has no time: its time slots have none. Save it with ELAN anew")
    return begun, ended


def _ends(entry: ElementTree.Element) -> tuple[str, str]:
    """The time slots of an annotation."""
    return entry.get("TIME_SLOT_REF1", ""), entry.get("TIME_SLOT_REF2", "")


def _slots(root: ElementTree.Element, name: str) -> dict[str, Fraction]:
    """When each time slot is that somebody placed, in seconds."""
    found: dict[str, Fraction] = {}
    for slot in root.iter("TIME_SLOT"):
        text = slot.get("TIME_VALUE")
        if text is None:
            continue
        if not re.fullmatch(r"\d{1,10}", text, re.ASCII):
            told = slot.get("TIME_SLOT_ID", "?")[:40]
            raise LabelError(f"{name}, time slot {told}: {text[:40]!r} is no time in ms. Save it with ELAN anew")
        found[slot.get("TIME_SLOT_ID", "")] = Fraction(int(text), MILLISECONDS)
    return found


def _spread(ends: list[tuple[str, str]], slots: dict[str, Fraction]) -> dict[str, Fraction]:
    """Times of the slots of one tier that have none: evenly between those that the chain of annotations leads to."""
    following = dict(ends)
    found: dict[str, Fraction] = {}
    for first, _ in ends:
        chain = [first]
        while first in slots and (after := following.get(chain[-1])) is not None and after not in chain:
            chain.append(after)
            if after in slots:
                step = (slots[after] - slots[first]) / (len(chain) - 1)
                found |= {slot: slots[first] + place * step for place, slot in enumerate(chain[1:-1], start=1)}
                break
    return found

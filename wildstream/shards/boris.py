"""What people coded with BORIS → the events of each video (Friard & Gamba 2016; the files of 8.27 were read).

project.boris      JSON: `observations`, each with its media files and events, and `behaviors_conf`, the ethogram
aggregated.csv     Export events > Aggregated events, or .tsv: a line per event, with Start (s), Stop (s)
tabular.csv        Export events > Tabular events, or .tsv: a line per START, STOP or POINT, with Time

Times are seconds since the medium began; an observation may have an offset, which is taken off. Subjects and modifiers
tell events apart that run at the same time, and are not kept. What is wrong with an observation is noted with it, so
that the others can be used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

from wildstream.errors import LabelError
from wildstream.shards.event_table import parse_seconds, table_header, table_lines
from wildstream.shards.label_files import read_json
from wildstream.shards.labels import TimedEvent

EXTENSIONS = ("boris", "csv", "tsv")
START, STOP, POINT = "START", "STOP", "POINT"
_COLUMNS = ("Observation id", "Media file name", "Behavior", "Behavior type")
_BEGIN, _END, _TIME, _OFFSET = "Start (s)", "Stop (s)", "Time", "Time offset (s)"


@dataclass(frozen=True, slots=True)
class CodedEvent:
    """What somebody coded."""

    behavior: str
    """Its code in the ethogram."""
    start: Fraction
    """Seconds since the medium began."""
    stop: Fraction
    """The same; of a point event that of its start."""
    origin: str
    """File, and line or event, for messages."""


@dataclass(slots=True)
class Observation:
    """What was coded of one medium."""

    media: list[str] = field(default_factory=list)
    """Its media files as BORIS knew them, of the first player."""
    events: list[CodedEvent] = field(default_factory=list)
    """In order of the file."""
    problem: str = ""
    """Why the events cannot be used."""


@dataclass(frozen=True, slots=True)
class Coding:
    """What a file of BORIS holds."""

    observations: dict[str, Observation]
    """By observation id."""
    behaviors: tuple[str, ...]
    """Of the ethogram, in its order; of a table those that happen, sorted."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """A start, a stop or a point."""

    who: tuple[str, ...]
    """Subject and modifiers."""
    behavior: str
    kind: str
    time: Fraction
    origin: str


def read_boris(path: Path) -> Coding:
    """Read a .boris project, or a .csv or .tsv of aggregated or tabular events.

    Raises:
        LabelError: The file is none of these.
    """
    stat = path.stat()
    return _read(path, stat.st_mtime_ns, stat.st_size)


def boris_events(path: Path, observation: str, *, categories: Sequence[str]) -> list[TimedEvent]:
    """The events of one observation of a file.

    Raises:
        LabelError: An event has no end, no time, or a behaviour that is not among the categories; the message has file
            and line or event.
    """
    found = read_boris(path).observations[observation]
    if found.problem:
        raise LabelError(found.problem)
    numbers = {name: number for number, name in enumerate(categories)}
    for event in found.events:
        if event.behavior not in numbers:
            raise LabelError(
                f"{event.origin}: behavior {event.behavior!r:.40} is not one of the categories "
                f"{', '.join(categories):.200}"
            )
    return [TimedEvent(numbers[event.behavior], event.start, event.stop, event.origin) for event in found.events]


def is_boris_table(path: Path) -> bool:
    """Whether a .csv or .tsv has the columns of aggregated or tabular events."""
    try:
        header = table_header(path)
    except LabelError:
        return False
    return all(name in header for name in _COLUMNS) and (_BEGIN in header or _TIME in header)


@lru_cache(maxsize=16)
def _read(path: Path, _changed: int, _size: int) -> Coding:
    """The same; a file of many observations is read once for all of them."""
    if path.suffix.lower() == ".boris":
        return _read_project(path)
    header = table_header(path)
    if _BEGIN in header:
        return _read_table(path, header, (_BEGIN, _END))
    if _TIME in header:
        return _read_table(path, header, (_TIME,))
    raise LabelError(
        f"{path.name} is no export of BORIS: its header has neither {_BEGIN!r} (aggregated events) nor {_TIME!r} "
        f"(tabular events), but {', '.join(map(repr, header)):.200}"
    )


def _read_table(path: Path, header: Sequence[str], times: Sequence[str]) -> Coding:
    """Aggregated events, with two times a line, or tabular ones, with one."""
    who = [name for name in header if name == "Subject" or name.startswith("Modifier")]
    offset = [name for name in header if name == _OFFSET]
    found: dict[str, Observation] = defaultdict(Observation)
    marks: dict[str, list[_Mark]] = defaultdict(list)
    names = set()
    for origin, cells in table_lines(path, (*_COLUMNS, *times, *offset, *who)):
        (name, media, behavior, kind), at = cells[:4], cells[4 : 4 + len(times)]
        shift, whose = cells[4 + len(times) : len(cells) - len(who)], tuple(cells[len(cells) - len(who) :])
        observation = found[name]
        if media not in ("", "NA", *observation.media):
            observation.media.append(media)
        names.add(behavior)
        try:
            begun = _parse(at[0], shift, f"{origin}, column {times[0]!r}")
            if not behavior.strip():
                raise LabelError(f"{origin}: the behavior is empty. Name it, or leave the line out.")
            if kind.upper() == POINT or len(times) == 1:
                marks[name].append(_Mark(whose, behavior, kind.upper(), begun, origin))
            else:
                ended = _parse(at[1], shift, f"{origin}, column {times[1]!r}")
                observation.events.append(CodedEvent(behavior, begun, ended, origin))
        except LabelError as error:
            observation.problem = observation.problem or str(error)
    for name, several in marks.items():
        _join(found[name], several)
    return Coding(dict(found), tuple(sorted(names - {""})))


def _read_project(path: Path) -> Coding:
    """A .boris file."""
    try:
        project = read_json(path)
        ethogram = {str(entry["code"]): str(entry["type"]) for entry in project["behaviors_conf"].values()}
        observations = {str(name): dict(content) for name, content in project["observations"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise LabelError(f"{path.name} is no BORIS project: {type(error).__name__}: {error}") from error
    found = {}
    for name, content in observations.items():
        place = f"{path.name}, observation {name!r:.60}"
        try:
            found[name] = _read_observation(content, ethogram, place)
        except LabelError as error:
            found[name] = Observation(_media(content), problem=str(error))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            told = f"{place} is not as BORIS writes it: {type(error).__name__}: {error}"
            found[name] = Observation(_media(content), problem=told)
    return Coding(found, tuple(ethogram))


def _read_observation(content: dict[str, Any], ethogram: dict[str, str], place: str) -> Observation:
    """One observation of a project; of a state event every second row is its stop."""
    shift = [str(content.get("time offset", "0"))]
    marks: list[_Mark] = []
    running: set[tuple[str, ...]] = set()
    for number, (time, subject, code, modifier, *_) in enumerate(content["events"], start=1):
        origin = f"{place}, event {number}"
        if code not in ethogram:
            raise LabelError(f"{origin}: {code!r:.40} is not in the ethogram. Add it there, or correct the event.")
        kind, which = POINT, (str(subject), str(modifier), str(code))
        if ethogram[code].lower().startswith("state"):
            kind = STOP if which in running else START
            running ^= {which}
        marks.append(_Mark(which[:2], code, kind, _parse(str(time), shift, origin), origin))
    observation = Observation(_media(content))
    _join(observation, marks)
    return observation


def _media(content: dict[str, Any]) -> list[str]:
    """The media files of the first player; others show the same time from elsewhere."""
    players = content.get("file")
    first = players.get("1") if isinstance(players, dict) else None
    return [str(one) for one in first] if isinstance(first, list) else []


def _join(observation: Observation, marks: Iterable[_Mark]) -> None:
    """Add the events that starts and stops are of; where one has no other that is noted."""
    begun: dict[tuple[object, ...], _Mark] = {}
    problem = ""
    for mark in marks:
        which = (mark.who, mark.behavior)
        if mark.kind == POINT:
            observation.events.append(CodedEvent(mark.behavior, mark.time, mark.time, mark.origin))
        elif mark.kind == START and which not in begun:
            begun[which] = mark
        elif mark.kind == STOP and which in begun:
            first = begun.pop(which)
            observation.events.append(CodedEvent(mark.behavior, first.time, mark.time, first.origin))
        else:
            words = {START: "starts again before it stops", STOP: "stops and has not started"}
            told = words.get(mark.kind, f"is of type {mark.kind!r:.20}, which is none of START, STOP and POINT")
            problem = problem or f"{mark.origin}: {mark.behavior!r:.40} {told}. Correct it in BORIS"
    for mark in begun.values():
        problem = problem or f"{mark.origin}: {mark.behavior!r:.40} starts and never stops. Correct it in BORIS"
    observation.problem = observation.problem or problem


def _parse(text: str, shift: Sequence[str], origin: str) -> Fraction:
    """A time less the observation's offset, if there is one."""
    offsets = [parse_seconds(one, f"{origin}, offset") for one in shift if one]
    return parse_seconds(text, origin) - sum(offsets, Fraction(0))

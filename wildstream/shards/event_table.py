"""Tables of events, .csv or .tsv: the lines below a header, and those of start, stop and class in seconds."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

from wildstream.errors import LabelError
from wildstream.shards.label_files import read_text
from wildstream.shards.labels import TimedEvent

EVENT_COLUMNS = ("start", "stop", "class")
"""Columns that a file of events must have; it may have others."""
DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d\d?)?", re.ASCII)
LONGEST_TIME = 64
"""Characters of a time, at most: with DECIMAL, it keeps its fraction small, whatever is written."""


def read_events(path: Path, *, categories: Sequence[str], points: bool = False) -> list[TimedEvent]:
    """Read a .csv or .tsv of events: a header with the columns start, stop and class, then a line per event.

    Times are decimal seconds, classes are names out of the categories; columns come in any order, others are ignored.
    With `points`, stop may be empty: such an event is at start alone.

    Raises:
        LabelError: A column is missing, a time is no number, or a class is unknown; the message has the line.
    """
    numbers = {name: number for number, name in enumerate(categories)}
    events = []
    for origin, (start, stop, name) in table_lines(path, EVENT_COLUMNS):
        if name not in numbers:
            raise LabelError(f"{origin}: class {name!r:.40} is not one of the categories {', '.join(categories):.200}")
        begun = parse_seconds(start, f"{origin}, column 'start'")
        if not stop.strip() and not points:
            raise LabelError(
                f"{origin}: stop is empty. Write a time; or, where such lines are points in time, say how far around "
                "them the class is seen (--format-option radius=0.5)"
            )
        ended = parse_seconds(stop, f"{origin}, column 'stop'") if stop.strip() else begun
        events.append(TimedEvent(numbers[name], begun, ended, origin))
    return events


def read_event_names(path: Path) -> set[str]:
    """Read the class names in a file of events; of the times, nothing.

    Raises:
        LabelError: The columns cannot be read, or a name is empty or has blanks around it, which might be a slip.
    """
    names = set()
    for origin, (_, _, name) in table_lines(path, EVENT_COLUMNS):
        if name != name.strip() or not name:
            raise LabelError(f"{origin}: class {name!r:.40} is empty or has blanks around it; write the name alone")
        names.add(name)
    return names


def table_lines(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The lines of a table below its header: file and line for messages, and the cells of these columns.

    A .tsv is separated by tabs, anything else by commas, or semicolons, as some spreadsheet programs do it. Columns
    come in any order, others are passed over, as are lines without anything.

    Raises:
        LabelError: The file is no UTF-8 text or no such table; the message has the line.
    """
    text = read_text(path)
    separator, called = _separator(path, text)
    reader = csv.reader(io.StringIO(text), delimiter=separator, strict=True)
    header: list[str] = []
    places: list[int] = []
    line = 0
    try:
        for cells in reader:
            origin, line = f"{path.name}, line {line + 1}", reader.line_num  # a quoted cell may hold line ends
            if not "".join(cells).strip():
                continue
            if not header:
                header = cells
                places = [_place_of(column, header, f"{origin} (separated by {called})") for column in columns]
                continue
            if len(cells) != len(header):
                raise LabelError(
                    f"{origin}: {len(cells)} cells, but the header has {len(header)}, separated by {called}"
                )
            yield origin, [cells[place] for place in places]
    except csv.Error as error:
        raise LabelError(f"{path.name}, line {reader.line_num} cannot be read: {error}; mind its quotes") from error
    if not header:
        raise LabelError(
            f"{path.name} is empty; its first line must name the columns {', '.join(columns)}, and stand alone "
            "where nothing happens"
        )


def table_header(path: Path) -> list[str]:
    """The first line of such a table that is not empty; LabelError as `table_lines`."""
    text = read_text(path)
    reader = csv.reader(io.StringIO(text), delimiter=_separator(path, text)[0])
    try:
        return next((cells for cells in reader if "".join(cells).strip()), [])
    except csv.Error as error:
        raise LabelError(f"{path.name}, line {reader.line_num} cannot be read: {error}; mind its quotes") from error


def _separator(path: Path, text: str) -> tuple[str, str]:
    """What lies between cells, and its name: tabs in a .tsv, else commas; semicolons where the header has no comma."""
    if path.suffix.lower() == ".tsv":
        return "\t", "tabs"
    header = text.lstrip().partition("\n")[0]
    return (";", "semicolons") if ";" in header and "," not in header else (",", "commas")


def _place_of(column: str, header: list[str], origin: str) -> int:
    """Where a column stands in the header; LabelError where it does not, or does twice."""
    if header.count(column) != 1:
        raise LabelError(
            f"{origin}: the header must have one column {column!r}, but has {header.count(column)}: {header!r:.200}"
        )
    return header.index(column)


def parse_seconds(text: str, origin: str) -> Fraction:
    """A decimal number as the fraction that it is; LabelError for anything else, and for those of absurd length."""
    text = text.strip()
    if len(text) > LONGEST_TIME or not DECIMAL.fullmatch(text):
        raise LabelError(f"{origin}: {text!r:.40} is no time in seconds; write a decimal number such as 12.48")
    return Fraction(text)

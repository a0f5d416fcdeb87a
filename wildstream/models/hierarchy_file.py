"""A table of classes and of the classes that they belong to → a hierarchy.

    species;genus;family
    parus major;parus;paridae
    parus ater;parus;paridae
    corvus corax;corvus;corvidae

The header names the levels, from narrow to wide; below it comes a line for each category of the data, which its first
column names. Cells are separated by tabs, semicolons or commas: by the first of these that the header has.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from wildstream.errors import ConfigError
from wildstream.models.hierarchy import Hierarchy, make_hierarchy

SEPARATORS = {"\t": "tabs", ";": "semicolons", ",": "commas"}
"""What may lie between cells, and its name in messages."""
LEVELS_OPTION = "model.hierarchy.levels"


def read_hierarchy(path: Path, *, categories: Sequence[str], levels: Sequence[str] | None = None) -> Hierarchy:
    """Read the hierarchy of a set of categories.

    Args:
        path: The table, UTF-8.
        categories: The labels' classes, in order of class number; the table has a line for each, in any order, and
            may have others.
        levels: Columns to take, from the categories' own to the widest; None takes all, as they stand.

    Raises:
        ConfigError: The table cannot be read, a category is missing, a name is there twice, a cell is empty, or a
            class lies in two classes of the level above. The message has the file, and the line where one is at fault.
    """
    (origin, header), *lines = list(_lines(path)) or [(str(path), [])]
    if not header:
        raise ConfigError(f"{path} is empty. Its first line must name the levels, such as species;genus;family.")
    chosen = _choose(header, levels, origin)
    places = [header.index(level) for level in chosen]
    parents: dict[str, list[str]] = {}
    seen: dict[str, str] = {}
    for origin, cells in lines:
        name, *above = (_cell(cells[place], header[place], origin) for place in places)
        if name in parents:
            raise ConfigError(f"{origin}: {name!r} stands on {seen[name]} already. Leave one of the lines.")
        parents[name], seen[name] = above, origin.removeprefix(f"{path}, ")
    if missing := [name for name in categories if name not in parents]:
        near = get_close_matches(missing[0], parents.keys() - set(categories), n=1)
        raise ConfigError(
            f"{path} lacks {_listed(missing)}: the column {chosen[0]!r} must name every category of the data. "
            + (f"Is {seen[near[0]]}, {near[0]!r}, meant for {missing[0]!r}? " if near else "")
            + f"Add a line for each, or say which columns are the levels, from narrow to wide: {LEVELS_OPTION}=[...]."
        )
    try:
        return make_hierarchy(categories, chosen, {name: parents[name] for name in categories})
    except ConfigError as error:
        raise ConfigError(
            f"{path}: {error} If the columns do not go from narrow to wide, order them: {LEVELS_OPTION}=[...], of "
            f"{', '.join(header)}."
        ) from error


def _lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The lines that are not blank: file and line for messages, cells; all have as many cells as the first."""
    text = _text(path)
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = next((one for one in SEPARATORS if one in first), ",")
    width = line = 0
    reader = csv.reader(io.StringIO(text), delimiter=separator, strict=True)
    try:
        for cells in reader:
            origin, line = f"{path}, line {line + 1}", reader.line_num  # a quoted cell may hold line ends
            if not "".join(cells).strip():
                continue
            width = width or len(cells)
            if len(cells) != width:
                raise ConfigError(
                    f"{origin}: {len(cells)} cells, but the header has {width}, separated by {SEPARATORS[separator]}. "
                    "Write one for each level."
                )
            yield origin, cells
    except csv.Error as error:
        raise ConfigError(f"{path}, line {reader.line_num} cannot be read: {error}. Mind its quotes.") from error


def _text(path: Path) -> str:
    """The content of a text file; ConfigError where it is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not UTF-8 text (byte {error.start}: {error.reason}). Save it as UTF-8."
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}. Give the path of a table of levels.") from error


def _choose(header: list[str], levels: Sequence[str] | None, origin: str) -> list[str]:
    """The columns that are levels, in order; ConfigError where there are none of these names."""
    for name in header:
        if name != name.strip() or not name or "/" in name:  # figures are called genus/mAP
            raise ConfigError(
                f"{origin}: {name!r} is no name of a level. Write a word, without blanks around it or '/'."
            )
    if len(set(header)) != len(header):
        raise ConfigError(f"{origin}: two columns have the same name, of {', '.join(header)}. Rename one.")
    if levels is None:
        return header
    if unknown := [name for name in levels if name not in header]:
        raise ConfigError(
            f"levels={list(levels)}: {origin} has no column {', '.join(unknown)}. Take some of {', '.join(header)}."
        )
    if len(set(levels)) != len(levels):
        raise ConfigError(f"levels={list(levels)} must be different names.")
    return list(levels)


def _cell(name: str, level: str, origin: str) -> str:
    """A class name; ConfigError where it is empty, or has blanks around it, which might be a slip."""
    if name != name.strip() or not name:
        raise ConfigError(f"{origin}: the {level} {name!r} is empty or has blanks around it. Write the name alone.")
    return name


def _listed(names: Sequence[str]) -> str:
    """Names for a message, the first few of many."""
    shown = ", ".join(repr(name) for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown

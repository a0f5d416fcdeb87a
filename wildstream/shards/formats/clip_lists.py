"""Lists of clips in files: tables with a header, "path label" a line, and JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wildstream.errors import LabelError
from wildstream.shards.cut import Cut
from wildstream.shards.event_table import parse_seconds, table_header, table_lines
from wildstream.shards.formats.listed import Clip, Finder, split_called, split_named
from wildstream.shards.formats.scanning import WHOLE, first_lines
from wildstream.shards.label_files import read_text, text_lines
from wildstream.video import VIDEO_EXTENSIONS

TABLES = (".csv", ".tsv")
LIST_EXTENSIONS = ("csv", "tsv", "txt", "json")
COLUMNS = {
    "path": ("path", "video_path", "file_path", "file_name", "filename", "file", "video", "clip", "youtube_id"),
    "label": ("label", "class", "category", "action", "behavior", "behaviour", "species", "gloss"),
    "split": ("split", "subset"),
    "start": ("start", "time_start", "start_time", "start_s"),
    "stop": ("stop", "end", "time_end", "end_time", "stop_s", "end_s"),
}
"""What a column can be called; the first that is there is taken."""
NAMED_BY_TIMES = "youtube_id"
"""The column of Kinetics' ids: its clips are cut already, and called ID_SSSSSS_SSSSSS by their seconds."""


WRAPPERS = ("database", "annotations", "videos", "samples", "data")
"""What a JSON may have its clips below."""


@dataclass(frozen=True, slots=True)
class ListReader:
    """Reads the lists of clips of one source folder."""

    finder: Finder
    names: Sequence[str] | None
    """Of the classes, where categories.json gives them."""
    path: str = ""
    """Column of the files; by default the one that is called as usual."""
    label: str = ""
    """Column of the classes; the same."""
    cut: bool = True
    """Whether start and stop mean a part of the file."""

    def read(self, path: Path, told: str) -> list[Clip] | None:
        """The clips of a file that the user knows by the name `told`; None where it is no list of clips.

        Raises:
            LabelError: It begins as one, and cannot be read to its end.
        """
        if path.suffix.lower() == ".json":
            records = json_records(path, told)
            return None if records is None else [*self._records(records, path, told)]
        columns = self._columns(table_header(path) if path.suffix.lower() in TABLES else [])
        if columns["path"] and columns["label"]:
            wanted = [what for what, column in columns.items() if column]
            rows = (
                (f"{told}{place.removeprefix(path.name)}", dict(zip(wanted, cells, strict=True)))
                for place, cells in table_lines(path, [columns[what] for what in wanted])
            )
            split = split_named(path.stem) or WHOLE
            return [self._clip(values, origin, split, columns["path"]) for origin, values in rows]
        return [*self._lines(path, told)] if is_list(path) else None

    def _columns(self, header: Sequence[str]) -> dict[str, str]:
        """Which column is for what; empty where there is none."""
        columns = {what: usual_column(header, what) for what in COLUMNS}
        return columns | {
            what: given for what, given in (("path", self.path), ("label", self.label)) if given and given in header
        }

    def _records(self, records: Sequence[tuple[str, dict[str, str]]], path: Path, told: str) -> Iterator[Clip]:
        """The clips of a JSON."""
        split = split_named(path.stem) or WHOLE
        for place, record in records:
            columns = self._columns(list(record))
            values = {what: record[column] for what, column in columns.items() if column}
            yield self._clip({"path": "", "label": "", **values}, f"{told}, {place}", split, columns["path"])

    def _lines(self, path: Path, told: str) -> Iterator[Clip]:
        """The clips of a file without a header."""
        split = split_named(path.stem) or WHOLE
        for number, line in enumerate(text_lines(path), start=1):
            if line.strip():
                video, *label = _parts(line)
                yield self._clip(
                    {"path": video, "label": label[0] if label else ""}, f"{told}, line {number}", split, ""
                )

    def _clip(self, values: dict[str, str], origin: str, split: str, path_column: str) -> Clip:
        """One clip, by what its columns hold."""
        video, problem, cut = values["path"].strip(), "", None
        label = self._named(values["label"].strip())
        if not label:
            problem = "its class is empty"
        try:
            cut = self._cut(values, origin)
        except LabelError as error:
            problem = str(error)
        if cut is not None and cut.seconds is not None and path_column == NAMED_BY_TIMES:
            named = "_".join([video, *(f"{int(time):06d}" for time in cut.seconds)])
            if self.finder.find(named)[0] is not None:
                video, cut = named, None
        return Clip(
            video=video,
            label=label,
            origin=origin,
            split=split_called(values["split"]) if values.get("split", "").strip() else split,
            cut=cut,
            problem=problem,
        )

    def _named(self, label: str) -> str:
        """A class by its name, where it is a number and there are names."""
        if self.names is None or label in self.names or not (label.isascii() and label.isdigit()):
            return label
        return self.names[int(label)] if int(label) < len(self.names) else label

    def _cut(self, values: dict[str, str], origin: str) -> Cut | None:
        """The part of the video that a line names; LabelError where its times are none."""
        start, stop = (values.get(what, "").strip() for what in ("start", "stop"))
        if not self.cut or not (start or stop):
            return None
        if not (start and stop):
            raise LabelError(f"has {'a start' if start else 'a stop'} alone; write both, or none of them")
        begun, ended = parse_seconds(start, f"{origin}, start"), parse_seconds(stop, f"{origin}, stop")
        if not 0 <= begun < ended:
            raise LabelError(f"starts at {start} s and stops at {stop} s; a clip starts at 0 or later, before it stops")
        return Cut(seconds=(begun, ended), origin=origin)


def describe_list(path: Path) -> str:
    """What says that a file lists clips; empty where nothing does."""
    if path.suffix.lower() == ".json":
        try:
            records = json_records(path, path.name)
        except LabelError:
            return ""
        found = [usual_column(list(records[0][1]), what) for what in ("path", "label")] if records else []
        return f"has {len(records):,} entries with a {found[1]}" if records and all(found) else ""
    header = _header(path)
    found = [usual_column(header, what) for what in ("path", "label")]
    if all(found):
        return f"has the columns {' and '.join(found)}"
    return "lists a video and a class in each line" if is_list(path) else ""


def json_records(path: Path, told: str) -> list[tuple[str, dict[str, str]]] | None:
    """The entries of a JSON that may list clips, by their place in it; None where it is not made like that.

    [{"path": …, "label": …}, …]     {"clip_1": "run", …}     {"clip_1": {"label": "run", "subset": "train"}, …}
    and each of them below "database", "annotations", "videos", "samples" or "data". An entry's "annotations" count as
    its own, and a "segment" as start and stop.
    """
    try:
        content = json.loads(read_text(path), parse_int=str, parse_float=str)
    except (json.JSONDecodeError, RecursionError) as error:
        raise LabelError(f"{told} is no JSON that can be read: {error}") from error
    while isinstance(content, dict) and (inner := next((name for name in WRAPPERS if name in content), "")):
        content = content[inner]
    if isinstance(content, list) and content and all(isinstance(entry, dict) for entry in content):
        return [(f"entry {place}", record) for place, entry in enumerate(content) for record in _flat(entry)]
    if not isinstance(content, dict) or not content:
        return None
    if all(isinstance(value, str) for value in content.values()):
        return [(f"entry {name!r:.40}", {"path": name, "label": value}) for name, value in content.items()]
    if not all(isinstance(value, dict) for value in content.values()):
        return None
    found = []
    for name, entry in content.items():
        for record in _flat(entry):
            own = usual_column(list(record), "path")
            # What the entry is called names its file, unless it says a path itself.
            named = record if own in ("path", "video_path", "file_path") else {**record, "path": name}
            found.append((f"entry {name!r:.40}", named))
    return found


def _flat(entry: dict[str, object]) -> Iterator[dict[str, str]]:
    """An entry of a JSON as columns; one for each of its annotations, where it has several."""
    plain = {str(name): value for name, value in entry.items() if isinstance(value, str)}
    segment = entry.get("segment")
    if isinstance(segment, list) and len(segment) == 2:
        plain |= {"start": str(segment[0]), "stop": str(segment[1])}
    inner = entry.get("annotations")
    for one in inner if isinstance(inner, list) else [inner]:
        yield from ({**plain, **deeper} for deeper in _flat(one)) if isinstance(one, dict) else [plain]


def _header(path: Path) -> list[str]:
    """The names in the first line of a table; none where it cannot be read."""
    try:
        return table_header(path) if path.suffix.lower() in TABLES else []
    except LabelError:
        return []


def usual_column(header: Sequence[str], what: str) -> str:
    """The column for that, by what it is usually called; empty where there is none."""
    called = {name.strip().lower(): name for name in reversed(header)}
    return next((called[name] for name in COLUMNS[what] if name in called), "")


def is_list(path: Path) -> bool:
    """Whether the lines of a file without a header are a video, or a folder of frames, and a class."""
    parts = _parts(first_lines(path, 1)[0])
    if len(parts) != 2 or re.fullmatch(r"[\s\d,;.-]*", parts[0]):  # numbers alone: rows of frames
        return False
    return Path(parts[0]).suffix[1:].lower() in VIDEO_EXTENSIONS or (parts[1].isdecimal() and " " not in parts[0])


def _parts(line: str) -> list[str]:
    """File and class: what is before and after the last comma, tab or blank."""
    for separator in (",", "\t", " "):
        if separator in line.strip():
            return [part.strip() for part in line.strip().rsplit(separator, 1)]
    return [line.strip()]

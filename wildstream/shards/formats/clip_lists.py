"""Lists of clips in files: tables with a header, "path label" a line, and JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wildstream.errors import LabelError
from wildstream.shards.cut import Cut
from wildstream.shards.event_table import parse_seconds, table_header, table_lines
from wildstream.shards.formats.listed import Clip, Finder, split_called, split_named
from wildstream.shards.formats.scanning import WHOLE, first_lines
from wildstream.shards.label_files import read_json, text_lines
from wildstream.video import VIDEO_EXTENSIONS

TABLES = (".csv", ".tsv")
LIST_EXTENSIONS = ("csv", "tsv", "txt", "json")
TEMPLATE = "template"
"""The column that has the class of Something-Something, whose label is a sentence; its [brackets] are left out."""
JSON_BYTES = 32 << 20
"""Bytes of a JSON that is opened to see whether it lists clips; a larger one is read where a format is named."""
LINES = 50
"""Lines of a list that are looked at for one that finds a file."""
SPLIT_LETTERS = 100
"""Characters of the name of a split, at most."""
COLUMNS = {
    "path": (
        "path",
        "video_path",
        "file_path",
        "file_name",
        "filename",
        "file",
        "video",
        "clip",
        "youtube_id",
        "video_id",
        "id",
    ),
    "label": (TEMPLATE, "label", "class", "category", "action", "behavior", "behaviour", "species", "gloss"),
    "split": ("split", "subset"),
    "start": ("start", "time_start", "start_time", "start_s"),
    "stop": ("stop", "end", "time_end", "end_time", "stop_s", "end_s"),
}
"""What a column can be called; the first that is there is taken."""


WRAPPERS = ("database", "annotations", "videos", "samples", "data")
"""What a JSON may have its clips below."""

_VIDEO_FIRST = re.compile(rf"(.*\.(?:{'|'.join(VIDEO_EXTENSIONS)}))(?:[\s,]+(.*))?", re.IGNORECASE)


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
        header = table_header(path) if path.suffix.lower() in TABLES else []
        if header and not all(given in header for given in (self.path, self.label) if given):
            return None
        columns = self._columns(header)
        if columns["path"] and columns["label"]:
            wanted = [what for what, column in columns.items() if column]
            rows = (
                (f"{told}{place.removeprefix(path.name)}", dict(zip(wanted, cells, strict=True)))
                for place, cells in table_lines(path, [columns[what] for what in wanted])
            )
            split = split_named(path.stem) or WHOLE
            return [self._clip(values, origin, split, columns["label"]) for origin, values in rows]
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
            yield self._clip({"path": "", "label": "", **values}, f"{told}, {place}", split, columns["label"])

    def _lines(self, path: Path, told: str) -> Iterator[Clip]:
        """The clips of a file without a header."""
        split = split_named(path.stem) or WHOLE
        for number, line in enumerate(text_lines(path), start=1):
            if line.strip():
                video, label, count = _parts(line)
                clip = self._clip({"path": video, "label": label}, f"{told}, line {number}", split, "")
                yield replace(clip, num_frames=count)

    def _clip(self, values: dict[str, str], origin: str, split: str, label_column: str) -> Clip:
        """One clip, by what its columns hold."""
        video, problem, cut = values["path"].strip(), "", None
        label = self._named(values["label"].strip())
        if label_column == TEMPLATE:
            label = label.replace("[", "").replace("]", "")
        if not label:
            problem = "its class is empty"
        elif not label.isprintable():
            problem = f"its class {label!r:.60} is no text on one line"
        if len(split_called(values.get("split", ""))) > SPLIT_LETTERS:
            problem = f"its split {values['split']!r:.60} is no name of one"
            values = {**values, "split": ""}
        try:
            cut = self._cut(values, origin)
        except LabelError as error:
            problem = str(error) if self.cut else problem
        if cut is not None and cut.seconds is not None:
            # Kinetics' clips are cut already, and called ID_SSSSSS_SSSSSS by their seconds.
            named = "_".join([video, *(f"{int(time):06d}" for time in cut.seconds)])
            if self.finder.find(named)[0] is not None:
                video, cut = named, None
            elif not self.cut:
                cut = None
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
        if not (start or stop):
            return None
        if not (start and stop):
            raise LabelError(f"has {'a start' if start else 'a stop'} alone; write both, or none of them")
        begun, ended = parse_seconds(start, f"{origin}, start"), parse_seconds(stop, f"{origin}, stop")
        if not 0 <= begun < ended:
            raise LabelError(f"starts at {start} s and stops at {stop} s; a clip starts at 0 or later, before it stops")
        return Cut(seconds=(begun, ended), origin=origin)


def describe_list(path: Path, reader: ListReader) -> str:
    """What says that a file lists clips of which some are there; empty where nothing does."""
    told = _describe(path)
    if not told:
        return ""
    try:
        clips = reader.read(path, path.name) or []
    except LabelError:
        return ""
    return told if any(reader.finder.find(clip.video)[0] for clip in clips[:LINES]) else ""


def _describe(path: Path) -> str:
    """What says that a file is made like a list of clips."""
    if path.suffix.lower() == ".json":
        if path.stat().st_size > JSON_BYTES:
            return ""
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
    content = read_json(path)
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
    video, label, _ = _parts(first_lines(path, 1)[0])
    if not label or re.fullmatch(r"[\s\d,;.-]*", video):  # numbers alone: rows of frames
        return False
    return bool(_VIDEO_FIRST.match(video)) or (label.isdecimal() and " " not in video)


def _parts(line: str) -> tuple[str, str, int | None]:
    r"""File, class, and, in MMAction's lists of folders, number of frames.

    "a/b c.mp4 brushing hair", "a/b.mp4,run", "a/b\t3", "a/b 120 3": the class comes behind the ending of a video, or
    else behind the last comma, tab or blank.
    """
    line = line.strip()
    if (found := _VIDEO_FIRST.match(line)) and found[2]:
        return found[1].strip(), found[2].strip(), None
    if found := re.fullmatch(r"(\S+) (\d{1,7}) (\d{1,7})", line, re.ASCII):
        return found[1], found[3], int(found[2])
    for separator in (",", "\t", " "):
        if separator in line:
            video, _, label = line.rpartition(separator)
            return video.strip(), label.strip(), None
    return line, "", None

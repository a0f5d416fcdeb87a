"""The index: what every packed video is and where it lies, without opening one.

`index.parquet` has a row per video; `dataset.json` says what the rows mean. Opening an index reads its narrow columns
(places, sizes, frame counts, events). What is known of a video's frames and packets, the wide ones, is read when a
segment of it is decoded. Everything about labels and lengths follows from here alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from wildstream.errors import ConfigError, ShardError
from wildstream.facts import FrameTable
from wildstream.shards.class_map import ClassMap, frames_with_class, map_events, new_categories
from wildstream.shards.index_file import IndexFile
from wildstream.shards.index_schema import (
    DATASET_NAME,
    EVENT,
    LATE,
    OPTIONAL,
    PAIRS,
    ROWS_PER_GROUP,
    SCHEMA,
    SCHEMA_VERSION,
    UNLABELLED_VERSION,
    WIDE,
    DatasetInfo,
    complete,
    has_unlabelled,
)
from wildstream.shards.labels import LabelTrack
from wildstream.storage import urls
from wildstream.storage.access import Storage

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.shards.class_map import Events

KEY_FRAME_EVERY = 32
"""Frames of which `Index.key_frames` names one at most."""


class Index:
    """The videos of one split, in order of their keys."""

    def __init__(self, file: IndexFile, info: DatasetInfo, table: pa.Table, rows: npt.NDArray[np.int64]) -> None:
        """Hold a table of the narrow columns; `rows` are the places of its rows in the file."""
        self.folder = file.location.rpartition("/")[0] or "."
        """Path or URL of the folder that holds the index."""
        self.storage = file.storage
        """What the index and its shards are read by."""
        self.info = info
        self._file = file
        self._rows = rows
        self._table = table = complete(table, ["unlabelled"])
        self.num_frames: npt.NDArray[np.int64] = table["num_frames"].to_numpy().astype(np.int64)
        (classes, first, stop), self._event_ends = _flat(table["events"], "class", "first", "stop")
        self._events = classes, first, stop
        runs, self._unlabelled_ends = _flat(table["unlabelled"], "first", "stop")
        self._unlabelled = np.stack(runs, axis=1)

    def __len__(self) -> int:
        """Number of videos."""
        return int(self._table.num_rows)

    def __repr__(self) -> str:
        """One line for people."""
        return (
            f"Index({urls.redact(self.folder)!r}: {len(self):,} videos, {int(self.num_frames.sum()):,} frames, "
            f"{len(self.categories)} categories, {self.info.task})"
        )

    @property
    def categories(self) -> list[str]:
        """Class names, in order of class number."""
        return self.info.categories

    @cached_property
    def keys(self) -> list[str]:
        """Names of the videos, in order."""
        keys: list[str] = self._table["key"].to_pylist()
        return keys

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that order and labels depend on: keys, bytes, frame counts, labels, categories.

        Of unlabelled frames only where there are some: indexes that knew of none keep theirs. Not of the lost frames:
        their windows keep their places in an epoch, and what is lost follows from the bytes.
        """
        digest = hashlib.sha256(json.dumps([self.keys, self.categories, self._table["sha256"].to_pylist()]).encode())
        unlabelled = (self._unlabelled_ends, self._unlabelled) if len(self._unlabelled) else ()
        for array in (self.num_frames, self._event_ends, *self._events, *unlabelled):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def origins(self) -> list[str]:
        """(num_videos,) name of the source that a merged index has each video from; empty where it was not merged.

        Raises:
            ShardError: The index file is gone or damaged.
        """
        table = self._file.read(["origin"])
        if "origin" not in table.column_names:
            return [""] * len(self)
        return [name or "" for name in table["origin"].take(self._rows).to_pylist()]

    def column(self, name: str) -> list[Any]:
        """(num_videos,) a column of the index that is not one of `index_schema.LATE`, such as "sha256"."""
        values: list[Any] = self._table[name].to_pylist()
        return values

    @property
    def events(self) -> tuple[Events, npt.NDArray[np.int64]]:
        """The events of all videos, as `class_map.map_events` takes them.

        Classes, first frames, and last frames + 1, (num_events,) int32 each, video by video; and the number of events
        up to the end of each video, (num_videos,).
        """
        return self._events, self._event_ends

    def track(self, video: int) -> LabelTrack:
        """The label track of a video, by its number in this index."""
        events, runs = (
            slice(0 if video == 0 else int(ends[video - 1]), int(ends[video]))
            for ends in (self._event_ends, self._unlabelled_ends)
        )
        classes, first, stop = (column[events] for column in self._events)
        num_frames, unlabelled = int(self.num_frames[video]), self._unlabelled[runs]
        return LabelTrack(num_frames, len(self.categories), classes, first, stop, unlabelled)

    def frame_size(self, video: int) -> tuple[int, int]:
        """Height and width in pixels of the upright frames of a video."""
        return self._table["height"][video].as_py(), self._table["width"][video].as_py()

    def coding(self, video: int) -> tuple[str, str]:
        """FFmpeg's names of the codec and the pixel format of a video, such as "h264" and "yuv420p"."""
        return self._table["codec"][video].as_py(), self._table["pixel_format"][video].as_py()

    def place(self, video: int) -> tuple[str, int, int]:
        """Path or URL of the shard, offset of the first byte in it, and number of bytes of a video."""
        row = {name: self._table[name][video].as_py() for name in ("shard", "offset", "size")}
        return urls.join(self.folder, row["shard"]), row["offset"], row["size"]

    @property
    def shard_names(self) -> list[str]:
        """(num_videos,) file name of each video's shard."""
        names: list[str] = self._table["shard"].to_pylist()
        return names

    @property
    def extents(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(num_videos,) offset of each video's first byte in its shard, and (num_videos,) its number of bytes."""
        offset, size = (self._table[name].to_numpy().astype(np.int64) for name in ("offset", "size"))
        return offset, size

    def checksum(self, video: int) -> str:
        """SHA-256 of a video's bytes, in hexadecimal."""
        return str(self._table["sha256"][video].as_py())

    def frame_table(self, video: int) -> FrameTable:
        """Timestamps, key frames and lost frames of a video, read from the index file when asked for.

        Raises:
            ShardError: The index file is gone or damaged.
        """
        group, place = divmod(int(self._rows[video]), ROWS_PER_GROUP)
        wide = self._file.read_group(group, WIDE)
        numerator, denominator = (
            self._table[f"time_base_{part}"][video].as_py() for part in ("numerator", "denominator")
        )
        there = {name: wide[name][place].values for name in WIDE if name in wide.column_names}
        columns = {
            name: _pairs(values, PAIRS[name]) if name in PAIRS else np.asarray(values.to_numpy(), np.int64)
            for name, values in there.items()
            if values is not None
        }
        columns.setdefault("pts", np.zeros(0, np.int64))  # of imported features nobody knows when a frame was shown
        return FrameTable(time_base=Fraction(numerator, denominator), **columns)

    @cached_property
    def key_frames(self) -> npt.NDArray[np.int32]:
        """Where decoding may start, as the plan wants it: (num, 2) numbers of video and frame, in that order.

        Of every `KEY_FRAME_EVERY` frames only the first that is one, so that videos of only key frames, too, take
        less memory here than their windows in a plan.

        Raises:
            ShardError: The index file is gone or damaged.
        """
        column = self._file.read(["key_frames"])["key_frames"]
        taken = column.take(self._rows).combine_chunks()
        lengths = pc.list_value_length(taken).to_numpy(zero_copy_only=False)
        video = np.repeat(np.arange(len(self), dtype=np.int32), lengths)
        frame = taken.flatten().to_numpy().astype(np.int32)
        block = frame // KEY_FRAME_EVERY
        first = np.ones(len(frame), np.bool_)
        first[1:] = (np.diff(video) != 0) | (np.diff(block) != 0)
        return np.stack([video[first], frame[first]], axis=1)

    def rows(self) -> list[dict[str, Any]]:
        """All that the index holds of each video, as `make_table` takes it."""
        rows: list[dict[str, Any]] = self._file.read().take(self._rows).to_pylist()
        return rows

    def table(self) -> pa.Table:
        """The same as a table with all columns of the schema; what an older index did not know is null."""
        return complete(self._file.read(), SCHEMA.names).take(self._rows).cast(SCHEMA)

    def skipped(self) -> dict[int, npt.NDArray[np.int64]]:
        """Windows of feature shards that have no features, by number of the video; those that have them all are out."""
        column = self._file.read(["skipped"])["skipped"].take(self._rows)
        return {video: np.asarray(windows, np.int64) for video, windows in enumerate(column.to_pylist()) if windows}

    def with_classes(self, class_map: ClassMap) -> Index:
        """The index with other classes; of a single-label split without the videos that are of none then.

        Args:
            class_map: What each category becomes; see class_map.py.

        Raises:
            ConfigError: The map is of other categories, or a video of a single-label split would be of a class in
                some of its frames alone.
        """
        if list(class_map) != self.categories:
            raise ConfigError(
                f"the class map is of {', '.join(class_map):.200}, {urls.redact(self.folder)} has "
                f"{', '.join(self.categories):.200}."
            )
        names = new_categories(class_map)
        numbers = np.array([-1 if new is None else names.index(new) for new in class_map.values()], np.int32)
        events, ends = map_events(self._events, self._event_ends, numbers)
        columns = [pa.array(column) for column in events]
        lists = pa.ListArray.from_arrays(
            pa.array(np.append(0, ends).astype(np.int32)), pa.StructArray.from_arrays(columns, fields=list(EVENT))
        )
        table = self._table.set_column(self._table.column_names.index("events"), "events", pa.chunked_array([lists]))
        index = Index(self._file, self.info.model_copy(update={"categories": names}), table, self._rows)
        if self.info.task == "multi_label":
            return index
        before, after = (
            frames_with_class(*labelled) for labelled in ((self._events, self._event_ends), (events, ends))
        )
        if len(partly := np.flatnonzero((after > 0) & (after < before))):
            video = int(partly[0])
            raise ConfigError(
                f"{self.keys[video]} would be of a class in {after[video]:,} of its {before[video]:,} frames, and "
                "a window of a single-label split is of one. Rename the class in place of leaving it out."
            )
        return index._only(after == before)

    def newer_than(self, min_ctime: float) -> Index:
        """The index without the videos whose source file changed before `min_ctime` (seconds since 1970)."""
        return self._only(self._table["ctime"].to_numpy() >= min_ctime)

    def of_shards(self, names: Sequence[str]) -> Index:
        """The index of the videos in some of the shards, by their file names.

        Raises:
            ConfigError: The index has no such shard.
        """
        if missing := [name for name in names if name not in self.info.shards]:
            raise ConfigError(
                f"{urls.redact(self.folder)} has no shard {missing[0]} ({len(missing)} of {len(names)} are not there); "
                f"its {len(self.info.shards)} shards are {self.info.shards[0]} to {self.info.shards[-1]}."
            )
        return self._only(pc.is_in(self._table["shard"], pa.array(names)).to_numpy())

    def _only(self, keep: npt.NDArray[np.bool_]) -> Index:
        """The index without the rows that are False here."""
        rows = np.flatnonzero(keep)
        return Index(self._file, self.info, self._table.take(rows), self._rows[rows])


def _flat(column: pa.ChunkedArray, *names: str) -> tuple[list[npt.NDArray[np.int32]], npt.NDArray[np.int64]]:
    """A column of lists of structs: values of the fields, row by row, and (num_rows,) how many there are up to each."""
    lists = column.combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(lists), 0)  # nothing was written where there is nothing to say
    flat = lists.flatten()
    values = [flat.field(name).to_numpy().astype(np.int32) for name in names]
    return values, np.cumsum(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)


def _pairs(values: pa.StructArray, names: tuple[str, str]) -> npt.NDArray[np.int64]:
    """(n, 2) numbers from a column of pairs."""
    return np.stack([values.field(name).to_numpy().astype(np.int64) for name in names], axis=1)


def open_index(path: str | Path, storage: Storage | None = None) -> Index:
    """Open the index of one packed split; no video is opened.

    Args:
        path: Path or URL of the folder that holds the index, such as "shards/train" or "s3://bucket/shards/train"; or a
            pattern of some of its shards, such as "shards/train/{000000..000003}.tar".
        storage: Reads it, and the shards later; one without options and cache by default.

    Raises:
        ShardError: There is none, it cannot be read, is of another version, or contradicts its dataset.json.
        ConfigError: A pattern names shards that the index does not have.
    """
    shards = urls.expand(str(path)) if str(path).endswith(".tar") else []
    folder = urls.normal(path if not shards else _folder_of(shards))
    storage = storage or Storage()
    info = _read_info(folder, storage)
    narrow = [name for name in SCHEMA.names if name not in LATE]
    file = IndexFile(urls.join(folder, info.index), storage)
    knows_unlabelled = info.schema_version == UNLABELLED_VERSION
    table = file.read(narrow, optional=() if knows_unlabelled else OPTIONAL)
    if has_unlabelled(table) and not knows_unlabelled:
        raise ShardError(
            f"{urls.redact(file.location)} has unlabelled frames, which takes schema_version={UNLABELLED_VERSION}, but "
            f"{DATASET_NAME} has {info.schema_version}; they are of different packings. Pack the videos again."
        )
    if table.num_rows != info.num_videos:
        raise ShardError(
            f"{urls.redact(file.location)} has {table.num_rows} rows, {DATASET_NAME} says {info.num_videos}; "
            "they are of different packings. Pack the videos again."
        )
    index = Index(file, info, table, np.arange(table.num_rows))
    return index.of_shards([shard.rpartition("/")[2] for shard in shards]) if shards else index


def _folder_of(shards: Sequence[str]) -> str:
    """The folder that shards lie in; ConfigError if they lie in several."""
    folders = {shard.rpartition("/")[0] for shard in shards}
    if len(folders) > 1:
        raise ConfigError(f"shards of one split lie in one folder, got {urls.redact(', '.join(sorted(folders)))}.")
    return folders.pop() or "."


def _what_is_there(folder: str) -> str:
    """Where the packed splits are that somebody may have meant."""
    if urls.is_remote(folder):
        return "Give the folder of one split, such as …/train; make shards with `wildstream pack SOURCE OUT`."
    here = Path(folder)
    if not here.parent.is_dir():
        return f"There is no folder {here.parent}: check the path, or make shards with `wildstream pack SOURCE OUT`."
    inside, beside = (
        sorted(found.parent.name for found in place.glob(f"*/{DATASET_NAME}")) if place.is_dir() else []
        for place in (here, here.parent)
    )
    if inside:
        return f"It holds the splits {', '.join(inside)}: open {here / inside[0]}."
    if (here.parent / DATASET_NAME).is_file():
        return f"{here.parent} is itself a packed split: give the folder above it."
    if beside:
        return f"{here.parent} holds the splits {', '.join(beside)}: choose one of them."
    return "Make shards with `wildstream pack SOURCE OUT`."


def _read_info(folder: str, storage: Storage) -> DatasetInfo:
    """Read dataset.json; where it is missing, say what lies there instead."""
    path = urls.join(folder, DATASET_NAME)
    name = urls.redact(path)
    if not storage.exists(path):
        raise ShardError(
            f"no {DATASET_NAME} in {urls.redact(folder)}, so it holds no packed split. {_what_is_there(folder)}"
        )
    try:
        raw = json.loads(bytes(storage.read(path)))
        if isinstance(raw, dict) and raw.get("schema_version") not in (SCHEMA_VERSION, UNLABELLED_VERSION):
            raise ShardError(
                f"{name} has schema_version={raw.get('schema_version')!r}, this program reads {SCHEMA_VERSION} and "
                f"{UNLABELLED_VERSION}. "
                "Pack the videos again, or take the program that wrote them."
            )
        return DatasetInfo.model_validate(raw)
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
        raise ShardError(f"{name} is damaged: {error}. Pack the videos again.") from error

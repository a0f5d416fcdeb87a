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
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from wildstream.errors import ShardError
from wildstream.facts import FrameTable
from wildstream.shards.formats import Task
from wildstream.shards.labels import LabelTrack

if TYPE_CHECKING:
    import numpy.typing as npt

SCHEMA_VERSION = 1
INDEX_NAME = "index.parquet"
DATASET_NAME = "dataset.json"
ROWS_PER_GROUP = 64
"""Videos per Parquet row group: what is read at once for the wide columns of one of them."""

EVENT = pa.struct([("class", pa.int32()), ("first", pa.int32()), ("stop", pa.int32())])
RUN = pa.struct([("first", pa.int32()), ("stop", pa.int32())])
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),  # file name, relative to the index
        ("extension", pa.string()),  # of the video member
        ("offset", pa.int64()),  # of the video member's first byte in the shard
        ("size", pa.int64()),  # bytes of the video member
        ("sha256", pa.string()),  # of the video member
        ("codec", pa.string()),
        ("pixel_format", pa.string()),
        ("width", pa.int32()),  # upright
        ("height", pa.int32()),
        ("num_frames", pa.int32()),  # that decode, or are lost in between
        ("claimed_frames", pa.int32()),  # that the source's container promises; not in indexes of 0.1.0
        ("time_base_numerator", pa.int32()),
        ("time_base_denominator", pa.int32()),
        ("ctime", pa.float64()),  # of the source file, seconds since 1970
        ("source", pa.string()),  # the source file, relative to the source folder
        ("events", pa.list_(EVENT)),
        ("pts", pa.list_(pa.int64())),  # of every frame, in units of the time base
        ("key_frames", pa.list_(pa.int32())),  # frame numbers where decoding may start
        ("lost", pa.list_(RUN)),  # runs of frames that a damaged packet cost; not in indexes of 0.1.0: none are
        ("packets", pa.list_(pa.int32())),  # frame number of each packet in order of decoding; empty if none is spared
        ("unreferenced", pa.list_(pa.int32())),  # frames that no other is predicted from; nor are these two in 0.1.0
    ]
)
WIDE = ("pts", "key_frames", "lost", "packets", "unreferenced")


class DatasetInfo(BaseModel):
    """dataset.json: what the rows of the index mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA_VERSION
    """Version of this file and of the index's columns."""
    categories: list[str]
    """Class names; a class number is a place in this list."""
    task: Task
    """multi_label: classes may overlap; single_label: exactly one per window."""
    split: str
    """Name of the split."""
    format: str
    """Layout that the shards were packed from."""
    num_videos: int
    """Rows of the index."""
    num_frames: int
    """Frames of all videos."""
    shards: list[str]
    """File names, in order."""
    packed_by: str
    """Program and version."""
    transcode: dict[str, int | str] | None = None
    """Options that the videos were re-encoded with; None where they are as they were."""


class Index:
    """The videos of one split, in order of their keys."""

    def __init__(self, folder: Path, info: DatasetInfo, table: pa.Table, rows: npt.NDArray[np.int64]) -> None:
        """Hold a table of the narrow columns; `rows` are the places of its rows in index.parquet."""
        self.folder = folder
        self.info = info
        self._rows = rows
        self._table = table
        self.num_frames: npt.NDArray[np.int64] = table["num_frames"].to_numpy().astype(np.int64)
        events = table["events"].combine_chunks()
        self._event_ends = np.cumsum(pc.list_value_length(events).to_numpy(zero_copy_only=False), dtype=np.int64)
        flat = events.flatten()
        self._events = tuple(flat.field(name).to_numpy().astype(np.int32) for name in ("class", "first", "stop"))

    def __len__(self) -> int:
        """Number of videos."""
        return int(self._table.num_rows)

    def __repr__(self) -> str:
        """One line for people."""
        return (
            f"Index({str(self.folder)!r}: {len(self):,} videos, {int(self.num_frames.sum()):,} frames, "
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
        """Hash of everything that order and labels depend on: keys, bytes, frame counts, events, categories.

        Not of the lost frames: their windows keep their places in an epoch, and what is lost follows from the bytes.
        """
        digest = hashlib.sha256(json.dumps([self.keys, self.categories, self._table["sha256"].to_pylist()]).encode())
        for array in (self.num_frames, self._event_ends, *self._events):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def track(self, video: int) -> LabelTrack:
        """The label track of a video, by its number in this index."""
        events = slice(0 if video == 0 else int(self._event_ends[video - 1]), int(self._event_ends[video]))
        classes, first, stop = (column[events] for column in self._events)
        return LabelTrack(int(self.num_frames[video]), len(self.categories), classes, first, stop)

    def frame_size(self, video: int) -> tuple[int, int]:
        """Height and width in pixels of the upright frames of a video."""
        return self._table["height"][video].as_py(), self._table["width"][video].as_py()

    def coding(self, video: int) -> tuple[str, str]:
        """FFmpeg's names of the codec and the pixel format of a video, such as "h264" and "yuv420p"."""
        return self._table["codec"][video].as_py(), self._table["pixel_format"][video].as_py()

    def place(self, video: int) -> tuple[Path, int, int]:
        """Shard, offset of the first byte in it, and number of bytes of a video."""
        row = {name: self._table[name][video].as_py() for name in ("shard", "offset", "size")}
        return self.folder / row["shard"], row["offset"], row["size"]

    def checksum(self, video: int) -> str:
        """SHA-256 of a video's bytes, in hexadecimal."""
        return str(self._table["sha256"][video].as_py())

    def frame_table(self, video: int) -> FrameTable:
        """Timestamps, key frames and lost frames of a video, read from the index file when asked for.

        Raises:
            ShardError: The index file is gone or damaged.
        """
        group, place = divmod(int(self._rows[video]), ROWS_PER_GROUP)
        path = self.folder / INDEX_NAME
        try:
            wide = _read_wide_group(path, path.stat().st_mtime_ns, group)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(path, error) from error
        numerator, denominator = (
            self._table[f"time_base_{part}"][video].as_py() for part in ("numerator", "denominator")
        )
        there = {name: wide[name][place].values for name in WIDE if name in wide.column_names}
        numbers = {
            name: np.asarray(values.to_numpy(), np.int64)
            for name, values in there.items()
            if name != "lost" and values is not None
        }
        runs = there["lost"].to_pylist() if there.get("lost") is not None else []
        lost = np.asarray([(run["first"], run["stop"]) for run in runs], np.int64).reshape(-1, 2)
        return FrameTable(time_base=Fraction(numerator, denominator), lost=lost, **numbers)

    def newer_than(self, min_ctime: float) -> Index:
        """The index without the videos whose source file changed before `min_ctime` (seconds since 1970)."""
        keep = np.flatnonzero(self._table["ctime"].to_numpy() >= min_ctime)
        return Index(self.folder, self.info, self._table.take(keep), self._rows[keep])


def open_index(path: str | Path) -> Index:
    """Open the index of one packed split; no video is opened.

    Args:
        path: The folder that holds index.parquet, such as "shards/train".

    Raises:
        ShardError: There is none, it is of another version, or it contradicts its dataset.json.
    """
    folder = Path(path)
    info = _read_info(folder)
    narrow = [name for name in SCHEMA.names if name not in (*WIDE, "claimed_frames")]
    try:
        table = pq.read_table(folder / INDEX_NAME, columns=narrow, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(folder / INDEX_NAME, error) from error
    if table.num_rows != info.num_videos:
        raise ShardError(
            f"{folder / INDEX_NAME} has {table.num_rows} rows, {DATASET_NAME} says {info.num_videos}; "
            "they are of different packings. Pack the videos again."
        )
    return Index(folder, info, table, np.arange(table.num_rows))


def _unreadable(path: Path, error: Exception) -> ShardError:
    """What to say of an index file that cannot be read; Arrow's messages go on for pages."""
    return ShardError(f"{path} cannot be read: {str(error).splitlines()[0]}. Pack the videos again.")


def write_info(folder: Path, info: DatasetInfo) -> None:
    """Write dataset.json into a folder, which says that the folder is complete."""
    write_text(folder / DATASET_NAME, info.model_dump_json(indent=2) + "\n")


def write_table(path: Path, table: pa.Table) -> None:
    """Write rows of the index to a Parquet file, to a temporary name first."""
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, temporary, row_group_size=ROWS_PER_GROUP, compression="zstd")
    temporary.replace(path)


def make_table(rows: Sequence[dict[str, Any]], metadata: dict[str, str] | None = None) -> pa.Table:
    """Rows as a table with the index's columns, in order of their keys."""
    ordered = sorted(rows, key=lambda row: str(row["key"]))
    return pa.Table.from_pylist(ordered, schema=SCHEMA).replace_schema_metadata(metadata)


@lru_cache(maxsize=64)
def _read_wide_group(path: Path, written: int, group: int) -> pa.Table:
    """The wide columns of one row group; `written` (the file's mtime) keeps the cache true to the file."""
    with pq.ParquetFile(path) as file:
        return file.read_row_group(group, columns=list(WIDE)).combine_chunks()


def _what_is_there(folder: Path) -> str:
    """Where the packed splits are that somebody may have meant."""
    inside, beside = (
        sorted(found.parent.name for found in place.glob(f"*/{DATASET_NAME}")) if place.is_dir() else []
        for place in (folder, folder.parent)
    )
    if inside:
        return f"It holds the splits {', '.join(inside)}: open {folder / inside[0]}."
    if (folder.parent / DATASET_NAME).is_file():
        return f"{folder.parent} is itself a packed split: give the folder above it."
    if beside:
        return f"{folder.parent} holds the splits {', '.join(beside)}: choose one of them."
    return "Make shards with `wildstream pack SOURCE OUT`."


def _read_info(folder: Path) -> DatasetInfo:
    """Read dataset.json; where it is missing, say what lies there instead."""
    path = folder / DATASET_NAME
    if not path.is_file():
        raise ShardError(f"no {DATASET_NAME} in {folder}, so it holds no packed split. {_what_is_there(folder)}")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(raw, dict) and raw.get("schema_version") != SCHEMA_VERSION:
            raise ShardError(
                f"{path} has schema_version={raw.get('schema_version')!r}, this program reads {SCHEMA_VERSION}. "
                "Pack the videos again, or take the program that wrote them."
            )
        return DatasetInfo.model_validate(raw)
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
        raise ShardError(f"{path} is damaged: {error}. Pack the videos again.") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file, to a temporary name first."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)

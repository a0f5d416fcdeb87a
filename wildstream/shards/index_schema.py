"""What an index consists of: the columns of index.parquet, dataset.json, and how both are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from wildstream.shards.feature_info import FeatureInfo
from wildstream.shards.formats import Task

SCHEMA_VERSION = 1
UNLABELLED_VERSION = 2
"""The version of a dataset that has unlabelled frames: a program that knew none would take them for negatives."""
INDEX_NAME = "index.parquet"
DATASET_NAME = "dataset.json"
ROWS_PER_GROUP = 64
"""Videos per Parquet row group: what is read at once for the wide columns of one of them."""
EVENT = pa.struct([("class", pa.int32()), ("first", pa.int32()), ("stop", pa.int32())])
RUN = pa.struct([("first", pa.int32()), ("stop", pa.int32())])
MARK = pa.struct([("frame", pa.int32()), ("byte", pa.int64())])
BYTES = pa.struct([("first", pa.int64()), ("stop", pa.int64())])
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
        ("unlabelled", pa.list_(RUN)),  # runs of frames of which nobody said anything; not in older indexes: none are
        ("pts", pa.list_(pa.int64())),  # of every frame, in units of the time base
        ("key_frames", pa.list_(pa.int32())),  # frame numbers where decoding may start
        ("lost", pa.list_(RUN)),  # runs of frames that a damaged packet cost; not in indexes of 0.1.0: none are
        ("packets", pa.list_(pa.int32())),  # frame number of each packet in order of decoding; empty if none is spared
        ("unreferenced", pa.list_(pa.int32())),  # frames that no other is predicted from; nor are these two in 0.1.0
        ("marks", pa.list_(MARK)),  # all frames below `frame` lie before `byte` of the file; empty: read all of it
        ("opening", pa.list_(BYTES)),  # runs of bytes that opening the file reads; nor are these two in 0.1.0
        ("skipped", pa.list_(pa.int32())),  # windows that have no features; empty for videos, not in 0.1.0
        ("origin", pa.string()),  # name of the source that a merged index has the video from; else empty
    ]
)
OPTIONAL = ("unlabelled", "origin")
"""Columns that an index may lack without being of an older packing: what they say is then empty."""
PAIRS = {"lost": ("first", "stop"), "marks": ("frame", "byte"), "opening": ("first", "stop")}
"""Columns that hold pairs of numbers, and what these are called."""
WIDE = ("pts", "key_frames", "packets", "unreferenced", *PAIRS)
LATE = (*WIDE, "claimed_frames", "skipped", "origin")
"""Columns that opening an index does not read."""


class DatasetInfo(BaseModel):
    """dataset.json: what the rows of the index mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA_VERSION
    """Version of this file and of the index's columns; see `with_version`."""
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
    features: FeatureInfo | None = None
    """How the features were made; None where the shards hold videos."""
    index: str = INDEX_NAME
    """Name of the index's file. In object storage each packing has another: this file decides which one counts."""


def with_version(info: DatasetInfo, table: pa.Table) -> DatasetInfo:
    """What goes beside these rows: the same, of the version that they take.

    Where no frame is unlabelled, older programs may read them too.
    """
    version = UNLABELLED_VERSION if has_unlabelled(table) else SCHEMA_VERSION
    return info.model_copy(update={"schema_version": version})


def has_unlabelled(table: pa.Table) -> bool:
    """Whether rows of an index have unlabelled frames."""
    return "unlabelled" in table.column_names and len(table["unlabelled"].combine_chunks().flatten()) > 0


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


def complete(table: pa.Table, missing: Sequence[str] = OPTIONAL) -> pa.Table:
    """Rows with all columns in the schema's order: those of `missing` that are not there are empty."""
    for name in missing:
        if name not in table.column_names:
            kind = SCHEMA.field(name).type
            values: list[list[int] | None] = [[] if pa.types.is_list(kind) else None] * table.num_rows
            table = table.append_column(SCHEMA.field(name), pa.array(values, kind))
    return table.select([name for name in SCHEMA.names if name in table.column_names])


def write_text(path: Path, text: str) -> None:
    """Write a text file, to a temporary name first."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)

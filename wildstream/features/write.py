"""Features of single videos on disk → tar shards, the rows that describe them, and at last a split.

<name>.tmp     a video's array while it is filled
<name>.json    the windows that have no features, written when it is full
<name>.npy     the array, complete: the last of the three names

Whoever makes features assigns videos to shards, fills the arrays of one shard after the other, packs each, and at last
publishes all. What a killed call had finished is found again by the shard's fingerprint.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from wildstream.shards.feature_info import FEATURES, STORED, FeatureInfo
from wildstream.shards.index_schema import DatasetInfo, make_table, write_table
from wildstream.shards.labels import LabelTrack
from wildstream.shards.places import Place, metadata_of, read_rows


@dataclass(frozen=True, slots=True)
class Shard:
    """The videos that one shard is made of, by their numbers."""

    name: str
    videos: list[int]
    fingerprint: str
    """Hash of all that its content depends on."""


def assign_shards(
    place: Place, info: FeatureInfo, marks: Sequence[object], counts: Sequence[int], shard_bytes: int
) -> list[Shard]:
    """Fill shards with videos, in order.

    Args:
        place: Where they go.
        info: How the features are made.
        marks: Of each video, what tells its content; JSON.
        counts: Of each video, its windows.
        shard_bytes: Videos are put into one shard until it would be larger than this.
    """
    groups: list[list[int]] = []
    room = 0
    for video, count in enumerate(counts):
        size = count * info.window_bytes
        if not groups or size > room:
            groups.append([])
            room = shard_bytes
        groups[-1].append(video)
        room -= size
    shards = []
    for number, videos in enumerate(groups):
        facts = json.dumps([info.model_dump(), [marks[video] for video in videos]], sort_keys=True)
        fingerprint = hashlib.sha256(facts.encode()).hexdigest()
        shards.append(Shard(place.shard_name(number, fingerprint), videos, fingerprint))
    return shards


def left_rows(place: Place, shard: Shard) -> pa.Table | None:
    """The rows of a shard that this call, or one that was killed, has finished."""
    left = read_rows(_part(place, shard))
    if left is None or metadata_of(left).get("fingerprint") != shard.fingerprint:
        return None
    return left if place.has(shard.name, metadata_of(left)) else None


def array_path(place: Place, shard: Shard, video: int) -> Path:
    """Where the features of one video are kept until its shard is complete."""
    return place.staging() / f"{shard.fingerprint[:16]}.{video:08d}.npy"


def open_array(path: Path, info: FeatureInfo, count: int) -> np.ndarray[Any, Any]:
    """The array of a video with so many windows, (count, tokens, dim), mapped to a file under its temporary name."""
    shape, stored = (count, *info.shape), np.dtype(STORED[info.dtype])
    temporary = path.with_suffix(".tmp")
    if count:
        return np.lib.format.open_memmap(temporary, mode="w+", dtype=stored, shape=shape)
    empty = np.zeros(shape, stored)  # which cannot be mapped
    with temporary.open("wb") as file:
        np.save(file, empty)
    return empty


def finish_array(path: Path, array: np.ndarray[Any, Any], skipped: list[int]) -> None:
    """Give a complete array its name; `skipped` are the windows that have no features."""
    if isinstance(array, np.memmap):
        array.flush()
    path.with_suffix(".json").write_text(json.dumps(sorted(skipped)), encoding="utf-8")
    path.with_suffix(".tmp").replace(path)


def pack_shard(
    place: Place,
    shard: Shard,
    dataset: DatasetInfo,
    rows: list[dict[str, Any]],
    tracks: Sequence[LabelTrack],
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write one shard and its rows, and delete the files that it was made of.

    Args:
        place: Where it goes.
        shard: Its videos, whose arrays are complete.
        dataset: What the index will mean.
        rows: Of the index, one for each of its videos; where the arrays lie is written into them.
        tracks: The labels of each of its videos.
        notes: What is kept with the rows, besides.
    """
    temporary = place.staging() / f".{shard.name}.tmp"
    arrays = [array_path(place, shard, video) for video in shard.videos]
    _write_tar(temporary, dataset, rows, tracks, arrays)
    size = str(temporary.stat().st_size)
    temporary.replace(temporary.with_name(shard.name))
    place.add(shard.name)
    metadata = {"fingerprint": shard.fingerprint, "refused": "[]", "bytes": size, **(notes or {})}
    write_table(_part(place, shard), make_table([{**row, "shard": shard.name} for row in rows], metadata))
    for file in arrays:
        file.unlink()
        file.with_suffix(".json").unlink(missing_ok=True)


def publish(place: Place, dataset: DatasetInfo, shards: Sequence[Shard], tables: Sequence[pa.Table]) -> None:
    """Put the new split in the place of the old one; of `dataset`, shards and number of videos are filled in."""
    merged = pa.concat_tables(table.replace_schema_metadata(None) for table in tables).sort_by("key")
    metadata = {
        shard.name: json.dumps(metadata_of(table), sort_keys=True) for shard, table in zip(shards, tables, strict=True)
    }
    names = [shard.name for shard in shards]
    packed_by = f"wildstream {version('wildstream')}"
    info = dataset.model_copy(update={"num_videos": merged.num_rows, "shards": names, "packed_by": packed_by})
    place.publish(info, merged.replace_schema_metadata(metadata))


def _part(place: Place, shard: Shard) -> Path:
    """Where the rows of a finished shard are kept until all are there."""
    return place.staging() / f"{shard.name}.parquet"


def _write_tar(
    path: Path, dataset: DatasetInfo, rows: list[dict[str, Any]], tracks: Sequence[LabelTrack], files: list[Path]
) -> None:
    """Write a shard, and into the rows where the arrays lie in it."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for row, track, file in zip(rows, tracks, files, strict=True):
            row |= {"extension": FEATURES, "size": file.stat().st_size, "sha256": _hash(file)}
            row["skipped"] = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
            for extension, data in _labels(dataset, track, row):
                _add(tar, f"{row['key']}.{extension}", io.BytesIO(data), len(data))
            with file.open("rb") as content:
                _add(tar, f"{row['key']}.{FEATURES}", content, row["size"])
    with tarfile.open(path) as tar:
        offsets = {member.name: member.offset_data for member in tar}
    for row in rows:
        row["offset"] = offsets[f"{row['key']}.{FEATURES}"]


def _labels(dataset: DatasetInfo, track: LabelTrack, row: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """The members beside the features, as in clip shards: extensions and contents."""
    assert dataset.features is not None
    facts = {name: row[name] for name in ("key", "source", "num_frames", "width", "height")}
    metadata = {**facts, "categories": dataset.categories, "features": dataset.features.model_dump(mode="json")}
    yield "json", json.dumps(metadata, ensure_ascii=False).encode()
    if dataset.task == "single_label" and len(track.classes) == 1 and not len(track.unlabelled):
        yield "cls", str(int(track.classes[0])).encode()
    else:
        buffer = io.BytesIO()
        np.save(buffer, track.array(), allow_pickle=False)
        yield "labels.npy", buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: Any, size: int) -> None:  # noqa: ANN401 - a binary file
    """Add a member."""
    member = tarfile.TarInfo(name)
    member.size = size
    tar.addfile(member, content)


def _hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Features of single videos on disk → a tar shard and the rows that describe it.

<name>.tmp     a video's array while it is filled
<name>.json    the windows that have no features, written when it is full
<name>.npy     the array, complete: the last of the three names
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wildstream.shards.feature_info import FEATURES, STORED, FeatureInfo
from wildstream.shards.index import Index


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


def write_shard(path: Path, index: Index, info: FeatureInfo, rows: list[dict[str, Any]], files: list[Path]) -> None:
    """Write a shard, and into the rows where the arrays lie in it.

    Args:
        path: Where it goes.
        index: The clips that the features were made from.
        info: How they were made.
        rows: Of the clip index; what differs for features is changed in them.
        files: The array of each row.
    """
    numbers = {key: video for video, key in enumerate(index.keys)}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for row, file in zip(rows, files, strict=True):
            row |= {"extension": FEATURES, "size": file.stat().st_size, "sha256": _hash(file)}
            row["skipped"] = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
            for extension, data in _labels(index, info, numbers[row["key"]], row):
                _add(tar, f"{row['key']}.{extension}", io.BytesIO(data), len(data))
            with file.open("rb") as content:
                _add(tar, f"{row['key']}.{FEATURES}", content, row["size"])
    with tarfile.open(path) as tar:
        offsets = {member.name: member.offset_data for member in tar}
    for row in rows:
        row["offset"] = offsets[f"{row['key']}.{FEATURES}"]


def remove_arrays(files: list[Path]) -> None:
    """Delete the files of videos whose shard is complete."""
    for file in files:
        file.unlink()
        file.with_suffix(".json").unlink(missing_ok=True)


def _labels(index: Index, info: FeatureInfo, video: int, row: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """The members beside the features, as in clip shards: extensions and contents."""
    track = index.track(video)
    facts = {name: row[name] for name in ("key", "source", "num_frames", "width", "height")}
    metadata = {**facts, "categories": index.categories, "features": info.model_dump(mode="json")}
    yield "json", json.dumps(metadata, ensure_ascii=False).encode()
    if index.info.task == "single_label":
        yield "cls", str(int(track.classes[0])).encode()
    else:
        buffer = io.BytesIO()
        np.save(buffer, track.rows().view(np.uint8), allow_pickle=False)
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

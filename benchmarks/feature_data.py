"""Features that stand for extracted ones: windows that tell their own number, and WildStream's shards of them.

The first four bytes of a window are its running number, so that what came can be told from the bytes alone, in whatever
format they lay; the rest is random. Windows of several tokens are cut from frames as sliding windows are, and share
them where they overlap.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from wildstream.shards.feature_info import FEATURES, FeatureInfo
from wildstream.shards.index_schema import DatasetInfo, make_table, write_info, write_table
from wildstream.stream.windows import SlidingStyle

Array = np.ndarray[Any, Any]

FRAMES = 612
"""Frames of a video: 150 windows."""
STYLE = SlidingStyle(window_size=16, samples_per_window=16, step_size=4, padding="none")
WINDOWS = int(STYLE.num_windows(FRAMES))
"""Windows of a video."""
BATCH = 64
"""Windows of a batch."""


def make_windows(tokens: int, *, dim: int = 768, videos: int, seed: int = 0) -> Array:
    """(videos, windows, tokens, dim) fp16."""
    frames = np.random.default_rng(seed).integers(0, 30_000, (videos, FRAMES, dim), np.int16)
    starts = STYLE.step_size * np.arange(WINDOWS)
    numbers = np.arange(videos * WINDOWS, dtype=np.int32).reshape(videos, WINDOWS)
    frames.view(np.int32)[:, starts, 0] = numbers
    return frames[:, starts[:, None] + np.arange(tokens)].view(np.float16)


def checksums(values: Array) -> dict[str, int]:
    """CRC-32 of each window, by its number."""
    return {str(number): zlib.crc32(window) for number, window in enumerate(values.reshape(-1, *values.shape[2:]))}


def write_shards(folder: Path, values: Array, per_shard: int) -> None:
    """Feature shards and their index, as extraction writes them, with so many windows in each shard."""
    folder.mkdir(parents=True)
    each = max(1, per_shard // values.shape[1])
    rows = []
    for number, first in enumerate(range(0, len(values), each)):
        name = f"{number:06d}.tar"
        some = [_row(name, video) for video in range(first, min(first + each, len(values)))]
        _write_tar(folder / name, some, values[first : first + each])
        rows += some
    write_table(folder / "index.parquet", make_table(rows))
    tokens, dim = values.shape[2:]
    features = FeatureInfo(
        backbone="",
        weights="",
        style=STYLE.as_dict(),
        size=(224, 224),
        resize="",
        tokens="pooled",
        dtype="fp16",
        members=tokens,
        num_tokens=1,
        dim=dim,
        source="",
    )
    info = DatasetInfo(
        categories=["a"],
        task="multi_label",
        split="train",
        format="frames",
        num_videos=len(rows),
        packed_by="",
        num_frames=FRAMES * len(rows),
        shards=sorted({row["shard"] for row in rows}),
        features=features,
    )
    write_info(folder, info)


def _row(shard: str, video: int) -> dict[str, Any]:
    """What the index says of a video; size and offset are still to come."""
    nothing = dict.fromkeys(("width", "height", "ctime"), 0) | dict.fromkeys(
        ("sha256", "codec", "source", "pixel_format"), ""
    )
    return nothing | {
        "key": f"{video:06d}",
        "shard": shard,
        "extension": FEATURES,
        "num_frames": FRAMES,
        "time_base_numerator": 1,
        "time_base_denominator": 25,
        "events": [],
        "key_frames": [0],
        "skipped": [],
    }


def _write_tar(path: Path, rows: list[dict[str, Any]], values: Array) -> None:
    """A shard; where the arrays lie goes into the rows."""
    with tarfile.open(path, "w") as tar:
        for row, array in zip(rows, values, strict=True):
            buffer = io.BytesIO()
            np.save(buffer, array)
            row["size"] = len(buffer.getvalue())
            member = tarfile.TarInfo(f"{row['key']}.{FEATURES}")
            member.size = row["size"]
            tar.addfile(member, io.BytesIO(buffer.getvalue()))
    with tarfile.open(path) as tar:
        for row, member in zip(rows, tar, strict=True):
            row["offset"] = member.offset_data

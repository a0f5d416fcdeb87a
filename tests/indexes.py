"""Indexes of videos that nobody has: rows as they are wanted, for what needs no frames."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from wildstream.shards.index import Index, open_index
from wildstream.shards.index_schema import SCHEMA, DatasetInfo, write_info, write_table
from wildstream.shards.labels import LabelTrack


def make_video(key: str, labels: np.ndarray, *, source: str = "", sha256: str = "", shard: str = "000000.tar") -> dict:
    """A row of the index: labels are (frames, classes) of 0 and 1; source and bytes of its own by default."""
    track = LabelTrack.from_rows(np.asarray(labels, np.bool_))
    events = zip(track.classes.tolist(), track.first.tolist(), track.stop.tolist(), strict=True)
    return {
        "key": key,
        "shard": shard,
        "extension": "mp4",
        "offset": 512,
        "size": 1000,
        "sha256": sha256 or hashlib.sha256(key.encode()).hexdigest(),
        "codec": "h264",
        "pixel_format": "yuv420p",
        "width": 64,
        "height": 48,
        "num_frames": track.num_frames,
        "time_base_numerator": 1,
        "time_base_denominator": 25,
        "ctime": 1.0,
        "source": source or f"{key}.mp4",
        "events": [{"class": label, "first": first, "stop": stop} for label, first, stop in events],
        "pts": list(range(track.num_frames)),
        "key_frames": [0],
    }


def write_index(
    folder: Path, videos: Sequence[dict], *, categories: Sequence[str], task: str = "multi_label", **info
) -> Index:
    """The folder of a packed split without its shards; rows in the order that is given."""
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "index.parquet", pa.Table.from_pylist(list(videos), schema=SCHEMA))
    details = {
        "split": folder.name,
        "format": "frames",
        "num_videos": len(videos),
        "num_frames": sum(video["num_frames"] for video in videos),
        "shards": sorted({video["shard"] for video in videos}),
        "packed_by": "tests",
    }
    write_info(folder, DatasetInfo(categories=list(categories), task=task, **(details | info)))
    return open_index(folder)


def every_row(index: Index) -> dict[str, dict]:
    """All that an index holds, by key; shards as absolute paths."""
    return {row["key"]: row | {"shard": index.place(number)[0]} for number, row in enumerate(index.table().to_pylist())}

"""How fast features are read: windows per second in batches of 64, in global random order, against other ways.

    wildstream           a loader over feature shards, shuffled, from local disk
    webdataset           WebDataset over tars with a .npy per window, shuffled by its buffer (not globally)
    safetensors          a file per video, opened once, a slice per window
    folders              a .npy per window in folders, as WildFins keeps them
    memory_copy          the same batches gathered from one array in memory: the ceiling

Every way delivers the same windows, all of them once a round; files are in the page cache.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.measuring import ratio, spread
from wildstream.shards.feature_info import FEATURES, FeatureInfo
from wildstream.shards.index import DatasetInfo, make_table, write_info, write_table
from wildstream.stream.dataset import DatasetBuilder
from wildstream.stream.windows import SlidingStyle

STYLE = SlidingStyle(window_size=16, samples_per_window=16, step_size=4)
FRAMES = 600
BATCH = 64
BUFFER = 2048
SHAPES = {"16x768": (16, 768), "768": (1, 768)}
ROUNDS = 5


def run(*, short: bool) -> dict[str, object]:
    """Figures for windows of 16 tokens and of one, fp16."""
    return {
        name: _compare(shape, videos=8 if short else 40, rounds=2 if short else ROUNDS)
        for name, shape in SHAPES.items()
    }


def _compare(shape: tuple[int, int], *, videos: int, rounds: int) -> dict[str, object]:
    """All ways, in turns."""
    count = int(STYLE.num_windows(FRAMES))
    values = np.random.default_rng(0).integers(0, 30_000, (videos, count, *shape)).astype(np.int16).view(np.float16)
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Callable[[int], Iterator[int]]] = {
            "wildstream": _wildstream(Path(folder) / "shards", values),
            "webdataset": _webdataset(Path(folder) / "webdataset", values),
            "safetensors": _safetensors(Path(folder) / "safetensors", values),
            "folders": _folders(Path(folder) / "folders", values),
            "memory_copy": _memory_copy(values),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            for name, way in ways.items():
                started = time.perf_counter()
                delivered = sum(way(number))
                seconds = time.perf_counter() - started
                if delivered != videos * count:
                    raise RuntimeError(f"{name} delivered {delivered} of {videos * count} windows")
                if number:  # the first round fills caches
                    rates[name].append(delivered / seconds)
    return {
        "windows": videos * count,
        "bytes_of_a_window": int(values[0, 0].nbytes),
        "windows_per_second": {name: spread(found) for name, found in rates.items()},
        "ratios": {name: ratio(rates["wildstream"], found) for name, found in rates.items() if name != "wildstream"},
    }


def _order(values: np.ndarray[Any, Any], seed: int) -> np.ndarray[Any, Any]:
    """All windows in random order: (windows, 2) numbers of video and window."""
    places = np.stack(np.meshgrid(*map(np.arange, values.shape[:2]), indexing="ij"), axis=-1).reshape(-1, 2)
    return np.random.default_rng(seed).permutation(places)


def _batches(values: np.ndarray[Any, Any], seed: int) -> Iterator[np.ndarray[Any, Any]]:
    """The same, in batches."""
    order = _order(values, seed)
    yield from (order[first : first + BATCH] for first in range(0, len(order), BATCH))


def _wildstream(folder: Path, values: np.ndarray[Any, Any]) -> Callable[[int], Iterator[int]]:
    """Feature shards and their loader."""
    folder.mkdir()
    rows = []
    with tarfile.open(folder / "000000.tar", "w") as tar:
        for video, array in enumerate(values):
            data = _npy(array)
            row = dict.fromkeys(("width", "height", "ctime"), 0) | {"events": [], "key_frames": [0], "skipped": []}
            row |= {
                "key": f"{video:06d}",
                "shard": "000000.tar",
                "extension": FEATURES,
                "size": len(data),
                "sha256": "",
            }
            row |= {
                "num_frames": FRAMES,
                "time_base_numerator": 1,
                "time_base_denominator": 25,
                "codec": "",
                "source": "",
            }
            rows.append(row | {"pixel_format": ""})
            member = tarfile.TarInfo(f"{video:06d}.{FEATURES}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    with tarfile.open(folder / "000000.tar") as tar:
        for row, member in zip(rows, tar, strict=True):
            row["offset"] = member.offset_data
    write_table(folder / "index.parquet", make_table(rows))
    size, (tokens, dim) = (224, 224), values.shape[2:]
    features = FeatureInfo(
        backbone="", weights="", style=STYLE.as_dict(), size=size, resize="", tokens="pooled", dtype="fp16",
        members=tokens, num_tokens=1, dim=dim, source="",
    )  # fmt: skip
    info = DatasetInfo(
        categories=["a"], task="multi_label", split="train", format="frames", num_videos=len(rows), packed_by="",
        num_frames=FRAMES * len(rows), shards=["000000.tar"], features=features,
    )  # fmt: skip
    write_info(folder, info)
    dataset = DatasetBuilder(path=folder, style=STYLE, precomputed=True).build()

    def deliver(seed: int) -> Iterator[int]:
        for batch in dataset.loader(batch_size=BATCH, shuffle=True, seed=seed):
            yield int(batch.mask.sum())

    return deliver


def _webdataset(folder: Path, values: np.ndarray[Any, Any]) -> Callable[[int], Iterator[int]]:
    """A .npy per window in tars."""
    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "%06d.tar"), maxcount=1000, verbose=0) as writer:
        for video, array in enumerate(values):
            for window, features in enumerate(array):
                writer.write({"__key__": f"{video:06d}_{window:06d}", "npy": features})
    shards = sorted(map(str, folder.glob("*.tar")))

    def deliver(seed: int) -> Iterator[int]:
        stream = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=seed).shuffle(BUFFER).decode()
        for (batch,) in stream.to_tuple("npy").batched(BATCH, partial=True):
            yield len(torch.from_numpy(np.asarray(batch)))

    return deliver


def _safetensors(folder: Path, values: np.ndarray[Any, Any]) -> Callable[[int], Iterator[int]]:
    """A file per video, kept open."""
    folder.mkdir()
    for video, array in enumerate(values):
        save_file({"features": torch.from_numpy(array)}, folder / f"{video:06d}.safetensors")
    files = [safe_open(path, "pt").get_slice("features") for path in sorted(folder.iterdir())]

    def deliver(seed: int) -> Iterator[int]:
        for places in _batches(values, seed):
            yield len(torch.stack([files[video][window] for video, window in places.tolist()]))

    return deliver


def _folders(folder: Path, values: np.ndarray[Any, Any]) -> Callable[[int], Iterator[int]]:
    """A .npy per window, in a folder per video."""
    for video, array in enumerate(values):
        (folder / f"{video:06d}").mkdir(parents=True)
        for window, features in enumerate(array):
            np.save(folder / f"{video:06d}" / f"train_{window:08d}.npy", features)

    def deliver(seed: int) -> Iterator[int]:
        for places in _batches(values, seed):
            read = [np.load(folder / f"{v:06d}" / f"train_{w:08d}.npy") for v, w in places.tolist()]
            yield len(torch.from_numpy(np.stack(read)))

    return deliver


def _memory_copy(values: np.ndarray[Any, Any]) -> Callable[[int], Iterator[int]]:
    """Rows of one array."""
    flat = values.reshape(-1, *values.shape[2:])

    def deliver(seed: int) -> Iterator[int]:
        order = np.random.default_rng(seed).permutation(len(flat))
        for first in range(0, len(order), BATCH):
            yield len(torch.from_numpy(flat[order[first : first + BATCH]]))

    return deliver


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    """An array as the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()

"""webdataset over HTTP by its own way, a curl for each shard; whole videos are decoded once and sliced.

Features are a .npy per window.

Importing WildStream makes webdataset open http:// as it does; here webdataset's own opener is put back.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from torch import Tensor

from benchmarks.feature_data import BATCH, Array
from benchmarks.footage import Case
from benchmarks.peers.base import BUFFER_CLIPS, Delivered, _Batched
from benchmarks.peers.object_source import Sample, Settings, Source, passes_of, workers_of
from benchmarks.peers.whole_video import _Sliced
from wildstream.ffmpeg import ensure_ffmpeg

BUFFER_VIDEOS = 16
BUFFER_FEATURES = 2048


class WebDataset(Source):
    """Shards in random order, samples through a buffer. `url`, of http:// or a path, names the shards in braces."""

    packages = ("webdataset", "torch", "torchcodec")

    def __init__(self) -> None:
        super().__init__()
        ensure_ffmpeg()
        for module in ("torchcodec.decoders", "torchvision.transforms.v2"):
            import_module(module)  # before the workers are forked

        table: Any = sys.modules["webdataset.gopen"]
        for scheme in ("http", "https"):
            table.gopen_schemes[scheme] = table.gopen_curl

    def samples(self, settings: Settings) -> Iterable[Sample]:
        """Whole videos."""
        shards = webdataset.WebDataset(settings.url, shardshuffle=1000, seed=settings.epoch)
        stream = shards.shuffle(BUFFER_VIDEOS).to_tuple("__key__", "mp4")
        return workers_of(webdataset.WebLoader(stream, batch_size=None, num_workers=settings.workers))

    def batches(self, settings: Settings, case: Case) -> Iterable[Delivered]:
        """Windows, cut in the workers."""
        stream = webdataset.WebDataset(settings.url, shardshuffle=1000, seed=settings.epoch).compose(
            _Sliced(case, 16), webdataset.shuffle(BUFFER_CLIPS), _Batched(case.batch)
        )
        return workers_of(webdataset.WebLoader(stream, batch_size=None, num_workers=settings.workers))

    def write_features(self, values: Array, out: Path, per_shard: int) -> None:
        """Tars of a .npy per window."""
        out.mkdir(parents=True)
        with webdataset.ShardWriter(str(out / "%06d.tar"), maxcount=per_shard, verbose=0) as writer:
            for number, window in enumerate(values.reshape(-1, *values.shape[2:])):
                writer.write({"__key__": f"{number:08d}", "npy": window})

    def features(self, settings: Settings) -> Iterable[Tensor]:
        """Windows through a buffer, made into batches in the workers."""
        shards = webdataset.WebDataset(settings.url, shardshuffle=1000, seed=settings.epoch).shuffle(BUFFER_FEATURES)
        stream = shards.decode().to_tuple("npy").batched(BATCH, partial=True).map(_first)
        return passes_of(webdataset.WebLoader, stream, settings, batch_size=None)


def _first(batch: tuple[Any]) -> Tensor:
    """A batch of one field → that."""
    return torch.from_numpy(np.asarray(batch[0]))


SOURCE = WebDataset()

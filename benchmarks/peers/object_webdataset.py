"""webdataset over HTTP by its own way, a curl for each shard; whole videos are decoded once and sliced.

Importing WildStream makes webdataset open http:// as it does; here webdataset's own opener is put back.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Any

import webdataset

from benchmarks.footage import Case
from benchmarks.peers.base import BUFFER_CLIPS, Delivered, _Batched
from benchmarks.peers.object_source import Sample, Settings, Source, workers_of
from benchmarks.peers.whole_video import _Sliced
from wildstream.ffmpeg import ensure_ffmpeg

BUFFER_VIDEOS = 16


class WebDataset(Source):
    """Shards in random order, samples through a buffer. `url` is of http:// and names the shards in braces."""

    packages = ("webdataset", "torch", "torchcodec")

    def __init__(self) -> None:
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


SOURCE = WebDataset()

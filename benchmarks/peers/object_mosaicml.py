"""MosaicML streaming from S3, its local cache empty at the start of each pass; whole videos, decoded once and sliced.

`predownload` covers the whole data set, so that it never waits for itself; a batch of one lets workers take turns.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from streaming import (  # type: ignore[import-not-found]
    MDSWriter,
    StreamingDataLoader,
    StreamingDataset,
)
from streaming.base.util import clean_stale_shared_memory  # type: ignore[import-not-found]

from benchmarks.footage import Case
from benchmarks.peers.base import Delivered, read_videos
from benchmarks.peers.object_sliced import Sliced
from benchmarks.peers.object_source import Sample, Settings, Source, drop_folder, new_folder, workers_of
from wildstream.ffmpeg import ensure_ffmpeg

PREDOWNLOAD = 1000
"""Samples that are fetched before they are wanted."""
SLACK_BYTES = 1 << 16
"""What a shard may hold beyond its videos."""


class MosaicML(Source):
    """MDS shards of a key and a video's bytes."""

    packages = ("mosaicml-streaming", "torch", "torchcodec", "numpy")

    def __init__(self) -> None:
        ensure_ffmpeg()
        for module in ("torchcodec.decoders", "torchvision.transforms.v2"):
            import_module(module)  # before the workers are forked

        self._folder = ""

    def write(self, case: Case, out: Path, per_shard: int) -> None:
        """Write MDS, without compression."""
        videos = read_videos(case)
        sizes = [len(data) for data in videos.values()]
        largest = max(sum(sizes[first : first + per_shard]) for first in range(0, len(sizes), per_shard))
        columns = {"key": "str", "video": "bytes"}
        with MDSWriter(out=str(out), columns=columns, size_limit=largest + SLACK_BYTES) as writer:
            for key, data in videos.items():
                writer.write({"key": key, "video": data})

    def samples(self, settings: Settings) -> Iterable[Sample]:
        """Whole videos."""
        loader = StreamingDataLoader(
            self._open(settings), batch_size=1, num_workers=settings.workers, collate_fn=_first
        )
        return workers_of(loader)

    def batches(self, settings: Settings, case: Case) -> Iterable[Delivered]:
        """Windows, cut in the workers."""
        dataset = Sliced(self._open(settings), case)
        return workers_of(torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=settings.workers))

    def close(self) -> None:
        """Forget what the pass kept."""
        drop_folder(self._folder)
        clean_stale_shared_memory()

    def _open(self, settings: Settings) -> StreamingDataset:
        os.environ["S3_ENDPOINT_URL"] = settings.endpoint
        clean_stale_shared_memory()
        self._folder = new_folder()
        return StreamingDataset(
            remote=settings.url,
            local=self._folder,
            shuffle=True,
            shuffle_seed=settings.epoch,
            batch_size=1,
            predownload=PREDOWNLOAD,
            num_canonical_nodes=1,
        )


def _first(samples: list[dict[str, Any]]) -> Sample:
    """A batch of one sample → that."""
    return samples[0]["key"], samples[0]["video"]


SOURCE = MosaicML()

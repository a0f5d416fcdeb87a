"""MosaicML streaming from S3, its local cache empty at the start of each pass; whole videos, decoded once and sliced.

`predownload` covers the whole data set, so that it never waits for itself; a batch of one lets workers take turns.
Features are windows as bytes, which it gives faster than arrays; a local data set is read from where it lies.
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

from benchmarks.feature_data import BATCH, Array
from benchmarks.footage import Case
from benchmarks.peers.base import Delivered, read_videos
from benchmarks.peers.feature_batches import Indexed, Joined
from benchmarks.peers.object_sliced import Sliced
from benchmarks.peers.object_source import Sample, Settings, Source, drop_folder, new_folder, passes_of, workers_of
from wildstream.ffmpeg import ensure_ffmpeg

PREDOWNLOAD = 100_000
"""Samples that are fetched before they are wanted."""
SLACK_BYTES = 1 << 16
"""What a shard may hold beyond its videos."""


class MosaicML(Source):
    """MDS shards of a key and a video's bytes."""

    packages = ("mosaicml-streaming", "torch", "torchcodec", "numpy")

    def __init__(self) -> None:
        super().__init__()
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

    def write_features(self, values: Array, out: Path, per_shard: int) -> None:
        """Write MDS, without compression."""
        windows = values.reshape(-1, *values.shape[2:])
        limit = per_shard * windows[0].nbytes + SLACK_BYTES
        with MDSWriter(out=str(out), columns={"features": "bytes"}, size_limit=limit) as writer:
            for window in windows:
                writer.write({"features": window.tobytes()})

    def features(self, settings: Settings) -> Iterable[torch.Tensor]:
        """Its loader; or, as `indexed`, each window by its number."""
        dataset, join = self._open(settings, BATCH), Joined(settings.shape)
        if settings.variant == "indexed":
            return Indexed(lambda numbers: join([dataset[number]["features"] for number in numbers]), len(dataset))
        return passes_of(
            StreamingDataLoader,
            dataset,
            settings,
            batch_size=BATCH,
            collate_fn=lambda samples: join([sample["features"] for sample in samples]),
        )

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

    def _open(self, settings: Settings, batch_size: int = 1) -> StreamingDataset:
        remote = settings.url if settings.endpoint else None
        if remote is not None:
            os.environ["S3_ENDPOINT_URL"] = settings.endpoint
            clean_stale_shared_memory()
            self._folder = new_folder()
        return StreamingDataset(
            remote=remote,
            local=self._folder if remote else settings.url,
            shuffle=True,
            shuffle_seed=settings.epoch,
            batch_size=batch_size,
            predownload=PREDOWNLOAD,
            num_canonical_nodes=1,
        )


def _first(samples: list[dict[str, Any]]) -> Sample:
    """A batch of one sample → that."""
    return samples[0]["key"], samples[0]["video"]


SOURCE = MosaicML()

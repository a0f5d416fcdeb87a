"""LitData from S3, its cache empty at the start of each pass; whole videos are decoded once and sliced.

Features are windows as bytes, which it gives twice as fast as arrays; single ones by their numbers (`dataset[number]`,
`read_window`) take longer than its iterator. A local data set is read from where it lies.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import litdata  # type: ignore[import-not-found]
import torch
from litdata.streaming import downloader  # type: ignore[import-not-found]
from litdata.streaming.cache import Cache  # type: ignore[import-not-found]

from benchmarks.feature_data import BATCH, Array
from benchmarks.footage import Case
from benchmarks.object_server import LOGIN
from benchmarks.peers.base import Delivered, read_videos
from benchmarks.peers.feature_batches import Joined
from benchmarks.peers.object_sliced import Sliced
from benchmarks.peers.object_source import Sample, Settings, Source, drop_folder, new_folder, passes_of, workers_of
from wildstream.ffmpeg import ensure_ffmpeg

AHEAD_CHUNKS = 8
"""Chunks that each worker fetches before they are wanted."""


class LitData(Source):
    """Chunks of a key and a video's bytes."""

    packages = ("litdata", "obstore", "torch", "torchcodec", "numpy")

    def __init__(self) -> None:
        super().__init__()
        ensure_ffmpeg()
        for module in ("torchcodec.decoders", "torchvision.transforms.v2"):
            import_module(module)  # before the workers are forked

        self._folder = ""
        # It downloads chunks by obstore, which refuses http:// unless it is told otherwise, and LitData has no option
        # for that; real servers have https://.
        options: Any = downloader._OBSTORE_CLIENT_OPTIONS
        options["allow_http"] = True

    def write(self, case: Case, out: Path, per_shard: int) -> None:
        """Write chunks, without compression."""
        out.mkdir(parents=True, exist_ok=True)
        cache = Cache(str(out), chunk_size=per_shard)
        for number, (key, data) in enumerate(read_videos(case).items()):
            cache[number] = {"key": key, "video": data}
        cache.done()
        cache.merge()

    def write_features(self, values: Array, out: Path, per_shard: int) -> None:
        """Write chunks, without compression."""
        windows = values.reshape(-1, *values.shape[2:])
        litdata.optimize(
            lambda number: windows[number].tobytes(),
            inputs=list(range(len(windows))),
            output_dir=str(out),
            chunk_size=per_shard,
            num_workers=1,
            start_method="fork",
            verbose=False,
        )

    def features(self, settings: Settings) -> Iterable[torch.Tensor]:
        """Its loader."""
        return passes_of(
            litdata.StreamingDataLoader,
            self._open(settings),
            settings,
            batch_size=BATCH,
            collate_fn=Joined(settings.shape),
        )

    def samples(self, settings: Settings) -> Iterable[Sample]:
        """Whole videos."""
        loader = litdata.StreamingDataLoader(
            self._open(settings), batch_size=1, num_workers=settings.workers, collate_fn=_first
        )
        len(loader)  # reads the index
        return workers_of(loader)

    def batches(self, settings: Settings, case: Case) -> Iterable[Delivered]:
        """Windows, cut in the workers."""
        dataset = Sliced(self._open(settings), case)
        return workers_of(torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=settings.workers))

    def close(self) -> None:
        """Forget what the pass kept."""
        drop_folder(self._folder)

    def _open(self, settings: Settings) -> litdata.StreamingDataset:
        options: dict[str, Any] = {}
        if settings.endpoint:
            self._folder = new_folder()
            options["cache_dir"] = self._folder
            options["storage_options"] = {
                "endpoint_url": settings.endpoint,
                "aws_access_key_id": LOGIN["AWS_ACCESS_KEY_ID"],
                "aws_secret_access_key": LOGIN["AWS_SECRET_ACCESS_KEY"],
                "region_name": LOGIN["AWS_DEFAULT_REGION"],
            }
        return litdata.StreamingDataset(
            settings.url,
            shuffle=True,
            drop_last=False,
            seed=settings.epoch,
            max_pre_download=AHEAD_CHUNKS,
            **options,
        )


def _first(samples: list[dict[str, Any]]) -> Sample:
    """A batch of one sample → that."""
    return samples[0]["key"], samples[0]["video"]


SOURCE = LitData()

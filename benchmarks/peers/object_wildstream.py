"""WildStream from object storage: its planned reading, its loader; and obstore alone as the ceiling."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obstore
from torch import Tensor

import wildstream
from benchmarks.feature_data import BATCH, STYLE, Array, write_shards
from benchmarks.footage import Case
from benchmarks.object_server import LOGIN
from benchmarks.peers.base import Delivered
from benchmarks.peers.object_source import Sample, Settings, Source
from wildstream.shards.index import open_index
from wildstream.storage.access import Storage
from wildstream.stream.plan import Order, Share, make_plan
from wildstream.stream.segments import ReadPlanned
from wildstream.stream.storage import REQUEST_BYTES, REQUESTS
from wildstream.stream.windows import SlidingStyle

WHOLE = 1 << 30
"""Frames of a segment: each video is one."""


class WildStream(Source):
    """The package itself."""

    packages = ("wildstream", "obstore", "torch", "torchcodec")

    def samples(self, settings: Settings) -> Iterable[Sample]:
        """Whole videos, in the order of a plan in which each is one segment."""
        if settings.variant == "alone":
            return _obstore_alone(settings)
        cache = Path(settings.cache) if settings.cache else None
        index = open_index(settings.url, Storage(options=_options(settings), cache_dir=cache))
        style = SlidingStyle(window_size=16, samples_per_window=16, step_size=16, padding="none")
        order = Order(seed=settings.epoch, lanes=1, segment_frames=WHOLE)
        plan = make_plan(index.num_frames, style, order)
        segments = plan.segments(Share(batch_size=1))
        return ((segment.windows.key, segment.data.numpy()) for segment in ReadPlanned(index, style)(segments))

    def batches(self, settings: Settings, case: Case) -> Iterable[Delivered]:
        """The loader, as its README shows it."""
        style = SlidingStyle(
            window_size=case.window, samples_per_window=case.window, step_size=case.step, padding="none"
        )
        builder = wildstream.DatasetBuilder(
            path=settings.url, style=style, storage_options=_options(settings), cache_dir=settings.cache or None
        )
        loader = builder.build().loader(
            batch_size=case.batch, shuffle=True, seed=settings.epoch, size=case.size, num_workers=settings.workers
        )
        return _real(loader)

    def write_features(self, values: Array, out: Path, per_shard: int) -> None:
        """Feature shards."""
        write_shards(out, values, per_shard)

    def features(self, settings: Settings) -> Iterable[Any]:
        """The loader of feature shards."""
        if settings.variant == "alone":
            return _obstore_alone(settings)
        builder = wildstream.DatasetBuilder(
            path=settings.url, style=STYLE, precomputed=True, storage_options=_options(settings)
        )
        loader = builder.build().loader(
            batch_size=BATCH, shuffle=True, seed=settings.epoch, num_workers=settings.workers
        )
        return _Epochs(loader)


@dataclass(frozen=True)
class _Epochs:
    """Features of one epoch after the other, without what fills up the last batch."""

    loader: Any
    """A wildstream.Loader."""

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.loader:
            yield batch.features[: int(batch.mask.sum())]
        self.loader.set_epoch(self.loader.epoch + 1)


def _real(loader: Any) -> Iterator[Delivered]:  # noqa: ANN401 - a wildstream.Loader
    """An epoch, without what fills up its last batch."""
    for batch in loader:
        real = int(batch.mask.sum())
        yield batch.frames[:real], batch.keys[:real], batch.starts[:real].tolist()


def _options(settings: Settings) -> dict[str, Any]:
    """Where the server is, and the login."""
    if not settings.endpoint:
        return {}
    return {
        "endpoint": settings.endpoint,
        "access_key_id": LOGIN["AWS_ACCESS_KEY_ID"],
        "secret_access_key": LOGIN["AWS_SECRET_ACCESS_KEY"],
        "region": LOGIN["AWS_DEFAULT_REGION"],
    }


def _obstore_alone(settings: Settings) -> Iterable[Sample]:
    """Every shard in ranges as large, and as many at a time, as WildStream's; nothing is put together."""
    bucket, _, folder = settings.url.removeprefix("s3://").partition("/")
    options: Any = _options(settings)
    store = obstore.store.S3Store(bucket, config=options, client_options={"allow_http": True})
    index = open_index(settings.url, Storage(options=options))
    shards = sorted({f"{folder}/{index.place(video)[0].rpartition('/')[2]}" for video in range(len(index))})
    ranges = [
        (path, start, min(start + REQUEST_BYTES, size))
        for path, size in ((path, int(obstore.head(store, path)["size"])) for path in shards)
        for start in range(0, size, REQUEST_BYTES)
    ]

    def read(place: tuple[str, int, int]) -> Sample:
        path, start, stop = place
        return f"{path} {start}", memoryview(obstore.get_range(store, path, start=start, end=stop))

    def all_of_them() -> Iterator[Sample]:
        with ThreadPoolExecutor(REQUESTS) as pool:
            yield from pool.map(read, ranges)

    return all_of_them()


SOURCE = WildStream()

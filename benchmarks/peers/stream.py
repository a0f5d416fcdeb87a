"""WildStream as its README shows it: DatasetBuilder, then a shuffled loader with its defaults, which are threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import wildstream
from benchmarks.footage import Address, Case
from benchmarks.peers.base import Delivered, Peer


class WildStream(Peer):
    """The loader, an epoch for each pass."""

    family = "WildStream"
    bounded = False

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - checked by Loader
        self._options = options
        self._epoch = 0

    def start(self, case: Case, wanted: list[Address]) -> dict[str, Any]:
        """Open the index and make the loader; the number of threads is what is measured, the rest is the default."""
        style = wildstream.SlidingStyle(
            window_size=case.window, samples_per_window=case.window, step_size=case.step, padding="none"
        )
        dataset = wildstream.DatasetBuilder(path=case.shards, style=style).build()
        options = {"shuffle": True, "seed": 0, "size": case.size, "num_workers": case.workers, **self._options}
        self._loader = dataset.loader(batch_size=case.batch, **options)
        return {"order": "random", "threads": case.workers}

    def batches(self, number: int | None) -> Iterator[Delivered]:
        """An epoch, without what fills up its last batch."""
        self._loader.set_epoch(self._epoch)
        self._epoch += 1
        for batch in self._loader:
            real = int(batch.mask.sum())
            yield batch.frames[:real], batch.keys[:real], batch.starts[:real].tolist()

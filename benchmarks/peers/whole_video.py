"""WebDataset, a whole video decoded once, then cut into windows.

Two variants: frames resized in chunks of 16 as they are decoded (tried: chunks of 4, 16 and 64; 16 takes least CPU),
and `decoder[:]`, which holds the whole video at full size. A video's windows come in random order and go through
WebDataset's shuffle buffer; they are views of the video, which cost nothing but keep it in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import webdataset
from torch import Tensor

from benchmarks.footage import Address, Case
from benchmarks.peers.base import BUFFER_CLIPS, Clip, Delivered, Peer, _Batched
from benchmarks.peers.torchcodec_windows import TorchcodecReader, resized


@dataclass
class WholeVideo(Peer):
    """Two workers, each with videos of its own."""

    family: str = "whole video, then sliced"
    chunk: int | None = 16
    bounded = False
    full_order = False

    def start(self, case: Case, wanted: list[Address]) -> dict[str, Any]:
        """Start the workers."""
        stream = webdataset.WebDataset(case.tars, shardshuffle=False).compose(
            _Sliced(case, self.chunk), webdataset.shuffle(BUFFER_CLIPS), _Batched(case.batch)
        )
        self._loader = webdataset.WebLoader(stream, batch_size=None, num_workers=case.workers, persistent_workers=True)
        return {"order": "in_order"}

    def batches(self, number: int | None) -> Iterator[Delivered]:
        """One pass of the workers, which live on."""
        yield from self._loader


@dataclass
class _Sliced:
    """Samples of WebDataset → clips."""

    case: Case
    chunk: int | None

    def __call__(self, samples: Iterable[dict[str, Any]]) -> Iterator[Clip]:
        random = np.random.default_rng()
        for sample in samples:
            key = sample["__key__"]
            frames = self._decode(TorchcodecReader().open(sample["mp4"]))
            for start in random.permutation(self.case.starts(key)).tolist():
                yield frames[start : start + self.case.window], key, start

    def _decode(self, decoder: Any) -> Tensor:  # noqa: ANN401 - a VideoDecoder, which is imported late
        """(N, C, H, W) uint8: all frames, resized."""
        if self.chunk is None:
            return resized(decoder[:], self.case.size)
        frames = torch.empty((len(decoder), 3, self.case.size, self.case.size), dtype=torch.uint8)
        for first in range(0, len(decoder), self.chunk):
            stop = min(first + self.chunk, len(decoder))
            frames[first:stop] = resized(decoder.get_frames_in_range(first, stop).data, self.case.size)
        return frames

"""Windows of features by their numbers, or as bytes → batches, as several peers make them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from benchmarks.feature_data import BATCH


@dataclass
class Indexed:
    """Batches by direct access, in random order; another in each iteration."""

    read: Callable[[list[int]], Tensor]
    """The windows of these numbers."""
    count: int
    """Windows that there are."""
    _epoch: int = field(default=0, init=False)

    def __iter__(self) -> Iterator[Tensor]:
        self._epoch += 1
        order = np.random.default_rng(self._epoch).permutation(self.count)
        for first in range(0, self.count, BATCH):
            yield self.read(order[first : first + BATCH].tolist())


@dataclass(frozen=True)
class Joined:
    """Windows as bytes → a batch, copied once."""

    shape: Sequence[int]
    """Tokens and their length."""

    def __call__(self, windows: Sequence[bytes]) -> Tensor:
        """(B, tokens, dim) fp16."""
        return torch.frombuffer(bytearray().join(windows), dtype=torch.float16).view(-1, *self.shape)

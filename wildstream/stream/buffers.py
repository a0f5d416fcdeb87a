"""Memory for frames that is used again and again.

Segments and batches are tens of megabytes each and live for seconds. Memory that is fresh from the system costs half as
much to touch for the first time as a frame costs to scale into it, so what nobody holds any more is handed out again.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Memory = np.ndarray[tuple[int], np.dtype[np.uint8]]

KEPT_BYTES = 1 << 30
"""Memory that is kept while nobody uses it, at most: what the pool of one epoch leaves to the next."""
SMALLEST_BYTES = 64 << 10
"""Smaller tensors are not worth it."""


class Buffers:
    """Hands out uint8 tensors; safe from several threads.

    A tensor's memory comes back when the tensor and every view of it are gone, whoever held them. It is given to
    tensors that need at least four fifths of it, so that small ones do not sit on large memory.
    """

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        """Keep at most this much that nobody uses."""
        self._kept_bytes = kept_bytes
        # By identity, the longest unused first. No lock: memory may come back whenever Python collects garbage, also
        # inside this class. Copying a dictionary and popping a key are done in one step each.
        self._free: dict[int, Memory] = {}

    @property
    def free_bytes(self) -> int:
        """Memory that is kept and not in use."""
        return sum(map(len, self._free.copy().values()))

    def take(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """A contiguous uint8 tensor of this shape, with arbitrary content; on CUDA, out of PyTorch's own cache."""
        size = math.prod(shape)
        if torch.device(device).type != "cpu" or size < SMALLEST_BYTES:
            return torch.empty(tuple(shape), dtype=torch.uint8, device=device)
        memory = self._find(size)
        lent = memory[:size]  # PyTorch holds this very view for as long as anything uses the memory
        weakref.finalize(lent, self._give_back, memory).atexit = False
        return torch.from_numpy(lent).view(tuple(shape))

    def _find(self, size: int) -> Memory:
        """Free memory of a fitting size, or new memory."""
        for memory in sorted(self._free.copy().values(), key=len):
            if size <= len(memory) <= size * 5 // 4 and self._free.pop(id(memory), None) is not None:
                return memory
        return np.empty(size, np.uint8)

    def _give_back(self, memory: Memory) -> None:
        """Keep memory that is no longer used; the longest unused goes where that is too much."""
        self._free[id(memory)] = memory
        while self.free_bytes > self._kept_bytes:
            self._free.pop(next(iter(self._free.copy()), 0), None)


frame_memory = Buffers()
"""What segments and batches of this process are made of."""

"""What has come in a pass: whole videos, batches of clips, or batches of features, each told by what is in it."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

PAGE = 4096


class Tally:
    """Counts what is delivered, and with `look` sums up its bytes, without holding the clock up more than it must."""

    def __init__(self, *, look: bool) -> None:
        self._look = look
        self._delivered: list[tuple[Any, ...]] = []
        self._heads: list[Tensor] = []
        self._touched = 0
        self.bytes = 0
        self.checksums: dict[str, int] = {}
        """CRC-32 of each video by its key, or of each window of features by its number."""

    def add(self, item: Any) -> None:  # noqa: ANN401 - whatever a source delivers
        """Take features (B, tokens, dim); clips with their keys and starts; or the key and bytes of a video."""
        if isinstance(item, Tensor):
            self._features(item)
        elif len(item) == 3:
            frames, keys, starts = item
            self._delivered += zip(keys, map(int, starts), strict=True)
            self.bytes += frames.numel()
        else:
            self._sample(*item)

    @property
    def delivered(self) -> list[tuple[Any, ...]]:
        """The addresses of all that came; of features their numbers, the first four bytes of each window."""
        numbers = torch.cat(self._heads).view(torch.int32).flatten().tolist() if self._heads else []
        return self._delivered + [(number,) for number in numbers]

    def _features(self, batch: Tensor) -> None:
        heads = batch.flatten(1)[:, :2].clone()
        self._heads.append(heads)
        self.bytes += batch.nbytes
        if self._look:
            for (number,), window in zip(heads.view(torch.int32).tolist(), batch.numpy(), strict=True):
                self.checksums[str(number)] = zlib.crc32(np.ascontiguousarray(window))

    def _sample(self, key: str, data: Any) -> None:  # noqa: ANN401 - any buffer
        content = np.frombuffer(data, np.uint8)
        self._touched += int(content[::PAGE].sum())  # a mapped file is read when it is touched
        self._delivered.append((key,))
        self.bytes += len(content)
        if self._look:
            self.checksums[key] = zlib.crc32(content.data)

"""Whole videos of any library's data set → batches of windows, as webdataset's users cut them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import webdataset

from benchmarks.footage import Case
from benchmarks.peers.base import BUFFER_CLIPS, Delivered, _Batched
from benchmarks.peers.whole_video import _Sliced


@dataclass
class Sliced(torch.utils.data.IterableDataset[Delivered]):
    """For a DataLoader; each of its workers decodes whole videos, once, and cuts them."""

    videos: Any
    """The library's data set of {"key", "video"}."""
    case: Case

    def __iter__(self) -> Iterator[Delivered]:
        samples = ({"__key__": sample["key"], "mp4": sample["video"]} for sample in self.videos)
        yield from _Batched(self.case.batch)(webdataset.shuffle(BUFFER_CLIPS)(_Sliced(self.case, 16)(samples)))

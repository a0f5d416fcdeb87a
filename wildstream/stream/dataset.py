"""The public face of streaming: a dataset knows its windows and labels, and makes loaders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from wildstream.shards.index import Index, open_index
from wildstream.stream.loader import Loader
from wildstream.stream.windows import SlidingStyle, get_style

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowDataset:
    """All windows of one packed split under one sliding style. Knowing them opens no video."""

    index: Index
    """The videos."""
    style: SlidingStyle
    """How windows slide over them."""
    transform: Callable[[Tensor], Tensor] | None = None
    """Applied to the frames of each clip, (T, [P,] C, H, W) uint8."""
    only_labels: bool = False
    """Whether loaders give labels and addresses alone."""

    def __len__(self) -> int:
        """Number of windows."""
        return int(self.style.num_windows(self.index.num_frames).sum())

    @property
    def categories(self) -> list[str]:
        """Class names, in order of class number."""
        return self.index.categories

    def labels(self) -> npt.NDArray[np.bool_]:
        """Labels of all windows in order of (key, start): (num_windows, num_classes)."""
        labels = self.style.labels_of(self.index.track(video) for video in range(len(self.index)))
        return labels.reshape(-1, len(self.categories))

    def addresses(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Addresses of all windows in that order: number of the video in the index, and start; both (num_windows,)."""
        counts = self.style.num_windows(self.index.num_frames)
        videos = np.repeat(np.arange(len(counts)), counts)
        windows = np.arange(len(videos)) - np.repeat(np.cumsum(counts) - counts, counts)
        return videos, self.style.starts(windows)

    def loader(self, *, batch_size: int, **options: Any) -> Loader:  # noqa: ANN401 - checked by Loader
        """A loader of this dataset; the options are the fields of `Loader`, such as shuffle, seed and size."""
        options = {"transform": self.transform, "only_labels": self.only_labels, **options}
        return Loader(index=self.index, style=self.style, batch_size=batch_size, **options)


@dataclass(frozen=True, kw_only=True)
class DatasetBuilder:
    """Build a dataset from packed shards."""

    path: str | Path
    """Folder of one packed split, such as "shards/train"."""
    style: str | SlidingStyle
    """How windows slide: a name from configs/sliding, or a SlidingStyle."""
    transform: Callable[[Tensor], Tensor] | None = None
    """Applied to the frames of each clip, (T, [P,] C, H, W) uint8; its results must be of one shape."""
    only_labels: bool = False
    """Give labels and addresses only; no video is ever opened."""
    min_ctime: float | None = None
    """Leave out videos whose source file changed before this (seconds since 1970)."""

    def build(self) -> WindowDataset:
        """Open the index.

        Raises:
            ConfigError: The style is not known or invalid.
            ShardError: The path holds no packed split, or a damaged one.
        """
        style = get_style(self.style)
        index = open_index(self.path)
        if self.min_ctime is not None:
            index = index.newer_than(self.min_ctime)
        return WindowDataset(index=index, style=style, transform=self.transform, only_labels=self.only_labels)

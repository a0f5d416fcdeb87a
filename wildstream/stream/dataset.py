"""The public face of streaming: a dataset knows its windows and labels, and makes loaders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from wildstream.errors import ConfigError
from wildstream.shards.class_map import ClassMap
from wildstream.shards.index import Index, open_index
from wildstream.storage.access import CACHE_BYTES, Storage
from wildstream.storage.urls import redact
from wildstream.stream.loader import Loader
from wildstream.stream.samplers import Mixed
from wildstream.stream.windows import SlidingStyle, WindowLabels, get_style

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
        return WindowLabels(index=self.index, style=self.style).labels

    def labelled(self) -> npt.NDArray[np.bool_]:
        """Which windows are labelled, (num_windows,): of the others, somebody has yet to say what happens in them."""
        return WindowLabels(index=self.index, style=self.style).labelled

    def addresses(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Addresses of all windows in that order: number of the video in the index, and start; both (num_windows,)."""
        counts = self.style.num_windows(self.index.num_frames)
        videos = np.repeat(np.arange(len(counts)), counts)
        windows = np.arange(len(videos)) - np.repeat(np.cumsum(counts) - counts, counts)
        return videos, self.style.starts(windows)

    def mixed(self, mix: Mapping[str, float] | None = None, *, num_windows: int | None = None) -> Mixed:
        """A sampler of the sources of a merged index in these shares; see `Mixed`.

        Args:
            mix: Weight of each source by its name; None: as many windows as it has.
            num_windows: Windows of an epoch; as many as there are by default.

        Raises:
            ConfigError: Sources are unknown or left out, or the index is not a merged one.
        """
        counts = self.style.num_windows(self.index.num_frames)
        return Mixed(origins=self.index.origins, counts=counts, mix=mix, num_windows=num_windows)

    def loader(self, *, batch_size: int, **options: Any) -> Loader:  # noqa: ANN401 - checked by Loader
        """A loader of this dataset; the options are the fields of `Loader`, such as shuffle, seed and size."""
        options = {"transform": self.transform, "only_labels": self.only_labels, **options}
        return Loader(index=self.index, style=self.style, batch_size=batch_size, **options)


def check_contents(index: Index, style: SlidingStyle, *, precomputed: bool, feature_model: str | None) -> None:
    """Refuse an index of features where videos are wanted, or the reverse, or of others than wanted (ConfigError)."""
    features = index.info.features
    if precomputed != (features is not None):
        held, given = ("videos", "True") if precomputed else ("features", "False")
        raise ConfigError(f"{redact(index.folder)} holds {held}, precomputed={given} was asked for.")
    if features is not None:
        features.check(style=style.as_dict(), backbone=feature_model)


@dataclass(frozen=True, kw_only=True)
class DatasetBuilder:
    """Build a dataset from packed shards."""

    path: str | Path
    """Path or URL of one packed split, such as "shards/train" or "s3://bucket/shards/train"; or a pattern of some of
    its shards, such as "shards/train/{000000..000003}.tar"."""
    style: str | SlidingStyle
    """How windows slide: a name from configs/sliding, or a SlidingStyle."""
    transform: Callable[[Tensor], Tensor] | None = None
    """Applied to the frames of each clip, (T, [P,] C, H, W) uint8; its results must be of one shape."""
    only_labels: bool = False
    """Give labels and addresses only; no video is ever opened."""
    class_map: ClassMap | None = None
    """What each category becomes, None where it is left out, such as {"walk": "moving", "run": "moving", "unclear":
    None}; all of them are named. By default they stay as they are."""
    min_ctime: float | None = None
    """Leave out videos whose source file changed before this (seconds since 1970)."""
    precomputed: bool = False
    """Whether the path holds features instead of videos; see `wildstream.features`."""
    feature_model: str | None = None
    """The backbone that the features must be of; any by default."""
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Options of object stores; see `wildstream.storage.access.Storage.options`."""
    cache_dir: str | Path | None = None
    """Folder that keeps what was read from object storage, so that the next epoch need not; None keeps nothing."""
    cache_bytes: int = CACHE_BYTES
    """What that folder may hold, of all that use it; what was not used for longest goes first."""

    def build(self) -> WindowDataset:
        """Open the index.

        Raises:
            ConfigError: The style is not known or invalid, or the class map is of other categories.
            ShardError: The path holds no packed split, or a damaged one, or it cannot be read.
        """
        style = get_style(self.style)
        cache = None if self.cache_dir is None else Path(self.cache_dir)
        storage = Storage(options=self.storage_options, cache_dir=cache, cache_bytes=self.cache_bytes)
        index = open_index(self.path, storage)
        check_contents(index, style, precomputed=self.precomputed, feature_model=self.feature_model)
        if self.class_map is not None:
            index = index.with_classes(self.class_map)
        if self.min_ctime is not None:
            index = index.newer_than(self.min_ctime)
        return WindowDataset(index=index, style=style, transform=self.transform, only_labels=self.only_labels)

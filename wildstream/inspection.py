"""Packed shards → what they hold, for people; from the index alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wildstream.storage import urls
from wildstream.stream.quality import compare_shuffles
from wildstream.tables import table

if TYPE_CHECKING:
    from wildstream.stream.dataset import WindowDataset
    from wildstream.stream.loader import Loader


def describe_dataset(dataset: WindowDataset) -> str:
    """Videos, frames and windows, and how many of each class."""
    index, labels = dataset.index, dataset.labels()
    frames = sum(index.track(video).rows().sum(axis=0) for video in range(len(index)))
    windows = labels.sum(axis=0)
    rows = [("class", "frames", "windows", "share of windows")]
    for number, name in enumerate(index.categories):
        count = int(windows[number])
        rows.append((name, f"{int(frames[number]) if len(index) else 0:,}", f"{count:,}", _share(count, len(labels))))
    unlabelled = int((~labels.any(axis=1)).sum())
    rows.append(("no label", "", f"{unlabelled:,}", _share(unlabelled, len(labels))))
    return (
        f"{urls.redact(index.folder)}: {len(index):,} videos, {int(index.num_frames.sum()):,} frames, "
        f"{len(dataset):,} windows, {index.info.task}\n\n{table(rows)}"
    )


def describe_shuffles(loader: Loader) -> str:
    """How well an epoch of a loader is shuffled, against others of the same memory."""
    rows = [("order", "memory", "videos per batch", "distance of neighbours")]
    for quality in compare_shuffles(loader):
        memory = "–" if quality.pool_bytes is None else f"{quality.pool_bytes / 1e6:,.0f} MB"
        distance = f"{quality.neighbour_distance:.1%} of the epoch"
        rows.append((quality.name, memory, f"{quality.videos_per_batch:.1f}", distance))
    return table(rows)


def _share(count: int, total: int) -> str:
    """A count as a share of a total."""
    return "–" if not total else f"{count / total:.1%}"

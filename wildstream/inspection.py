"""Packed shards → what they hold, for people on the terminal; from the index alone, no video is opened."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from wildstream.facts import borders_of, frame_seconds
from wildstream.storage import urls
from wildstream.stream.quality import ShuffleQuality, compare_shuffles
from wildstream.tables import table

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.facts import FrameTable
    from wildstream.stream.dataset import WindowDataset
    from wildstream.stream.loader import Loader

    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

PAIRS_SHOWN = 10
"""Pairs of classes that are named, at most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Contents:
    """What the index says of a split."""

    dataset: WindowDataset
    """The windows."""

    @cached_property
    def labels(self) -> npt.NDArray[np.bool_]:
        """(num_windows, num_classes); of windows that are not labelled, nothing."""
        return self.dataset.labels() & self.labelled[:, np.newaxis]

    @cached_property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """(num_windows,) False where nobody said what happens."""
        return self.dataset.labelled()

    @cached_property
    def seconds(self) -> Floats:
        """(num_videos,) how long each video lasts; NaN where the index has no times."""
        index = self.dataset.index
        return np.array([_duration(index.frame_table(video)) for video in range(len(index))], np.float64)

    @cached_property
    def frames(self) -> Ints:
        """(num_classes,) frames of each class."""
        index = self.dataset.index
        counts = np.zeros(len(index.categories), np.int64)
        for video in range(len(index)):
            track = index.track(video)  # in which events of a class do not overlap
            np.add.at(counts, track.classes, track.stop - track.first)
        return counts

    @cached_property
    def windows(self) -> Ints:
        """(num_classes,) windows of each class."""
        counts: Ints = self.labels.sum(axis=0, dtype=np.int64)
        return counts

    @cached_property
    def together(self) -> Ints:
        """(num_classes, num_classes) windows that have both classes; on the diagonal those that have one."""
        # As floats, exact up to 2**53: products of bool or int64 matrices take minutes for 2,000 classes.
        values = self.labels.astype(np.float64)
        both: Ints = np.rint(values.T @ values).astype(np.int64)
        return both

    @property
    def num_labelled(self) -> int:
        """Windows that are labelled, of which the others' shares are."""
        return int(self.labelled.sum())

    @property
    def without_class(self) -> int:
        """Windows that are labelled, and of no class."""
        return int((self.labelled & ~self.labels.any(axis=1)).sum())

    @cached_property
    def unlabelled_frames(self) -> int:
        """Frames of which nobody said anything."""
        runs = [self.dataset.index.track(video).unlabelled for video in range(len(self.dataset.index))]
        return int(sum((run[:, 1] - run[:, 0]).sum() for run in runs))

    def unlabelled_told(self) -> str:
        """How much is not labelled, in one line; empty where all is."""
        frames, windows = int(self.dataset.index.num_frames.sum()), len(self.dataset)
        if not self.unlabelled_frames:
            return ""
        return (
            f"not labelled: {self.unlabelled_frames:,} of {frames:,} frames ({share(self.unlabelled_frames, frames)}), "
            f"{windows - self.num_labelled:,} of {windows:,} windows ({share(windows - self.num_labelled, windows)}); "
            "shares are of the others"
        )

    def pairs(self) -> list[tuple[int, int, int]]:
        """Classes that happen together, and in how many windows: the most frequent first."""
        first, second = np.nonzero(np.triu(self.together, k=1))
        counts = self.together[first, second]
        order = np.lexsort((second, first, -counts))
        return [(int(first[n]), int(second[n]), int(counts[n])) for n in order]


def describe_dataset(dataset: WindowDataset) -> str:
    """Videos, how long they last, how many of each class, and which classes happen together."""
    contents, index = Contents(dataset=dataset), dataset.index
    rows, total = [("class", "frames", "windows", "share of windows")], contents.num_labelled
    for name, frames, windows in zip(index.categories, contents.frames, contents.windows, strict=True):
        rows.append((name, f"{frames:,}", f"{windows:,}", share(int(windows), total)))
    rows.append(("no label", "", f"{contents.without_class:,}", share(contents.without_class, total)))
    parts = [
        f"{urls.redact(index.folder)}: {len(index):,} videos, {int(index.num_frames.sum()):,} frames, "
        f"{len(dataset):,} windows, {index.info.task}",
        durations_told(contents.seconds),
        table(rows),
    ]
    if told := contents.unlabelled_told():
        parts.append(told)
    if pairs := contents.pairs():
        parts.append(_render_pairs(contents, pairs))
    return "\n\n".join(parts)


def describe_shuffles(loader: Loader) -> str:
    """How well an epoch of a loader is shuffled, against others of the same memory."""
    rows, notes = shuffle_rows(compare_shuffles(loader), batch_size=loader.batch_size)
    return "\n".join([table(rows), *notes])


def shuffle_rows(qualities: list[ShuffleQuality], *, batch_size: int) -> tuple[list[tuple[str, ...]], list[str]]:
    """A head and a row for each order; and why a figure is not there, where one is not."""
    rows: list[tuple[str, ...]] = [("order", "memory", "videos per batch", "distance of neighbours")]
    for quality in qualities:
        memory = "–" if quality.pool_bytes is None else size_told(quality.pool_bytes)
        videos, distance = quality.videos_per_batch, quality.neighbour_distance
        rows.append(
            (
                quality.name,
                memory,
                "–" if np.isnan(videos) else f"{videos:.1f}",
                "–" if np.isnan(distance) else f"{distance:.1%} of the epoch",
            )
        )
    notes = []
    if any(np.isnan(quality.videos_per_batch) for quality in qualities):
        notes.append(f"The epoch has fewer windows than one batch of {batch_size}: --batch-size takes a smaller one.")
    if any(np.isnan(quality.neighbour_distance) for quality in qualities):
        notes.append("No two windows lie side by side in a video.")
    return rows, notes


def durations_told(seconds: Floats) -> str:
    """How long videos last, in one line."""
    known = seconds[~np.isnan(seconds)]
    if not len(known):
        return "durations are not known"
    shortest, middle, longest = (time_told(float(value)) for value in np.quantile(known, [0, 0.5, 1]))
    return f"{time_told(float(known.sum()))} in all; a video lasts {shortest} to {longest}, half of them up to {middle}"


def time_told(seconds: float) -> str:
    """A time for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    return f"{minutes} min {whole % 60:02} s" if hours == 0 else f"{hours:,} h {minutes % 60:02} min"


def size_told(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size / 1e3:,.0f} kB"


def share(count: int, total: int) -> str:
    """A count as a share of a total."""
    return "–" if not total else f"{count / total:.1%}"


def _render_pairs(contents: Contents, pairs: list[tuple[int, int, int]]) -> str:
    """The classes that happen together most."""
    names = contents.dataset.categories
    rows: list[tuple[str, ...]] = [("together", "windows", "of the first", "of the second")]
    for first, second, count in pairs[:PAIRS_SHOWN]:
        of = (share(count, int(contents.windows[number])) for number in (first, second))
        rows.append((f"{names[first]} + {names[second]}", f"{count:,}", *of))
    left = len(pairs) - PAIRS_SHOWN
    rows.append((f"{left:,} more pairs" if left > 0 else "no other pair", "", "", ""))
    return table(rows)


def _duration(frames: FrameTable) -> float:
    """Seconds that a video lasts; NaN where nobody knows."""
    return float(borders_of(frame_seconds(frames.pts, frames.time_base))[-1]) if len(frames.pts) else float("nan")

"""How well an order is shuffled, against a full permutation and against a buffer shuffle of the same memory.

Two figures say it. Batches should mix videos: `videos_per_batch`. And windows that lie side by side in a video, which
show nearly the same frames, should lie far apart in the epoch: `neighbour_distance`, a share of the epoch; a full
permutation has 1/3.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.stream.loader import Loader

    Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShuffleQuality:
    """How well one order is shuffled."""

    name: str
    """What made the order."""
    pool_bytes: int | None
    """Frames in memory, at most, over all ranks; None where it is not bounded."""
    videos_per_batch: float
    """Mean number of different videos in a global batch."""
    neighbour_distance: float
    """Mean distance between neighbouring windows of a video, as a share of the epoch."""


def compare_shuffles(loader: Loader) -> list[ShuffleQuality]:
    """The planned order of a loader's epoch, a full permutation, and a buffer shuffle of the same memory.

    The buffer shuffle is WebDataset's: videos in random order, their windows one after the other through a buffer of
    clips, each with frames of its own. All from the plan and the index: no video is opened.
    """
    plan = loader.plan()
    share = loader.share()
    footprint = loader.footprint()
    memory = footprint.pool_bytes * share.world_size
    batch = share.batch_size * share.world_size
    windows = np.sort(plan.order)
    generator = np.random.default_rng(loader.seed)
    clips = max(1, memory // max(1, loader.clip_bytes()))
    orders = [
        ("planned", memory, plan.order),
        (f"buffer of {clips:,} clips", memory, buffered_order(windows, plan.first_window, clips, seed=loader.seed)),
        ("full permutation", None, generator.permutation(windows)),
    ]
    return [
        ShuffleQuality(
            name=name,
            pool_bytes=held,
            videos_per_batch=videos_per_batch(order, plan.first_window, batch),
            neighbour_distance=neighbour_distance(order, plan.first_window),
        )
        for name, held, order in orders
    ]


def videos_per_batch(order: Ints, first_window: Ints, batch_size: int) -> float:
    """Mean number of different videos in whole batches of an order of windows; NaN where there is no whole batch."""
    videos = np.searchsorted(first_window, order, side="right") - 1
    batches = np.sort(videos[: len(videos) // batch_size * batch_size].reshape(-1, batch_size), axis=1)
    return float((1 + (np.diff(batches, axis=1) != 0).sum(axis=1)).mean()) if len(batches) else float("nan")


def neighbour_distance(order: Ints, first_window: Ints) -> float:
    """Mean distance in an order between windows that lie side by side in a video, as a share of its length."""
    if len(order) < 2:
        return float("nan")
    by_window = np.argsort(order, kind="stable")
    ordered = order[by_window]
    videos = np.searchsorted(first_window, ordered, side="right") - 1
    side_by_side = (np.diff(ordered) == 1) & (np.diff(videos) == 0)
    distances = np.abs(np.diff(by_window))[side_by_side]
    return float(distances.mean() / len(order)) if len(distances) else float("nan")


def buffered_order(windows: Ints, first_window: Ints, size: int, *, seed: int) -> Ints:
    """The order that a shuffle buffer of so many clips gives, videos coming in random order."""
    videos = np.searchsorted(first_window, windows, side="right") - 1
    groups = np.split(windows, np.flatnonzero(np.diff(videos)) + 1)
    np.random.default_rng(seed).shuffle(groups)
    stream = np.concatenate(groups).tolist()
    draw = random.Random(seed)
    buffer = stream[:size]
    order = []
    for window in stream[size:]:
        place = draw.randrange(size)
        order.append(buffer[place])
        buffer[place] = window
    draw.shuffle(buffer)
    return np.array(order + buffer, np.int64)

"""Index + style + seed + epoch → the exact order of all windows, before any video is opened.

    segments     runs of windows of one video, of even length, permuted
    line         the permuted segments laid end to end: every window of the epoch once
    lanes        the line cut into pieces of equal length
    draw         in each lane, every window moves behind its segment's start by up to `pool_segments` segments at random
    positions    window i of lane l is number l + i * lanes of the epoch; number p goes to rank p mod ranks

The draw is that of a shuffle buffer that holds about `pool_segments` open segments per lane, without simulating one.
Everything is numpy on window numbers: no I/O, no tensors, no Python loop over windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from wildstream.errors import ConfigError

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.stream.windows import SlidingStyle

    Ints = npt.NDArray[np.int64]

Tail = Literal["pad", "drop"]

LANES = 24
"""Default of `Order.lanes`: divisible by 1, 2, 3, 4, 6, 8, 12 and 24 ranks."""
POOL_SEGMENTS = 3
"""Default of `Order.pool_segments`."""
SEGMENT_FRAMES = 128
"""Default of `Order.segment_frames`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segment:
    """Windows of one video that are decoded together, and where in a rank's stream they belong."""

    video: int
    """Number of the video in the index."""
    windows: Ints
    """(n,) numbers of windows in the video, increasing but for repetitions."""
    positions: Ints
    """(n,) places in the stream of the rank."""
    real: npt.NDArray[np.bool_]
    """(n,) False where a window is repeated to fill up the last batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """How windows are grouped into segments and shuffled."""

    shuffle: bool = True
    """Random order of segments and windows; otherwise by (video, window)."""
    seed: int = 0
    """With the epoch, decides the order."""
    lanes: int = LANES
    """Pieces of equal length that the epoch is cut into; the number of ranks must divide it."""
    pool_segments: int = POOL_SEGMENTS
    """Segments per lane that are open at a time, about: the reach of the shuffle within a lane, and its memory."""
    segment_frames: int = SEGMENT_FRAMES
    """Kept frames that a segment spans, at most, unless one window spans more."""

    def __post_init__(self) -> None:
        """Refuse values that are out of range (ConfigError)."""
        for name in ("lanes", "pool_segments", "segment_frames"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed} must not be negative.")

    def segment_windows(self, style: SlidingStyle) -> int:
        """Windows of a full segment."""
        return max(1, (self.segment_frames - style.window_size) // style.step_size + 1)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The order of one epoch."""

    first_window: Ints
    """(num_videos + 1,) running number of each video's first window; the last is the number of windows."""
    order: Ints
    """(num_windows,) running number of the window at each position of the epoch."""
    segment: Ints
    """(num_windows,) number of the segment that the window at each position is decoded with."""
    shuffled: bool
    """Whether positions go to ranks in turn; unshuffled, each rank has a run of them."""

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.order)

    def num_batches(self, *, batch_size: int, world_size: int = 1, tail: Tail = "pad") -> int:
        """Batches of each rank: the same for all ranks."""
        return num_batches(len(self), batch_size=batch_size, world_size=world_size, tail=tail)

    def segments(
        self, *, batch_size: int, rank: int = 0, world_size: int = 1, tail: Tail = "pad", skip_batches: int = 0
    ) -> Iterator[Segment]:
        """The segments of one rank, in the order in which its stream needs them.

        Args:
            batch_size: Clips per batch and rank.
            rank: Which rank's, of world_size.
            world_size: Number of ranks.
            tail: "pad" repeats the rank's last window until the last batch is full; "drop" leaves that batch out.
            skip_batches: Batches at the start that are left out; positions count from there.
        """
        length = batch_size * self.num_batches(batch_size=batch_size, world_size=world_size, tail=tail)
        places = self._places(rank, world_size)[:length]
        real = np.arange(length) < len(places)
        if length > len(places):
            # A rank without any window of its own repeats the epoch's first, so that no rank waits for another.
            filler = places[-1] if len(places) else 0
            places = np.concatenate([places, np.full(length - len(places), filler, np.int64)])
        places, real = places[skip_batches * batch_size :], real[skip_batches * batch_size :]
        by_segment = np.argsort(self.segment[places], kind="stable")
        cuts = np.flatnonzero(np.diff(self.segment[places][by_segment])) + 1
        groups = np.split(by_segment, cuts) if len(by_segment) else []
        for group in sorted(groups, key=lambda positions: int(positions[0])):
            numbers = self.order[places[group]]
            in_order = np.argsort(numbers, kind="stable")
            positions, numbers = group[in_order], numbers[in_order]
            video = int(np.searchsorted(self.first_window, numbers[0], side="right")) - 1
            windows = numbers - self.first_window[video]
            yield Segment(video=video, windows=windows, positions=positions, real=real[positions])

    def _places(self, rank: int, world_size: int) -> Ints:
        """Positions of the epoch that belong to a rank, in order."""
        if self.shuffled:
            return np.arange(rank, len(self), world_size)
        per_rank = -(-len(self) // world_size)
        return np.arange(min(rank * per_rank, len(self)), min((rank + 1) * per_rank, len(self)))


def num_batches(num_windows: int, *, batch_size: int, world_size: int = 1, tail: Tail = "pad") -> int:
    """Batches of each of world_size ranks over so many windows: the same for all ranks."""
    if tail == "drop":
        return num_windows // world_size // batch_size
    per_rank = -(-num_windows // world_size)
    return -(-per_rank // batch_size)


def make_plan(num_frames: Ints, style: SlidingStyle, order: Order, *, epoch: int = 0) -> Plan:
    """Plan one epoch in which every window comes once.

    Args:
        num_frames: (num_videos,) frames of each video.
        style: How windows slide.
        order: How they are grouped and shuffled.
        epoch: Which epoch; with the seed, decides the order.
    """
    counts = style.num_windows(num_frames)
    first_window = np.concatenate([[0], np.cumsum(counts)])
    total = int(first_window[-1])
    segment = _number_segments(counts, order.segment_windows(style))
    if not order.shuffle:
        return Plan(first_window, np.arange(total), segment, shuffled=False)
    random = np.random.default_rng([order.seed, epoch])
    line, starts = _lay_out(segment, random)
    lane_of = _cut_into_lanes(total, order.lanes)
    # A segment on the border of two lanes is decoded in both.
    pieces = np.cumsum(np.diff(segment[line], prepend=-1).astype(bool) | np.diff(lane_of, prepend=-1).astype(bool)) - 1
    mean_length = total / max(1, int(segment[-1]) + 1) if total else 0.0
    drawn = starts + random.random(total) * order.pool_segments * mean_length
    numbers, segments = np.empty(total, np.int64), np.empty(total, np.int64)
    ends = np.searchsorted(lane_of, np.arange(order.lanes), side="right")
    for lane, end in enumerate(ends):
        begin = ends[lane - 1] if lane else 0
        in_order = begin + np.argsort(drawn[begin:end], kind="stable")
        numbers[lane :: order.lanes] = line[in_order]
        segments[lane :: order.lanes] = pieces[in_order]
    return Plan(first_window, numbers, segments, shuffled=True)


def _number_segments(counts: Ints, longest: int) -> Ints:
    """Number of the segment of every window: each video is cut into runs of even length, at most `longest`."""
    cuts = -(-counts // longest)
    offsets = np.concatenate([[0], np.cumsum(cuts)])[:-1]
    window = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    numbers: Ints = np.repeat(offsets, counts) + window * np.repeat(cuts, counts) // np.repeat(counts, counts)
    return numbers


def _lay_out(segment: Ints, random: np.random.Generator) -> tuple[Ints, Ints]:
    """Permute the segments and lay them end to end: window numbers, and for each where its segment begins."""
    lengths = np.bincount(segment) if len(segment) else np.zeros(0, np.int64)
    permuted = random.permutation(len(lengths))
    ends = np.cumsum(lengths[permuted])
    starts = np.repeat(ends - lengths[permuted], lengths[permuted])
    first = np.concatenate([[0], np.cumsum(lengths)])[:-1]
    line = np.repeat(first[permuted], lengths[permuted]) + np.arange(len(segment)) - starts
    return line, starts


def _cut_into_lanes(total: int, lanes: int) -> Ints:
    """Lane of every place on the line; lengths differ by one at most, the first lanes are the longer ones."""
    lengths = np.full(lanes, total // lanes)
    lengths[: total % lanes] += 1
    return np.repeat(np.arange(lanes), lengths)

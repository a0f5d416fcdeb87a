"""Index + style + seed + epoch → the exact order of an epoch's windows, before any video is opened.

    draw         which windows the epoch has: each once, or what a sampler drew
    segments     runs of them of one video, of about even length, that start at key frames where that pays, permuted
    line         the permuted segments laid end to end
    lanes        the line cut into pieces of equal length
    jitter       in its lane, every window moves behind its segment's start by up to `pool_segments` segments at random
    positions    window i of lane l is number l + i * lanes of the epoch; number p goes to rank p mod ranks

The order is that of a shuffle buffer that holds about `pool_segments` open segments per lane, without simulating one.
Few segments make fewer lanes, with a longer jitter in each: a lane's border cuts a segment in two, which then is
decoded twice.

Everything is numpy on window numbers: no I/O, no tensors, no Python loop over windows.

Unshuffled, positions are windows in order of (video, window), and each rank has a run of them, so that no segment is
decoded twice.
"""

from __future__ import annotations

import zlib
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

LANES = 48
"""Default of `Order.lanes`: divisible by 1, 2, 3, 4, 6, 8, 12, 16, 24 and 48 ranks."""
POOL_SEGMENTS = 1
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
    """Pieces of equal length that the epoch is cut into, at most; the number of ranks must divide it."""
    pool_segments: int = POOL_SEGMENTS
    """Segments per lane that are open at a time, about: the reach of the shuffle within a lane, and its memory."""
    everywhere: bool = False
    """Shuffle over all windows at once, each a segment of its own: for what need not be decoded."""
    segment_frames: int = SEGMENT_FRAMES
    """Kept frames that a segment spans, at most, unless one window spans more. In order to start at key frames, its
    windows may start within twice as many."""

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

    def check_ranks(self, world_size: int) -> None:
        """Refuse lanes that so many ranks do not divide (ConfigError)."""
        if self.shuffle and self.lanes % world_size:
            fits = [count for count in range(1, self.lanes + 1) if self.lanes % count == 0]
            near = world_size * max(1, round(LANES / world_size))
            raise ConfigError(
                f"lanes={self.lanes} must be a multiple of world_size={world_size}, so that each has whole lanes. "
                f"Make that one of {', '.join(map(str, fits))}, or set lanes={near}."
            )

    def most_windows(self, style: SlidingStyle) -> int:
        """Windows of a segment that starts at a key frame, at most."""
        return 2 * max(self.segment_windows(style), self.segment_frames // style.step_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Which part of an epoch's stream somebody gets, and in what batches."""

    batch_size: int
    """Clips per batch and rank."""
    rank: int = 0
    """Which rank."""
    world_size: int = 1
    """Number of ranks."""
    tail: Tail = "pad"
    """"pad" repeats the rank's last window until the last batch is full; "drop" leaves that batch out."""
    skip: int = 0
    """Windows of the rank that are left out at the start; positions count from there."""
    worker: int = 0
    """Which of the rank's workers."""
    num_workers: int = 1
    """Workers that share the rank's stream; together they have each position once."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The order of one epoch."""

    first_window: Ints
    """(num_videos + 1,) running number of each video's first window; the last is the number of windows that exist."""
    order: Ints
    """(num_planned,) running number of the window at each position of the epoch."""
    segment: npt.NDArray[np.int32]
    """(num_planned,) number of the segment that the window at each position is decoded with."""
    shuffled: bool
    """Whether positions go to ranks in turn; unshuffled, each rank has a run of them."""

    def __len__(self) -> int:
        """Number of planned windows."""
        return len(self.order)

    def checksum(self) -> int:
        """CRC-32 of the order: tells whether two machines planned the same."""
        return zlib.crc32(np.ascontiguousarray(self.order).data)

    def num_batches(self, share: Share) -> int:
        """Batches of each rank, what is skipped left out: the same for all ranks."""
        return num_batches(len(self), share)

    def segments(self, share: Share) -> Iterator[Segment]:
        """The segments of one rank's stream (or one worker's part of it), in the order in which it needs them."""
        places, real = self._stream(share)
        mine = self._of_worker(places, share)
        by_segment = mine[np.argsort(self.segment[places[mine]], kind="stable")]
        cuts = np.flatnonzero(np.diff(self.segment[places[by_segment]])) + 1
        groups = np.split(by_segment, cuts) if len(by_segment) else []
        for group in sorted(groups, key=lambda positions: int(positions[0])):
            numbers = self.order[places[group]]
            in_order = np.argsort(numbers, kind="stable")
            positions, numbers = group[in_order], numbers[in_order]
            video = int(np.searchsorted(self.first_window, numbers[0], side="right")) - 1
            windows = numbers - self.first_window[video]
            yield Segment(video=video, windows=windows, positions=positions, real=real[positions])

    def windows(self, share: Share) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """Running numbers of the windows of one rank's stream, in order, and which only fill up its last batch not."""
        places, real = self._stream(share)
        mine = self._of_worker(places, share)
        return self.order[places[mine]], real[mine]

    def positions(self, share: Share) -> Ints:
        """Places in a rank's stream that are one worker's, increasing."""
        return self._of_worker(self._stream(share)[0], share)

    def num_real(self, share: Share) -> int:
        """Windows that a rank's stream really has: those that do not only fill up the last batch."""
        return int(self._stream(share)[1].sum())

    def _stream(self, share: Share) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """Positions of the epoch that make up a rank's stream, in whole batches, and which of them are real."""
        places = self._places(share)[share.skip :]
        length = share.batch_size * self.num_batches(share)
        real = np.arange(length) < len(places)
        if length <= len(places):
            return places[:length], real
        # A rank without any window of its own repeats the epoch's last, so that no rank waits for another.
        filler = places[-1] if len(places) else len(self) - 1
        return np.concatenate([places, np.full(length - len(places), filler, np.int64)]), real

    def _places(self, share: Share) -> Ints:
        """Positions of the epoch that belong to a rank, in order."""
        if self.shuffled:
            return np.arange(share.rank, len(self), share.world_size)
        per_rank = len(self) // share.world_size if share.tail == "drop" else -(-len(self) // share.world_size)
        first, stop = (min(rank * per_rank, len(self)) for rank in (share.rank, share.rank + 1))
        return np.arange(first, stop)

    def _of_worker(self, places: Ints, share: Share) -> Ints:
        """Places in a rank's stream that are one worker's: those of every so many-th segment."""
        return np.flatnonzero(self.segment[places] % share.num_workers == share.worker)


def num_batches(num_windows: int, share: Share) -> int:
    """Batches of each rank over so many planned windows, what is skipped left out: the same for all ranks."""
    if share.tail == "drop":
        return max(0, num_windows // share.world_size - share.skip) // share.batch_size
    per_rank = max(0, -(-num_windows // share.world_size) - share.skip)
    return -(-per_rank // share.batch_size)


def make_plan(
    num_frames: Ints,
    style: SlidingStyle,
    order: Order,
    *,
    epoch: int = 0,
    drawn: Ints | None = None,
    key_frames: npt.NDArray[np.integer] | None = None,
) -> Plan:
    """Plan one epoch.

    Args:
        num_frames: (num_videos,) frames of each video.
        style: How windows slide.
        order: How they are grouped and shuffled.
        epoch: Which epoch; with the seed, decides the order.
        drawn: (num_planned,) running numbers of the epoch's windows, not decreasing, as a sampler drew them; every
            window once by default.
        key_frames: (num_key_frames, 2) numbers of video and frame where decoding may start, in that order; none of
            them are known by default. They decide what is decoded together, never which windows there are.
    """
    counts = style.num_windows(num_frames)
    first_window = np.concatenate([[0], np.cumsum(counts)])
    numbers = np.arange(int(first_window[-1])) if drawn is None else drawn
    segment = _number_segments(segment_starts(counts, style, order, key_frames), numbers, whole=drawn is None)
    if not order.shuffle:
        return Plan(first_window, numbers, segment, shuffled=False)
    random = np.random.default_rng([order.seed, epoch])
    if order.everywhere:
        permuted = random.permutation(len(numbers))
        return Plan(first_window, numbers[permuted], np.arange(len(numbers), dtype=np.int32), shuffled=True)
    num_segments = int(segment[-1]) + 1 if len(segment) else 1
    line, starts = _lay_out(segment, random)
    lanes = _useful_lanes(order.lanes, num_segments)
    ends = _lane_ends(len(line), lanes)
    begins = np.concatenate([[0], ends[:-1]])
    changes = _changes(segment[line])
    changes[begins[begins < ends]] = True  # a segment on the border of two lanes is decoded in both
    piece = np.cumsum(changes, dtype=np.int32)
    keys = _jitter(starts, order.pool_segments * order.lanes / lanes * len(line) / num_segments, random)
    del starts, segment, changes
    windows, pieces = np.empty(len(line), np.int64), np.empty(len(line), np.int32)
    for lane, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        in_order = np.sort(keys[begin:end]) & PLACE_MASK
        windows[lane::lanes] = numbers[line[in_order]]
        pieces[lane::lanes] = piece[in_order]
    return Plan(first_window, windows, pieces, shuffled=True)


PLACE_BITS = 32
PLACE_MASK = (1 << PLACE_BITS) - 1


def _jitter(starts: Ints, reach: float, random: np.random.Generator) -> Ints:
    """Sort keys: where each place on the line moves to, then the place itself, so that no two keys are the same.

    A plain sort of integers is the fastest there is, and gives the same order on every machine; an argsort of floats
    depends on how the machine's sort treats ties.
    """
    keys = random.random(len(starts))
    keys *= reach
    keys += starts
    moved = keys.astype(np.int64)
    moved <<= PLACE_BITS
    moved |= np.arange(len(starts))
    return moved


def _changes(values: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Where a value differs from the one before; the first does."""
    changes = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=changes[1:])
    return changes


def segment_starts(counts: Ints, style: SlidingStyle, order: Order, key_frames: npt.NDArray[np.integer] | None) -> Ints:
    """Where segments begin.

    Args:
        counts: (num_videos,) windows of each video.
        style: How windows slide.
        order: How long a segment is.
        key_frames: As `make_plan` takes them.

    Returns:
        (num_segments,) running number of the first window of each segment, increasing; the number of windows may be the
        last one.
    """
    first_window = np.concatenate([[0], np.cumsum(counts)])
    pieces = -(-counts // order.segment_windows(style))
    video = np.repeat(np.arange(len(counts)), pieces)
    piece = np.arange(len(video)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    cuts: Ints = first_window[video] - (-piece * counts[video] // pieces[video])
    if key_frames is None:
        return cuts
    entries = _first_windows_behind(key_frames, style, counts, first_window)
    return _at_key_frames(cuts, entries, first_window, order.most_windows(style))


def _first_windows_behind(
    key_frames: npt.NDArray[np.integer], style: SlidingStyle, counts: Ints, first_window: Ints
) -> Ints:
    """For each key frame the running number of the first window wholly behind it; if none, the next video's first."""
    video = key_frames[:, 0]
    window = -(-(key_frames[:, 1].astype(np.int64) + style.pad_front) // _stride(style))
    # What lies in the padding in front shows frame 0.
    window[key_frames[:, 1] == 0] = 0
    entries: Ints = first_window[video] + np.minimum(window, counts[video])
    return entries


def _stride(style: SlidingStyle) -> int:
    """Source frames from one window to the next."""
    return style.step_size * style.temporal_sample_interval


def _at_key_frames(cuts: Ints, entries: Ints, first_window: Ints, most: int) -> Ints:
    """Move cuts to the nearest window that begins behind a key frame; some fall together.

        even cuts    |        |        |        |        |        |
        key frames   |                    |                    |
        moved        |                    |                    |

    Cuts are `most` / 2 apart or less. Between key frames that are `most` windows apart or less, all of them move; else
    those that have `most` / 4 to go. So no segment has more than `most`.
    """
    borders = np.unique(np.concatenate([entries, first_window]))
    above = borders[np.searchsorted(borders, cuts, side="left")]
    below = borders[np.searchsorted(borders, cuts, side="right") - 1]
    nearest = np.where(cuts - below <= above - cuts, below, above)
    moves = (above - below <= most) | (np.abs(cuts - nearest) <= most // 4)
    return np.unique(np.where(moves, nearest, cuts))


def _number_segments(cuts: Ints, numbers: Ints, *, whole: bool) -> npt.NDArray[np.int32]:
    """Number of the segment of each window; those that no window was drawn of have none."""
    if whole:
        begins = np.zeros(len(numbers), np.bool_)
        begins[cuts[cuts < len(numbers)]] = True
    else:
        begins = _changes(np.searchsorted(cuts, numbers, side="right"))
    return np.cumsum(begins, dtype=np.int32) - 1


SEGMENTS_PER_LANE = 4
"""Segments that a lane has at least, where there are several: one of them, on its border, is decoded twice."""


def _useful_lanes(lanes: int, num_segments: int) -> int:
    """All, or as many as leave enough segments to each: a power of two, which most numbers of ranks divide too."""
    most = max(1, num_segments // SEGMENTS_PER_LANE)
    if lanes <= most:
        return lanes
    return max(1 << power for power in range(lanes.bit_length()) if lanes % (1 << power) == 0 and 1 << power <= most)


def _lay_out(segment: npt.NDArray[np.int32], random: np.random.Generator) -> tuple[Ints, Ints]:
    """Permute the segments and lay them end to end: for each place which window, and where its segment begins."""
    lengths = np.bincount(segment) if len(segment) else np.zeros(0, np.int64)
    permuted = random.permutation(len(lengths))
    ends = np.cumsum(lengths[permuted])
    starts = np.repeat(ends - lengths[permuted], lengths[permuted])
    first = np.concatenate([[0], np.cumsum(lengths)])[:-1]
    line = np.repeat(first[permuted], lengths[permuted])
    line += np.arange(len(segment))
    line -= starts
    return line, starts


def _lane_ends(total: int, lanes: int) -> Ints:
    """Where each lane ends on the line; lengths differ by one at most, the first lanes are the longer ones."""
    lengths = np.full(lanes, total // lanes)
    lengths[: total % lanes] += 1
    return np.cumsum(lengths)

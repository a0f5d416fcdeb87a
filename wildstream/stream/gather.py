"""Planned windows → batches of features, straight from mapped shards.

Every window of a feature shard is a run of bytes whose place follows by arithmetic. So there is nothing to decode, no
segment and no pool: a batch is gathered from wherever its windows lie, in any order, at the speed of memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from wildstream.errors import ShardError
from wildstream.samples import Batch, DecodedSegment
from wildstream.shards.feature_info import TORCH
from wildstream.stream.segments import planned_windows
from wildstream.stream.storage import Want, read_member, read_members

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.shards.feature_info import FeatureInfo
    from wildstream.shards.index import Index
    from wildstream.stream.plan import Plan, Segment, Share
    from wildstream.stream.windows import SlidingStyle

    Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ReadFeatures:
    """Read planned segments of features from object storage: each a run of bytes."""

    index: Index
    """The features."""
    style: SlidingStyle
    """The style that they were made with."""

    def __call__(self, segments: Iterable[Segment]) -> Iterator[DecodedSegment]:
        """Read a stream of planned segments; ShardError where a shard is missing or cut off."""
        info = _info(self.index)
        skipped = self.index.skipped()
        planned: deque[Segment] = deque()

        def wants() -> Iterator[Want]:
            for segment in segments:
                shard, offset, size = self.index.place(segment.video)
                first, stop = int(segment.windows.min()), int(segment.windows.max()) + 1
                head = size - int(self.style.num_windows(self.index.num_frames[segment.video])) * info.window_bytes
                planned.append(segment)
                begin = offset + head + first * info.window_bytes
                length = (stop - first) * info.window_bytes
                yield Want(shard, begin, length, [(0, length)])

        for data in read_members(self.index.storage, wants()):
            segment = planned.popleft()
            windows = planned_windows(self.index, self.style, segment)
            bad = np.isin(segment.windows, skipped.get(segment.video, []))
            yield DecodedSegment(
                windows=windows,
                frames=data.view(TORCH[info.dtype]).view(-1, *info.shape),
                places=torch.from_numpy(segment.windows - segment.windows.min()).unsqueeze(1),
                problems={row: complaint(windows.key) for row in np.flatnonzero(bad).tolist()},
            )


@dataclass(kw_only=True)
class GatherFeatures:
    """Gather the batches of a share of a plan."""

    index: Index
    """The features."""
    style: SlidingStyle
    """The style that they were made with."""
    batch_size: int
    """Windows per batch."""
    labels: npt.NDArray[np.bool_]
    """(num_windows, K) labels of all windows."""
    only_labels: bool = False
    """Whether the features are left where they are."""

    def __call__(self, plan: Plan, share: Share) -> Iterator[Batch]:
        """The batches of a share of a plan, in order; ShardError where a shard is missing or cut off."""
        numbers, real = plan.windows(share)
        counts = np.diff(plan.first_window)
        video = np.repeat(np.arange(len(counts)), counts)
        starts = self.style.starts(np.arange(len(video)) - plan.first_window[video])
        bad = self._bad
        for first in range(0, len(numbers), self.batch_size):
            rows = slice(first, first + self.batch_size)
            windows, true = numbers[rows], real[rows]
            videos = video[windows].tolist()
            problems = {}
            if len(bad):
                broken = np.isin(windows, bad)
                problems = {
                    row: complaint(self.index.keys[videos[row]]) for row in np.flatnonzero(broken & true).tolist()
                }
                true = true & ~broken
            yield Batch(
                frames=None,
                features=None if self.only_labels else self._gather(windows - plan.first_window[videos], videos),
                labels=torch.from_numpy(self.labels[windows]),
                keys=[self.index.keys[video] for video in videos],
                starts=torch.from_numpy(starts[windows]),
                mask=torch.from_numpy(np.asarray(true)),
                positions=torch.arange(first, first + len(windows)),
                problems=problems,
            )

    @cached_property
    def _bad(self) -> Ints:
        """Running numbers of the windows that have no features."""
        counts = self.style.num_windows(self.index.num_frames)
        first = np.cumsum(counts) - counts
        skipped = self.index.skipped()
        parts = [first[video] + windows for video, windows in skipped.items()]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    @cached_property
    def _arrays(self) -> dict[int, npt.NDArray[np.uint8]]:
        """(windows, window_bytes) of the videos that were asked for so far, views of the mapped shards."""
        return {}

    def _array(self, video: int) -> npt.NDArray[np.uint8]:
        """The features of one video; views of the mapped shard."""
        shard, offset, size = self.index.place(video)
        count, each = int(self.style.num_windows(self.index.num_frames[video])), _info(self.index).window_bytes
        head = size - count * each
        if head < 0:
            raise ShardError(
                f"{self.index.keys[video]}: {size:,} bytes of features in {shard}, {count * each:,} are needed for its "
                f"{count:,} windows. Extract the features again."
            )
        member = read_member(self.index.storage, Want(shard, offset, size, [(0, size)])).numpy()
        array: npt.NDArray[np.uint8] = member[head:].reshape(count, each)
        self._arrays[video] = array
        return array

    def _gather(self, windows: Ints, videos: list[int]) -> torch.Tensor:
        """The features of windows by their numbers in their videos, (B, tokens, dim)."""
        info, arrays = _info(self.index), self._arrays
        out = np.empty((len(videos), info.window_bytes), np.uint8)
        for row, (video, window) in enumerate(zip(videos, windows.tolist(), strict=True)):
            array = arrays.get(video)
            out[row] = (self._array(video) if array is None else array)[window]
        return torch.from_numpy(out).view(TORCH[info.dtype]).view(len(videos), *info.shape)


def _info(index: Index) -> FeatureInfo:
    """How the features were made."""
    assert index.info.features is not None
    return index.info.features


def complaint(key: str) -> str:
    """What to say of windows that could not be extracted."""
    return f"{key}: did not decode when its features were extracted"

"""Planned windows → batches of features, straight from mapped shards.

Every window of a feature shard is a run of bytes whose place follows by arithmetic. So there is nothing to decode, no
segment and no pool: a batch is gathered from wherever its windows lie, in any order, at the speed of memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from wildstream.errors import ShardError
from wildstream.samples import Batch, DecodedSegment
from wildstream.shards.feature_info import TORCH
from wildstream.storage import urls
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
class MappedFeatures:
    """All windows of local feature shards: where each lies, kept from epoch to epoch."""

    index: Index
    """The features."""
    style: SlidingStyle
    """The style that they were made with."""

    def __reduce__(self) -> tuple[object, ...]:
        """Mapped memory stays in its process."""
        return partial(MappedFeatures, index=self.index, style=self.style), ()

    def gather(self, windows: Ints, videos: Ints) -> torch.Tensor:
        """Features of windows.

        Args:
            windows: (B,) numbers of the windows in their videos.
            videos: (B,) numbers of the videos in the index.

        Returns:
            (B, tokens, dim) in the precision that they were extracted with, CPU; memory of its own.

        Raises:
            ShardError: A shard is missing, or shorter than the index says.
        """
        info = _info(self.index)
        first = self._first_byte[videos] + windows * info.window_bytes
        shards = self._shard[videos].tolist()
        views = {shard: self._view(shard) for shard in set(shards)}
        runs = zip(shards, first.tolist(), (first + info.window_bytes).tolist(), strict=True)
        # Joining slices is the quickest way to copy many runs of bytes together: one loop in C for all of a batch.
        data = bytearray().join([views[shard][start:stop] for shard, start, stop in runs])
        return torch.frombuffer(data, dtype=TORCH[info.dtype]).view(len(videos), *info.shape)

    def close(self) -> None:
        """Let go of the shards; what is gathered afterwards looks anew whether they are still the same."""
        self._views.clear()

    @cached_property
    def bad(self) -> npt.NDArray[np.bool_]:
        """(num_windows,) which have no features; (0,) where all have."""
        counts = self.style.num_windows(self.index.num_frames)
        first = np.cumsum(counts) - counts
        if not (skipped := self.index.skipped()):
            return np.zeros(0, np.bool_)
        bad = np.zeros(int(counts.sum()), np.bool_)
        for video, windows in skipped.items():
            bad[first[video] + windows] = True
        return bad

    @cached_property
    def _first_byte(self) -> Ints:
        """(num_videos,) where in its shard the first window of each video begins."""
        offsets, sizes = self.index.extents
        needed = self.style.num_windows(self.index.num_frames) * _info(self.index).window_bytes
        if len(short := np.flatnonzero(sizes < needed)):
            video = int(short[0])
            raise ShardError(
                f"{self.index.keys[video]}: {sizes[video]:,} bytes of features in {self.index.place(video)[0]}, "
                f"{needed[video]:,} are needed for its windows. Extract the features again."
            )
        first: Ints = offsets + sizes - needed
        return first

    @cached_property
    def _shard(self) -> npt.NDArray[np.int32]:
        """(num_videos,) number of each video's shard."""
        numbers = {name: number for number, name in enumerate(self.index.info.shards)}
        return np.asarray([numbers[name] for name in self.index.shard_names], np.int32)

    @cached_property
    def _ends(self) -> Ints:
        """(num_shards,) bytes that each shard has at least."""
        ends = np.zeros(len(self.index.info.shards), np.int64)
        np.maximum.at(ends, self._shard, np.sum(self.index.extents, axis=0))
        return ends

    @cached_property
    def _views(self) -> dict[int, memoryview]:
        """Shards that were opened since `close`."""
        return {}

    def _view(self, shard: int) -> memoryview:
        """A shard's bytes."""
        if (view := self._views.get(shard)) is None:
            path, end = urls.join(self.index.folder, self.index.info.shards[shard]), int(self._ends[shard])
            mapped = read_member(self.index.storage, Want(path, 0, end, [(0, end)]))
            view = self._views[shard] = memoryview(mapped.numpy().data)
        return view


@dataclass(frozen=True, kw_only=True)
class GatherFeatures:
    """The batches of a share of a plan."""

    mapped: MappedFeatures
    """The features."""
    batch_size: int
    """Windows per batch."""
    labels: npt.NDArray[np.bool_]
    """(num_windows, K) labels of all windows."""
    only_labels: bool = False
    """Whether the features are left where they are."""

    def __call__(self, plan: Plan, share: Share) -> Iterator[Batch]:
        """The batches of a share of a plan, in order; ShardError where a shard is missing or cut off."""
        index, style, bad = self.mapped.index, self.mapped.style, self.mapped.bad
        keys, first_window = index.keys, plan.first_window
        self.mapped.close()
        numbers, real = plan.windows(share)
        for first in range(0, len(numbers), self.batch_size):
            rows = slice(first, first + self.batch_size)
            numbered, mask = numbers[rows], real[rows]
            videos = np.searchsorted(first_window, numbered, side="right") - 1
            windows = numbered - first_window[videos]
            problems = {}
            if len(bad):
                broken = bad[numbered]
                problems = {row: complaint(keys[videos[row]]) for row in np.flatnonzero(broken & mask).tolist()}
                mask = mask & ~broken
            yield Batch(
                frames=None,
                features=None if self.only_labels else self.mapped.gather(windows, videos),
                labels=torch.from_numpy(self.labels[numbered]),
                keys=[keys[video] for video in videos.tolist()],
                starts=torch.from_numpy(style.starts(windows)),
                mask=torch.from_numpy(mask),
                positions=torch.arange(first, first + len(windows)),
                problems=problems,
            )


def _info(index: Index) -> FeatureInfo:
    """How the features were made."""
    assert index.info.features is not None
    return index.info.features


def complaint(key: str) -> str:
    """What to say of windows that could not be extracted."""
    return f"{key}: did not decode when its features were extracted"

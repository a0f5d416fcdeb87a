"""Planned windows → batches of features, straight from mapped shards, or from what was requested of remote ones.

Every window of a feature shard is a run of bytes whose place follows by arithmetic. So there is nothing to decode, no
segment and no pool: a batch is gathered from wherever its windows lie, in any order, at the speed of memory.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, pairwise, repeat
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from wildstream.errors import ShardError
from wildstream.samples import Batch
from wildstream.shards.feature_info import TORCH
from wildstream.storage import urls
from wildstream.stream.plan import SEGMENTS_PER_LANE
from wildstream.stream.storage import Want, read_member, read_runs

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.shards.feature_info import FeatureInfo
    from wildstream.shards.index import Index
    from wildstream.stream.plan import Plan, Segment, Share
    from wildstream.stream.windows import SlidingStyle, WindowLabels

    Ints = npt.NDArray[np.int64]


BLOCK = 64
"""Batches whose addresses are worked out together: one by one, that would take longer than to copy small windows."""
SEGMENT_BYTES = 4 << 20
"""Bytes of features that are worth a request: less takes longer to ask for than to send."""


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

    def batches(self, plan: Plan, share: Share) -> Iterator[torch.Tensor]:
        """(B, tokens, dim) of one batch after the other, CPU; ShardError where a shard is missing or cut off."""
        info, first_window = _info(self.index), plan.first_window
        self._views.clear()  # looks anew whether the shards are still the same
        numbers, _ = plan.windows(share)
        for edges in in_blocks(plan.positions(share), share.batch_size):
            numbered = numbers[edges[0] : edges[-1]]
            videos = np.searchsorted(first_window, numbered, side="right") - 1
            begin = self._first_byte[videos] + (numbered - first_window[videos]) * info.window_bytes
            end = (begin + info.window_bytes).tolist()
            shards = self._shard[videos].tolist()
            views = {shard: self._view(shard) for shard in set(shards)}
            runs = [views[shard][start:stop] for shard, start, stop in zip(shards, begin.tolist(), end, strict=True)]
            for first, stop in pairwise(edges):
                yield _joined(runs[first - edges[0] : stop - edges[0]], info)

    @cached_property
    def bad(self) -> npt.NDArray[np.bool_]:
        """(num_windows,) which have no features; (0,) where all have."""
        return find_bad(self.index, self.style)

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
        """Shards that were opened in this epoch."""
        return {}

    def _view(self, shard: int) -> memoryview:
        """A shard's bytes."""
        if (view := self._views.get(shard)) is None:
            path, end = urls.join(self.index.folder, self.index.info.shards[shard]), int(self._ends[shard])
            mapped = read_member(self.index.storage, Want(path, 0, end, [(0, end)]))
            view = self._views[shard] = memoryview(mapped.numpy().data)
        return view


class FeatureSource(Protocol):
    """Where the features of a share of a plan come from."""

    @property
    def index(self) -> Index:
        """The features."""

    @property
    def style(self) -> SlidingStyle:
        """The style that they were made with."""

    @property
    def bad(self) -> npt.NDArray[np.bool_]:
        """(num_windows,) which have no features; (0,) where all have."""

    def batches(self, plan: Plan, share: Share) -> Iterator[torch.Tensor]:
        """(B, tokens, dim) of one batch after the other."""


@dataclass(frozen=True, kw_only=True)
class RequestedFeatures:
    """Windows of feature shards in object storage: segments are requested ahead, as the plan needs them."""

    index: Index
    """The features."""
    style: SlidingStyle
    """The style that they were made with."""

    @cached_property
    def bad(self) -> npt.NDArray[np.bool_]:
        """(num_windows,) which have no features; (0,) where all have."""
        return find_bad(self.index, self.style)

    def batches(self, plan: Plan, share: Share) -> Iterator[torch.Tensor]:
        """(B, tokens, dim) of one batch after the other, CPU; ShardError where a shard is missing or cut off."""
        info = _info(self.index)
        planned: deque[Segment] = deque()
        positions = plan.positions(share)
        place = np.empty(int(positions.max(initial=-1)) + 1, np.int64)
        held = np.full(len(place), -1, np.int64)
        data: dict[int, memoryview] = {}
        left: Counter[int] = Counter()
        arriving = enumerate(read_runs(self.index.storage, self._wants(plan.segments(share), planned)))
        for first, stop in chain.from_iterable(map(pairwise, in_blocks(positions, share.batch_size))):
            rows = positions[first:stop]
            while (held[rows] < 0).any():
                number, data[number] = next(arriving)
                segment = planned.popleft()
                held[segment.positions] = number
                place[segment.positions] = (segment.windows - segment.windows.min()) * info.window_bytes
                left[number] = len(segment.positions)
            holders, begin = held[rows].tolist(), place[rows]
            runs = zip(holders, begin.tolist(), (begin + info.window_bytes).tolist(), strict=True)
            yield _joined([data[holder][start:end] for holder, start, end in runs], info)
            left.subtract(holders)
            for holder in set(holders):
                if not left[holder]:
                    del data[holder]

    def _wants(self, segments: Iterable[Segment], planned: deque[Segment]) -> Iterator[Want]:
        """The bytes of segments, which are noted as they are asked for."""
        each = _info(self.index).window_bytes
        for segment in segments:
            planned.append(segment)
            shard, offset, size = self.index.place(segment.video)
            head = size - int(self.style.num_windows(self.index.num_frames[segment.video])) * each
            first, stop = int(segment.windows.min()), int(segment.windows.max()) + 1
            length = (stop - first) * each
            yield Want(shard, offset + head + first * each, length, [(0, length)])


@dataclass(frozen=True, kw_only=True)
class GatherFeatures:
    """The batches of a share of a plan."""

    source: FeatureSource
    """The features."""
    labels: WindowLabels
    """Of all windows."""
    only_labels: bool = False
    """Whether the features are left where they are."""

    def __call__(self, plan: Plan, share: Share) -> Iterator[Batch]:
        """The batches of a share of a plan, in order; ShardError where a shard is missing or cut off."""
        index, style, bad = self.source.index, self.source.style, self.source.bad
        keys, first_window = index.keys, plan.first_window
        numbers, real = plan.windows(share)
        positions = plan.positions(share)
        features = repeat(None) if self.only_labels else self.source.batches(plan, share)
        for edges in in_blocks(positions, share.batch_size):
            block = slice(edges[0], edges[-1])
            numbered, mask = numbers[block], real[block]
            videos = np.searchsorted(first_window, numbered, side="right") - 1
            broken = bad[numbered] if len(bad) else np.zeros(len(numbered), np.bool_)
            wrong = np.flatnonzero(broken & mask)
            labels, starts = (
                torch.from_numpy(self.labels.labels[numbered]),
                style.starts(numbered - first_window[videos]),
            )
            parts = (starts, mask & ~broken, positions[block], self.labels.labelled[numbered])
            columns = [torch.from_numpy(column) for column in parts]
            names = [keys[video] for video in videos.tolist()]
            for first, stop in pairwise(edges):
                rows = slice(first - edges[0], stop - edges[0])
                guilty = wrong[slice(*np.searchsorted(wrong, (rows.start, rows.stop)))].tolist() if len(wrong) else []
                yield Batch(
                    frames=None,
                    features=next(features),
                    labels=labels[rows],
                    keys=names[rows],
                    starts=columns[0][rows],
                    mask=columns[1][rows],
                    positions=columns[2][rows],
                    labelled=columns[3][rows],
                    problems={row - rows.start: complaint(names[row]) for row in guilty},
                )
        next(features, None)  # nothing is left; what reads ahead ends


def feature_source(index: Index, style: SlidingStyle) -> MappedFeatures | RequestedFeatures | None:
    """Where the features of an index come from; None where it is of videos."""
    if index.info.features is None:
        return None
    kind = RequestedFeatures if urls.is_remote(index.folder) else MappedFeatures
    return kind(index=index, style=style)


def in_blocks(positions: Ints, batch_size: int) -> Iterator[list[int]]:
    """Where the batches of a stream begin, and the last ends: block by block, each worked out at once.

    Args:
        positions: (n,) places in the rank's stream, increasing; a worker's have gaps.
        batch_size: Places of a batch.
    """
    cuts = [0, *(np.flatnonzero(np.diff(positions // batch_size)) + 1).tolist(), len(positions)]
    for first in range(0, len(cuts) - 1 if len(positions) else 0, BLOCK):
        yield cuts[first : first + BLOCK + 1]


def find_bad(index: Index, style: SlidingStyle) -> npt.NDArray[np.bool_]:
    """(num_windows,) which windows of an index have no features; (0,) where all have."""
    counts = style.num_windows(index.num_frames)
    first = np.cumsum(counts) - counts
    if not (skipped := index.skipped()):
        return np.zeros(0, np.bool_)
    bad = np.zeros(int(counts.sum()), np.bool_)
    for video, windows in skipped.items():
        bad[first[video] + windows] = True
    return bad


def segment_frames(index: Index, style: SlidingStyle, *, lanes: int, least: int) -> int:
    """Kept frames of a segment of features in object storage: as many as are worth a request.

    That is `SEGMENT_BYTES`; but no more than leaves several segments to each lane, for the sake of the shuffle.
    """
    worth = SEGMENT_BYTES // _info(index).window_bytes
    enough = int(style.num_windows(index.num_frames).sum()) // (SEGMENTS_PER_LANE * lanes)
    return max(least, style.window_size + (min(worth, enough) - 1) * style.step_size)


def _joined(runs: list[memoryview], info: FeatureInfo) -> torch.Tensor:
    """Windows from their bytes, (B, tokens, dim), CPU; memory of its own.

    Joining slices is the quickest way to copy many runs of bytes together: one loop in C for all of a batch.
    """
    return torch.frombuffer(bytearray().join(runs), dtype=TORCH[info.dtype]).view(len(runs), *info.shape)


def _info(index: Index) -> FeatureInfo:
    """How the features were made."""
    assert index.info.features is not None
    return index.info.features


def complaint(key: str) -> str:
    """What to say of windows that could not be extracted."""
    return f"{key}: did not decode when its features were extracted"

"""Plan or tar samples → encoded segments: the bytes of a video, and what windows to cut from them.

`ReadPlanned` reads exactly the members that a plan names. `ParseSamples` takes the dictionaries of any
`webdataset.WebDataset`, in whatever order they come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, NonNegativeInt, PositiveInt, ValidationError

from wildstream.errors import LabelError, VideoError
from wildstream.facts import FrameTable
from wildstream.marks import byte_runs
from wildstream.samples import DecodedSegment, EncodedSegment, SegmentWindows
from wildstream.shards.index import Index
from wildstream.shards.labels import LabelTrack
from wildstream.shards.members import read_rows
from wildstream.storage.urls import is_remote
from wildstream.stream.plan import SEGMENT_FRAMES, Order, Segment, segment_starts
from wildstream.stream.storage import Want, read_member, read_members
from wildstream.stream.temporal import PickFrames
from wildstream.stream.windows import SlidingStyle
from wildstream.video import VIDEO_EXTENSIONS, coding_of, scan

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class ReadPlanned:
    """Read the videos of planned segments from their shards."""

    index: Index
    """Where everything lies."""
    style: SlidingStyle
    """How windows slide."""
    pick: PickFrames | None = None
    """Which frames of a window make up its clip; by default every W//S-th."""

    def __call__(self, segments: Iterable[Segment]) -> Iterator[EncodedSegment]:
        """Read a stream of planned segments; ShardError where a shard is missing or too short."""
        planned: deque[_Planned] = deque()
        for data in read_members(self.index.storage, self._wants(segments, planned)):
            segment, windows, table, want = planned.popleft()
            whole = sum(stop - first for first, stop in want.runs) == want.size
            yield EncodedSegment(
                windows=windows,
                data=data,
                table=table,
                frame_size=self.index.frame_size(segment.video),
                coding=self.index.coding(segment.video),
                read_whole=None if whole else partial(read_member, self.index.storage, want),
            )

    def _wants(self, segments: Iterable[Segment], planned: deque[_Planned]) -> Iterator[Want]:
        """What segments need of their videos; what is asked for is noted in `planned`."""
        for segment in segments:
            windows = planned_windows(self.index, self.style, segment, self.pick)
            table = self.index.frame_table(segment.video)
            shard, offset, size = self.index.place(segment.video)
            runs = [(0, size)] if not is_remote(shard) else _needed_runs(table, windows, size)
            planned.append(_Planned(segment, windows, table, Want(shard, offset, size, runs)))
            yield planned[-1].want


class _Planned(NamedTuple):
    """A segment whose bytes were asked for."""

    segment: Segment
    windows: SegmentWindows
    table: FrameTable
    want: Want


def _needed_runs(table: FrameTable, windows: SegmentWindows, size: int) -> list[tuple[int, int]]:
    """The bytes of a video that windows need: all, where leaving some out saves less than half of them."""
    first, last = int(windows.frames.min()), int(windows.frames.max())
    key_frame = table.key_frames[np.searchsorted(table.key_frames, first, side="right") - 1]
    runs = byte_runs(table, int(key_frame), last, size)
    return runs if 2 * sum(stop - start for start, stop in runs) <= size else [(0, size)]


@dataclass(frozen=True, slots=True)
class LabelPlanned:
    """Give the windows of planned segments without their frames: labels and addresses, from the index alone."""

    index: Index
    """Where everything lies."""
    style: SlidingStyle
    """How windows slide."""

    def __call__(self, segments: Iterable[Segment]) -> Iterator[DecodedSegment]:
        """Look up a stream of planned segments."""
        for segment in segments:
            windows = planned_windows(self.index, self.style, segment)
            yield DecodedSegment(windows=windows, frames=None, places=torch.from_numpy(windows.frames))


@dataclass(frozen=True, slots=True, kw_only=True)
class ParseSamples:
    """Turn the samples of a plain `webdataset.WebDataset` into segments, in the order they come.

    A sample has a video (`mp4`, `avi`, `mkv`, `mov` or `webm`) and its labels: `labels.npy`, frames × classes, or
    `cls`, one class number. Neither order nor length of such a stream is known beforehand.
    """

    style: SlidingStyle
    """How windows slide."""
    num_classes: int
    """Classes that exist."""
    segment_frames: int = SEGMENT_FRAMES
    """Kept frames that a segment spans, at most."""

    def __call__(self, samples: Iterable[Mapping[str, Any]]) -> Iterator[EncodedSegment]:
        """Cut each sample into segments.

        Raises:
            VideoError: A sample has no video, or one that cannot be opened.
            LabelError: A sample has no labels, or malformed ones.
        """
        for sample in samples:
            key = str(sample["__key__"])
            extension = next((name for name in VIDEO_EXTENSIONS if name in sample), None)
            if extension is None:
                raise VideoError(f"{key}: no video among its members {sorted(sample)}")
            data = torch.frombuffer(bytearray(sample[extension]), dtype=torch.uint8)
            try:
                table = scan(data)
            except VideoError as error:
                raise VideoError(f"{key}: {error}") from error
            packed = _packed_facts(sample)
            num_frames = len(table.pts) if packed is None else min(len(table.pts), packed.num_frames)
            lost = np.asarray([] if packed is None else packed.lost, np.int64).reshape(-1, 2)
            table = replace(table, pts=table.pts[:num_frames], lost=lost)
            frame_size = None if packed is None else (packed.height, packed.width)
            coding = coding_of(data) if packed is None else (packed.codec, packed.pixel_format)
            track = self._labels(key, sample, num_frames)
            for windows in self._runs(table):
                unplanned = np.full(len(windows), -1)
                yield EncodedSegment(
                    windows=_windows(key, self.style, track, windows, unplanned, np.ones(len(windows), np.bool_)),
                    data=data,
                    table=table,
                    frame_size=frame_size,
                    coding=coding,
                )

    def _runs(self, table: FrameTable) -> list[npt.NDArray[np.int64]]:
        """Numbers of the windows of each segment of a video."""
        counts = self.style.num_windows([len(table.pts)])
        key_frames = np.stack([np.zeros_like(table.key_frames), table.key_frames], axis=1)
        order = Order(shuffle=False, segment_frames=self.segment_frames)
        starts = segment_starts(counts, self.style, order, key_frames)
        runs = np.split(np.arange(int(counts[0])), starts)
        return [windows for windows in runs if len(windows)]

    def _labels(self, key: str, sample: Mapping[str, Any], num_frames: int) -> LabelTrack:
        """The label track of one sample."""
        if "labels.npy" in sample:
            try:
                found = read_rows(sample["labels.npy"])
            except LabelError as error:
                raise LabelError(f"{key}: {error}") from error
            if found.rows.shape != (num_frames, self.num_classes):
                raise LabelError(
                    f"{key}: labels.npy has the shape {found.rows.shape}, but {num_frames} frames and num_classes="
                    f"{self.num_classes} make {(num_frames, self.num_classes)}. Give as many classes as there are."
                )
            return LabelTrack.from_rows(found.rows, found.known)
        if "cls" in sample:
            try:
                return LabelTrack.from_class(int(sample["cls"]), num_frames=num_frames, num_classes=self.num_classes)
            except (ValueError, TypeError) as error:
                raise LabelError(f"{key}: cls must be the number of a class, got {sample['cls']!r:.40}") from error
        raise LabelError(f"{key}: neither labels.npy nor cls among its members {sorted(sample)}")


class _PackedFacts(BaseModel):
    """What `pack` writes of a video into the sample's json, as far as it is needed here."""

    num_frames: PositiveInt
    height: PositiveInt
    width: PositiveInt
    codec: str
    pixel_format: str
    lost: list[tuple[NonNegativeInt, PositiveInt]] = []


def _packed_facts(sample: Mapping[str, Any]) -> _PackedFacts | None:
    """What `pack` knew of a sample's video; None where somebody else made the sample."""
    content = sample.get("json")
    try:
        if isinstance(content, (bytes, str)):
            return _PackedFacts.model_validate_json(content)
        return _PackedFacts.model_validate(content)
    except ValidationError:
        return None


def planned_windows(
    index: Index, style: SlidingStyle, segment: Segment, pick: PickFrames | None = None
) -> SegmentWindows:
    """What to cut from the video of a planned segment."""
    track = index.track(segment.video)
    windows = _windows(index.keys[segment.video], style, track, segment.windows, segment.positions, segment.real)
    return windows if pick is None else replace(windows, frames=pick(segment, track.num_frames))


def _windows(
    key: str,
    style: SlidingStyle,
    track: LabelTrack,
    numbers: npt.NDArray[np.int64],
    positions: npt.NDArray[np.int64],
    real: npt.NDArray[np.bool_],
) -> SegmentWindows:
    """What to cut from one video: windows by their numbers."""
    return SegmentWindows(
        key=key,
        starts=style.starts(numbers),
        frames=style.frames(numbers, track.num_frames),
        labels=style.labels(track, numbers),
        labelled=style.labelled(track, numbers),
        positions=positions,
        real=real,
    )

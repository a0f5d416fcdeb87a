"""A plan → what following it takes: bytes that the pool holds, and frames that are decoded for those that are needed.

Both follow from the plan, the index and the frames that a temporal sampler picks; no video is opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wildstream.stream.plan import Segment
from wildstream.stream.temporal import PickFrames

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.shards.index import Index


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What one rank's stream takes."""

    pool_bytes: int
    """Decoded frames in open segments, at most, and those of segments that are decoded ahead. What is kept for use
    again (`buffers.KEPT_BYTES`, at most) comes on top."""
    pool_segments: int
    """Segments that are open at a time, at most."""
    segment_bytes: int
    """Decoded frames of the largest segment."""
    num_segments: int
    """Segments of the stream."""
    needed_frames: int
    """Distinct frames that the windows of the stream use."""
    converted_frames: int
    """Frames that become pixels: a frame that two segments need counts twice."""


NOTHING = Footprint(pool_bytes=0, pool_segments=0, segment_bytes=0, num_segments=0, needed_frames=0, converted_frames=0)
"""Of a stream that opens no segments: mapped features."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingCost:
    """Frames that a stream decodes, and why."""

    needed_frames: int
    """Distinct frames that the windows of the stream use."""
    decoded_frames: int
    """Frames that pass through the decoder, at most: from the key frame before each segment's first frame to its last.
    Those of them that nobody wants and no other frame needs are left out when it comes to it."""


def measure(
    segments: Iterable[Segment],
    index: Index,
    pick: PickFrames,
    *,
    frame_bytes: npt.NDArray[np.int64],
    batch_size: int,
    ahead: int,
) -> Footprint:
    """What following segments takes.

    Args:
        segments: Of one rank's stream, in order.
        index: The videos.
        pick: Which frames make up the clips.
        frame_bytes: (num_videos,) bytes of one frame of each video as it is kept.
        batch_size: Clips of a batch; a segment is held until the batch of its last clip is gathered.
        ahead: Segments that are decoded before they are wanted.
    """
    used, opens, closes, sizes = _Frames(index, pick), [], [], []
    converted = 0
    for segment in segments:
        frames = used.add(segment)
        converted += len(frames)
        opens.append(int(segment.positions.min()))
        closes.append(int(segment.positions.max()) // batch_size * batch_size + batch_size - 1)
        sizes.append(len(frames) * int(frame_bytes[segment.video]))
    count, size = _highest(opens, closes, [1] * len(opens)), _highest(opens, closes, sizes)
    return Footprint(
        pool_bytes=size + ahead * max(sizes, default=0),
        pool_segments=count,
        segment_bytes=max(sizes, default=0),
        num_segments=len(opens),
        needed_frames=used.count(),
        converted_frames=converted,
    )


def add_up(footprints: Sequence[Footprint]) -> Footprint:
    """What several streams take that run side by side, such as those of worker processes.

    A frame that two of them need counts in the needed frames of both.
    """
    return Footprint(
        pool_bytes=sum(footprint.pool_bytes for footprint in footprints),
        pool_segments=sum(footprint.pool_segments for footprint in footprints),
        segment_bytes=max(footprint.segment_bytes for footprint in footprints),
        num_segments=sum(footprint.num_segments for footprint in footprints),
        needed_frames=sum(footprint.needed_frames for footprint in footprints),
        converted_frames=sum(footprint.converted_frames for footprint in footprints),
    )


def decoding_cost(segments: Iterable[Segment], index: Index, pick: PickFrames) -> DecodingCost:
    """How many frames a stream decodes for how many it needs; reads the key frames of its videos from the index."""
    used, decoded = _Frames(index, pick), 0
    for segment in segments:
        frames = used.add(segment)
        key_frames = index.frame_table(segment.video).key_frames
        decoded += int(frames[-1] - key_frames[np.searchsorted(key_frames, frames[0], side="right") - 1]) + 1
    return DecodingCost(needed_frames=used.count(), decoded_frames=decoded)


class _Frames:
    """The distinct frames of each video that segments use."""

    def __init__(self, index: Index, pick: PickFrames) -> None:
        self.index = index
        self.pick = pick
        self.used: dict[int, npt.NDArray[np.bool_]] = {}

    def add(self, segment: Segment) -> npt.NDArray[np.int64]:
        """The distinct frames of one segment, increasing; they count as used."""
        num_frames = int(self.index.num_frames[segment.video])
        frames = np.unique(self.pick(segment, num_frames))
        self.used.setdefault(segment.video, np.zeros(num_frames, np.bool_))[frames] = True
        return frames

    def count(self) -> int:
        """Distinct frames of all segments so far."""
        return sum(int(frames.sum()) for frames in self.used.values())


def _highest(opens: list[int], closes: list[int], amounts: list[int]) -> int:
    """The highest sum of amounts that are there at the same time, each from its opening to its closing, inclusive."""
    if not opens:
        return 0
    times = np.concatenate([opens, np.asarray(closes) + 1])
    changes = np.concatenate([amounts, -np.asarray(amounts)])
    order = np.lexsort((changes, times))  # at the same time, what closes leaves before what opens comes
    return int(np.cumsum(changes[order]).max())

"""Where in a file the frames lie: what of a long video must be there to decode a few of its frames.

    opening      runs of bytes that whoever opens the file reads: its header and tables
    marks        every so many packets: all frames below `frame` lie before `byte`

A segment then needs the opening, and the bytes between the last mark before its key frame and a mark behind its last
frame. The rest of the file may be zeros: MP4 and MOV say in their tables where each packet lies, and nobody looks
elsewhere. Other containers are read through on the way to a packet, and have no marks.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from wildstream.facts import FrameTable, Ints

if TYPE_CHECKING:
    from torch import Tensor

FEWEST_BYTES = 1 << 20
"""A smaller file has no marks: the request costs more than its bytes."""
PACKETS_PER_MARK = 16
MARKS_BEHIND = 3
"""Marks behind the last frame that is needed: decoders are given some more packets before they hand over a frame."""
CONTAINER = "mov,mp4,m4a,3gp,3g2,mj2"
"""FFmpeg's name of the containers that have marks."""


def find_marks(data: Tensor, table: FrameTable) -> tuple[Ints, Ints]:
    """`marks` and `opening` of a `FrameTable`; both empty where the whole file has to be read.

    Args:
        data: (num_bytes,) uint8, CPU: the file.
        table: The video's frames, none of them lost.
    """
    import av

    nothing = np.zeros((0, 2), np.int64), np.zeros((0, 2), np.int64)
    if len(data) < FEWEST_BYTES or bool((np.diff(table.pts) <= 0).any()):
        return nothing
    file = _Traced(data.numpy().tobytes())
    try:
        with av.open(file, "r") as container:
            if container.format.name != CONTAINER:
                return nothing
            opening = _join(file.runs)
            stream = container.streams.best("video")
            found = [(packet.pts, packet.pos) for packet in container.demux(stream) if packet.size]
    except av.FFmpegError:
        return nothing
    pts = np.asarray([-1 if shown_at is None else shown_at for shown_at, _ in found], np.int64)
    places = np.asarray([-1 if place is None else place for _, place in found], np.int64)
    if (
        not len(pts)
        or not np.array_equal(np.sort(pts), table.pts)
        or bool((np.diff(places) <= 0).any())
        or places[0] < 0
    ):
        return nothing
    frames = np.searchsorted(table.pts, pts)
    lowest = np.minimum.accumulate(frames[::-1])[::-1]  # the least number among a packet and all that follow
    marked = slice(0, None, PACKETS_PER_MARK)
    return np.stack([lowest[marked], places[marked]], axis=1).astype(np.int64), opening


def byte_runs(table: FrameTable, first: int, last: int, size: int) -> list[tuple[int, int]]:
    """The runs of bytes of a file that decoding its frames first … last takes: increasing, apart from each other.

    Args:
        table: The video's frames.
        first: The key frame that decoding starts from.
        last: The last frame that is needed.
        size: Bytes of the file.
    """
    if not len(table.marks):
        return [(0, size)]
    frames, places = table.marks.T
    begin = max(0, int(np.searchsorted(frames, first, side="right")) - 2)
    end = int(np.searchsorted(frames, last, side="right")) + MARKS_BEHIND
    stop = int(places[end]) if end < len(places) else size
    runs = [*map(tuple, table.opening.tolist()), (int(places[begin]), stop)]
    return [(start, min(stop, size)) for start, stop in _join(runs).tolist() if start < size]


def _join(runs: list[tuple[int, int]]) -> Ints:
    """Runs in order, those that touch made one."""
    joined: list[list[int]] = []
    for start, stop in sorted(runs):
        if joined and start <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], stop)
        elif start < stop:
            joined.append([start, stop])
    return np.asarray(joined, np.int64).reshape(-1, 2)


class _Traced(io.BytesIO):
    """A file that notes what is read of it."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.runs: list[tuple[int, int]] = []

    def read(self, size: int | None = -1, /) -> bytes:
        start = self.tell()
        found = super().read(size)
        self.runs.append((start, start + len(found)))
        return found

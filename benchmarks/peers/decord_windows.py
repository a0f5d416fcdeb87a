"""WebDataset and decord, window by window; decord resizes while it decodes.

Tried: one decoder thread, two, and FFmpeg's choice (per CPU-second one is best, kept, as both cores are busy anyway);
get_batch of a window (kept), and seek_accurate with next() for each frame (equal).
"""

from __future__ import annotations

import io
from typing import Any

from torch import Tensor

from benchmarks.footage import Case
from benchmarks.peers.base import Reader, as_frames


class DecordReader(Reader):
    """VideoReader.get_batch."""

    def open(self, data: bytes) -> Any:  # noqa: ANN401 - a VideoReader, which may not be installed
        """A reader that gives frames of the wanted size."""
        from decord import VideoReader

        return VideoReader(io.BytesIO(data), width=224, height=224, num_threads=1)

    def read(self, video: Any, start: int, case: Case) -> Tensor:  # noqa: ANN401
        """One batch of frames."""
        return as_frames(video.get_batch(list(range(start, start + case.window))).asnumpy())

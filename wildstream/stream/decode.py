"""Bytes → frames: each frame that the windows of a segment need is decoded once, in one forward pass.

Segments are decoded in threads (the decoder lets go of the interpreter's lock), a few ahead of the one that is wanted,
and come out in order. Frames become what they will be (tiles, resized) one at a time, while they are in the processor's
cache; full-size frames are never held.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wildstream.errors import ConfigError, VideoError
from wildstream.samples import DecodedSegment, EncodedSegment
from wildstream.video import decode


@dataclass(frozen=True, kw_only=True)
class Decode:
    """Decode segments in threads, in order."""

    per_frame: tuple[Callable[[Tensor], Tensor], ...] = ()
    """Applied in turn to each frame, (1, C, H, W) uint8 at first: tiling, resizing."""
    threads: int = 1
    """Segments that are decoded at the same time, each by one FFmpeg thread."""
    device: str = "cpu"
    """Where to decode, and where the frames will be."""

    def __post_init__(self) -> None:
        """Refuse values that are out of range (ConfigError)."""
        if self.threads < 1:
            raise ConfigError(f"threads={self.threads} must be at least 1.")

    def __call__(self, segments: Iterable[EncodedSegment]) -> Iterator[DecodedSegment]:
        """Decode a stream of segments.

        One that does not decode becomes black frames and says so, if the size of its frames is known; else it is a
        VideoError that names the video.
        """
        source = iter(segments)
        pending: deque[Future[DecodedSegment]] = deque()
        with ThreadPoolExecutor(self.threads, "decode") as executor:
            try:
                for segment in source:
                    pending.append(executor.submit(self.decode_segment, segment))
                    if len(pending) > self.threads:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:  # whoever stops early does not wait for what nobody wants
                    future.cancel()

    def decode_segment(self, segment: EncodedSegment) -> DecodedSegment:
        """Decode the frames that one segment's windows need."""
        wanted, places = np.unique(segment.windows.frames, return_inverse=True)
        stream = decode(
            segment.data,
            wanted,
            pts=segment.pts,
            key_frames=segment.key_frames,
            time_base=segment.time_base,
            device=torch.device(self.device),
        )
        try:
            frames = self._convert(stream, len(wanted))
        except VideoError as error:
            return self._give_up(segment, VideoError(f"{segment.windows.key}: {error}"))
        return DecodedSegment(
            windows=segment.windows,
            frames=frames,
            places=torch.from_numpy(places.reshape(segment.windows.frames.shape)),
        )

    def _give_up(self, segment: EncodedSegment, error: VideoError) -> DecodedSegment:
        """One black frame in place of a segment that does not decode; where its size is not known, the error."""
        if segment.frame_size is None:
            raise error
        black = torch.zeros((3, *segment.frame_size), dtype=torch.uint8, device=self.device)
        return DecodedSegment(
            windows=segment.windows,
            frames=self._convert([black], 1),
            places=torch.zeros(segment.windows.frames.shape, dtype=torch.int64),
            problem=str(error),
        )

    def _convert(self, frames: Iterable[Tensor], count: int) -> Tensor:
        """Apply what is done to each frame, one by one, and gather the results: (count, [P,] C, H, W) uint8.

        A frame arrives with its colours side by side in memory, which resizing is fastest on; stacking full-size frames
        first would undo that, and take them out of the processor's cache.
        """
        gathered: Tensor | None = None
        for place, frame in enumerate(frames):
            result = frame.unsqueeze(0)
            for function in self.per_frame:
                result = function(result)
            if gathered is None:
                gathered = torch.empty((count, *result.shape[1:]), dtype=result.dtype, device=result.device)
            gathered[place] = result[0]
        if gathered is None:
            raise ConfigError("a segment needs at least one window")
        return gathered

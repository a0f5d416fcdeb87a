"""Bytes → frames: each frame that the windows of a segment need is decoded once, in one forward pass.

Segments are decoded in threads (the decoder lets go of the interpreter's lock), a few ahead of the one that is wanted,
and come out in order. Frames become what they will be (tiles, resized) one at a time, while they are in the processor's
cache; full-size frames are never held. A frame that does not decode costs the windows that need it and no others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wildstream.errors import ConfigError, VideoError
from wildstream.samples import DecodedSegment, EncodedSegment
from wildstream.scaling import ScaleFrames, ScaleRun
from wildstream.stream.buffers import frame_memory
from wildstream.video import FullSize, decode

if TYPE_CHECKING:
    import numpy.typing as npt
    from torchcodec.decoders import RawFrame

AHEAD = 2
"""Segments for each thread that are decoded before they are wanted, so that no thread waits while a batch is made."""


@dataclass(frozen=True, kw_only=True)
class Decode:
    """Decode segments in threads, in order."""

    size: tuple[int, int] | None = None
    """Height and width in pixels to which libswscale scales frames before they become RGB; on the CPU only."""
    per_frame: tuple[Callable[[Tensor], Tensor], ...] = ()
    """Applied in turn to each frame of full size, (1, C, H, W) uint8 at first: tiling, resizing. Not beside `size`."""
    threads: int = 1
    """Segments that are decoded at the same time, each by one FFmpeg thread."""
    device: str = "cpu"
    """Where to decode, and where the frames will be."""
    scale: ScaleFrames | None = field(init=False, repr=False, compare=False)
    """What scales to `size`, where there is one."""

    def __post_init__(self) -> None:
        """Refuse values that are out of range (ConfigError)."""
        if self.threads < 1:
            raise ConfigError(f"threads={self.threads} must be at least 1.")
        if self.size is not None and (self.per_frame or self.device != "cpu"):
            raise ConfigError(f"size={self.size} is for the CPU, without per_frame. Add Resize to per_frame instead.")
        object.__setattr__(self, "scale", None if self.size is None else ScaleFrames(*self.size))

    def __call__(self, segments: Iterable[EncodedSegment]) -> Iterator[DecodedSegment]:
        """Decode a stream of segments.

        Frames that do not decode are black, and the windows that need them say so. Where nothing of a segment decodes
        and the size of its frames is not known, that is a VideoError that names the video.
        """
        source = iter(segments)
        pending: deque[Future[DecodedSegment]] = deque()
        with ThreadPoolExecutor(self.threads, "decode") as executor:
            try:
                for segment in source:
                    pending.append(executor.submit(self.decode_segment, segment))
                    if len(pending) > AHEAD * self.threads:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:  # whoever stops early does not wait for what nobody wants
                    future.cancel()

    def decode_segment(self, segment: EncodedSegment) -> DecodedSegment:
        """Decode the frames that one segment's windows need."""
        wanted, places = np.unique(segment.windows.frames, return_inverse=True)
        places = places.reshape(segment.windows.frames.shape)
        gathered = _Gathered(self, wanted, set(segment.table.key_frames.tolist()))
        decoded = decode(
            segment.data, wanted, segment.table, device=torch.device(self.device), convert=gathered.put_frame
        )
        errors = {number: result for number, result in decoded if isinstance(result, VideoError)}
        frames = gathered.frames
        if frames is None:  # one black frame stands for all
            frames, places = self._black(segment, errors), np.zeros_like(places)
        elif errors:
            frames[[gathered.places[number] for number in errors]] = 0
        return DecodedSegment(
            windows=segment.windows,
            frames=frames,
            places=torch.from_numpy(places),
            problems=_problems(segment, errors),
        )

    def _black(self, segment: EncodedSegment, errors: dict[int, VideoError]) -> Tensor:
        """One black frame, (1, [P,] C, H, W), for a segment of which nothing decodes; the error if no size is known."""
        if segment.frame_size is None:
            raise VideoError(f"{segment.windows.key}: {next(iter(errors.values()))}")
        black = torch.zeros((1, 3, *(self.size or segment.frame_size)), dtype=torch.uint8, device=self.device)
        return self.apply_per_frame(black)

    def apply_per_frame(self, frame: Tensor) -> Tensor:
        """What is done to each frame of full size: (1, C, H, W) to (1, [P,] C, H, W) uint8."""
        for function in self.per_frame:
            frame = function(frame)
        return frame


class _Gathered:
    """The frames of a segment, put one by one where they belong.

    A full-size frame arrives with its colours side by side in memory, which resizing is fastest on; stacking such
    frames first would undo that, and take them out of the processor's cache.
    """

    def __init__(self, stage: Decode, wanted: npt.NDArray[np.int64], key_frames: set[int]) -> None:
        self.frames: Tensor | None = None
        """(F, [P,] C, H, W) uint8; None before the first frame comes."""
        self.places = {number: place for place, number in enumerate(wanted.tolist())}
        """Where each frame belongs, by its number."""
        self._stage = stage
        self._key_frames = key_frames
        self._full_size = FullSize(torch.device(stage.device))
        self._scale: ScaleRun | None = None

    def put_frame(self, number: int, frame: RawFrame) -> Tensor:
        """Convert a frame and put it in its place among the frames."""
        stage = self._stage
        if stage.scale is None:
            result = stage.apply_per_frame(self._full_size(number, frame).unsqueeze(0))[0]
            frames = self._have_frames(result.shape)
            frames[self.places[number]] = result
            return frames
        frames = self._have_frames((3, stage.scale.height, stage.scale.width))
        if self._scale is None:
            self._scale = ScaleRun(stage.scale, frames)
        self._scale(frame, self.places[number], may_differ=number in self._key_frames)
        return frames

    def _have_frames(self, shape: Sequence[int]) -> Tensor:
        """The memory of all frames of this shape."""
        if self.frames is None:
            self.frames = frame_memory.take((len(self.places), *shape), self._stage.device)
        return self.frames


def _problems(segment: EncodedSegment, errors: dict[int, VideoError]) -> dict[int, str]:
    """Windows of a segment that need frames which do not decode: the first such frame's error, and the video's name."""
    lost = np.isin(segment.windows.frames, list(errors))
    return {
        window: f"{segment.windows.key}: {errors[int(frames[hit.argmax()])]}"
        for window, (frames, hit) in enumerate(zip(segment.windows.frames, lost, strict=True))
        if hit.any()
    }

"""Bytes → frames: each frame that the windows of a segment need is decoded once, in one forward pass.

Segments are decoded in threads (the decoder lets go of the interpreter's lock), a few ahead of the one that is wanted,
and come out in order. Frames become what they will be (tiles, resized) one at a time, while they are in the processor's
cache; full-size frames are never held. A frame that does not decode costs the windows that need it and no others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wildstream.errors import ConfigError, VideoError
from wildstream.samples import DecodedSegment, EncodedSegment
from wildstream.video import decode

if TYPE_CHECKING:
    import numpy.typing as npt


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

        Frames that do not decode are black, and the windows that need them say so. Where nothing of a segment decodes
        and the size of its frames is not known, that is a VideoError that names the video.
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
        errors: dict[int, VideoError] = {}
        stream = decode(
            segment.data,
            wanted,
            segment.table,
            device=torch.device(self.device),
        )
        frames = self._convert(_whole(stream, errors), wanted)
        places = places.reshape(segment.windows.frames.shape)
        if frames is None:  # one black frame stands for all
            frames, places = self._black(segment, errors), np.zeros_like(places)
        elif errors:
            frames[torch.from_numpy(np.searchsorted(wanted, list(errors))).to(frames.device)] = 0
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
        black = self._convert([(0, torch.zeros((3, *segment.frame_size), dtype=torch.uint8, device=self.device))], [0])
        assert black is not None
        return black

    def _convert(
        self, frames: Iterable[tuple[int, Tensor]], wanted: Sequence[int] | npt.NDArray[np.int64]
    ) -> Tensor | None:
        """Apply what is done to each frame, one by one, and gather them in order of `wanted`: (F, [P,] C, H, W) uint8.

        A frame arrives with its colours side by side in memory, which resizing is fastest on; stacking full-size frames
        first would undo that, and take them out of the processor's cache. None where not one frame arrives.
        """
        gathered: Tensor | None = None
        for number, frame in frames:
            result = frame.unsqueeze(0)
            for function in self.per_frame:
                result = function(result)
            if gathered is None:
                gathered = torch.empty((len(wanted), *result.shape[1:]), dtype=result.dtype, device=result.device)
            gathered[int(np.searchsorted(wanted, number))] = result[0]
        return gathered


def _whole(
    stream: Iterable[tuple[int, Tensor | VideoError]], errors: dict[int, VideoError]
) -> Iterator[tuple[int, Tensor]]:
    """The frames that come, by number; those that do not, or are taken back, are noted in `errors`."""
    for number, frame in stream:
        if isinstance(frame, VideoError):
            errors[number] = frame
        else:
            yield number, frame


def _problems(segment: EncodedSegment, errors: dict[int, VideoError]) -> dict[int, str]:
    """Windows of a segment that need frames which do not decode: the first such frame's error, and the video's name."""
    lost = np.isin(segment.windows.frames, list(errors))
    return {
        window: f"{segment.windows.key}: {errors[int(frames[hit.argmax()])]}"
        for window, (frames, hit) in enumerate(zip(segment.windows.frames, lost, strict=True))
        if hit.any()
    }

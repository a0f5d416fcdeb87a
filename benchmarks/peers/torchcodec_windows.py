"""WebDataset and torchcodec, window by window: what most would write today.

Variants: seek_mode exact and approximate; torchvision's antialiased resize, and the decoder's own
(torchcodec.transforms.Resize). Tried besides: one (kept) and two FFmpeg threads in each of two workers (equal CPU).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from benchmarks.footage import Case
from benchmarks.peers.base import Reader
from wildstream.ffmpeg import ensure_ffmpeg


@dataclass
class TorchcodecReader(Reader):
    """VideoDecoder.get_frames_in_range, then resize."""

    seek_mode: str = "approximate"
    resize_in_decoder: bool = False
    size: int = 224

    def open(self, data: bytes) -> Any:  # noqa: ANN401 - a VideoDecoder, which is imported late
        """A decoder of one FFmpeg thread."""
        ensure_ffmpeg()
        from torchcodec.decoders import VideoDecoder
        from torchcodec.transforms import Resize

        transforms = [Resize((self.size, self.size))] if self.resize_in_decoder else None
        return VideoDecoder(data, seek_mode=self.seek_mode, num_ffmpeg_threads=1, transforms=transforms)  # type: ignore[arg-type]

    def read(self, video: Any, start: int, case: Case) -> Tensor:  # noqa: ANN401
        """One range of frames."""
        return resized(video.get_frames_in_range(start, start + case.window).data, case.size)


def resized(frames: Tensor, size: int) -> Tensor:
    """Bilinear, antialiased."""
    from torchvision.transforms.v2.functional import resize

    return resize(frames, [size, size], antialias=True)

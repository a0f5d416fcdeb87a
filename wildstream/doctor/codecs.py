"""A codec's name → whether FFmpeg encodes and decodes it on this machine: found by trying, on CPU and GPU."""

from __future__ import annotations

import functools
import os

import torch
from torch import Tensor

from wildstream.ffmpeg import ensure_ffmpeg

ENCODERS = {
    "h264": ("libx264", "libopenh264"),
    "hevc": ("libx265",),
    "av1": ("libsvtav1", "libaom-av1"),
    "vp9": ("libvpx-vp9",),
}
"""The codecs that videos come in, and for each the encoders that a trial video can be made with, best first."""

_FRAMES, _SIZE = 2, 160  # NVDEC takes nothing smaller than 144 pixels of some codecs


@functools.cache
def trial_video(codec: str) -> tuple[str, Tensor] | None:
    """The first encoder that works and the video it made, (num_bytes,) uint8; None if there is no encoder."""
    ensure_ffmpeg()
    from torchcodec.encoders import VideoEncoder  # finds the libraries that were just made available

    os.environ.setdefault("SVT_LOG", "1")  # else SVT-AV1 writes a page about itself to stderr
    ramp = torch.arange(_SIZE, dtype=torch.uint8)
    frames_TCHW = (ramp[:, None] + ramp).expand(_FRAMES, 3, _SIZE, _SIZE).contiguous()
    encoder = VideoEncoder(frames_TCHW, frame_rate=25)
    for name in ENCODERS[codec]:
        try:
            return name, encoder.to_tensor("matroska", codec=name, pixel_format="yuv420p")
        except RuntimeError:  # torchcodec's answer to an encoder that FFmpeg lacks or that does not open
            continue
    return None


def decodes(video: Tensor) -> bool:
    """Whether torchcodec decodes a trial video on the CPU."""
    ensure_ffmpeg()
    from torchcodec.decoders import VideoDecoder

    try:
        return len(VideoDecoder(video)[:].data) == _FRAMES
    except (RuntimeError, ValueError):  # FFmpeg lacks the decoder
        return False


def decodes_on_gpu(video: Tensor) -> tuple[bool, str]:
    """Whether NVDEC decodes a trial video, and what torchcodec says about it; it falls back to the CPU in silence."""
    ensure_ffmpeg()
    from torchcodec.decoders import VideoDecoder

    try:
        decoder = VideoDecoder(video, device="cuda")
        on_gpu = decoder.get_frame_at(0).data.device.type == "cuda" and not decoder.cpu_fallback
    except (RuntimeError, ValueError) as error:
        return False, (str(error).splitlines() or ["no reason given"])[0]
    return on_gpu, str(decoder.cpu_fallback)

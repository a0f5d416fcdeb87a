"""Whether NVDEC, the decoder of NVIDIA's GPUs, takes a video: torchcodec falls back to the CPU in silence where not."""

from __future__ import annotations

import functools
import logging
import re
import threading

import torch
from torch import Tensor

from wildstream.ffmpeg import ensure_ffmpeg
from wildstream.video import last_clause

NO_NVDEC = (
    "libnvcuvid.so.1 is not found, so NVDEC cannot be used: all videos are decoded on the CPU and uploaded. In a "
    "container, set NVIDIA_DRIVER_CAPABILITIES=all; elsewhere install the part of the NVIDIA driver that decodes, such "
    "as Debian's libnvcuvid1 or Ubuntu's libnvidia-decode."
)

_taken: dict[tuple[object, ...], bool] = {}  # by GPU and kind of video: whether NVDEC decodes it
_asking = threading.Lock()
warn_once = functools.cache(logging.getLogger(__name__).warning)  # what was said once is remembered


def nvdec_takes(data: Tensor, device: torch.device, kind: tuple[str, str, int, int] | None) -> bool:
    """Whether NVDEC decodes a video; where it does not, torchcodec would decode it on the CPU in silence.

    torchcodec is asked once for each kind of video in this process. That NVDEC cannot be used at all is logged, once.

    Args:
        data: (num_bytes,) uint8, CPU: the file.
        device: The GPU, with its number.
        kind: Codec, pixel format, height and width in pixels; None where they are not known: then torchcodec is asked.

    Raises:
        torch.OutOfMemoryError: Of the GPU.
    """
    ensure_ffmpeg()
    from torchcodec.decoders import VideoDecoder

    # Of more than 8 bits the building blocks want 16 from NVDEC; a VideoDecoder does so where it is to give floats.
    deep = kind is not None and re.search(r"(9|1[0246])[lb]e$", kind[1])
    with _asking:
        if kind is not None and (known := _taken.get((device, kind))) is not None:
            return known
        try:
            decoder = VideoDecoder(data, device=str(device), output_dtype=torch.float32 if deep else torch.uint8)
            if not decoder.cpu_fallback.status_known:
                decoder.get_frame_at(0)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, AssertionError) as error:  # perhaps of this file, so it is not remembered
            warn_once(f"a video goes to the CPU, because torchcodec does not open it on {device}: {last_clause(error)}")
            return False
        status = decoder.cpu_fallback
        if "NVcuvid unavailable" in str(status):
            warn_once(NO_NVDEC)
        taken = status.status_known and not status
        if kind is not None:
            _taken[device, kind] = taken
        return taken

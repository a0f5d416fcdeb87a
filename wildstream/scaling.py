"""A decoded frame → RGB at the size that is wanted, without an RGB frame of full size in between.

Converting a frame to RGB and then making it smaller spends most of its time on pixels that are thrown away. So the
frame is made smaller as the decoder gave it, planes of luma and chroma, and only what is left becomes RGB:

    decoder's planes, full size ──smooth──▶ 4:2:0 or 4:2:2, target size ──matrix──▶ planes of RGB, target size

Both passes are calls of the libswscale that torchcodec's FFmpeg brings into this process; other threads run meanwhile.
How near the result is to torchvision's antialiased bilinear resize of the full-size RGB frame, and how much quicker, is
measured by benchmarks/decoding.py.
"""

from __future__ import annotations

import ctypes
import functools
import re
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from wildstream.errors import VideoError
from wildstream.ffmpeg import library

if TYPE_CHECKING:
    from torchcodec.decoders import RawFrame

SCALABLE = re.compile(r"yuvj?4(?:20|22|44)p(?:10le|12le)?")
"""FFmpeg's names of the pixel formats that are made smaller as they are: luma first, 8 to 12 bits."""
STRONG_REDUCTION = 8
"""Source pixels per pixel of the result from which on averaging areas differs visibly from antialiased bilinear resize,
and what libswscale has of the latter is taken instead, and twice the chroma."""
REGISTER = 16
"""Pixels that libswscale's vector code converts at a time."""
KINDS_PER_THREAD = 8
"""Kinds of frames whose scalers a thread keeps."""

# Flags of libswscale/swscale.h, the same since FFmpeg 4.
_BILINEAR, _POINT, _AREA = 0x02, 0x10, 0x20
_Pointers, _Strides = ctypes.c_void_p * 4, ctypes.c_int * 4


@dataclass(frozen=True, slots=True)
class FrameKind:
    """What decides how a frame is scaled; frames of one video rarely differ in it."""

    width: int
    """Pixels, before rotation."""
    height: int
    """Pixels, before rotation."""
    pixel_format: str
    """FFmpeg's name, such as "yuv420p"."""
    color_space: str
    """FFmpeg's name of the matrix, such as "bt709"; "unspecified" or "unknown" means BT.601, as torchcodec has it."""
    full_range: bool
    """Whether luma spans 0 to 255, not 16 to 235."""


class Scaler:
    """Scales frames of one kind to one size; not to be used by two threads at a time."""

    def __init__(self, kind: FrameKind, height: int, width: int) -> None:
        """Prepare both passes.

        Raises:
            VideoError: libswscale does not take the pixel format, or the sizes.
        """
        strong = kind.height * kind.width >= STRONG_REDUCTION * height * width
        between, smoothing = ("yuv422p", _BILINEAR) if strong else ("yuv420p", _AREA)
        # The quick way to RGB wants an even height, and leaves out columns at the right that do not fill a register.
        room = (height + height % 2, width + -width % REGISTER)
        chroma = (room[0] if strong else room[0] // 2, room[1] // 2)
        self._small = [torch.zeros(shape, dtype=torch.uint8) for shape in (room, chroma, chroma)]
        # The range of luma is for the second pass to know: a "j" in the format would have the first one change it.
        source_format = kind.pixel_format.replace("yuvj", "yuv")
        self._shrink = _Pass(source_format, (kind.height, kind.width), between, (height, width), smoothing)
        self._colour = _Pass(between, room, "gbrp", room, _POINT)
        self._colour.set_matrix(kind.color_space, full_range=kind.full_range)
        self._rgb = None if room == (height, width) else torch.empty((3, *room), dtype=torch.uint8)

    def __call__(self, planes: Sequence[Tensor], out: Tensor) -> None:
        """Planes of the frame as the decoder gave them → `out`, (3, height, width) uint8 RGB, contiguous."""
        self._shrink(planes, self._small)
        red, green, blue = out if self._rgb is None else self._rgb
        self._colour(self._small, (green, blue, red))
        if self._rgb is not None:
            out.copy_(self._rgb[:, : out.shape[1], : out.shape[2]])


class ScaleFrames:
    """Decoded frames → RGB of one size, on the CPU; with a scaler for each thread and kind of frame.

    Frames that have that size already are converted as they are. Formats that are no planes of YUV (palettes, RGB,
    grey) are converted first and resized then, by torchvision.
    """

    def __init__(self, height: int, width: int) -> None:
        """Scale to this size in pixels, upright; the aspect ratio is not kept."""
        self.height = height
        self.width = width
        self._of_thread = threading.local()

    def __call__(self, frame: RawFrame, out: Tensor) -> None:
        """Write a frame, upright, into `out`: (3, height, width) uint8 RGB, CPU, contiguous.

        Raises:
            RuntimeError: FFmpeg cannot convert it.
        """
        quarter_turns = round((frame.rotation or 0) / 90) % 4
        size = (self.height, self.width) if quarter_turns % 2 == 0 else (self.width, self.height)
        if size == (frame.height, frame.width) or SCALABLE.fullmatch(frame.pixel_format) is None:
            out.copy_(self._resized(frame))
            return
        full_range = frame.color_range == "pc" or frame.pixel_format.startswith("yuvj")
        kind = FrameKind(frame.width, frame.height, frame.pixel_format, frame.color_space, full_range)
        if quarter_turns == 0:
            self._scaler(kind, *size)(frame.planes, out)
            return
        lying = torch.empty((3, *size), dtype=torch.uint8)
        self._scaler(kind, *size)(frame.planes, lying)
        out.copy_(torch.rot90(lying, quarter_turns, (1, 2)))

    def _scaler(self, kind: FrameKind, height: int, width: int) -> Scaler:
        """This thread's scaler for a kind of frame and a size."""
        scalers: dict[tuple[FrameKind, int, int], Scaler] = vars(self._of_thread).setdefault("scalers", {})
        if (known := scalers.get((kind, height, width))) is not None:
            return known
        if len(scalers) >= KINDS_PER_THREAD:
            scalers.pop(next(iter(scalers)))
        return scalers.setdefault((kind, height, width), Scaler(kind, height, width))

    def _resized(self, frame: RawFrame) -> Tensor:
        """(3, height, width) uint8 RGB by way of the full-size frame."""
        from torchcodec.decoders import ColorConverter

        rgb: Tensor = resize(
            ColorConverter(device="cpu").convert(frame).data, [self.height, self.width], antialias=True
        )
        return rgb

    def __reduce__(self) -> tuple[type[ScaleFrames], tuple[int, int]]:
        """What crosses to another process: the size."""
        return ScaleFrames, (self.height, self.width)


class _Pass:
    """One prepared call of libswscale."""

    def __init__(
        self,
        source_format: str,
        source_size: tuple[int, int],
        target_format: str,
        target_size: tuple[int, int],
        flags: int,
    ) -> None:
        functions = _functions()
        formats = [functions.pixel_format(name.encode()) for name in (source_format, target_format)]
        (source_height, source_width), (height, width) = source_size, target_size
        self._scale = functions.scale
        self._rows, self._target_rows = source_height, height
        self._context = functions.get_context(
            source_width, source_height, formats[0], width, height, formats[1], flags, None, None, None
        )
        if not self._context:
            raise VideoError(
                f"libswscale cannot make {target_format} of {height} × {width} pixels from {source_format} of "
                f"{source_height} × {source_width}"
            )
        weakref.finalize(self, functions.free_context, self._context).atexit = False

    def set_matrix(self, color_space: str, *, full_range: bool) -> None:
        """Say what YUV → RGB means for this source."""
        functions = _functions()
        table, other = ctypes.c_void_p(), ctypes.c_void_p()
        numbers = [ctypes.c_int() for _ in range(5)]
        details = (table, numbers[0], other, *numbers[1:])
        if functions.get_details(self._context, *(ctypes.byref(value) for value in details)) < 0:
            raise VideoError("libswscale does not tell the colours of its context")
        matrix = functions.coefficients(functions.color_space(color_space.encode()))
        functions.set_details(self._context, matrix, full_range, matrix, *(number.value for number in numbers[1:]))

    def __call__(self, source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
        """Fill the rows of the target's planes; VideoError where libswscale does not."""
        rows = self._scale(self._context, *_places(source), 0, self._rows, *_places(target))
        if rows != self._target_rows:
            raise VideoError(f"libswscale scaled {rows} of {self._target_rows} rows")


@dataclass(frozen=True, slots=True)
class _Functions:
    """The functions of FFmpeg that are called here, with their types; all of them exist since FFmpeg 4."""

    pixel_format: Callable[..., int]
    color_space: Callable[..., int]
    get_context: Callable[..., int | None]
    free_context: Callable[..., None]
    coefficients: Callable[..., int]
    get_details: Callable[..., int]
    set_details: Callable[..., int]
    scale: Callable[..., int]


@functools.cache
def _functions() -> _Functions:
    """Look the functions up in the libraries that torchcodec uses."""
    avutil, swscale = library("avutil"), library("swscale")
    pointer, number, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p

    def declare(function: Any, result: Any, *arguments: Any) -> Any:  # noqa: ANN401 - ctypes has no types for these
        function.restype, function.argtypes = result, arguments
        return function

    return _Functions(
        pixel_format=declare(avutil.av_get_pix_fmt, number, text),
        color_space=declare(avutil.av_color_space_from_name, number, text),
        get_context=declare(swscale.sws_getContext, pointer, *[number] * 7, *[pointer] * 3),
        free_context=declare(swscale.sws_freeContext, None, pointer),
        coefficients=declare(swscale.sws_getCoefficients, pointer, number),
        get_details=declare(swscale.sws_getColorspaceDetails, number, *[pointer] * 8),
        set_details=declare(swscale.sws_setColorspaceDetails, number, pointer, pointer, number, pointer, *[number] * 4),
        scale=declare(swscale.sws_scale, number, pointer, pointer, pointer, number, number, pointer, pointer),
    )


def _places(planes: Sequence[Tensor]) -> tuple[ctypes.Array[ctypes.c_void_p], ctypes.Array[ctypes.c_int]]:
    """Where planes begin, and how many bytes their rows lie apart, as FFmpeg's functions take them."""
    return (
        _Pointers(*[plane.data_ptr() for plane in planes]),
        _Strides(*[plane.stride(0) * plane.element_size() for plane in planes]),
    )

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
from wildstream.video import unreadable_is_refused

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
Address = int | ctypes.Array[Any]
"""Where a C array begins, or the array."""


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
        self._between, self._target = _Places(self._small), _Places()
        self._target.strides[:3] = [room[1]] * 3
        self._channel = room[0] * room[1]

    def __call__(self, planes: Sequence[Tensor], out: Tensor) -> None:
        """Planes of the frame as the decoder gave them → `out`, (3, height, width) uint8 RGB, contiguous."""
        source = _Places(planes)
        rgb = out if self._rgb is None else self._rgb
        self.scale(source.pointers, source.strides, rgb.data_ptr())
        if self._rgb is not None:
            out.copy_(self._rgb[:, : out.shape[1], : out.shape[2]])

    @property
    def fills(self) -> bool:
        """Whether `scale` can write the result where it belongs; else it has more rows or columns than are wanted."""
        return self._rgb is None

    def scale(self, pointers: Address, strides: Address, target: int) -> None:
        """The same for planes of which C arrays say where they begin, and how many bytes their rows lie apart.

        The result is written to the address `target`, which must have room for (3, height, width), both rounded up.
        """
        between, to = self._between, self._target
        self._shrink(pointers, strides, between.pointers, between.strides)
        to.pointers[:3] = [target + self._channel, target + 2 * self._channel, target]  # FFmpeg has green first
        self._colour(between.pointers, between.strides, to.pointers, to.strides)


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
            VideoError: FFmpeg cannot convert it.
        """
        with unreadable_is_refused():
            self._write(frame, out)

    def _write(self, frame: RawFrame, out: Tensor) -> None:
        """What `__call__` does; torchcodec's errors come out as they are."""
        quarter_turns, size = self._lying(frame)
        if size == (frame.height, frame.width) or SCALABLE.fullmatch(frame.pixel_format) is None:
            out.copy_(self._resized(frame))
            return
        if quarter_turns == 0:
            self._scaler(frame, *size)(frame.planes, out)
            return
        lying = torch.empty((3, *size), dtype=torch.uint8)
        self._scaler(frame, *size)(frame.planes, lying)
        out.copy_(torch.rot90(lying, quarter_turns, (1, 2)))

    def quick_scaler(self, frame: RawFrame) -> Scaler | None:
        """The scaler that is all there is to do for frames such as this one; None where there is more, or no scaler."""
        quarter_turns, size = self._lying(frame)
        if quarter_turns or size == (frame.height, frame.width) or SCALABLE.fullmatch(frame.pixel_format) is None:
            return None
        return self._scaler(frame, *size)

    def _lying(self, frame: RawFrame) -> tuple[int, tuple[int, int]]:
        """By how many quarter turns a frame becomes upright, and the size that is wanted of it before."""
        quarter_turns = round((frame.rotation or 0) / 90) % 4
        return quarter_turns, (self.width, self.height) if quarter_turns % 2 else (self.height, self.width)

    def _scaler(self, frame: RawFrame, height: int, width: int) -> Scaler:
        """This thread's scaler for frames of this kind and a size."""
        key = (height, width, frame.height, frame.width, frame.pixel_format, frame.color_space, frame.color_range)
        scalers: dict[tuple[int | str, ...], Scaler] = vars(self._of_thread).setdefault("scalers", {})
        if (known := scalers.get(key)) is not None:
            return known
        if len(scalers) >= KINDS_PER_THREAD:
            scalers.pop(next(iter(scalers)))
        full_range = frame.color_range == "pc" or frame.pixel_format.startswith("yuvj")
        kind = FrameKind(frame.width, frame.height, frame.pixel_format, frame.color_space, full_range)
        return scalers.setdefault(key, Scaler(kind, height, width))

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


class ScaleRun:
    """Scales the frames of one video, one after the other, and does not ask each what it is.

    That, and to have a frame's planes as tensors, takes half as long as to scale a small frame. torchcodec holds a
    frame by a tensor that lies where FFmpeg's own AVFrame does, so places and sizes are read there. Whether that is
    still so is seen at the first frame and at every key frame, by comparing; where it is not, each frame goes the long
    way.
    """

    def __init__(self, scale: ScaleFrames, out: Tensor) -> None:
        """Scale as `scale` does, into rows of `out`: (F, 3, height, width) uint8, CPU, contiguous."""
        self._scale = scale
        self._out = out
        self._first, self._bytes = out.data_ptr(), out.stride(0)
        self._scaler: Scaler | None = None
        self._kind = (0, 0, 0)

    def __call__(self, frame: RawFrame, row: int, *, may_differ: bool) -> None:
        """Scale a frame into a row; say whether it may be of another kind than the last one (a key frame)."""
        if self._scaler is not None and not may_differ:
            address = frame._handle.data_ptr()
            head = _AVFrame.from_address(address)
            if (head.width, head.height, head.format) == self._kind:
                self._scaler.scale(address, address + _LINESIZE, self._first + row * self._bytes)
                return
        self._scale(frame, self._out[row])
        self._look_at(frame)

    def _look_at(self, frame: RawFrame) -> None:
        """Keep the scaler of a frame, if it is all there is to do and the frame lies in memory as it should."""
        self._scaler = None
        handle = getattr(frame, "_handle", None)
        scaler = self._scale.quick_scaler(frame)
        if scaler is None or not scaler.fills or not isinstance(handle, Tensor):
            return
        if (handle.dtype, handle.shape) != _HANDLE:  # another torchcodec: who knows what lies there
            return
        head, planes, count = _AVFrame.from_address(handle.data_ptr()), _Places(frame.planes), len(frame.planes)
        if (
            head.data[:count] == planes.pointers[:count]
            and head.linesize[:count] == planes.strides[:count]
            and (head.width, head.height) == (frame.width, frame.height)
        ):
            self._scaler = scaler
            self._kind = (head.width, head.height, head.format)


class _AVFrame(ctypes.Structure):
    """The beginning of libavutil/frame.h's AVFrame, the same since FFmpeg 1."""

    _fields_ = (
        ("data", ctypes.c_void_p * 8),
        ("linesize", ctypes.c_int * 8),
        ("extended_data", ctypes.c_void_p),
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("nb_samples", ctypes.c_int),
        ("format", ctypes.c_int),
    )


_HANDLE = (torch.int64, (8,))
"""What torchcodec 0.17 calls the memory of an AVFrame: as much of it as holds the places of the planes."""
_LINESIZE = _AVFrame.linesize.offset


class _Places:
    """Where planes begin, and how many bytes their rows lie apart, as FFmpeg's functions take them."""

    def __init__(self, planes: Sequence[Tensor] = ()) -> None:
        self.pointers = _Pointers(*[plane.data_ptr() for plane in planes])
        self.strides = _Strides(*[plane.stride(0) * plane.element_size() for plane in planes])


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

    def __call__(self, pointers: Address, strides: Address, to_pointers: Address, to_strides: Address) -> None:
        """Fill the rows of the target's planes; VideoError where libswscale does not."""
        rows = self._scale(self._context, pointers, strides, 0, self._rows, to_pointers, to_strides)
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

"""Images → a video of them, losslessly: the bytes of JPEGs and PNGs become its packets as they are.

    000001.jpg 000002.jpg …  ──▶  a .mov of Motion JPEG: each image a packet, a key frame, shown for 1/fps
    photo.png                ──▶  a .mov of one frame

So a folder of frames, or an image, is a sample like any other, of which every frame can be decoded by itself. What a
decoder would show otherwise than people see it (turned by its EXIF tag, CMYK), or what no .mov holds (BMP, WebP, TIFF),
becomes PNG, losslessly.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from wildstream.errors import VideoError

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_VIDEO = "mov"
"""Extension of what images become."""
_ORIENTATION, _UPRIGHT = 0x0112, (0, 1)
_TAKEN = {"JPEG": ("L", "RGB"), "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")}
"""What becomes a packet as it is: formats and their modes, in Pillow's words."""
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L")


@dataclass(frozen=True, slots=True)
class _Kind:
    """What all images of a video have in common."""

    format: str
    size: tuple[int, int]
    layout: object
    """Mode, and of JPEGs how colours are sampled."""


def join_images(paths: Sequence[Path], *, fps: Fraction) -> bytes:
    """Make a video of images.

    Args:
        paths: Its frames, in order.
        fps: How many are shown each second.

    Returns:
        A .mov file.

    Raises:
        VideoError: There is none, one cannot be read, they differ in size, or one has more than 8 bits per sample and
            is no PNG.
        OSError: A file cannot be opened.
    """
    if not paths:
        raise VideoError("has no image in it")
    kinds = [_kind(path) for path in paths]
    for path, kind in zip(paths, kinds, strict=True):
        if kind.size != kinds[0].size:
            (wide, high), (first_wide, first_high) = kind.size, kinds[0].size
            raise VideoError(
                f"{path.name} has {wide} × {high} pixels, {paths[0].name} {first_wide} × {first_high}; the frames of a "
                "video have one size"
            )
    as_they_are = len(set(kinds)) == 1 and kinds[0].format in _TAKEN
    images = [path.read_bytes() if as_they_are else _as_png(path) for path in paths]
    return _join(images, fps)


def _kind(path: Path) -> _Kind:
    """What sort of image a file is, by its header."""
    image = _open(path)
    wanted = image.getexif().get(_ORIENTATION, 1) in _UPRIGHT and image.mode in _TAKEN.get(image.format or "", ())
    if not wanted and image.mode in _DEEP:
        raise VideoError(f"{path.name} has more than 8 bits per sample; convert it to PNG, or to 8 bits")
    turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    size = image.size[::-1] if turned else image.size
    layers = getattr(image, "layer", None)
    return _Kind((image.format or "") if wanted else "to be PNG", size, (image.mode, str(layers)))


def _open(path: Path) -> Image:
    """An image, of which the header was read."""
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(io.BytesIO(path.read_bytes()))
    except (UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError(f"{path.name} is no image that can be read ({str(error)[:80]})") from error


def _as_png(path: Path) -> bytes:
    """An image as the bytes of a PNG, upright, RGB."""
    from PIL import ImageOps

    target = io.BytesIO()
    try:
        ImageOps.exif_transpose(_open(path)).convert("RGB").save(target, "PNG", compress_level=1)
    except (OSError, ValueError, SyntaxError) as error:
        raise VideoError(f"{path.name} cannot be decoded ({str(error)[:80]})") from error
    return target.getvalue()


def _join(images: Sequence[bytes], fps: Fraction) -> bytes:
    """The bytes of JPEGs, or of PNGs, as the packets of a .mov."""
    import av

    target = io.BytesIO()
    step = 1 / fps
    options = {"video_track_timescale": str(step.denominator)}
    try:
        with (
            av.open(io.BytesIO(images[0]), "r") as first,
            av.open(target, "w", format="mov", options=options) as result,
        ):
            stream = result.add_stream_from_template(first.streams.video[0])
            stream.time_base = Fraction(1, step.denominator)
            for number, image in enumerate(images):
                packet = av.Packet(image)
                packet.stream, packet.time_base = stream, Fraction(1, step.denominator)
                packet.pts = packet.dts = number * step.numerator
                packet.duration, packet.is_keyframe = step.numerator, True
                result.mux(packet)
    except av.FFmpegError as error:
        raise VideoError(f"its images make no video: {error.strerror}") from error
    return target.getvalue()

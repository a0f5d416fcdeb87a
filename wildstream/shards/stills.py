"""Images → a video of them, losslessly: the bytes of JPEGs and PNGs become its packets as they are.

    000001.jpg 000002.jpg …  ──▶  a .mov of Motion JPEG: each image a packet, a key frame, shown for 1/fps
    photo.png                ──▶  a .mov of one frame

So a folder of frames, or an image, is a sample like any other, of which every frame can be decoded by itself. What a
decoder would show otherwise than people see it (turned by its EXIF tag, CMYK), or what no .mov holds (BMP, WebP, TIFF),
becomes PNG, losslessly.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
PILLOW_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
_JPEG_END, _PNG_END = b"\xff\xd9", b"IEND\xaeB`\x82"
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""Pillow's transpositions that put an image upright, by the orientation in its EXIF tag."""
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
    several = sorted({stem for path in paths if (stem := path.stem.rstrip("0123456789"))} if len(paths) > 1 else ())
    if len(several) > 1 and all(path.stem[-1:].isdecimal() for path in paths):
        raise VideoError(
            f"holds images of {len(several)} kinds, {', '.join(several[:4])}; say which are its frames, "
            f"--format-option prefix={several[0]}"
        )
    as_they_are = len(set(kinds)) == 1 and kinds[0].format in _TAKEN
    images = [_as_it_is(path) if as_they_are else _as_png(path) for path in paths]
    return _join(images, fps)


def _kind(path: Path) -> _Kind:
    """What sort of image a file is, by its header."""
    with _naming(path):
        image = _open(path)
        count = getattr(image, "n_frames", 1)
        if count > 1 and image.format != "MPO":
            raise VideoError(f"{path.name} holds {count} images; write each to a file of its own")
        orientation = image.getexif().get(_ORIENTATION, 1)
        wanted = orientation in _UPRIGHT and image.mode in _TAKEN.get(image.format or "", ())
        if not wanted and image.mode in _DEEP:
            raise VideoError(f"{path.name} has more than 8 bits per sample; convert it to PNG, or to 8 bits")
        size = image.size[::-1] if orientation in (5, 6, 7, 8) else image.size
        layers = getattr(image, "layer", None)
        return _Kind((image.format or "") if wanted else "to be PNG", size, (image.mode, str(layers)))


def _open(path: Path) -> Image:
    """An image, of which the header was read; of other formats than these Pillow would run programs."""
    from PIL import Image

    return Image.open(io.BytesIO(path.read_bytes()), formats=PILLOW_FORMATS)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Make whatever Pillow raises of a file that is damaged, or strange, a VideoError that names it."""
    try:
        yield
    except VideoError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        told = "" if "BytesIO" in str(error) else f" ({str(error)[:80]})"
        raise VideoError(f"{path.name} is no image that can be read{told}") from error


def _as_it_is(path: Path) -> bytes:
    """The bytes of a JPEG or PNG that is whole; decoders show what is left of a JPEG, and grey."""
    data = path.read_bytes()
    if not data.endswith((_JPEG_END, _PNG_END)):  # something may come behind the end: then only decoding tells
        with _naming(path):
            _open(path).load()
    return data


def _as_png(path: Path) -> bytes:
    """An image as the bytes of a PNG, upright, RGB."""
    from PIL.Image import Transpose

    target = io.BytesIO()
    with _naming(path):
        image = _open(path)
        image.load()
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
        upright = image if turn is None else image.transpose(Transpose(turn))
        upright.convert("RGB").save(target, "PNG", compress_level=1)
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
    except (av.FFmpegError, ValueError, OverflowError) as error:
        raise VideoError(f"its images make no video ({str(error)[:100]})") from error
    return target.getvalue()

"""A video and what was predicted of it → the same video with the labels drawn in, below the picture.

    ┌──────────────────────────────────────────────────┐
    │                                                  │
    │              the frame, upright                  │
    │                                                  │
    ├──────────────────────────────────────────────────┤
    │ fish_001          frame 312 of 3,000      12.48 s│
    │ feeding     ▓▓▓▓▓▓▓▓▓|▓░░░░   0.81   ──▬▬─┃──▬── │    happens: its name is lit
    │ chasing     ▓▓░░|░░░░░░░░░░   0.12   ─▬───┃───── │    | is the threshold, ┃ now; at the right all events
    └──────────────────────────────────────────────────┘

Frames are decoded once more, straight through and full size, and shown at the times that they have, from 0 on. One that
does not decode is dark and says so. There is no sound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from wildstream.errors import ConfigError, VideoError
from wildstream.facts import FrameTable
from wildstream.prediction.events import Event
from wildstream.video import MAX_REORDER, decode

if TYPE_CHECKING:
    import numpy.typing as npt
    from av import VideoStream

SHOWN_CLASSES = 8
"""Rows, at most: of more classes those that happen longest, then those that are most probable."""
NARROWEST = 480
"""Pixels; narrower videos are enlarged, so that there is room for words, or have dark margins."""
TALLEST = 1080
"""Pixels to which a narrow video may be enlarged."""
TIME_BASE = Fraction(1, 60_000)  # MPEG-4 takes no finer one
ENCODERS = ("libx264", "mpeg4")
BT601_MATRIX, LIMITED_RANGE = 6, 1
"""Numbers of FFmpeg's AVCOL_SPC_SMPTE170M and AVCOL_RANGE_MPEG."""
COLOURS = ("#4e9be6", "#f2a541", "#5fc978", "#e4606d", "#b58ae0", "#d9c84f", "#5cc8c8", "#e58fbd")
BACK, TRACK, DIM, LIT = "#17181c", "#33363f", "#8b909c", "#ffffff"


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawing:
    """What is drawn below the frames of one video."""

    key: str
    """Its name."""
    classes: Sequence[str]
    """In order of class number."""
    thresholds: Sequence[float]
    """Of each class."""
    probabilities: npt.NDArray[np.float32]
    """(num_frames, num_classes), NaN where there are none."""
    events: Sequence[Event]
    """What happens."""
    borders: npt.NDArray[np.float64]
    """(num_frames + 1,) seconds when each frame begins, and when the video ends."""


def draw_video(data: Tensor, table: FrameTable, path: Path, drawing: Drawing, *, size: tuple[int, int]) -> None:
    """Write a video with the labels drawn in, as mp4.

    Args:
        data: (num_bytes,) uint8, CPU: the video file.
        table: What is known of its frames.
        path: The file to write.
        drawing: What to draw.
        size: Height and width in pixels of its upright frames.

    Raises:
        ConfigError: This machine's PyAV has no encoder for it.
        VideoError: The encoder does not take it.
    """
    import av

    panel = _Panel(drawing, size)
    encoder = _find_encoder()
    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as result:
            rate = Fraction(len(table.pts) / float(drawing.borders[-1])).limit_denominator(1001)
            stream = cast("VideoStream", result.add_stream(encoder, max(rate, Fraction(1)), time_base=TIME_BASE))
            stream.width, stream.height, stream.pix_fmt = panel.width, panel.height, "yuv420p"
            stream.options = {"crf": "20", "preset": "veryfast"} if encoder == "libx264" else {"qscale": "3"}
            stream.codec_context.time_base = TIME_BASE
            # What libswscale makes of RGB; without it, players take large pictures for BT.709.
            stream.codec_context.colorspace, stream.codec_context.color_range = BT601_MATRIX, LIMITED_RANGE
            for number, frame in _frames(data, table):
                drawn = av.VideoFrame.from_ndarray(np.asarray(panel.draw(number, frame)), format="rgb24")
                drawn.pts, drawn.time_base = round(float(drawing.borders[number]) / TIME_BASE), TIME_BASE
                result.mux(stream.encode(drawn))
            result.mux(stream.encode(None))
    except av.error.FFmpegError as error:
        raise VideoError(f"{drawing.key} cannot be drawn: {encoder} does not take it ({error})") from error


def _find_encoder() -> str:
    """FFmpeg's name of an encoder that there is."""
    import av

    for name in ENCODERS:
        if name in av.codecs_available:
            return name
    raise ConfigError(
        f"this machine's PyAV {av.__version__} has neither {' nor '.join(ENCODERS)}. Take PyAV's wheel "
        "(pip install --only-binary av av), or leave draw out."
    )


def _frames(data: Tensor, table: FrameTable) -> Iterator[tuple[int, Tensor | None]]:
    """Every frame once, in order: (3, H, W) uint8, or None where it does not decode.

    `decode` may take back one of the last `MAX_REORDER` frames, so that many are held.
    """
    held: dict[int, Tensor | None] = {}
    following = 0
    frames = decode(data, np.arange(len(table.pts)), table, device=torch.device("cpu"))
    for number, frame in frames:
        if number >= following:
            held[number] = None if isinstance(frame, VideoError) else frame
        while following in held and len(held) > MAX_REORDER:
            yield following, held.pop(following)
            following += 1
    for number in range(following, len(table.pts)):
        yield number, held.get(number)


@dataclass
class _Panel:
    """Puts frames and what is predicted of them together; what does not change is drawn once."""

    drawing: Drawing
    size: tuple[int, int]
    width: int = field(init=False)
    height: int = field(init=False)

    def __post_init__(self) -> None:
        frame_height, frame_width = self.size
        scale = max(1.0, min(NARROWEST / frame_width, TALLEST / frame_height))
        self._frame_size = round(frame_width * scale), round(frame_height * scale)
        wide, high = max(NARROWEST, self._frame_size[0]), self._frame_size[1]
        self._margin = (wide - self._frame_size[0]) // 2
        self._row = max(20, round(0.036 * min(wide, 1.6 * high)))
        self._font = ImageFont.load_default(0.62 * self._row)
        self._shown = self._choose()
        self.width = wide + wide % 2
        self.height = high + self._row * (len(self._shown) + 1) + self._row // 2
        self.height += self.height % 2
        edge = self._row // 2
        # Left edges of the columns: names, bars, numbers, events; and the right edge of all.
        self._columns = tuple(round(edge + part * (wide - 2 * edge)) for part in (0, 0.28, 0.58, 0.67, 1))
        self._happening = self._by_frame()
        self._back = self._draw_back()

    def draw(self, number: int, frame: Tensor | None) -> Image.Image:
        """The picture of one frame."""
        canvas = self._back.copy()
        brush = ImageDraw.Draw(canvas)
        if frame is None:
            brush.text((self._row, self._row), f"frame {number:,} does not decode", LIT, self._font)
        else:
            image = Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
            if image.size != self._frame_size:
                image = image.resize(self._frame_size, Image.Resampling.BICUBIC)
            canvas.paste(image, (self._margin, 0))
        count, seconds = len(self.drawing.borders) - 1, float(self.drawing.borders[number])
        right = self._columns[4]
        self._write(brush, 0, self._columns[0], self.drawing.key, DIM)
        brush.text((right, self._middle(0)), f"frame {number:,} of {count:,}   {seconds:.2f} s", DIM, self._font, "rm")
        for row, label in enumerate(self._shown, start=1):
            self._draw_row(brush, row, label, number)
        return canvas

    def _draw_row(self, brush: ImageDraw.ImageDraw, row: int, label: int, number: int) -> None:
        """One class: its name, its probability as a bar and as a number, and now among its events."""
        colour, happens = COLOURS[label % len(COLOURS)], bool(self._happening[number, label])
        value = float(self.drawing.probabilities[number, label])
        name, bar, text, strip, end = self._columns
        middle, half = self._middle(row), self._row // 4
        words = self._shorten(self.drawing.classes[label], bar - name - self._row)
        if happens:
            brush.rounded_rectangle(
                (name - half, middle - self._row * 0.42, bar - half, middle + self._row * 0.42), half, colour
            )
        self._write(brush, row, name, words, BACK if happens else DIM)
        if np.isfinite(value):
            length = value * (text - self._row - bar)
            brush.rectangle((bar, middle - half, bar + length, middle + half), colour)
        threshold = bar + self.drawing.thresholds[label] * (text - self._row - bar)
        brush.line((threshold, middle - 1.5 * half, threshold, middle + 1.5 * half), LIT, max(1, self._row // 12))
        shown = f"{value:.2f}" if np.isfinite(value) else "-"  # the font has no dash
        self._write(brush, row, text - self._row // 2, shown, LIT if happens else DIM)
        now = strip + float(self.drawing.borders[number] / self.drawing.borders[-1]) * (end - strip)
        brush.line((now, middle - self._row // 2, now, middle + self._row // 2), LIT, max(1, self._row // 12))

    def _draw_back(self) -> Image.Image:
        """What is behind every frame: dark, the tracks of bars, and all events."""
        canvas = Image.new("RGB", (self.width, self.height), BACK)
        brush = ImageDraw.Draw(canvas)
        _, bar, text, strip, end = self._columns
        whole, half = float(self.drawing.borders[-1]), self._row // 4
        for row, label in enumerate(self._shown, start=1):
            middle = self._middle(row)
            brush.rectangle((bar, middle - half, text - self._row, middle + half), TRACK)
            brush.rectangle((strip, middle - 1, end, middle + 1), TRACK)
            for event in self.drawing.events:
                if event.label == self.drawing.classes[label]:
                    left, right = (
                        strip + at / whole * (end - strip) for at in (event.start_seconds, event.stop_seconds)
                    )
                    brush.rectangle((left, middle - half, right, middle + half), COLOURS[label % len(COLOURS)])
        return canvas

    def _choose(self) -> list[int]:
        """Numbers of the classes that are shown."""
        lasting = dict.fromkeys(self.drawing.classes, 0.0)
        for event in self.drawing.events:
            lasting[event.label] += event.stop_seconds - event.start_seconds
        found = np.nan_to_num(self.drawing.probabilities)
        means = found.mean(axis=0).tolist()
        ranked = sorted(range(len(means)), key=lambda n: (-lasting[self.drawing.classes[n]], -means[n]))
        return sorted(ranked[:SHOWN_CLASSES])

    def _by_frame(self) -> npt.NDArray[np.bool_]:
        """(num_frames, num_classes) whether an event of the class is on."""
        happening = np.zeros(self.drawing.probabilities.shape, np.bool_)
        for event in self.drawing.events:
            happening[event.first_frame : event.stop_frame, self.drawing.classes.index(event.label)] = True
        return happening

    def _middle(self, row: int) -> float:
        """Height of the middle of a row below the frame."""
        return self._frame_size[1] + self._row * (row + 0.75)

    def _write(self, brush: ImageDraw.ImageDraw, row: int, left: float, words: str, colour: str) -> None:
        """Words in a row, from the left."""
        brush.text((left, self._middle(row)), words, colour, self._font, "lm")

    def _shorten(self, words: str, width: float) -> str:
        """Words that are no wider than so many pixels."""
        if self._font.getlength(words) <= width:
            return words
        while words and self._font.getlength(f"{words}…") > width:
            words = words[:-1]
        return f"{words}…"

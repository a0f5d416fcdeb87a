"""Label tracks: what happens in one video and when, as events on its frames.

A track is a list of events (class, first frame, last frame + 1). Every way in (rows per frame, one class per clip)
becomes one, and every way out (dense rows, labels of windows) is computed from one.

    frame      0 1 2 3 4 5 6 7
    class 0    . x x x . . . .      event (0, 1, 4)
    class 1    . . x x x x . .      event (1, 2, 6)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wildstream.errors import FormatError, LabelError

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class LabelTrack:
    """The events of one video; half-open intervals of frame numbers."""

    num_frames: int
    """Frames of the video."""
    num_classes: int
    """Classes that exist, whether they happen here or not."""
    classes: npt.NDArray[np.int32]
    """(num_events,) class numbers."""
    first: npt.NDArray[np.int32]
    """(num_events,) first frame of each event."""
    stop: npt.NDArray[np.int32]
    """(num_events,) last frame of each event + 1."""

    def __post_init__(self) -> None:
        """Refuse events outside the video or the categories (LabelError)."""
        events = zip(self.classes.tolist(), self.first.tolist(), self.stop.tolist(), strict=True)
        for label, first, stop in events:
            if not 0 <= label < self.num_classes:
                raise LabelError(f"event of class {label}, but there are {self.num_classes} classes")
            if not 0 <= first < stop <= self.num_frames:
                raise LabelError(f"event of frames [{first}, {stop}) does not lie within {self.num_frames} frames")

    @classmethod
    def from_rows(cls, rows: npt.NDArray[np.bool_]) -> LabelTrack:
        """Make a track from (num_frames, num_classes) rows, an event for each run of true rows."""
        num_frames, num_classes = rows.shape
        edges = np.diff(rows.T.astype(np.int8), axis=1, prepend=0, append=0)
        classes, first = np.nonzero(edges == 1)
        stop = np.nonzero(edges == -1)[1]
        return cls(num_frames, num_classes, classes.astype(np.int32), first.astype(np.int32), stop.astype(np.int32))

    @classmethod
    def from_class(cls, label: int, *, num_frames: int, num_classes: int) -> LabelTrack:
        """Make the track of a clip that is one class from its first frame to its last."""
        one = np.ones(1, np.int32)
        return cls(num_frames, num_classes, one * label, one * 0, one * num_frames)

    def rows(self) -> npt.NDArray[np.bool_]:
        """The track as (num_frames, num_classes) rows."""
        rows = np.zeros((self.num_frames, self.num_classes), np.bool_)
        for label, first, stop in zip(self.classes, self.first, self.stop, strict=True):
            rows[first:stop, label] = True
        return rows


def read_categories(path: Path) -> list[str]:
    """Read a categories.json: a JSON list of distinct, non-empty names.

    Raises:
        FormatError: The file is not such a list.
    """
    try:
        names = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FormatError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise FormatError(f'{path} must hold a list of class names such as ["feeding", "chasing"], got {names!r:.80}')
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise FormatError(f"{path} names {', '.join(map(repr, doubled))} more than once; class names must be distinct")
    return names


def read_frame_rows(path: Path, *, num_frames: int, categories: list[str]) -> LabelTrack:
    """Read headerless, tab-separated rows of 0 and 1: a row per frame, a column per class.

    Raises:
        LabelError: Another number of rows or columns, or another value; the message has the line.
    """
    lines = _text_lines(path)
    width = len(categories)
    for number, line in enumerate(lines, start=1):
        cells = line.split("\t")
        if len(cells) != width:
            raise LabelError(f"{path.name}, line {number}: {len(cells)} columns, but there are {width} categories")
        for cell in cells:
            if cell not in ("0", "1"):
                raise LabelError(f"{path.name}, line {number}: {cell!r:.40} is neither 0 nor 1")
    if len(lines) != num_frames:
        raise LabelError(
            f"{path.name} has {len(lines)} rows, but {num_frames} frames of the video decode; a row per frame is needed"
        )
    flat = np.frombuffer("".join(lines).replace("\t", "").encode("ascii"), np.uint8)
    return LabelTrack.from_rows(flat.reshape(num_frames, width) == ord("1"))


def read_clip_class(path: Path) -> int:
    """Read a file that holds one non-negative integer, the class of a whole clip.

    Raises:
        LabelError: The file holds anything else.
    """
    text = "\n".join(_text_lines(path)).strip()
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise LabelError(f"{path.name} must hold one class number, got {text!r:.40}")
    return int(text)


def _text_lines(path: Path) -> list[str]:
    """The lines of a text file, without line ends and without blank lines at its end."""
    try:
        return path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise LabelError(f"{path.name} is not UTF-8 text (byte {error.start}: {error.reason})") from error
    except OSError as error:
        raise LabelError(f"{path.name} cannot be read: {error.strerror}") from error

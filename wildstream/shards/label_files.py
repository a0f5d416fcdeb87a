"""Label files on disk → categories, label tracks, rows: JSON lists of names, rows of 0 and 1, class numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wildstream.errors import FormatError, LabelError
from wildstream.shards.labels import LabelTrack

if TYPE_CHECKING:
    import numpy.typing as npt

UNLABELLED = "-1"
"""What stands in every column of the row of an unlabelled frame; as a number, in labels.npy."""


def read_categories(path: Path) -> list[str]:
    """Read a categories.json: a JSON list of distinct, non-empty names.

    Raises:
        FormatError: The file is not such a list.
    """
    try:
        names = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{path} cannot be read as JSON: {str(error)[:200]}") from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise FormatError(f'{path} must hold a list of class names such as ["feeding", "chasing"], got {names!r:.80}')
    if strange := [name for name in names if not _is_text(name)]:
        raise FormatError(f"{path} names {strange[0]!r:.60}, which is no text: half a character. Write another name")
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise FormatError(f"{path} names {', '.join(map(repr, doubled))} more than once; class names must be distinct")
    return names


def read_frame_rows(path: Path, *, num_frames: int, categories: list[str]) -> LabelTrack:
    """Read headerless, tab-separated rows of 0 and 1: a row per frame, a column per class.

    A row of -1 in every column says that the frame is unlabelled.

    Raises:
        LabelError: Another number of rows or columns, or another value; the message has the line.
    """
    rows, known = read_rows(path, categories=categories)
    if len(rows) != num_frames:
        raise LabelError(
            f"{path.name} has {len(rows)} rows, but {num_frames} frames of the video decode; a row per frame is needed"
        )
    return LabelTrack.from_rows(rows, known)


def read_rows(path: Path, *, categories: Sequence[str]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Read headerless, tab-separated rows of 0 and 1, a column per class, or of -1 alone.

    Returns:
        (num_rows, num_classes) which cells are 1, and (num_rows,) which rows are known: those of -1 are not.

    Raises:
        LabelError: Another number of columns, or another value, or -1 beside 0 or 1; the message has the line.
    """
    lines = text_lines(path)
    width, there = len(categories), f"{len(categories)} categories: {', '.join(categories)}"
    unlabelled, known = "\t".join([UNLABELLED] * width), np.ones(len(lines), np.bool_)
    for number, line in enumerate(lines, start=1):
        if line == unlabelled:
            known[number - 1] = False
            lines[number - 1] = "0" * width
            continue
        cells = line.split("\t")
        if len(cells) != width:
            raise LabelError(f"{path.name}, line {number}: {len(cells)} columns, but there are {there}")
        if UNLABELLED in cells:
            raise LabelError(
                f"{path.name}, line {number}: -1 beside {next(cell for cell in cells if cell != UNLABELLED)!r:.40}; a "
                "frame is unlabelled for all classes, -1 in every column, or for none"
            )
        for cell in cells:
            if cell not in ("0", "1"):
                raise LabelError(f"{path.name}, line {number}: {cell!r:.40} is neither 0 nor 1")
    flat = np.frombuffer("".join(lines).replace("\t", "").encode("ascii"), np.uint8)
    rows: npt.NDArray[np.bool_] = flat.reshape(len(lines), width) == ord("1")
    return rows, known


def read_class_column(path: Path, *, categories: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Read headerless rows of one class number each: (num_rows, num_classes), true in one place of each row.

    Raises:
        LabelError: A row is not the number of a class; the message has the line.
    """
    lines = text_lines(path)
    for number, line in enumerate(lines, start=1):
        if not (line.isascii() and line.isdigit() and len(line) < 10 and int(line) < len(categories)):
            raise LabelError(f"{path.name}, line {number}: {line!r:.40} is no class from 0 to {len(categories) - 1}")
    numbers = np.array([int(line) for line in lines], np.int64)
    rows: npt.NDArray[np.bool_] = numbers[:, np.newaxis] == np.arange(len(categories))
    return rows


def has_one_column(path: Path) -> bool:
    """Whether the first row of a tab-separated file has one cell; LabelError where it cannot be read."""
    return "\t" not in "".join(text_lines(path)[:1])


def read_clip_class(path: Path) -> int:
    """Read a file that holds one non-negative integer, the class of a whole clip.

    Raises:
        LabelError: The file holds anything else.
    """
    text = "\n".join(text_lines(path)).strip()
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise LabelError(f"{path.name} must hold one class number, got {text!r:.40}")
    return int(text)


def _is_text(name: str) -> bool:
    """Whether all characters of a name can be written."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def text_lines(path: Path) -> list[str]:
    """The lines of a text file, without line ends and without blank lines at its end."""
    return read_text(path).rstrip().splitlines()


def read_json(path: Path) -> Any:  # noqa: ANN401 - whatever it holds
    """The content of a JSON file, numbers as they are written; LabelError where it is none."""
    text = read_text(path)
    try:
        return json.loads(text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError) as error:
        raise LabelError(f"{path.name} is no JSON that can be read: {str(error)[:200]}") from error


def read_text(path: Path) -> str:
    """The content of a text file; LabelError where it is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelError(f"{path.name} is not UTF-8 text (byte {error.start}: {error.reason})") from error
    except OSError as error:
        raise LabelError(f"{path.name} cannot be read: {error.strerror}") from error

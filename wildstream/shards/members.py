"""Members of a tar that others made → samples: their video, their labels, and what classes there are.

Everything read here may be hostile. Names are compared, never used as paths; `.npy` is read without pickle, and no
larger than the member is; `json` is read up to a size, and believed only where it has the form that `pack` gives it.
"""

from __future__ import annotations

import io
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from tokenize import TokenError
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from wildstream.errors import ConfigError, FormatError, LabelError, VideoError
from wildstream.facts import VideoFacts
from wildstream.shards.formats import Task
from wildstream.shards.labels import LabelTrack
from wildstream.shards.tar import Bytes, Flaw, Member, printable, read_tar
from wildstream.video import VIDEO_EXTENSIONS

NAMING = {"txt": "txt", "json": "json:FIELD"}
"""Members that can name the class, and what to say then."""
LABEL_MEMBERS: dict[Task, str] = {"multi_label": "labels.npy", "single_label": "cls"}
"""The member that holds the labels, by task."""
JSON_BYTES = 16 << 20
"""Bytes of a json member, at most."""
CLS_BYTES = 64
"""Bytes of a cls member, at most: it is a number."""
NAME_BYTES = 400
"""Bytes of the name of a class, at most; a longer text is a caption."""
PART_BYTES = 255
"""Bytes of a part of a key, at most: what file systems take."""
_KEY = re.compile(r"((?:.*/|)[^./]+)[.]([^/]*)", re.DOTALL)  # as WebDataset cuts names
_META = re.compile(r"__[^/]*__($|/)")  # what WebDataset passes over


@dataclass(slots=True)
class Found:
    """Neighbouring members of one key; or something that is no sample."""

    path: str
    """Shard and name, for people."""
    key: str = ""
    members: dict[str, Member] = field(default_factory=dict)
    """By extension, in small letters."""
    flaw: str = ""
    """Why it can be no sample."""
    stop: int = 0
    """Byte of the shard behind what was found."""


@dataclass(frozen=True, slots=True)
class RowLabels:
    """A row for each frame."""

    rows: np.ndarray[Any, np.dtype[np.bool_]]
    """(num_frames, num_classes)."""
    known: np.ndarray[Any, np.dtype[np.bool_]]
    """(num_frames,) False where nobody said anything."""
    counts_frames: bool = True

    def track(self, *, facts: VideoFacts) -> LabelTrack:
        """The labels of the video; LabelError where it has another number of frames."""
        if len(self.rows) != facts.num_frames:
            raise LabelError(
                f"labels.npy has {len(self.rows)} rows, but {facts.num_frames} frames of the video decode; a row per "
                "frame is needed"
            )
        return LabelTrack.from_rows(self.rows, self.known)


@dataclass(frozen=True, slots=True)
class ClassLabel:
    """One class for the whole video."""

    label: int
    counts_frames: bool = False

    def track(self, *, facts: VideoFacts) -> LabelTrack:
        """The labels of the video."""
        return LabelTrack.from_class(self.label, num_frames=facts.num_frames, num_classes=self.label + 1)


@dataclass(frozen=True, slots=True)
class ClassName(ClassLabel):
    """One class for the whole video, which has a name; its number is its place among the names so far."""


class Packed(BaseModel):
    """What `pack` writes of a video into the sample's json, as far as the video does not tell it itself."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    ctime: FiniteFloat
    source: str
    claimed_frames: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    categories: list[str]


@dataclass(frozen=True, slots=True)
class Labelled:
    """A sample whose labels were read."""

    found: Found
    extension: str
    """Of the video."""
    video: Member
    labels: RowLabels | ClassLabel | ClassName
    packed: Packed | None
    """None where somebody else made the sample."""


class Classes:
    """Which classes there are, and what labels mean: as it was said, or by the first sample that tells."""

    def __init__(self, names: Sequence[str] | None, task: Task | None, labels: str | None = None) -> None:
        """Take what was said; ConfigError where `names` cannot be names of classes, or `labels` no place of them."""
        member, _, self.field = (labels or "").partition(":")
        if labels is not None and not (labels == "txt" or (member == "json" and self.field)):
            raise ConfigError(
                f"labels={labels!r} is not known. Take txt, or json:FIELD such as json:label; without it, "
                "labels.npy or cls is read."
            )
        if labels is not None and task == "multi_label":
            raise ConfigError(f"labels={labels!r} gives one class for each video, not task={task!r}. Leave one out.")
        self.named_by = member
        """The member that names the class, "txt" or "json"; empty where labels are numbers."""
        if names is not None and not _are_names(list(names)):
            raise ConfigError(f"categories={list(names)!r:.80} must be distinct names of classes, one at least.")
        self._names = None if names is None else list(names)
        self._given = names is not None
        self._numbers = {name: number for number, name in enumerate(names or ())}
        self._count = None if names is None else len(names)
        self._origin = "the categories that were given"
        self._largest = 0
        self._task = task
        self._task_given = task is not None
        self._task_origin = ""

    @property
    def names(self) -> list[str]:
        """The names, in order of class number; numbers where nobody gave names."""
        if self._names is not None:
            return self._names
        return [str(number) for number in range(self._largest + 1 if self._count is None else self._count)]

    @property
    def task(self) -> Task:
        """What the labels mean, when a sample was seen or it was said."""
        assert self._task is not None
        return self._task

    def choose(self, found: Found) -> str:
        """The member of a sample that holds its labels.

        Raises:
            LabelError: There is none.
            FormatError: It is not the one that the samples before it have.
        """
        if self.named_by:
            self._task = "single_label"
            if self.named_by not in found.members:
                raise LabelError(f"has no labels: no {self.named_by} among its members {_listed(found.members)}")
            return self.named_by
        there: list[Task] = [task for task, member in LABEL_MEMBERS.items() if member in found.members]
        if self._task in there or (there and self._task is None):
            if self._task is None:
                self._task, self._task_origin = there[0], found.path
            return LABEL_MEMBERS[self._task]
        if there and not self._task_given:
            raise FormatError(
                f"{found.path} has {LABEL_MEMBERS[there[0]]}, but {self._task_origin} has {LABEL_MEMBERS[self.task]}; "
                "a split has one kind of labels. Say which with task=; samples of the other kind are then refused and "
                "named."
            )
        wanted = LABEL_MEMBERS[self.task] if self._task_given else " or ".join(LABEL_MEMBERS.values())
        others = [f"labels={how}" for member, how in NAMING.items() if member in found.members]
        hint = f"; where that names the class, say {' or '.join(others)}" if others else ""
        raise LabelError(f"has no labels: no {wanted} among its members {_listed(found.members)}{hint}")

    def number_of(self, name: str) -> int:
        """The number of a class that has a name; LabelError where others were given."""
        if self._names is None:
            self._names, self._origin = [], "the samples before it"
        if name not in self._numbers:
            if self._given:
                raise LabelError(f"class {name!r:.60} is not one of the categories {', '.join(self._names):.200}")
            self._numbers[name] = len(self._names)
            self._names.append(name)
        return self._numbers[name]

    def admit(self, found: Found, labels: RowLabels | ClassLabel, names: list[str] | None) -> None:
        """Take a sample's labels and the names of classes in its json; LabelError if they contradict what is known."""
        if isinstance(labels, ClassName):
            return  # by its name, it is one of those that there are
        width = labels.rows.shape[1] if isinstance(labels, RowLabels) else None
        known, count = self._names or names, self._count
        if names is not None and not self._given and self._names not in (None, names):
            raise LabelError(
                f"its json has other categories ({len(names)}) than that of {self._origin} ({len(self._names or [])}); "
                "give the right ones as categories="
            )
        needed = len(known) if known else count
        told = self._origin if self._names or count is not None else "its json"
        if width is not None and needed not in (None, width):
            raise LabelError(f"labels.npy has {width} columns, but there are {needed} categories (by {told})")
        if isinstance(labels, ClassLabel) and needed is not None and labels.label >= needed:
            raise LabelError(f"cls is {labels.label}, but there are {needed} categories (by {told})")
        if (
            names is not None
            and self._names is None
            and (count not in (None, len(names)) or self._largest >= len(names))
        ):
            raise LabelError(f"its json has {len(names)} categories, too few or too many for the samples before it")
        if isinstance(labels, ClassLabel):
            self._largest = max(self._largest, labels.label)
        if self._names is None and names is not None:
            self._names, self._count, self._origin = names, len(names), found.path
        elif self._count is None and width is not None:
            self._count, self._origin = width, found.path


def find_samples(data: Bytes, shard: str) -> Iterator[Found]:
    """The samples of a shard, in order, and whatever in it cannot be one."""
    current: Found | None = None
    for entry in read_tar(data):
        stop = entry.offset + entry.size if isinstance(entry, Member) else 0
        path = f"{shard}/{printable(entry.name)}" if entry.name else shard
        if isinstance(entry, Flaw):
            yield Found(path, flaw=entry.reason)
            continue
        if _META.match(entry.name):
            continue
        name = entry.name.removeprefix("./")  # as `tar -c .` writes them
        parts = _KEY.fullmatch(name)
        if (flaw := _flaw_of(name)) or parts is None:
            yield Found(path, flaw=flaw or "is no member of a sample: its name has no extension", stop=stop)
            continue
        key, extension = parts[1], parts[2].lower()
        if current is not None and current.key != key:
            yield current
            current = None
        if current is None:
            current = Found(f"{shard}/{key}", key)
        if extension in current.members:
            current.flaw = f"has two members .{extension}; remove one"
        if extension in VIDEO_EXTENSIONS:
            current.path = path
        current.members[extension] = entry
        current.stop = stop
    if current is not None:
        yield current


def read_sample(data: Bytes, found: Found, classes: Classes) -> Labelled:
    """Read all of a sample but its video.

    Raises:
        VideoError: It has no video, or several.
        LabelError: It has no labels, or such as cannot be used.
        FormatError: Its labels are of another kind than those before it.
    """
    videos = [extension for extension in VIDEO_EXTENSIONS if extension in found.members]
    if not videos:
        raise VideoError(f"has no video ({', '.join(VIDEO_EXTENSIONS)}) among its members {_listed(found.members)}")
    if len(videos) > 1:
        raise VideoError(f"has {len(videos)} videos, {_listed(videos)}; remove all but one")
    member = classes.choose(found)
    content = _content(data, found.members[member])
    labels: RowLabels | ClassLabel | ClassName
    if classes.named_by:
        labels = ClassName(classes.number_of(_read_name(content, member, classes.field)))
    else:
        labels = read_rows(content) if member == "labels.npy" else _read_class(content)
    packed, names = None, None
    if (described := found.members.get("json")) is not None:
        packed, names = _read_json(_content(data, described))
    classes.admit(found, labels, names)
    return Labelled(found, videos[0], found.members[videos[0]], labels, packed)


def _content(data: Bytes, member: Member) -> bytes:
    """The bytes of a member."""
    return data[member.offset : member.offset + member.size]


def _flaw_of(name: str) -> str:
    """Why a member's name is not one of a sample; empty where it is one."""
    parts = name.split("/")
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        return "its name has control characters, or is not UTF-8; rename it"
    if "\\" in name or name.startswith("/") or re.match("[A-Za-z]:", name):
        return "its name is an absolute path, or has a drive or backslashes; keys are relative, with slashes: rename it"
    if {"", ".", ".."} & set(parts):
        return "its name has an empty part, '.' or '..'; keys stay within their folder: rename it"
    if any(len(part.encode()) > PART_BYTES for part in parts):
        return f"a part of its name is longer than {PART_BYTES} bytes; rename it"
    return ""


def read_rows(content: bytes) -> RowLabels:
    """Rows of 0 and 1, or of -1 alone, from the bytes of a .npy file."""
    # The reader of .npy alone: np.load would also open archives, and pickles if it were let.
    try:
        array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except (
        ValueError,
        EOFError,
        TypeError,
        SyntaxError,
        TokenError,
        OverflowError,
        MemoryError,
        RecursionError,
    ) as error:
        raise LabelError(f"labels.npy is not a plain array ({str(error)[:200]!r})") from error
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "biuf":
        raise LabelError(
            f"labels.npy has {array.dtype.name} in the shape {array.shape}; frames × classes of 0 and 1 are needed"
        )
    rows, unlabelled = array == 1, array == -1
    if not (fits := rows | unlabelled | (array == 0)).all():
        raise LabelError(f"labels.npy holds {array[~fits][0]}; every value must be 0 or 1, or -1 in a whole row")
    known = ~unlabelled.all(axis=1)
    if (mixed := unlabelled.any(axis=1) & known).any():
        raise LabelError(
            f"labels.npy, row {int(mixed.argmax())}: -1 beside {array[mixed][0][~unlabelled[mixed][0]][0]}; a frame is "
            "unlabelled for all classes, -1 in every column, or for none"
        )
    return RowLabels(rows, known)


def _read_class(content: bytes) -> ClassLabel:
    """One class number from the bytes of a cls member."""
    text = content[:CLS_BYTES].strip()
    if len(content) > CLS_BYTES or not text.isdigit() or len(text) > 9:
        raise LabelError(f"cls must hold one class number, got {text!r:.40}")
    return ClassLabel(int(text))


def _read_name(content: bytes, member: str, field: str) -> str:
    """The name of a class: what a text holds, or a field of a json."""
    if len(content) > JSON_BYTES:
        raise LabelError(f"its {member} has {len(content):,} bytes; {JSON_BYTES:,} are the most")
    try:
        text = content.decode("utf-8-sig")
        value: object = json.loads(text) if field else text
        for name in field.split(".") if field else ():
            if not isinstance(value, dict) or name not in value:
                there = ", ".join(sorted(map(str, value))) if isinstance(value, dict) else "none"
                raise LabelError(f"its json has no field {field!r}; there are {printable(there):.200}")
            value = value[name]
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise LabelError(f"its {member} cannot be read: {str(error)[:80]}") from error
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise LabelError(f"its {member} holds {value!r:.40} where the name of a class is wanted")
    text = str(value).strip()
    if not text or "\n" in text or len(text.encode(errors="replace")) > NAME_BYTES:
        raise LabelError(f"its {member} holds {text!r:.60}, which is no name of a class but empty, or a caption")
    return text


def _read_json(content: bytes) -> tuple[Packed | None, list[str] | None]:
    """What `pack` wrote of a sample, and its names of classes; None where it is somebody else's json."""
    if len(content) > JSON_BYTES:
        raise LabelError(f"its json has {len(content):,} bytes; {JSON_BYTES:,} are the most")
    try:
        packed = Packed.model_validate_json(content)
        packed.model_dump_json()  # which lone surrogates do not survive
    except (ValidationError, ValueError):
        return None, None
    return packed, packed.categories if _are_names(packed.categories) else None


def _are_names(names: list[str]) -> bool:
    """Whether these can be the names of classes."""
    return bool(names) and all(isinstance(name, str) and name.strip() for name in names) and len({*names}) == len(names)


def _listed(extensions: Sequence[str] | dict[str, Member]) -> str:
    """Extensions, for people."""
    few = sorted(extensions)[:8]
    return ", ".join(printable(f".{extension}") for extension in few) + (" …" if len(extensions) > 8 else "")

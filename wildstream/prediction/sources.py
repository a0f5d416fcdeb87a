"""What somebody wants predicted → videos, each with a key of its own, and for plain files an index in a moment.

    a file, a URL of one           that video
    a folder                       the videos in it and below it
    a packed split, or a folder    the videos in the shards, whether or not they have labels
    of such, local or remote

A plain video is not packed: its index has one row, which names the file as a shard whose bytes from 0 on are the
video. So it is read, decoded and checked exactly as a packed one, by the same code, without a copy. A remote one is
fetched into a temporary file first, since finding out what it is takes all of its bytes.

The key is the path below the folder that was given, without the extension: out/videos/KEY.mp4. Where several would have
the same, it is told apart by the extension (a_mp4, a_avi), else by the name of the folder that was given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from wildstream.errors import ConfigError, VideoError
from wildstream.facts import VideoFacts
from wildstream.shards.formats import safe_name
from wildstream.shards.index import Index, open_index
from wildstream.shards.index_schema import DATASET_NAME, INDEX_NAME, DatasetInfo, make_table, write_info, write_table
from wildstream.shards.ingest import examine_video, make_columns, make_row
from wildstream.shards.labels import LabelTrack
from wildstream.storage import urls
from wildstream.storage.access import Storage
from wildstream.video import VIDEO_EXTENSIONS

FETCHED_BYTES = 32 << 20
"""Bytes of a remote video that are fetched at once."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Footage:
    """A video that is to be predicted."""

    key: str
    """Its name: unique, safe as a path."""
    location: str
    """The file, or what is known of where it lies in shards, for people and for BORIS."""
    split: Index | None = None
    """The packed split that it belongs to; None of a plain file."""
    number: int = 0
    """Its number in that split."""


def find_videos(given: Sequence[str | Path], storage: Storage) -> list[Footage]:
    """The videos that locations stand for, in order; those of a folder by name, none twice.

    Args:
        given: Paths and URLs of video files, folders, packed splits, folders of splits, or patterns of shards.
        storage: Reads what is remote.

    Raises:
        ConfigError: A location is not there, holds no video, or holds features; or two videos cannot be told apart.
        StorageError: A remote location cannot be looked at.
    """
    found: dict[str, _Found] = {}
    for location in given:
        for one in _look(location, storage):
            found.setdefault(one.location, one)
    return [
        Footage(key=key, location=one.location, split=one.split, number=one.number)
        for one, key in zip(found.values(), _keys(list(found.values())), strict=True)
    ]


def index_video(location: str, folder: Path, storage: Storage) -> tuple[Index, str]:
    """The index of one plain video, written into an empty folder that must stay as long as it is used.

    Returns:
        The index, and what is to be said of a video whose end is missing, else nothing.

    Raises:
        VideoError: It cannot be read, or is not worth it: nothing or less than half of it decodes.
        StorageError: It is remote and cannot be had.
    """
    path = _fetch(location, folder / "video", storage) if urls.is_remote(location) else Path(location)
    data = _map(path)
    facts, track = examine_video(data, _no_labels, counts_frames=False)
    extension = PurePosixPath(location).suffix[1:].lower()
    row = make_row(
        data.numpy().data,
        facts,
        key="video",
        extension=extension,
        ctime=path.stat().st_ctime,
        source=location,
    )
    shard = str(path.absolute())
    write_table(folder / INDEX_NAME, make_table([row | make_columns(facts, track) | {"shard": shard, "offset": 0}]))
    info = DatasetInfo(
        categories=[],
        task="multi_label",
        split="",
        format="videos",
        num_videos=1,
        num_frames=facts.num_frames,
        shards=[shard],
        packed_by=f"wildstream {version('wildstream')}",
    )
    write_info(folder, info)
    claimed = f"its container promises {facts.claimed_frames:,} frames, the first {facts.num_frames:,} are predicted"
    return open_index(folder, storage), claimed if facts.claimed_frames > facts.num_frames else ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Found:
    """A video, and what can be its key."""

    location: str
    name: PurePosixPath
    """Path below what was given, with the extension, or the key in the shards."""
    home: str
    """Name of the folder that was given, or that the file lies in."""
    split: Index | None = None
    number: int = 0


def _look(location: str | Path, storage: Storage) -> list[_Found]:
    """The videos of one location."""
    name = urls.redact(str(location))
    if str(location).endswith(".tar"):
        return _of_split(open_index(location, storage))
    if urls.is_remote(location):
        return _look_remote(urls.normal(location), storage)
    path = urls.local_path(location).absolute()
    if path.is_file():
        return [_Found(location=str(path), name=PurePosixPath(path.name), home=path.parent.name)]
    if not path.is_dir():
        raise ConfigError(f"{name} is not there. Give video files, folders, packed shards, or URLs of them.")
    splits = [path] if (path / DATASET_NAME).is_file() else sorted(it.parent for it in path.glob(f"*/{DATASET_NAME}"))
    if splits:
        return [one for split in splits for one in _of_split(open_index(split, storage))]
    below = sorted(it.relative_to(path) for it in path.rglob("*") if it.is_file())
    videos = [PurePosixPath(it) for it in below if _is_video(it.name) and not any(p.startswith(".") for p in it.parts)]
    if not videos:
        raise ConfigError(
            f"{name} holds no video ({', '.join(VIDEO_EXTENSIONS)}) and no packed split ({DATASET_NAME})."
        )
    return [_Found(location=str(path / video), name=video, home=path.name) for video in videos]


def _look_remote(url: str, storage: Storage) -> list[_Found]:
    """The videos of a URL."""
    path = PurePosixPath(url)
    if _is_video(path.name):
        return [_Found(location=url, name=PurePosixPath(path.name), home=path.parent.name)]
    if storage.exists(urls.join(url, DATASET_NAME)):
        return _of_split(open_index(url, storage))
    names = sorted(map(PurePosixPath, storage.list(url)))
    splits = [it.parent for it in names if it.name == DATASET_NAME and len(it.parts) == 2]
    if splits:
        return [one for split in splits for one in _of_split(open_index(urls.join(url, str(split)), storage))]
    videos = [it for it in names if _is_video(it.name)]
    if not videos:
        raise ConfigError(f"{urls.redact(url)} holds no video and no packed split ({DATASET_NAME}). Check the name.")
    return [_Found(location=urls.join(url, str(it)), name=it, home=path.name) for it in videos]


def _of_split(index: Index) -> list[_Found]:
    """The videos of a packed split."""
    if index.info.features is not None:
        raise ConfigError(f"{urls.redact(index.folder)} holds features. Give videos, or shards of videos.")
    return [
        _Found(
            location=f"{index.folder}/{key}",
            # What somebody else's index calls a video is not a path before it was made one.
            name=PurePosixPath(*(safe_name(part) for part in key.split("/"))),
            home=PurePosixPath(index.folder).name,
            split=index,
            number=number,
        )
        for number, key in enumerate(index.keys)
    ]


def _keys(found: Sequence[_Found]) -> list[str]:
    """A key for each video, as short as tells it from the others.

    Raises:
        ConfigError: Two of them have the same name in folders of the same name.
    """
    keys = [""] * len(found)
    waiting = list(range(len(found)))
    for extension, home in ((False, False), (True, False), (False, True), (True, True)):
        tried = {place: _key(found[place], extension=extension, home=home) for place in waiting}
        times = Counter([*tried.values(), *keys])
        for place, key in tried.items():
            if times[key] == 1:
                keys[place] = key
        waiting = [place for place in waiting if not keys[place]]
    if waiting:
        alike = [urls.redact(found[place].location) for place in waiting[:2]]
        raise ConfigError(
            f"{' and '.join(alike)} have names that cannot be told apart. Rename a folder, or predict them one by one."
        )
    return keys


def _key(found: _Found, *, extension: bool, home: bool) -> str:
    """One way to name a video."""
    name = found.name if found.split is not None else found.name.with_suffix("")
    if extension and found.split is None:
        name = found.name.with_name(found.name.name.replace(".", "_"))
    parts = ([found.home] if home else []) + list(name.parts)
    return "/".join(safe_name(part) for part in parts)


def _is_video(name: str) -> bool:
    """Whether a file is a video by its extension."""
    return PurePosixPath(name).suffix[1:].lower() in VIDEO_EXTENSIONS


def _no_labels(*, facts: VideoFacts) -> LabelTrack:
    """The labels of a video that has none."""
    nothing = np.zeros(0, np.int32)
    return LabelTrack(facts.num_frames, 0, nothing, nothing, nothing)


def _map(path: Path) -> Tensor:
    """A file as uint8, mapped; VideoError where it cannot be read."""
    try:
        with path.open("rb"):
            size = path.stat().st_size
        return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8) if size else torch.empty(0).byte()
    except (OSError, RuntimeError) as error:
        raise VideoError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _fetch(url: str, path: Path, storage: Storage) -> Path:
    """Copy a remote file, a part at a time."""
    size = storage.size(url)
    with path.open("wb") as file:
        for start in range(0, size, FETCHED_BYTES):
            file.write(storage.read(url, start, min(start + FETCHED_BYTES, size)))
    return path

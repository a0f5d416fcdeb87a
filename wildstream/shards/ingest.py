"""One source → one sample: a video is read, decoded once and checked, its labels are read and made to fit it."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wildstream.errors import LabelError, SampleError, VideoError
from wildstream.facts import VideoFacts
from wildstream.probe import probe
from wildstream.shards.encoders import EXTENSION, Transcode
from wildstream.shards.formats import Format, Source
from wildstream.shards.formats.scanning import IMAGE_EXTENSIONS
from wildstream.shards.index_schema import PAIRS
from wildstream.shards.labels import LabelTrack
from wildstream.shards.stills import IMAGE_VIDEO, join_images
from wildstream.shards.transcode import TranscodeEffect, transcode
from wildstream.video import name_runs

ReadLabels = Callable[..., LabelTrack]
"""`facts=` of a video → its labels; raises LabelError where they do not fit it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One video, read and checked: what goes into the tar, and its row of the index without its place."""

    members: dict[str, bytes]
    """Content by extension."""
    row: dict[str, Any]
    """Columns of the index, but for shard and offset."""
    effect: TranscodeEffect | None = None
    """What re-encoding changed; None where the video is as it was."""


def ingest(
    source: Source,
    *,
    root: Path,
    layout: Format,
    categories: list[str],
    transcoding: Transcode | None = None,
    measured: bool = False,
) -> Sample | SampleError:
    """Read one video and its labels, or say why that cannot be.

    Args:
        source: The video and its label file.
        root: The source folder, which paths in the index are relative to.
        layout: How the labels are written.
        categories: Class names, in order of class number.
        transcoding: How to re-encode the video; None leaves it as it is. Its labels are read before.
        measured: When re-encoding, time how fast the video decodes before and after.
    """
    effect = None
    try:
        data, extension = _read_video(source)
        read = partial(layout.read, source, categories=categories)
        cut = source.cut
        if cut is not None:
            facts = _examine_frames(_tensor(data))
            cut = None if cut.is_whole(facts) else cut
        if cut is None:
            facts, track = examine(data, read, counts_frames=layout.counts_frames)
        claimed = facts.claimed_frames
        if cut is not None or transcoding is not None:
            data, facts, effect = transcode(data, facts, transcoding or Transcode(), cut=cut, measured=measured)
            extension = EXTENSION
        if cut is not None:
            claimed, track = facts.claimed_frames, read(facts=facts)
    except OSError as error:
        return VideoError(f"cannot be read: {error.strerror or error}")
    except SampleError as error:
        return error
    row = make_row(
        data,
        facts,
        key=source.key,
        extension=extension,
        ctime=source.video.stat().st_ctime,
        source=source.video.relative_to(root).as_posix(),
    )
    row["claimed_frames"] = claimed
    lost = facts.lost.tolist()
    metadata = {**row, "fps": facts.fps, "categories": categories, "lost": lost}
    if cut is not None:
        metadata["cut"] = cut.as_dict()
    members = {row["extension"]: data, "json": json.dumps(metadata, ensure_ascii=False).encode()}
    if layout.task == "single_label" and not len(track.unlabelled):  # which one number cannot tell
        members["cls"] = str(track.classes[0]).encode()
    else:
        members["labels.npy"] = _npy(track.array())
    return Sample(members, row | make_columns(facts, track), effect)


def _read_video(source: Source) -> tuple[bytes, str]:
    """The video file of a source, made of its images where it is one of them or a folder of them; its extension."""
    if source.video.is_dir():
        return join_images(source.files(), fps=source.fps), IMAGE_VIDEO
    if source.video.suffix[1:].lower() in IMAGE_EXTENSIONS:
        return join_images([source.video], fps=source.fps), IMAGE_VIDEO
    return source.video.read_bytes(), source.video.suffix[1:].lower()


def make_columns(facts: VideoFacts, track: LabelTrack) -> dict[str, Any]:
    """The columns of a video that hold lists: its events, where it is unlabelled, and what is known of its frames."""
    columns = zip(track.classes.tolist(), track.first.tolist(), track.stop.tolist(), strict=True)
    events = [{"class": label, "first": first, "stop": stop} for label, first, stop in columns]
    wide = {name: getattr(facts, name) for name in ("pts", "key_frames", "packets", "unreferenced")}
    wide |= {name: _pairs(getattr(facts, name), names) for name, names in PAIRS.items()}
    return {"events": events, "unlabelled": _pairs(track.unlabelled, ("first", "stop")), **wide}


def _pairs(rows: np.ndarray[Any, Any], names: Sequence[str]) -> list[dict[str, int]]:
    """(n, 2) numbers as a column of the index holds them."""
    return [dict(zip(names, row, strict=True)) for row in rows.tolist()]


def name_damage(lost: Sequence[dict[str, int]], num_frames: int) -> str:
    """What to say of a video that is packed although frames of it, as the index names them, do not decode."""
    runs = [(run["first"], run["stop"]) for run in lost]
    return f"{name_runs(runs)} of {num_frames:,} do not decode; their windows will be skipped and counted"


def examine(data: bytes, read: ReadLabels, *, counts_frames: bool) -> tuple[VideoFacts, LabelTrack]:
    """What a video is, and its labels.

    Args:
        data: The video file.
        read: Reads its labels.
        counts_frames: Whether the labels tell how many frames there are.

    Raises:
        SampleError: They cannot be had, or do not fit each other.
    """
    return examine_video(_tensor(data), read, counts_frames=counts_frames)


def examine_video(video: Tensor, read: ReadLabels, *, counts_frames: bool) -> tuple[VideoFacts, LabelTrack]:
    """`examine`, of a file as (num_bytes,) uint8, CPU, which may be mapped from disk."""
    facts = _usable(probe(video)) if counts_frames else _examine_frames(video)
    try:
        return facts, _read_labels(read, facts)
    except LabelError:
        # Some codecs drop damaged frames in silence. Labels for every packet tell that there were frames.
        if len(facts.lost) or facts.claimed_frames == facts.num_frames:
            raise
        whole = _usable(probe(video, by_packets=True))
        if whole.num_frames == facts.num_frames:
            raise
        try:
            return whole, _read_labels(read, whole)
        except LabelError:
            pass
        raise


def _examine_frames(video: Tensor) -> VideoFacts:
    """What a video is whose labels do not tell how many frames it has."""
    return _with_silent_losses(video, _usable(probe(video)))


def _tensor(data: bytes) -> Tensor:
    """A file as `probe` takes it."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def _with_silent_losses(video: Tensor, facts: VideoFacts) -> VideoFacts:
    """The facts by packets, where frames in the middle are missing and nothing raised; else the same facts.

    Of labels that have a row for each frame these tell. Other labels would be shown beside frames that moved up.
    """
    if len(facts.lost) or facts.claimed_frames == facts.num_frames:
        return facts
    try:
        whole = _usable(probe(video, by_packets=True))
    except VideoError:  # packets that are no frames, so that they tell nothing
        return facts
    return whole if len(whole.lost) else facts


def _usable(facts: VideoFacts) -> VideoFacts:
    """The same facts, but VideoError where so much is lost that it is not worth a place in the shards."""
    lost = int((facts.lost[:, 1] - facts.lost[:, 0]).sum())
    if 2 * lost > facts.num_frames:
        raise VideoError(
            f"{name_runs(facts.lost.tolist())} of {facts.num_frames:,} do not decode, which is more than half of them; "
            "repair or re-encode the file"
        )
    return facts


def _read_labels(read: ReadLabels, facts: VideoFacts) -> LabelTrack:
    """The labels of a video; where their length does not fit, the container's claim is part of the reason."""
    try:
        return read(facts=facts)
    except SampleError as error:
        if facts.claimed_frames == facts.num_frames:
            raise
        raise type(error)(f"{error} (its container promises {facts.claimed_frames} frames)") from error


def make_row(
    data: bytes | memoryview, facts: VideoFacts, *, key: str, extension: str, ctime: float, source: str
) -> dict[str, Any]:
    """The columns of a video that hold one value, but for shard and offset; they go into its json member too."""
    return {
        "key": key,
        "extension": extension,
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "codec": facts.codec,
        "pixel_format": facts.pixel_format,
        "width": facts.width,
        "height": facts.height,
        "num_frames": facts.num_frames,
        "time_base_numerator": facts.time_base.numerator,
        "time_base_denominator": facts.time_base.denominator,
        "ctime": ctime,
        "source": source,
        "claimed_frames": facts.claimed_frames,
    }


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    """An array as the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()

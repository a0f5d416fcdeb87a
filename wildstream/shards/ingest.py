"""One source → one sample: a video is read, decoded once and checked, its labels are read and made to fit it."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wildstream.errors import SampleError, VideoError
from wildstream.shards.formats import Format, Source
from wildstream.shards.labels import LabelTrack
from wildstream.video import VideoFacts, probe


@dataclass(frozen=True, slots=True)
class Sample:
    """One video, read and checked: what goes into the tar, and its row of the index without its place."""

    members: dict[str, bytes]
    """Content by extension."""
    row: dict[str, Any]
    """Columns of the index, but for shard and offset."""


def ingest(source: Source, *, root: Path, layout: Format, categories: list[str]) -> Sample | SampleError:
    """Read one video and its labels, or say why that cannot be.

    Args:
        source: The video and its label file.
        root: The source folder, which paths in the index are relative to.
        layout: How the labels are written.
        categories: Class names, in order of class number.
    """
    try:
        data = source.video.read_bytes()
        facts = probe(torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0))
        track = _read_labels(source, layout, facts, categories)
    except OSError as error:
        return VideoError(f"cannot be read: {error.strerror}")
    except SampleError as error:
        return error
    row = _make_row(source, root, data, facts)
    metadata = {**row, "fps": facts.fps, "categories": categories}
    members = {row["extension"]: data, "json": json.dumps(metadata, ensure_ascii=False).encode()}
    if layout.task == "single_label":
        members["cls"] = str(track.classes[0]).encode()
    else:
        members["labels.npy"] = _npy(track.rows().view(np.uint8))
    columns = zip(track.classes.tolist(), track.first.tolist(), track.stop.tolist(), strict=True)
    events = [{"class": label, "first": first, "stop": stop} for label, first, stop in columns]
    return Sample(members, {**row, "events": events, "pts": facts.pts, "key_frames": facts.key_frames})


def _read_labels(source: Source, layout: Format, facts: VideoFacts, categories: list[str]) -> LabelTrack:
    """The labels of a video; where their length does not fit, the container's claim is part of the reason."""
    try:
        return layout.read(source, facts=facts, categories=categories)
    except SampleError as error:
        if facts.claimed_frames == facts.num_frames:
            raise
        raise type(error)(f"{error} (its container promises {facts.claimed_frames} frames)") from error


def _make_row(source: Source, root: Path, data: bytes, facts: VideoFacts) -> dict[str, Any]:
    """The narrow columns of a video, but for shard, offset and events; they go into its json member too."""
    return {
        "key": source.key,
        "extension": source.video.suffix[1:].lower(),
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "codec": facts.codec,
        "pixel_format": facts.pixel_format,
        "width": facts.width,
        "height": facts.height,
        "num_frames": facts.num_frames,
        "time_base_numerator": facts.time_base.numerator,
        "time_base_denominator": facts.time_base.denominator,
        "ctime": source.video.stat().st_ctime,
        "source": source.video.relative_to(root).as_posix(),
    }


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    """An array as the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()

"""What flows down the river: a segment of a video, encoded then decoded; the clips in it; batches of clips.

    EncodedSegment ──decode──▶ DecodedSegment ──draw──▶ Clip ──gather──▶ Batch

Shapes: B batch, T frames of a clip, P patches of a frame, C channels (RGB), H, W pixels, K classes; n windows and F
frames of a segment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wildstream.errors import ConfigError
from wildstream.facts import FrameTable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]
    Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SegmentWindows:
    """The windows of one segment: a run of windows of one video, the unit of I/O and decoding."""

    key: str
    """Key of the video."""
    starts: Ints
    """(n,) source frame of each window's first kept frame; negative inside the padding in front."""
    frames: Ints
    """(n, T) source frames of each window."""
    labels: Bools
    """(n, K)."""
    positions: Ints
    """(n,) place of each window in the planned stream; -1 where nothing is planned."""
    real: Bools
    """(n,) False where the window only fills up the last batch."""
    labelled: Bools
    """(n,) False where nobody said what happens in the window, so that its label means nothing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedSegment:
    """A segment with its video's bytes, and what is needed to find the frames in them."""

    windows: SegmentWindows
    """What is to be cut from it."""
    data: Tensor
    """(num_bytes,) uint8, CPU: the video file."""
    table: FrameTable
    """What it takes to find the frames in them."""
    frame_size: tuple[int, int] | None = None
    """Height and width in pixels of an upright frame, where they are known: a segment of which nothing decodes can
    then be replaced by black frames, and its windows be masked and counted."""
    coding: tuple[str, str] = ("", "")
    """FFmpeg's names of the codec and the pixel format, which decide where it is decoded; empty where not known."""
    read_whole: Callable[[], Tensor] | None = None
    """Reads all bytes of the file, where `data` has zeros for those that the windows should not need; else None."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodedSegment:
    """A segment with every frame that its windows need, each once."""

    windows: SegmentWindows
    """What is to be cut from it."""
    frames: Tensor | None
    """(F, C, H, W) or (F, P, C, H, W) uint8; None where only labels are asked for."""
    places: Tensor
    """(n, T) int64, on the device of `frames`: where the frames of each window are in them."""
    problems: dict[int, str] = field(default_factory=dict)
    """Windows, by their place in this segment, that need frames which do not decode, and why: they do not count. Such
    frames are black. All windows that one damage hits have the same words."""
    decoded_by: str = ""
    """Who decoded it, and what: "nvdec h264", "cpu h264"; empty where nobody did."""

    def clip(self, window: int) -> Clip:
        """The clip of one window, by its place in this segment; a view, nothing is copied.

        On CUDA it is for the current stream, which may differ from the one that the segment's memory belongs to.
        """
        windows = self.windows
        if self.frames is not None and self.frames.is_cuda:
            # Else the memory would be used again as soon as Python lets go of it, while this stream still reads it.
            for tensor in (self.frames, self.places):
                tensor.record_stream(torch.cuda.current_stream(self.frames.device))
        return Clip(
            key=windows.key,
            start=int(windows.starts[window]),
            label=torch.from_numpy(windows.labels[window]),
            labelled=bool(windows.labelled[window]),
            real=bool(windows.real[window]),
            position=int(windows.positions[window]),
            problem=self.problems.get(window),
            segment_frames=self.frames,
            places=self.places[window],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clip:
    """One window: its address, its label, and where its frames are."""

    key: str
    """Key of the video."""
    start: int
    """Source frame of the first kept frame."""
    label: Tensor
    """(K,) bool."""
    labelled: bool
    """False where nobody said what happens in the window, so that the label means nothing."""
    real: bool
    """False where the clip only fills up the last batch."""
    position: int
    """Place in the planned stream; -1 where nothing is planned."""
    problem: str | None
    """Why some of the clip's frames are black, so that it must not count; None where all are what they should be."""
    segment_frames: Tensor | None
    """(F, [P,] C, H, W) uint8: the frames of the segment that the clip belongs to; they stay in memory with the clip.

    None where only labels are asked for.
    """
    places: Tensor
    """(T,) int64, on the same device: the clip's frames among them."""

    @property
    def frames(self) -> Tensor | None:
        """(T, [P,] C, H, W) uint8: the clip's own frames, copied out of the segment."""
        return None if self.segment_frames is None else self.segment_frames[self.places]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Batch:
    """Clips that a model sees at once."""

    frames: Tensor | None
    """(B, T, C, H, W), or (B, T, P, C, H, W) with more than one patch; uint8 unless a transform made it otherwise.

    None where only labels were asked for, or features.
    """
    labels: Tensor
    """(B, K) bool."""
    keys: list[str]
    """B keys of videos."""
    starts: Tensor
    """(B,) int64, CPU: source frame of each window's first kept frame."""
    mask: Tensor
    """(B,) bool: False where a clip only fills up the batch, or did not decode, and must not count."""
    positions: Tensor
    """(B,) int64, CPU: places in the planned stream of the rank; -1 where nothing is planned."""
    problems: dict[int, str] = field(default_factory=dict)
    """Rows of clips that did not decode, and why. (Padding that did not decode is padding.)"""
    features: Tensor | None = None
    """(B, tokens, dim), of precomputed features; else None."""
    labelled: Tensor = field(default_factory=lambda: torch.ones(0, dtype=torch.bool))
    """(B,) bool: False where nobody said what happens in a clip. Its row of `labels` means nothing, and it must be left
    out of the loss; the clip itself is delivered and counts. True everywhere by default."""

    def __post_init__(self) -> None:
        """Take all clips for labelled, where nothing is said of them."""
        if not len(self.labelled):
            object.__setattr__(self, "labelled", torch.ones_like(self.mask))

    @property
    def counts(self) -> Tensor:
        """(B,) bool: what a loss is of, the clips that are delivered and labelled."""
        return self.mask & self.labelled

    @property
    def inputs(self) -> Tensor:
        """What a model takes: frames, or precomputed features."""
        inputs = self.frames if self.features is None else self.features
        if inputs is None:
            raise ConfigError("the batch has labels alone; make the loader without only_labels.")
        return inputs

    def __len__(self) -> int:
        """Number of clips, B."""
        return len(self.keys)

    def __repr__(self) -> str:
        """What it holds, for people: shapes, not pixels."""
        parts = [f"{len(self)} clips of {len(set(self.keys))} videos, {int(self.mask.sum())} of them count"]
        if unlabelled := int((self.mask & ~self.labelled).sum()):
            parts.append(f"{unlabelled} of these unlabelled")
        for name in ("frames", "features", "labels"):
            if (tensor := getattr(self, name)) is not None:
                kind = str(tensor.dtype).removeprefix("torch.")
                parts.append(f"{name} {tuple(tensor.shape)} {kind} on {tensor.device}")
        return f"Batch({', '.join(parts)})"

    def to(self, device: torch.device | str) -> Batch:
        """The batch with frames or features, labels, mask and labelled on a device."""
        # To the processor's memory a copy that does not block could be read before it has arrived.
        early = torch.device(device).type != "cpu"

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=early)

        frames, features = (None if data is None else move(data) for data in (self.frames, self.features))
        labels, mask, labelled = (move(one) for one in (self.labels, self.mask, self.labelled))
        return replace(self, frames=frames, features=features, labels=labels, mask=mask, labelled=labelled)

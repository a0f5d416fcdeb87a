"""Clips → batches: the frames of several clips are gathered from their segments into one tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from wildstream.errors import ConfigError, ShardError
from wildstream.samples import Batch, Clip
from wildstream.stream.buffers import frame_memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """Gather clips into batches; uint8 in, uint8 out, unless a transform makes it otherwise."""

    size: int
    """Clips per batch; the last may be smaller, and so may a worker's, whose clips are a part of the planned stream."""
    transform: Callable[[Tensor], Tensor] | None = None
    """Applied to the frames of each clip, (T, [P,] C, H, W) uint8; its results must be of one shape."""

    def __post_init__(self) -> None:
        """Refuse an empty batch (ConfigError)."""
        if self.size < 1:
            raise ConfigError(f"batch_size={self.size} must be at least 1.")

    def __call__(self, clips: Iterable[Clip]) -> Iterator[Batch]:
        """Yield batches of `size` clips."""
        for group in self._group(clips):
            batch = self._make(group)
            group.clear()  # whoever is given the batch must not keep the clips' segments in memory
            yield batch

    def _group(self, clips: Iterable[Clip]) -> Iterator[list[Clip]]:
        """Lists of the clips of each batch, complete as soon as they can be."""
        group: list[Clip] = []
        ahead: list[Clip] = []
        for clip in clips:
            if group and clip.position // self.size != group[0].position // self.size:
                ahead.append(clip)
            else:
                group.append(clip)
            del clip
            if ahead or len(group) == self.size:
                yield group
                group, ahead = ahead, []
        if group:
            yield group

    def _make(self, clips: list[Clip]) -> Batch:
        """One batch of the given clips."""
        frames = self._frames(clips)
        return Batch(
            frames=frames,
            labels=torch.stack([clip.label for clip in clips]),
            labelled=torch.tensor([clip.labelled for clip in clips], dtype=torch.bool),
            keys=[clip.key for clip in clips],
            starts=torch.tensor([clip.start for clip in clips], dtype=torch.int64),
            mask=torch.tensor([clip.real and clip.problem is None for clip in clips], dtype=torch.bool),
            positions=torch.tensor([clip.position for clip in clips], dtype=torch.int64),
            problems={row: clip.problem for row, clip in enumerate(clips) if clip.real and clip.problem is not None},
        )

    def _frames(self, clips: list[Clip]) -> Tensor | None:
        """The frames of a batch, transformed where there is a transform."""
        segments = [clip.segment_frames for clip in clips if clip.segment_frames is not None]
        if not segments:
            return None
        if self.transform is not None:
            return _stack([self.transform(segment[clip.places]) for segment, clip in zip(segments, clips, strict=True)])
        return _gather(segments, clips)


def _gather(segments: list[Tensor], clips: list[Clip]) -> Tensor:
    """Copy the clips' frames straight from their segments into one tensor."""
    shapes = {tuple(segment.shape[1:]): clip.key for segment, clip in zip(segments, clips, strict=True)}
    if len(shapes) > 1:
        found = ", ".join(f"{key} {'×'.join(map(str, shape))}" for shape, key in shapes.items())
        raise ShardError(f"frames of several sizes cannot be one batch: {found}. Set size=, such as size=224.")
    shape, first = (len(clips), len(clips[0].places), *segments[0].shape[1:]), segments[0]
    if first.dtype == torch.uint8:
        frames = frame_memory.take(shape, first.device)
    else:
        frames = torch.empty(shape, dtype=first.dtype, device=first.device)
    for row, segment, clip in zip(frames, segments, clips, strict=True):
        torch.index_select(segment, 0, clip.places.to(segment.device), out=row)
    return frames


def _stack(results: list[Tensor]) -> Tensor:
    """Stack what a transform gave for each clip."""
    shapes = {tuple(result.shape) for result in results}
    if len(shapes) > 1:
        raise ConfigError(
            f"transform gives several shapes in one batch: {sorted(shapes)}. Let it resize or crop to one."
        )
    return torch.stack(results).detach()  # what a transform did is not learned

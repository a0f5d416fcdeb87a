"""The recipe: the ordered list of stages from a plan to batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import webdataset
from torch import Tensor

from wildstream.stream.batches import Batches
from wildstream.stream.decode import Decode
from wildstream.stream.patches import Tile
from wildstream.stream.segments import LabelPlanned, ReadPlanned
from wildstream.stream.shuffle import DrawPlanned
from wildstream.stream.transforms import Resize, Size, parse_size

if TYPE_CHECKING:
    from wildstream.shards.index import Index
    from wildstream.stream.plan import Segment
    from wildstream.stream.windows import SlidingStyle


def per_frame(style: SlidingStyle, size: Size | None) -> tuple[Callable[[Tensor], Tensor], ...]:
    """What is done once to each frame: cut into patches, then resize frame or patch (`size=None`: leave it)."""
    functions: list[Callable[[Tensor], Tensor]] = []
    if style.has_patches:
        functions.append(Tile(patch_type=style.patch_type, patch_h=style.patch_h, patch_w=style.patch_w))
    if size is not None:
        height, width = parse_size(size)
        functions.append(Resize(height=height, width=width))
    return tuple(functions)


def planned_pipeline(
    segments: Iterable[Segment],
    *,
    index: Index,
    style: SlidingStyle,
    batch_size: int,
    size: Size | None,
    transform: Callable[[Tensor], Tensor] | None,
    threads: int,
    device: str,
) -> webdataset.DataPipeline:
    """Planned segments → batches."""
    return webdataset.DataPipeline(
        lambda: iter(segments),
        ReadPlanned(index, style),
        Decode(per_frame=per_frame(style, size), threads=threads, device=device),
        DrawPlanned(),
        Batches(size=batch_size, transform=transform),
    )


def label_pipeline(
    segments: Iterable[Segment], *, index: Index, style: SlidingStyle, batch_size: int
) -> webdataset.DataPipeline:
    """Planned segments → batches of labels and addresses; no video is opened."""
    return webdataset.DataPipeline(
        lambda: iter(segments),
        LabelPlanned(index, style),
        DrawPlanned(),
        Batches(size=batch_size),
    )

"""The recipe: the ordered list of stages from a plan to batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import webdataset
from torch import Tensor

from wildstream.samples import Batch
from wildstream.stream.batches import Batches
from wildstream.stream.decode import Decode
from wildstream.stream.gather import FeatureSource, GatherFeatures
from wildstream.stream.patches import Tile
from wildstream.stream.plan import Plan, Share
from wildstream.stream.segments import LabelPlanned, ReadPlanned
from wildstream.stream.shuffle import DrawPlanned
from wildstream.stream.temporal import PickFrames
from wildstream.stream.transforms import Resize, ResizeBy, Size, parse_size

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.shards.index import Index
    from wildstream.stream.windows import SlidingStyle, WindowLabels


def per_frame(style: SlidingStyle, size: Size | None) -> tuple[Callable[[Tensor], Tensor], ...]:
    """What is done once to each frame: cut into patches, then resize frame or patch (`size=None`: leave it)."""
    functions: list[Callable[[Tensor], Tensor]] = []
    if style.has_patches:
        functions.append(Tile(patch_type=style.patch_type, patch_h=style.patch_h, patch_w=style.patch_w))
    if size is not None:
        height, width = parse_size(size)
        functions.append(Resize(height=height, width=width))
    return tuple(functions)


def make_decode(
    style: SlidingStyle,
    size: Size | None,
    *,
    resize: ResizeBy,
    threads: int,
    device: str,
    decoded_by: Counter[str] | None = None,
) -> Decode:
    """The stage that decodes; libswscale scales whole frames on the CPU, where nobody wants torchvision to.

    `decoded_by` is where it counts segments, by who decoded them; a counter of its own by default.
    """
    counter = Counter[str]() if decoded_by is None else decoded_by
    if resize == "swscale" and size is not None and not style.has_patches:
        return Decode(size=parse_size(size), threads=threads, device=device, decoded_by=counter)
    return Decode(per_frame=per_frame(style, size), threads=threads, device=device, decoded_by=counter)


def frame_bytes(index: Index, style: SlidingStyle, size: Size | None) -> npt.NDArray[np.int64]:
    """(num_videos,) bytes of one frame of each video as segments keep it; of features, of a frame's share of them."""
    if (features := index.info.features) is not None:  # a segment has at most step_size frames for a window
        return np.full(len(index), -(-features.window_bytes // style.step_size), np.int64)
    sizes: dict[tuple[int, int], int] = {}
    result = np.empty(len(index), np.int64)
    for video in range(len(index)):
        shape = index.frame_size(video)
        if shape not in sizes:
            frame = torch.empty((1, 3, *shape), dtype=torch.uint8)
            for function in per_frame(style, size):
                frame = function(frame)
            sizes[shape] = frame.numel()
        result[video] = sizes[shape]
    return result


@dataclass(frozen=True, kw_only=True, eq=False)
class Recipe:
    """From planned segments to batches."""

    index: Index
    """The videos."""
    style: SlidingStyle
    """How windows slide."""
    pick: PickFrames
    """Which frames of a window make up its clip."""
    batch_size: int
    """Clips per batch."""
    size: Size | None
    """Pixels of frames or patches; None leaves them as they are."""
    resize: ResizeBy
    """Who resizes."""
    transform: Callable[[Tensor], Tensor] | None
    """Applied to the frames of each clip."""
    only_labels: bool
    """Whether nothing is decoded."""
    labels: WindowLabels
    """Of all windows."""
    threads: int
    """Segments that are decoded at the same time."""
    device: str
    """Where to decode, and where frames are kept."""
    decoded_by: Counter[str]
    """Where segments are counted, by who decoded them."""
    features: FeatureSource | None = None
    """Where features come from, where the index is of such."""

    def batches(self, plan: Plan, share: Share) -> Iterator[Batch]:
        """The batches of a share of a plan."""
        if self.features is not None:
            gather = GatherFeatures(source=self.features, labels=self.labels, only_labels=self.only_labels)
            return gather(plan, share)
        stages = [
            lambda: plan.segments(share),
            *([LabelPlanned(self.index, self.style)] if self.only_labels else self._decoding()),
            DrawPlanned(plan.positions(share)),
            Batches(size=self.batch_size, transform=self.transform),
        ]
        return iter(webdataset.DataPipeline(*stages))

    def part(self, plan: Plan, share: Share, num_workers: int, worker: int) -> Iterator[Batch]:
        """The rows of a share's batches that are one worker's."""
        return self.batches(plan, replace(share, worker=worker, num_workers=num_workers))

    def _decoding(self) -> list[object]:
        """From planned segments to decoded ones."""
        return [
            ReadPlanned(self.index, self.style, self.pick),
            make_decode(
                self.style,
                self.size,
                resize=self.resize,
                threads=self.threads,
                device=self.device,
                decoded_by=self.decoded_by,
            ),
        ]

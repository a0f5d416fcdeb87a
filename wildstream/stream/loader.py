"""The loader: batches of one rank, epoch by epoch, of known number and order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wildstream.errors import ConfigError
from wildstream.samples import Batch
from wildstream.stream.pipeline import label_pipeline, per_frame, planned_pipeline
from wildstream.stream.plan import LANES, POOL_SEGMENTS, SEGMENT_FRAMES, Order, Plan, Tail, make_plan, num_batches
from wildstream.stream.transforms import Size

if TYPE_CHECKING:
    from wildstream.shards.index import Index
    from wildstream.stream.windows import SlidingStyle


@dataclass(kw_only=True)
class Loader:
    """Iterate over the batches of this rank; every iteration is the current epoch from its start.

    With `shuffle`, call `set_epoch` before each epoch to get another order.
    """

    index: Index
    """The videos."""
    style: SlidingStyle
    """How windows slide."""
    batch_size: int
    """Clips per batch and rank."""
    size: Size | None = None
    """Resize frames or patches to a square of so many pixels, or to (height, width); None leaves them as they are."""
    shuffle: bool = False
    """Random order; otherwise by (key, start)."""
    seed: int = 0
    """With the epoch, decides the order."""
    transform: Callable[[Tensor], Tensor] | None = None
    """Applied to the frames of each clip, (T, [P,] C, H, W) uint8."""
    only_labels: bool = False
    """Give labels and addresses, and open no video; `batch.frames` is None."""
    num_workers: int | None = None
    """Threads that decode; the number of available cores by default."""
    rank: int | None = None
    """This process's number; from torch.distributed or the environment by default."""
    world_size: int | None = None
    """Number of processes; likewise."""
    tail: Tail = "pad"
    """"pad" fills the last batch with clips that `batch.mask` marks; "drop" leaves it out."""
    device: str = "cpu"
    """Where to decode, and where `batch.frames` will be."""
    lanes: int = LANES
    """Pieces that a shuffled epoch is cut into; a constant of the run that the number of ranks divides."""
    pool_segments: int = POOL_SEGMENTS
    """Segments per lane that are open at a time: the reach of the shuffle, and its memory."""
    segment_frames: int = SEGMENT_FRAMES
    """Kept frames that a segment spans, at most."""
    epoch: int = field(default=0, init=False)
    """The epoch that the next iteration gives; see `set_epoch`."""

    def __post_init__(self) -> None:
        """Refuse options that do not fit each other (ConfigError)."""
        rank, world_size = self._rank, self._world_size
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank={rank} must lie within [0, world_size={world_size}).")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size={self.batch_size} must be at least 1.")
        if self.tail not in ("pad", "drop"):
            raise ConfigError(f"tail={self.tail!r} must be one of 'pad', 'drop'.")
        if self.num_workers is not None and self.num_workers < 1:
            raise ConfigError(f"num_workers={self.num_workers} must be at least 1.")
        if self.shuffle and self.order.lanes % world_size:
            fits = [ranks for ranks in range(1, self.lanes + 1) if self.lanes % ranks == 0]
            raise ConfigError(
                f"lanes={self.lanes} must be a multiple of world_size={world_size}, so that each rank has whole lanes. "
                f"Run {', '.join(map(str, fits))} ranks, or set lanes={world_size * 4}."
            )
        per_frame(self.style, self.size)

    @property
    def order(self) -> Order:
        """How windows are grouped and shuffled."""
        return Order(
            shuffle=self.shuffle,
            seed=self.seed,
            lanes=self.lanes,
            pool_segments=self.pool_segments,
            segment_frames=self.segment_frames,
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives."""
        if epoch < 0:
            raise ConfigError(f"epoch={epoch} must not be negative.")
        self.epoch = epoch

    def plan(self) -> Plan:
        """The order of the current epoch."""
        return make_plan(self.index.num_frames, self.style, self.order, epoch=self.epoch)

    def __len__(self) -> int:
        """Batches of an epoch: the same number for every rank."""
        total = int(self.style.num_windows(self.index.num_frames).sum())
        return num_batches(total, batch_size=self.batch_size, world_size=self._world_size, tail=self.tail)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the current epoch."""
        segments = self.plan().segments(
            batch_size=self.batch_size, rank=self._rank, world_size=self._world_size, tail=self.tail
        )
        if self.only_labels:
            return iter(label_pipeline(segments, index=self.index, style=self.style, batch_size=self.batch_size))
        return iter(
            planned_pipeline(
                segments,
                index=self.index,
                style=self.style,
                batch_size=self.batch_size,
                size=self.size,
                transform=self.transform,
                threads=self.num_workers or available_cores(),
                device=self.device,
            )
        )

    @property
    def _rank(self) -> int:
        """This process's number, given or found."""
        return _environment()[0] if self.rank is None else self.rank

    @property
    def _world_size(self) -> int:
        """Number of processes, given or found."""
        return _environment()[1] if self.world_size is None else self.world_size


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _environment() -> tuple[int, int]:
    """Rank and world size, from torch.distributed where it runs, else from the launcher's variables."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))

"""The loader: batches of one rank, of known number and order; it can stop anywhere and go on exactly there.

loader.state_dict()     {"seed", "epoch", "position", ...}: one integer says how far the epoch is, for all ranks
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from wildstream.errors import ConfigError, LedgerError
from wildstream.samples import Batch
from wildstream.storage import urls
from wildstream.stream.decode import AHEAD
from wildstream.stream.footprint import NOTHING, DecodingCost, Footprint, add_up, decoding_cost, measure
from wildstream.stream.gather import MappedFeatures, RequestedFeatures, feature_source, segment_frames
from wildstream.stream.ledger import Ledger
from wildstream.stream.pipeline import Recipe, frame_bytes, per_frame
from wildstream.stream.plan import (
    LANES,
    POOL_SEGMENTS,
    SEGMENT_FRAMES,
    Order,
    Plan,
    Share,
    Tail,
    make_plan,
    num_batches,
)
from wildstream.stream.samplers import Drawable, Sampler, describe, get_sampler
from wildstream.stream.temporal import PickFrames, TemporalSampler, get_temporal_sampler
from wildstream.stream.transforms import ResizeBy, Size
from wildstream.stream.windows import WindowLabels
from wildstream.stream.workers import run_processes

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.shards.index import Index
    from wildstream.stream.windows import SlidingStyle


@dataclass(kw_only=True, slots=True)
class _Progress:
    """How far an iteration is; each has its own, and the loader tells that of the last one that was begun."""

    epoch: int
    """The epoch that is, or comes next."""
    position: int = 0
    """Windows of the epoch that all ranks together have given."""
    order: int | None = None
    """Checksum of the epoch's order; None before it is planned."""


@dataclass(kw_only=True, repr=False)
class Loader:
    """Iterate over the batches of this rank; an iteration is the current epoch, from its start or where it was left.

    With `shuffle` or a sampler, call `set_epoch` before each epoch to get another order.
    """

    index: Index
    """The videos."""
    style: SlidingStyle
    """How windows slide."""
    batch_size: int
    """Clips per batch and rank."""
    size: Size | None = None
    """Resize frames or patches to a square of so many pixels, or to (height, width); None leaves them as they are."""
    resize: ResizeBy = "swscale"
    """Who resizes: "swscale", before frames become RGB, is quicker; "torchvision", afterwards, is antialiased bilinear.
    They differ by about one grey level. Patches, and frames of NVDEC, are always torchvision's."""
    shuffle: bool = False
    """Random order; otherwise by (key, start)."""
    sampler: Sampler | str | None = None
    """Which windows an epoch has, in random order: a sampler, "balanced" or "random"; None: each once."""
    temporal_sampler: TemporalSampler | str = "uniform"
    """Which frames of a window make up its clip: "uniform", "chunk_random", "jitter", "speed", "reverse", or a
    TemporalSampler that joins them; at random for each window in each epoch, but for "uniform"."""
    seed: int = 0
    """With the epoch, decides the order, and what a temporal sampler picks."""
    transform: Callable[[Tensor], Tensor] | None = None
    """Applied to the frames of each clip, (T, [P,] C, H, W) uint8."""
    only_labels: bool = False
    """Give labels and addresses, and open no video; `batch.frames` is None."""
    num_workers: int | None = None
    """Threads, or processes, that decode; the number of available cores by default."""
    workers: Literal["threads", "processes"] = "threads"
    """Threads are faster; processes help where a transform in Python is slow. Features need neither."""
    rank: int | None = None
    """This process's number; from torch.distributed or the environment by default."""
    world_size: int | None = None
    """Number of processes; likewise."""
    tail: Tail = "pad"
    """"pad" fills the last batch with clips that `batch.mask` marks; "drop" leaves it out."""
    max_skipped: float = 0.01
    """Windows that may fail to decode before it is an error: a count (int), or a share of this rank's epoch (float)."""
    device: str = "cpu"
    """Where to decode, and where `batch.frames` will be. On "cuda", what NVDEC does not take is decoded on the CPU."""
    lanes: int = LANES
    """Pieces that a shuffled epoch is cut into, at most; a constant of the run that the number of ranks divides."""
    pool_segments: int = POOL_SEGMENTS
    """Segments per lane that are open at a time: the reach of the shuffle, and its memory."""
    segment_frames: int = SEGMENT_FRAMES
    """Kept frames that a segment spans, at most; up to twice as many where it can then start at a key frame."""
    epoch: int = field(default=0, init=False)
    """The epoch that the next iteration gives; see `set_epoch`."""
    ledger: Ledger = field(default_factory=lambda: Ledger(0), init=False)
    """What became of the windows of the running or the last iteration, of this rank."""
    decoded_by: Counter[str] = field(default_factory=Counter, init=False)
    """Segments of that iteration by who decoded them, and what: "cpu h264"; on CUDA "nvdec h264", "cpu h264 yuv444p"
    of what NVDEC does not take, "cpu h264 after nvdec" of what it failed at. Not what worker processes decode."""
    _resume_at: int = field(default=0, init=False)
    _resume_order: int | None = field(default=None, init=False)
    _progress: _Progress = field(default_factory=lambda: _Progress(epoch=0), init=False)

    def __post_init__(self) -> None:
        """Refuse options that do not fit each other (ConfigError)."""
        self.sampler = get_sampler(self.sampler)
        self.temporal_sampler = get_temporal_sampler(self.temporal_sampler)
        self.temporal_sampler.check(self.style)
        if self.index.info.features is not None and not self.temporal_sampler.is_uniform:
            raise ConfigError(
                f"temporal_sampler={self.temporal_sampler} picks frames, and features have none. Leave it out."
            )
        self.rank = _environment()[0] if self.rank is None else self.rank
        self.world_size = _environment()[1] if self.world_size is None else self.world_size
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(f"rank={self.rank} must lie within [0, world_size={self.world_size}).")
        for name, number in (("batch_size", self.batch_size), ("num_workers", self.num_workers)):
            if number is not None and number < 1:
                raise ConfigError(f"{name}={number} must be at least 1.")
        if self.tail not in ("pad", "drop"):
            raise ConfigError(f"tail={self.tail!r} must be one of 'pad', 'drop'.")
        if self.resize not in get_args(ResizeBy):
            raise ConfigError(f"resize={self.resize!r} must be one of {', '.join(map(repr, get_args(ResizeBy)))}.")
        if self.workers not in ("threads", "processes"):
            raise ConfigError(f"workers={self.workers!r} must be one of 'threads', 'processes'.")
        if self.workers == "processes" and torch.device(self.device).type != "cpu":
            raise ConfigError(f"workers='processes' decodes on the CPU, not on device={self.device!r}. Take threads.")
        if self.max_skipped < 0:
            raise ConfigError(f"max_skipped={self.max_skipped} must not be negative.")
        self.order.check_ranks(self._ranks)
        per_frame(self.style, self.size)

    @property
    def order(self) -> Order:
        """How windows are grouped and shuffled."""
        return Order(
            shuffle=self.shuffle or self.sampler is not None,
            seed=self.seed,
            lanes=self.lanes,
            pool_segments=self.pool_segments,
            segment_frames=self._segment_frames,
            everywhere=isinstance(self._features, MappedFeatures),
        )

    @cached_property
    def _segment_frames(self) -> int:
        """What `segment_frames` asks for, or what is worth a request to object storage."""
        if not isinstance(self._features, RequestedFeatures):
            return self.segment_frames
        return segment_frames(self.index, self.style, lanes=self.lanes, least=self.segment_frames)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives; another one than the current starts at its first batch."""
        if epoch < 0:
            raise ConfigError(f"epoch={epoch} must not be negative.")
        if epoch != self.epoch:
            self._resume_at, self._resume_order = 0, None
            self._progress = _Progress(epoch=epoch)
        self.epoch = epoch

    def plan(self) -> Plan:
        """The order of the current epoch."""
        drawable = self._drawable
        drawn = None if drawable is None else drawable.draw(np.random.default_rng([self.seed, self.epoch, 1]))
        return make_plan(
            self.index.num_frames,
            self.style,
            self.order,
            epoch=self.epoch,
            drawn=drawn,
            key_frames=self.index.key_frames,
        )

    def __len__(self) -> int:
        """Batches of a whole epoch: the same number for every rank."""
        drawable = self._drawable
        return num_batches(self._num_windows if drawable is None else drawable.size(), self.share())

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the current epoch; after `load_state_dict`, once, the rest of it."""
        plan, whole = self.plan(), self.share()
        share = replace(whole, skip=self._resume_at // self._ranks)
        order = self._checked_order(plan)
        ledger = self.ledger = Ledger(planned=self.batch_size * plan.num_batches(share))
        progress = self._progress = _Progress(epoch=self.epoch, position=self._resume_at, order=order)
        self._resume_at, self._resume_order, self.decoded_by = 0, None, Counter()
        for batch in self._batches(plan, share):
            ledger.add(batch)
            if batch.problems:
                ledger.check_limit(self.max_skipped, epoch=self.batch_size * plan.num_batches(whole))
            progress.position += self.batch_size * self._ranks
            yield batch
        ledger.check()
        if ledger.delivered + ledger.num_skipped != plan.num_real(share):
            raise LedgerError(f"{plan.num_real(share)} windows were planned, but {ledger}. Please report this.")
        progress.epoch, progress.position, progress.order = progress.epoch + 1, 0, None

    def _checked_order(self, plan: Plan) -> int:
        """The checksum of a plan; refused where an epoch would go on in another order than it was begun in."""
        order = plan.checksum()
        if self._resume_order not in (None, order):
            raise ConfigError(
                f"epoch {self.epoch} is in another order than when it was left in the middle. Take the versions of "
                f"that run (here is NumPy {np.__version__}), or start the epoch anew."
            )
        return order

    def state_dict(self) -> dict[str, Any]:
        """How far the stream is: the same on all ranks, and enough to go on exactly there on any number of them."""
        return {
            "seed": self.seed,
            "epoch": self._progress.epoch,
            "position": self._progress.position,
            "order": self._progress.order,
            "world_size": self._ranks,
            "fingerprint": self.fingerprint,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another loader was: the next iteration gives what that one had not given yet.

        Raises:
            ConfigError: The state is of other data, another style or order, or does not fit this number of ranks.
        """
        if missing := {"seed", "epoch", "position", "order", "world_size", "fingerprint"} - set(state):
            raise ConfigError(f"the loader's state lacks {', '.join(sorted(missing))}; it is not of state_dict().")
        if state["fingerprint"] != self.fingerprint:
            raise ConfigError(
                f"the state is of other data, style, sampler or order (fingerprint {state['fingerprint']}) than this "
                f"loader ({self.fingerprint}). Take the shards and options of the run that is to go on."
            )
        position = int(state["position"])
        if position and not self.order.shuffle and state["world_size"] != self._ranks:
            raise ConfigError(
                f"an unshuffled epoch was left in the middle by {state['world_size']} ranks and cannot go on with "
                f"{self._ranks}. Take {state['world_size']} ranks, or start it anew."
            )
        if position % self._ranks:
            raise ConfigError(
                f"position={position} of the epoch is not a multiple of world_size={self._ranks}. "
                f"Take a number of ranks that divides it, such as {state['world_size']}."
            )
        self.seed, self.epoch = int(state["seed"]), int(state["epoch"])
        self._resume_at, self._resume_order = position, state["order"]
        self._progress = _Progress(epoch=self.epoch, position=position, order=state["order"])

    @property
    def fingerprint(self) -> str:
        """Hash of all that the order depends on but seed and epoch."""
        order = (self.order.shuffle, self.lanes, self.pool_segments, self.segment_frames, describe(self.sampler))
        picked = [] if self._pick.sampler.is_uniform else [str(self.temporal_sampler)]  # as before there were others
        facts = json.dumps([self.index.fingerprint, self.style.as_dict(), order, *picked])
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    def footprint(self) -> Footprint:
        """What following the current epoch's plan takes on this rank, computed from plan and index."""
        if self.order.everywhere:
            return NOTHING
        plan, share = self.plan(), self.share()
        processes = self._num_workers if self.workers == "processes" else 1
        parts = [
            measure(
                plan.segments(replace(share, worker=worker, num_workers=processes)),
                self.index,
                self._pick,
                frame_bytes=self._frame_bytes(),
                batch_size=self.batch_size,
                ahead=AHEAD * (1 if processes > 1 else self._num_workers),
            )
            for worker in range(processes)
        ]
        return add_up(parts)

    def clip_bytes(self) -> int:
        """Bytes of one clip's frames as they are kept; of the largest, where videos differ."""
        return int(self._frame_bytes().max(initial=0)) * self.style.samples_per_window

    def decoding_cost(self) -> DecodingCost:
        """How many frames the current epoch decodes on this rank for how many it needs."""
        return decoding_cost(self.plan().segments(self.share()), self.index, self._pick)

    def __repr__(self) -> str:
        """What the loader does and takes, for people."""
        footprint, order = self.footprint(), self.order
        how = "in order" if not order.shuffle else f"shuffled with seed {self.seed}"
        drawn = f", drawn by {self.sampler}" if self.sampler else ""
        drawn += "" if self._pick.sampler.is_uniform else f", clips by {self.temporal_sampler}"
        return (
            f"Loader of {urls.redact(self.index.folder)}: {self._num_windows:,} windows, {len(self.index):,} videos, "
            f"{how}{drawn}\n"
            f"  {len(self):,} batches of {self.batch_size} on each of {self._ranks} ranks (this is rank {self.rank})\n"
            f"  {footprint.num_segments:,} segments, at most {footprint.pool_segments} open, "
            f"{footprint.pool_bytes / 1e6:,.0f} MB of frames at most; {self._num_workers} {self.workers}\n"
            f"  {footprint.converted_frames:,} frames converted for {footprint.needed_frames:,} needed"
        )

    def share(self) -> Share:
        """Which part of the plan is this rank's."""
        return Share(batch_size=self.batch_size, rank=self.rank or 0, world_size=self._ranks, tail=self.tail)

    def _batches(self, plan: Plan, share: Share) -> Iterator[Batch]:
        """The batches of a share of the plan."""
        recipe = Recipe(
            index=self.index,
            style=self.style,
            pick=self._pick,
            batch_size=self.batch_size,
            size=self.size,
            resize=self.resize,
            transform=self.transform,
            only_labels=self.only_labels,
            labels=self._labels,
            threads=self._num_workers if self.workers == "threads" else 1,
            device=self.device,
            decoded_by=self.decoded_by,
            features=self._features,
        )
        if self.workers == "threads" or self.only_labels or self._features is not None:
            return recipe.batches(plan, share)
        return run_processes(
            partial(recipe.part, plan, share, self._num_workers),
            num_workers=self._num_workers,
            batch_size=self.batch_size,
            num_batches=plan.num_batches(share),
        )

    @property
    def _drawable(self) -> Drawable | None:
        """What the sampler draws from; None without one."""
        return Drawable(self.sampler, self._labels) if isinstance(self.sampler, Sampler) else None

    @cached_property
    def _labels(self) -> WindowLabels:
        """Labels of all windows, kept: length and every epoch's draw ask for them."""
        return WindowLabels(index=self.index, style=self.style)

    def _frame_bytes(self) -> npt.NDArray[np.int64]:
        """Bytes of one frame of each video as it is kept; of mapped features and of labels alone nothing is."""
        if self.only_labels or self.order.everywhere:
            return np.zeros(len(self.index), np.int64)
        return frame_bytes(self.index, self.style, self.size)

    @cached_property
    def _features(self) -> MappedFeatures | RequestedFeatures | None:
        """Where features come from, kept from epoch to epoch; None where frames do."""
        return feature_source(self.index, self.style)

    @property
    def _pick(self) -> PickFrames:
        """Which frames make up the clips of the current epoch."""
        sampler = get_temporal_sampler(self.temporal_sampler)
        return PickFrames(style=self.style, sampler=sampler, seed=self.seed, epoch=self.epoch)

    @property
    def _num_windows(self) -> int:
        """Windows that there are."""
        return int(self.style.num_windows(self.index.num_frames).sum())

    @property
    def _num_workers(self) -> int:
        """Threads or processes, given or found."""
        return self.num_workers or len(os.sched_getaffinity(0))

    @property
    def _ranks(self) -> int:
        """Number of ranks; it is settled when the loader is made."""
        return self.world_size or 1


def _environment() -> tuple[int, int]:
    """Rank and world size, from torch.distributed where it runs, else from the launcher's variables."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))

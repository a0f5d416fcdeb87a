"""What a peer is, and what those share that read each window by itself."""

from __future__ import annotations

import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from typing import Any, Literal

import torch
import webdataset
from torch import Tensor

from benchmarks.footage import RATE, Address, Case

Delivered = tuple[Tensor, Sequence[str], Sequence[int]]
"""A batch: (B, 16, 3, 224, 224) uint8, keys of videos, first frames."""


class Peer(ABC):
    """A way to get batches of windows. It runs in a process of its own, where `start` is called once."""

    family: str
    """What it is, for people; of the variants of one family the chart shows the fastest."""
    modules: tuple[str, ...] = ()
    """What must be installed."""
    bounded = True
    """Whether a pass may be of only some windows."""
    full_order = True
    """Whether a pass mixes the windows of all videos, and not only those of a buffer."""

    def missing(self) -> str | None:
        """What is not installed."""
        lacking = [name for name in self.modules if find_spec(name) is None]
        return f"{', '.join(lacking)} not installed: pip install 'wildstream[bench]'" if lacking else None

    def fits(self, case: Case) -> bool:
        """Whether the peer is worth measuring in this case."""
        return True

    @abstractmethod
    def start(self, case: Case, wanted: list[Address]) -> dict[str, Any]:
        """Make ready; `wanted` are windows whose pixels will be looked at. Returns what is to be told of it."""

    @abstractmethod
    def batches(self, number: int | None) -> Iterator[Delivered]:
        """One pass over all windows, or, if it is bounded, over the first `number` of a random order."""

    def stop(self) -> None:  # noqa: B027 - not all have something to do
        """Clean up."""


class Reader(ABC):
    """Reads windows from videos in memory: what differs between the peers that read each window by itself."""

    @abstractmethod
    def open(self, data: bytes) -> Any:  # noqa: ANN401 - each library has its own
        """A decoder; it is kept for all windows of the video."""

    @abstractmethod
    def read(self, video: Any, start: int, case: Case) -> Tensor:  # noqa: ANN401 - what `open` gave
        """(T, C, H, W) uint8: the frames of one window."""


@dataclass
class PerWindow(Peer):
    """Each window by itself, in the workers of a DataLoader.

    "random": any window of any video at any time. Each worker takes the videos' bytes from the shards when it
    starts, and keeps them with an open decoder for each: as good as can be, for few videos.
    "in_order": WebDataset goes through the shards; a video's windows come from the first to the last, so that decoding
    goes straight on, and WebDataset's buffer shuffles clips.
    """

    family: str
    reader: Reader
    modules: tuple[str, ...] = ()
    order: Literal["random", "in_order"] = "random"
    _loader: Any = field(default=None, init=False)
    _windows: _Windows | None = field(default=None, init=False)

    @property
    def bounded(self) -> bool:  # type: ignore[override]
        """In order, all videos are gone through."""
        return self.order == "random"

    @property
    def full_order(self) -> bool:  # type: ignore[override]
        """A buffer mixes less."""
        return self.order == "random"

    def fits(self, case: Case) -> bool:
        """Where windows overlap, each begins before the one before it ends, and order saves no seek."""
        return self.order == "random" or case.step >= case.window

    def start(self, case: Case, wanted: list[Address]) -> dict[str, Any]:
        """Start the workers."""
        options: dict[str, Any] = {"num_workers": case.workers, "persistent_workers": True}
        if self.order == "random":
            rest = set(wanted)
            order = wanted + [address for address in case.addresses() if address not in rest]
            self._windows = _Windows(case, order)
            dataset = _RandomAccess(case, self.reader)
            self._loader = torch.utils.data.DataLoader(
                dataset, batch_sampler=self._windows, collate_fn=gather, **options
            )
        else:
            stream = webdataset.WebDataset(case.tars, shardshuffle=False).compose(
                _InOrder(case, self.reader), webdataset.shuffle(BUFFER_CLIPS), _Batched(case.batch)
            )
            self._loader = webdataset.WebLoader(stream, batch_size=None, **options)
        return {"order": self.order}

    def batches(self, number: int | None) -> Iterator[Delivered]:
        """One pass of the workers, which live on."""
        if self._windows is not None:
            self._windows.number = number
        yield from self._loader

    def stop(self) -> None:
        """End the workers."""
        self._loader = None


BUFFER_CLIPS = 100
"""Clips in WebDataset's shuffle buffer of each worker: 240 MB."""

Clip = tuple[Tensor, str, int]


def gather(clips: Sequence[Clip]) -> Delivered:
    """Clips to a batch, of the same order in memory; in a worker, into memory that the trainer shares."""
    frames, keys, starts = zip(*clips, strict=True)
    inside_out = frames[0].stride(1) == 1  # colours side by side
    rows = [clip.permute(0, 2, 3, 1) for clip in frames] if inside_out else list(frames)
    out = None
    if torch.utils.data.get_worker_info() is not None:  # as PyTorch's own collation does: one copy less
        storage = rows[0]._typed_storage()._new_shared(len(rows) * rows[0].numel())
        out = torch.empty(0, dtype=torch.uint8).new(storage).resize_((len(rows), *rows[0].shape))
    batch = torch.stack(rows, out=out)
    return batch.permute(0, 1, 4, 2, 3) if inside_out else batch, list(keys), list(starts)


def as_frames(array: Any) -> Tensor:  # noqa: ANN401 - NumPy's, or what looks like it
    """(T, H, W, C) → (T, C, H, W), without a copy: colours stay side by side in memory."""
    return torch.as_tensor(array).permute(0, 3, 1, 2)


def seconds(frame: float) -> float:
    """When a frame is shown."""
    return frame / RATE


@dataclass
class _Windows:
    """Batches of addresses: the first `number` of the order."""

    case: Case
    order: list[Address]
    number: int | None = None

    def __iter__(self) -> Iterator[list[Address]]:
        yield from chunks(self.order[: self.number], self.case.batch)

    def __len__(self) -> int:
        return -(-len(self.order[: self.number]) // self.case.batch)


@dataclass
class _RandomAccess(torch.utils.data.Dataset[Clip]):
    """Windows by their addresses."""

    case: Case
    reader: Reader
    _bytes: dict[str, bytes] = field(default_factory=dict)
    _open: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, address: Address) -> Clip:
        key, start = address
        if not self._bytes:
            self._bytes = read_videos(self.case)
        if key not in self._open:
            self._open[key] = self.reader.open(self._bytes[key])
        return self.reader.read(self._open[key], start, self.case), key, start


@dataclass
class _InOrder:
    """Samples of WebDataset → clips, video by video."""

    case: Case
    reader: Reader

    def __call__(self, samples: Iterable[dict[str, Any]]) -> Iterator[Clip]:
        for sample in samples:
            key, video = sample["__key__"], self.reader.open(sample["mp4"])
            for start in self.case.starts(key):
                yield self.reader.read(video, start, self.case), key, start


@dataclass
class _Batched:
    """Clips → batches."""

    size: int

    def __call__(self, clips: Iterable[Clip]) -> Iterator[Delivered]:
        for some in chunks(clips, self.size):
            yield gather(some)


def chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """So many at a time."""
    source = iter(items)
    while some := list(islice(source, size)):
        yield some


def read_videos(case: Case) -> dict[str, bytes]:
    """All videos of the shards, by key."""
    videos = {}
    for path in case.tars:
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                if member.name.endswith(".mp4") and (file := tar.extractfile(member)) is not None:
                    videos[member.name.removesuffix(".mp4")] = file.read()
    return videos

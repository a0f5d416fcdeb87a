"""A packed split → its feature shards: every window through a backbone, once; resumable, on any number of ranks.

    videos ──▶ shards of about `shard_bytes` ──▶ each rank takes every so many-th shard
    shard  ──▶ its videos: decode ▶ encode ──▶ one .npy per video in the staging folder, complete or not there
           ──▶ tar and rows, when its last video is done; then the .npy files go
    at last, the first rank: index.parquet and dataset.json, and the new split takes its place (see `shards.places`)

Which video goes into which shard, and what is in it, follows from the index and the options alone, so that a kill, or
another number of ranks, changes nothing but the time that it takes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from tqdm import tqdm

from wildstream.errors import ConfigError
from wildstream.features.encode import EncodeWindows, check_tokens, hash_weights
from wildstream.features.write import (
    Shard,
    array_path,
    assign_shards,
    finish_array,
    left_rows,
    open_array,
    pack_shard,
    publish,
)
from wildstream.launch import check_launch
from wildstream.models.backbones import Backbone, Weights, make_backbone
from wildstream.shards.feature_info import STORED, FeatureInfo, Precision, Tokens
from wildstream.shards.index import Index, open_index
from wildstream.shards.index_schema import DatasetInfo
from wildstream.shards.places import Place, make_place
from wildstream.storage.access import Storage
from wildstream.storage.urls import is_remote, local_path
from wildstream.stream.gather import complaint
from wildstream.stream.ledger import Ledger
from wildstream.stream.pipeline import make_decode
from wildstream.stream.plan import Order, Segment, segment_starts
from wildstream.stream.segments import ReadPlanned
from wildstream.stream.transforms import ResizeBy, Size, parse_size
from wildstream.stream.windows import SlidingStyle, get_style


@dataclass(slots=True)
class ExtractReport:
    """What was extracted, by this rank."""

    info: FeatureInfo
    """How."""
    ledger: Ledger
    """What became of the windows."""
    reused: int = 0
    """Videos that an earlier call had extracted."""
    split: str = ""
    """The split that was extracted: the folder in `out`."""


def extract(
    shards: str | Path,
    out: str | Path,
    *,
    backbone: str,
    weights: Weights = None,
    style: str | SlidingStyle = "sliding_window",
    tokens: Tokens = "pooled",
    dtype: Precision = "fp16",
    size: Size | None = None,
    resize: ResizeBy = "swscale",
    batch_size: int = 64,
    num_workers: int | None = None,
    shard_bytes: int = 512 << 20,
    max_skipped: float = 0.01,
    device: str | None = None,
    progress: bool = True,
    storage: Storage | None = None,
) -> ExtractReport:
    """Extract the features of all windows of one packed split.

    Args:
        shards: Path or URL of one packed split, such as "shards/train".
        out: Folder or URL that will hold a folder of the split's name, with the feature shards.
        backbone: Name of the backbone.
        weights: "DEFAULT", the path of a state dict, or None for random ones.
        style: How windows slide: a name from configs/sliding, or a SlidingStyle.
        tokens: "all"; "cls", the first; or "pooled", their mean.
        dtype: "fp16", "bf16" or "fp32".
        size: Frames or patches are resized to this; the backbone's own size by default.
        resize: Who resizes; see `Loader.resize`.
        batch_size: Frames, patches or clips that go through the backbone at a time.
        num_workers: Threads that decode; the number of available cores by default.
        shard_bytes: Videos are put into one shard until it would be larger than this.
        max_skipped: Windows that may fail to decode: a count (int), or a share of this rank's windows (float). They are
            named, and masked when they are loaded.
        device: Where the backbone runs; a GPU by default, where there is one.
        progress: Show a progress bar on stderr.
        storage: Reads and writes; one without options by default.

    Raises:
        ConfigError: An option is out of range or does not fit the others.
        ShardError: The shards cannot be read, or are feature shards themselves.
        WeightsError: Pretrained weights cannot be had.
        SampleError: More windows than `max_skipped` do not decode.
    """
    for name, number in (("batch_size", batch_size), ("shard_bytes", shard_bytes), ("num_workers", num_workers or 1)):
        if number < 1:
            raise ConfigError(f"{name}={number} must be at least 1.")
    if dtype not in STORED:
        raise ConfigError(f"dtype={dtype!r} is not known. Take one of {', '.join(STORED)}.")
    state = PartialState(cpu=device == "cpu")
    check_launch(state.num_processes)
    storage = storage or Storage()
    if not is_remote(out):
        local_path(out).mkdir(parents=True, exist_ok=True)
    index = open_index(shards, storage)
    if index.info.features is not None:
        raise ConfigError(
            f"{index.folder} holds features already, of {index.info.features.backbone}. Give clip shards."
        )
    network = make_backbone(backbone, weights=weights).eval().to(torch.device(device or state.device))
    check_tokens(network, tokens)
    extraction = _Extraction(
        index=index,
        style=get_style(style),
        network=network,
        encode=EncodeWindows(backbone=network, tokens=tokens, dtype=dtype, batch_size=batch_size),
        size=parse_size(size or network.spec.size),
        resize=resize,
        threads=num_workers or len(os.sched_getaffinity(0)),
        shard_bytes=shard_bytes,
        place=make_place(out, index.info.split, storage),
        rank=state.process_index,
        world_size=state.num_processes,
    )
    return extraction.run(state, max_skipped, progress=progress)


@dataclass(kw_only=True)
class _Extraction:
    """Extracts one split."""

    index: Index
    style: SlidingStyle
    network: Backbone
    encode: EncodeWindows
    size: tuple[int, int]
    resize: ResizeBy
    threads: int
    shard_bytes: int
    place: Place
    rank: int
    world_size: int
    reused: int = field(default=0, init=False)

    def run(self, state: PartialState, max_skipped: float, *, progress: bool) -> ExtractReport:
        """Do this rank's part, and as the first rank put all parts together."""
        shards = self._assign()
        names = [shard.name for shard in shards]
        mine = shards[self.rank :: self.world_size]
        ledger = Ledger(planned=sum(int(self.counts[video]) for shard in mine for video in shard.videos))
        with self.place.locked() if self.rank == 0 else nullcontext():
            old = self.place.finished({shard.name: shard.fingerprint for shard in shards})
            whole = len(old) == len(shards) and self.place.is_intact(names)
            state.wait_for_everyone()  # all have looked before one changes anything
            with tqdm(
                total=ledger.planned, desc="extract", unit="window", disable=not progress or self.rank > 0
            ) as bar:
                for shard in mine:
                    rows = self._obtain(shard, old, ledger, max_skipped, bar, whole=whole)
                    counts = {complaint(row["key"]): len(row["skipped"]) for row in rows if row["skipped"]}
                    ledger.skipped.update(counts)
                    ledger.check_limit(max_skipped, epoch=ledger.planned)
                    ledger.delivered += sum(int(self.counts[video]) for video in shard.videos) - sum(counts.values())
            state.wait_for_everyone()
            if self.rank == 0 and not whole:
                tables = [old.get(shard.name, left_rows(self.place, shard)) for shard in shards]
                publish(self.place, self.dataset, shards, tables)
            state.wait_for_everyone()
        ledger.check()
        return ExtractReport(self.info, ledger, self.reused, self.dataset.split)

    @cached_property
    def counts(self) -> np.ndarray[Any, Any]:
        """(num_videos,) windows of each video."""
        return self.style.num_windows(self.index.num_frames)

    @cached_property
    def info(self) -> FeatureInfo:
        """How the features are made; the shape is that of one black sample."""
        patches = {self._num_patches(video) for video in range(len(self.index))} or {1}
        if len(patches) > 1:
            raise ConfigError(
                f"windows of this style have {sorted(patches)} patches, depending on the video's size; features of one "
                "split need one number. Take patch_type='relative', or videos of one size."
            )
        spec, each = self.network.spec, patches.pop()
        frames = self.style.samples_per_window
        sample = torch.zeros((frames, 3, *self.size) if spec.takes == "clip" else (3, *self.size), dtype=torch.uint8)
        num_tokens, dim = self.encode.shape(sample)
        return FeatureInfo(
            backbone=spec.name,
            weights=hash_weights(self.network),
            style=self.style.as_dict(),
            size=self.size,
            resize=self.resize,
            tokens=self.encode.tokens,
            dtype=self.encode.dtype,
            members=each if spec.takes == "clip" else each * frames,
            num_tokens=num_tokens,
            dim=dim,
            source=self.index.fingerprint,
        )

    def _num_patches(self, video: int) -> int:
        """Patches of each frame of a video."""
        if not self.style.has_patches:
            return 1
        black = torch.zeros((1, 3, *self.index.frame_size(video)), dtype=torch.uint8)
        return int(self._decode().apply_per_frame(black).shape[1])

    def _decode(self) -> Any:  # noqa: ANN401 - the stage
        """The stage that decodes."""
        return make_decode(self.style, self.size, resize=self.resize, threads=self.threads, device="cpu")

    def _assign(self) -> list[Shard]:
        """Fill shards in order of key."""
        marks = [(key, self.index.checksum(video)) for video, key in enumerate(self.index.keys)]
        return assign_shards(self.place, self.info, marks, self.counts.tolist(), self.shard_bytes)

    def _obtain(
        self,
        shard: Shard,
        old: dict[str, pa.Table],
        ledger: Ledger,
        max_skipped: float,
        bar: tqdm[Any],
        *,
        whole: bool,
    ) -> list[dict[str, Any]]:
        """The rows of one shard: of an earlier packing, left there by a killed call, or extracted now."""
        table = old.get(shard.name)
        if table is None:
            table = left_rows(self.place, shard)
        elif not whole:
            self.place.take(shard.name)
        if table is not None:
            self.reused += len(shard.videos)
            bar.update(sum(int(self.counts[video]) for video in shard.videos))
            rows: list[dict[str, Any]] = table.to_pylist()
            return rows
        files = {video: array_path(self.place, shard, video) for video in shard.videos}
        todo = [video for video, path in files.items() if not path.exists()]
        self.reused += len(files) - len(todo)
        bar.update(sum(int(self.counts[video]) for video in set(files) - set(todo)))
        self._extract(todo, files, ledger, max_skipped, bar)
        rows = [dict(self.rows[video]) for video in shard.videos]
        tracks = [self.index.track(video) for video in shard.videos]
        pack_shard(self.place, shard, self.dataset, rows, tracks)
        return rows

    def _extract(
        self, videos: list[int], files: dict[int, Path], ledger: Ledger, max_skipped: float, bar: tqdm[Any]
    ) -> None:
        """Extract the features of videos, each into its file."""
        for video in videos:
            if not self.counts[video]:
                finish_array(files[video], open_array(files[video], self.info, 0), [])
        planned = list(self._segments([video for video in videos if self.counts[video]]))
        decoded = self._decode()(ReadPlanned(self.index, self.style)(planned))
        array: Any = None
        skipped: list[int] = []
        failed = Ledger(planned=ledger.planned, skipped=ledger.skipped.copy())
        for segment, (done, features) in zip(planned, self.encode(decoded), strict=True):
            path = files[segment.video]
            if segment.windows[0] == 0:
                array, skipped = open_array(path, self.info, int(self.counts[segment.video])), []
            array[segment.windows] = features.contiguous().view(_bits(features)).numpy().view(array.dtype)
            skipped += [int(segment.windows[window]) for window in done.problems]
            failed.skipped.update(done.problems.values())
            if done.problems:
                failed.check_limit(max_skipped, epoch=ledger.planned)
            bar.update(len(segment.windows))
            if segment.windows[-1] == self.counts[segment.video] - 1:
                finish_array(path, array, skipped)

    def _segments(self, videos: Iterable[int]) -> Iterator[Segment]:
        """The segments of videos, in order."""
        key_frames = self.index.key_frames
        for video in videos:
            count = self.counts[video : video + 1]
            own = key_frames[key_frames[:, 0] == video]
            own[:, 0] = 0
            starts = segment_starts(count, self.style, Order(shuffle=False), own)
            for windows in np.split(np.arange(int(count[0])), starts):
                if len(windows):
                    places = np.full(len(windows), -1)
                    yield Segment(video=video, windows=windows, positions=places, real=places < 0)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the clip index."""
        return self.index.rows()

    @cached_property
    def dataset(self) -> DatasetInfo:
        """What the index of the features will mean; its shards are not known yet."""
        source = self.index.info
        return DatasetInfo(
            categories=source.categories,
            task=source.task,
            split=source.split,
            format=source.format,
            num_videos=len(self.index),
            num_frames=source.num_frames,
            shards=[],
            packed_by="",
            transcode=source.transcode,
            features=self.info,
        )


def _bits(features: torch.Tensor) -> torch.dtype:
    """An integer type of the same width, which numpy knows."""
    return torch.int32 if features.dtype == torch.float32 else torch.int16

"""Features that WildFins saved → feature shards, which hold the same numbers.

    find_saved ──▶ files and labels of each video ──▶ shards of about `shard_bytes`
    shard      ──▶ its videos: a .npy per sample ──▶ one array per video in the staging folder ──▶ tar and rows
    at last: index.parquet and dataset.json, and the new split takes its place, as with `extract`

A sample of `MODEL_features` or `inputs` is a window: sample i is window i of its video under the style that it was cut
with. How many frames the video has is not recorded, so the index has as few as give so many windows; where windows
start does not depend on it. The label of window i is row i: the events of the index are such that the style finds
exactly these rows in them, or the import is refused.

A sample of `frames` is a frame, and so is a row of labels. Windows are cut from them here: of each, the samples of its
frames, one after the other. A window never crosses from one video to another.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from wildstream.errors import ConfigError, FormatError, LabelError
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
from wildstream.shards.feature_info import FeatureInfo, Precision
from wildstream.shards.formats import Task, find_categories, safe_name
from wildstream.shards.index_schema import DatasetInfo
from wildstream.shards.labels import LabelTrack
from wildstream.shards.places import LocalPlace, Place, make_place, metadata_of
from wildstream.shards.wildfins import SavedSplit, find_saved, load_sample
from wildstream.storage.access import Storage
from wildstream.storage.urls import is_remote, join, local_path
from wildstream.stream.windows import SlidingStyle, get_style, style_names

if TYPE_CHECKING:
    import numpy.typing as npt

CHECKED_WINDOWS = 1024
"""Windows that are looked through for NaN and infinity at a time."""


@dataclass(slots=True)
class ImportReport:
    """What was imported."""

    folder: str
    """Path or URL of the feature shards."""
    info: FeatureInfo
    """What the features are."""
    are_frames: bool
    """Whether the samples were frames, from which windows were cut; they were windows otherwise."""
    windows: dict[str, int]
    """Windows of each video, by its key: as many videos as WildFins tells apart."""
    not_finite: dict[str, int] = field(default_factory=dict)
    """Windows that have NaN or infinity, by key of those videos that have any; they are imported as they are."""
    reused: int = 0
    """Videos that an earlier call had imported."""


def import_features(
    root: str | Path,
    out: str | Path,
    *,
    style: str | SlidingStyle,
    model: str | None = None,
    subset: Sequence[str] | None = None,
    split: str | None = None,
    categories: Sequence[str] | None = None,
    task: Task | None = None,
    shard_bytes: int = 512 << 20,
    progress: bool = True,
    storage: Storage | None = None,
) -> ImportReport:
    """Import the features of one split that WildFins has saved; a second call writes only what is new or changed.

    Args:
        root: Folder of the split, laid out as `wildstream.shards.wildfins` says. It is only read.
        out: Folder or URL that will hold a folder of the split's name, with the feature shards.
        style: How the windows were cut, or are to be cut from `frames`: a name from configs/sliding, or a SlidingStyle.
            Folders that are named as another style, and all below them, are left out.
        model: Whose features, by WildFins' name of the model; those of the only one that there is by default. Must be
            given for `inputs` and `frames`, which do not tell it. It is model.backbone for `train.py`.
        subset: Names of the videos that are taken; all by default.
        split: Name of the split; that of the folder by default.
        categories: Class names, in order of the columns; by default categories.json in the folder or the one above.
        task: What the labels mean: "multi_label", or "single_label" for exactly one class a row. By default the latter
            where the rows are class numbers.
        shard_bytes: Videos are put into one shard until it would be larger than this.
        progress: Show a progress bar on stderr.
        storage: Writes; one without options by default.

    Raises:
        ConfigError: An option is out of range, or does not fit what there is.
        FormatError: Samples are missing, there twice, unreadable, of another shape or precision than the first one, or
            none of them is finite.
        LabelError: Labels are missing, malformed, more or fewer than the samples, or not of windows of this style.
    """
    if shard_bytes < 1:
        raise ConfigError(f"shard_bytes={shard_bytes} must be at least 1.")
    if task not in (None, "multi_label", "single_label"):
        raise ConfigError(f"task={task!r} is not known. Take one of multi_label, single_label.")
    root = Path(root)
    split = root.resolve().name if split is None else split
    if not split or split != safe_name(split):
        raise ConfigError(f"split={split!r} must be a plain name, such as train.")
    names = find_categories(root) if categories is None else list(categories)
    if not names:
        raise FormatError(f"no categories.json in {root} or the folder above; the labels need names of their classes")
    sliding, storage = get_style(style), storage or Storage()
    others = [name for name in style_names() if name != style] if isinstance(style, str) else []
    saved = find_saved(root, categories=names, model=model, subset=subset, task=task, other_styles=others)
    place = make_place(out, split, storage)
    if isinstance(place, LocalPlace) and root.resolve().is_relative_to(place.folder.resolve()):
        raise ConfigError(f"out={str(out)!r}: {place.folder}, which is imported, would be replaced. Take another.")
    importing = _Import(root, saved, sliding, names, split, place, shard_bytes)
    if not is_remote(out):
        local_path(out).mkdir(parents=True, exist_ok=True)
    return importing.run(str(join(out, split)), progress=progress)


@dataclass
class _Import:
    """Imports one split."""

    root: Path
    saved: SavedSplit
    style: SlidingStyle
    categories: list[str]
    split: str
    place: Place
    shard_bytes: int
    reused: int = field(default=0, init=False)

    def run(self, folder: str, *, progress: bool) -> ImportReport:
        """Write what is not there yet, and put all together."""
        videos, counts = self.saved.videos, self.counts
        marks = [[self.categories, self.saved.task, video.key, video.fingerprint()] for video in videos]
        shards = assign_shards(self.place, self.info, marks, counts, self.shard_bytes)
        with self.place.locked(), tqdm(total=sum(counts), desc="import", unit="window", disable=not progress) as bar:
            old = self.place.finished({shard.name: shard.fingerprint for shard in shards})
            whole = len(old) == len(shards) and self.place.is_intact([shard.name for shard in shards])
            tables = [self._obtain(shard, old, bar, whole=whole) for shard in shards]
            not_finite: dict[str, int] = {}
            for table in tables:
                not_finite |= json.loads(metadata_of(table)["not_finite"])
            if 0 < sum(counts) == sum(not_finite.values()):
                raise FormatError(f"{self.root}: all {sum(counts):,} windows have NaN or infinity. Extract them anew")
            if not whole:
                publish(self.place, self.dataset, shards, tables)
        windows = dict(zip((video.key for video in videos), counts, strict=True))
        return ImportReport(folder, self.info, self.saved.are_frames, windows, not_finite, self.reused)

    @cached_property
    def tracks(self) -> list[LabelTrack]:
        """The labels of each video, on its frames."""
        if self.saved.are_frames:
            return [LabelTrack.from_rows(video.labels) for video in self.saved.videos]
        tracks = []
        for video in self.saved.videos:
            track = self.style.find_track(video.labels)
            if track is None:
                raise LabelError(
                    f"{video.label_file}: no labels of frames give these rows with tolerance_region="
                    f"{self.style.tolerance_region}, by which windows share frames. Take the style that they were cut "
                    "with; or the same with tolerance_region=0, under which every row stands for itself"
                )
            tracks.append(track)
        return tracks

    @cached_property
    def counts(self) -> list[int]:
        """Windows of each video."""
        return [int(self.style.num_windows(track.num_frames)) for track in self.tracks]

    @cached_property
    def first(self) -> npt.NDArray[Any]:
        """The first sample, (tokens, dim) or (dim,); all others are like it."""
        return load_sample(self.saved.videos[0].samples[0])

    @cached_property
    def info(self) -> FeatureInfo:
        """What the features are, as far as it is known."""
        tokens, dim = self.first.shape if self.first.ndim == 2 else (1, len(self.first))
        precision: Precision = "fp16" if self.first.dtype == np.float16 else "fp32"
        return FeatureInfo(
            backbone=self.saved.model,
            weights="",
            style=self.style.as_dict(),
            size=(1, 1),
            resize="",
            tokens="pooled" if self.first.ndim == 1 else "all",
            dtype=precision,
            members=self.style.samples_per_window if self.saved.are_frames else 1,
            num_tokens=tokens,
            dim=dim,
            source="",
        )

    @cached_property
    def dataset(self) -> DatasetInfo:
        """What the index will mean; its shards are not known yet."""
        return DatasetInfo(
            categories=self.categories,
            task=self.saved.task,
            split=self.split,
            format="wildfins",
            num_videos=len(self.tracks),
            num_frames=sum(track.num_frames for track in self.tracks),
            shards=[],
            packed_by="",
            features=self.info,
        )

    def _obtain(self, shard: Shard, old: dict[str, pa.Table], bar: tqdm[Any], *, whole: bool) -> pa.Table:
        """The rows of one shard: of an earlier import, left there by a killed call, or made now."""
        table = old.get(shard.name)
        if table is None:
            table = left_rows(self.place, shard)
        elif not whole:
            self.place.take(shard.name)
        if table is not None:
            self.reused += len(shard.videos)
            bar.update(sum(self.counts[video] for video in shard.videos))
            return table
        not_finite = {}
        for video in shard.videos:
            path = array_path(self.place, shard, video)
            self.reused += path.exists()
            if not path.exists():
                self._fill(video, path)
            if self.counts[video] and (count := _count_not_finite(path)):  # what is empty cannot be mapped
                not_finite[self.saved.videos[video].key] = count
            bar.update(self.counts[video])
        rows, tracks = [self._row(video) for video in shard.videos], [self.tracks[video] for video in shard.videos]
        pack_shard(self.place, shard, self.dataset, rows, tracks, {"not_finite": json.dumps(not_finite)})
        table = left_rows(self.place, shard)
        assert table is not None
        return table

    def _fill(self, video: int, path: Path) -> None:
        """Put the samples of a video into its array."""
        samples, count = self.saved.videos[video].samples, self.counts[video]
        numbers = np.arange(count)
        used = self.style.frames(numbers, len(samples)) if self.saved.are_frames else numbers[:, np.newaxis]
        array, kept = open_array(path, self.info, count), dict[int, Any]()
        for window, wanted in enumerate(used.tolist()):
            kept = {number: sample for number, sample in kept.items() if number >= wanted[0]}
            kept |= {number: self._sample(samples[number]) for number in wanted if number not in kept}
            array[window] = np.concatenate([kept[number] for number in wanted])
        finish_array(path, array, [])

    def _sample(self, path: Path) -> npt.NDArray[Any]:
        """One sample, (tokens, dim); refused unless it is like the first."""
        array = load_sample(path)
        if (array.shape, array.dtype) != (self.first.shape, self.first.dtype):
            raise FormatError(
                f"{path} is {array.dtype} {array.shape}, but {self.saved.videos[0].samples[0]} is {self.first.dtype} "
                f"{self.first.shape}; samples of one split are alike. Save them anew with one model"
            )
        return np.atleast_2d(array)

    def _row(self, video: int) -> dict[str, Any]:
        """The row of a video in the index, but for its place; there is no video, so it has no size, codec or times."""
        saved, track = self.saved.videos[video], self.tracks[video]
        columns = zip(track.classes.tolist(), track.first.tolist(), track.stop.tolist(), strict=True)
        return {
            "key": saved.key,
            **dict.fromkeys(("codec", "pixel_format"), ""),
            **dict.fromkeys(("width", "height", "time_base_numerator"), 0),
            "num_frames": track.num_frames,
            "claimed_frames": track.num_frames,
            "time_base_denominator": 1,
            "ctime": min(path.stat().st_ctime for path in saved.samples),
            "source": saved.folder,
            "events": [{"class": label, "first": first, "stop": stop} for label, first, stop in columns],
            "key_frames": [0],
        }


def _count_not_finite(path: Path) -> int:
    """Windows of a video's array that have NaN or infinity."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    parts = range(0, len(array), CHECKED_WINDOWS)
    finite = (np.isfinite(array[first : first + CHECKED_WINDOWS]).all(axis=(1, 2)) for first in parts)
    return sum(int((~part).sum()) for part in finite)

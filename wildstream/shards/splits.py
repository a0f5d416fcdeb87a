"""Packed videos → train, val and test, as indexes of the same shards; nothing is copied.

    indexes ──▶ groups (see `grouping`) ──▶ splits by share and class (see `stratify`), or by a table ──▶ OUT/train, …

What goes where follows from keys, groups, labels and the seed: not from the order of rows, and on every machine alike.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from wildstream.errors import ConfigError
from wildstream.shards.grouping import SOURCE, group_names, read_key_table, source_names, unite
from wildstream.shards.index import Index, open_index
from wildstream.shards.index_schema import write_text
from wildstream.shards.leaks import LeakReport, check_options, find_leaks
from wildstream.shards.perceptual import NEAR
from wildstream.shards.split_set import SPLIT_REPORT, check_out, check_source, info_of, rows_of, write_splits
from wildstream.shards.stratify import stratify
from wildstream.storage import urls
from wildstream.storage.access import Storage

if TYPE_CHECKING:
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]

RATIO = {"train": 0.8, "val": 0.1, "test": 0.1}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(slots=True, kw_only=True)
class SplitShare:
    """What one split has."""

    videos: int
    frames: int
    groups: int
    """Of videos that belong together."""
    classes: dict[str, int]
    """Frames of each class; where a video is of one class, videos."""


@dataclass(slots=True)
class SplitReport:
    """What went where; OUT/split-report.json says the same."""

    folder: str
    """Path of the folder that holds the splits."""
    unit: str
    """What the classes are counted in: frames or videos."""
    options: dict[str, Any]
    """By what it was split."""
    splits: dict[str, SplitShare]
    """By name."""
    leaks: LeakReport = field(default_factory=LeakReport)
    """What one split knows of another."""

    @property
    def lacking(self) -> dict[str, list[str]]:
        """By split, the classes that others have and it has not; splits that have all are left out."""
        there = {name for share in self.splits.values() for name, amount in share.classes.items() if amount}
        lacking = {
            split: [name for name, amount in share.classes.items() if not amount and name in there]
            for split, share in self.splits.items()
        }
        return {split: names for split, names in lacking.items() if names}


def split(
    shards: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    ratio: Mapping[str, float] | None = None,
    seed: int = 0,
    group_by: str = SOURCE,
    by: str | Path | None = None,
    stratified: bool = True,
    frames: bool = True,
    near: int = NEAR,
    workers: int | None = None,
    progress: bool = True,
    storage: Storage | None = None,
) -> SplitReport:
    """Split packed videos anew, without copying them, and look for leaks.

    Args:
        shards: Path or URL of a packed split, such as "shards/all", or of several with equal categories and task.
        out: Local folder for the splits, with an index in each that names the shards by absolute path or URL. What an
            earlier call wrote there is replaced; a folder that holds anything else is refused.
        ratio: Shares by name, whose sum is 1 or 100; 0.8 train, 0.1 val and 0.1 test by default.
        seed: Other seeds give other splits.
        group_by: What is never divided. "source": videos of one source file or with the same bytes, which all the
            others imply; "folder": also the first folder of the key; "regex:PATTERN": what its one pair of parentheses
            matches in the key; else the path of a table with the columns key and group.
        by: Table with the columns key and split that says where each video goes, in place of ratio and groups.
        stratified: Whether each class is divided in these shares too: its frames; where a video is of one class, its
            videos (see stratify.py).
        frames: Whether to decode first frames and look for near-duplicates among them.
        near: Bits of 64 in which near-duplicates differ, at most; see leaks.py.
        workers: Threads that decode; the number of available cores by default.
        progress: Show a progress bar on stderr.
        storage: Reads the shards; one without options by default.

    Returns:
        What went where, and the leaks.

    Raises:
        ConfigError: Options do not fit each other or the videos; `out` holds something else.
        ShardError: A source holds no packed split, or a damaged one.
    """
    storage = storage or Storage()
    several = [shards] if isinstance(shards, (str, Path)) else list(shards)
    for path in several:
        check_source(path)
    indexes = [open_index(path, storage) for path in several]
    _check_alike(indexes)
    if by is not None and (ratio is not None or group_by != SOURCE or not stratified):
        raise ConfigError(f"by={by} says where each video goes. Leave out ratio, group_by and no_stratify, or by.")
    check_options(near, workers)
    folder = check_out(out, indexes)
    videos = _Videos.of(indexes)
    if by is not None:
        table = read_key_table(Path(by), "split", videos.keys)
        names = sorted(set(table.values()))
        for name in names:
            _check_name(name)
        number = np.array([names.index(table[key]) for key in videos.keys], np.int64)
        groups = videos.groups(SOURCE)
        options: dict[str, Any] = {"by": str(by)}
    else:
        shares = _shares(ratio or RATIO)
        names = list(shares)
        groups = videos.groups(group_by)
        number = videos.deal(groups, np.array(list(shares.values())), seed=seed, stratified=stratified)
        options = {"ratio": shares, "seed": seed, "group_by": group_by, "stratified": stratified}
    report = SplitReport(
        folder=str(folder),
        unit=videos.unit,
        options={"shards": [urls.redact(str(path)) for path in several], **options},
        splits={name: videos.share(number == place, groups) for place, name in enumerate(names)},
    )
    rows = pa.concat_tables([rows_of(index) for index in indexes])
    infos = [index.info for index in indexes]
    parts = {name: rows.filter(pa.array(number == place)) for place, name in enumerate(names)}
    write_splits(
        folder,
        {
            name: (info_of(part, infos, split=name, categories=infos[0].categories), part)
            for name, part in parts.items()
        },
        report=SPLIT_REPORT,
        text=_render(report, looked=False),
    )
    if len(names) > 1:
        there = {name: open_index(folder / name, storage) for name in names}
        report.leaks = find_leaks(there, frames=frames, near=near, workers=workers, progress=progress)
    write_text(folder / SPLIT_REPORT, _render(report, looked=True))
    return report


@dataclass(frozen=True, slots=True, eq=False)
class _Videos:
    """The videos of all sources."""

    keys: list[str]
    sources: list[str]
    checksums: list[str]
    frames: Ints
    """(num_videos,)."""
    amounts: Ints
    """(num_videos, num_classes) frames of each class; where a video is of one class, whether it is of this one."""
    categories: list[str]
    unit: str
    """What the amounts are counted in."""

    @classmethod
    def of(cls, indexes: Sequence[Index]) -> _Videos:
        """Gather them; ConfigError where a key comes twice."""
        owner: dict[str, str] = {}
        for index in indexes:
            for key in index.keys:
                if key in owner:
                    raise ConfigError(
                        f"the key {key!r} is in {owner[key]} and in {urls.redact(index.folder)}. Join them with "
                        "`wildstream merge`, which puts a name before the keys of each."
                    )
                owner[key] = urls.redact(index.folder)
        amounts = np.concatenate([class_frames(index) for index in indexes])
        single = indexes[0].info.task == "single_label"
        return cls(
            keys=list(owner),
            sources=[name for index in indexes for name in source_names(index)],
            checksums=[name for index in indexes for name in index.column("sha256")],
            frames=np.concatenate([index.num_frames for index in indexes]),
            amounts=(amounts > 0).astype(np.int64) if single else amounts,
            categories=indexes[0].categories,
            unit="videos" if single else "frames",
        )

    def groups(self, group_by: str) -> list[int]:
        """The group of each video, by a number that stands for it."""
        return unite(self.sources, self.checksums, group_names(self.keys, group_by))

    def deal(self, groups: list[int], shares: npt.NDArray[np.float64], *, seed: int, stratified: bool) -> Ints:
        """(num_videos,) the number of the split that each goes to."""
        found, group = np.unique(np.array(groups, np.int64), return_inverse=True)
        if len(found) < len(shares):
            raise ConfigError(
                f"{len(found)} groups of videos cannot fill {len(shares)} splits. Take fewer splits, or smaller groups."
            )
        names: list[str] = [""] * len(found)  # of each group the least key: the same whatever the order of rows
        for place, key in zip(group.tolist(), self.keys, strict=True):
            names[place] = min(names[place] or key, key)
        # A hash in place of a random generator, whose numbers may change with numpy's version.
        digests = [hashlib.sha256(f"{seed}/{name}".encode()).digest() for name in names]
        order = np.array(sorted(range(len(names)), key=digests.__getitem__), np.int64)
        sizes = np.bincount(group, None if self.unit == "videos" else self.frames).astype(np.int64)
        amounts = np.zeros((len(found), self.amounts.shape[1] if stratified else 0), np.int64)
        if stratified:
            np.add.at(amounts, group, self.amounts)
        dealt = np.empty(len(found), np.int64)
        videos = np.bincount(group)
        dealt[order] = stratify(amounts[order], sizes[order], videos[order], shares, np.arange(len(found)))
        return dealt[group]

    def share(self, mine: npt.NDArray[np.bool_], groups: list[int]) -> SplitShare:
        """What a split with these videos, (num_videos,), has."""
        classes = dict(zip(self.categories, self.amounts[mine].sum(axis=0).tolist(), strict=True))
        number = len({group for group, is_mine in zip(groups, mine.tolist(), strict=True) if is_mine})
        frames = int(self.frames[mine].sum())
        return SplitShare(videos=int(mine.sum()), frames=frames, groups=number, classes=classes)


def class_frames(index: Index) -> Ints:
    """(num_videos, num_classes) frames of each class."""
    (classes, first, stop), ends = index.events
    video = np.repeat(np.arange(len(index)), np.diff(ends, prepend=0))
    places = video * len(index.categories) + classes
    shape = len(index), len(index.categories)
    return np.bincount(places, stop - first, shape[0] * shape[1]).reshape(shape).astype(np.int64)


def _check_alike(indexes: Sequence[Index]) -> None:
    """Refuse sources that are not of one kind (ConfigError)."""
    if not indexes or not sum(map(len, indexes)):
        raise ConfigError("there are no videos to split. Give one packed split, or several.")
    first = indexes[0]
    for index in indexes[1:]:
        for what in ("categories", "task", "features"):
            here, there = (getattr(one.info, what) for one in (first, index))
            if here != there:
                raise ConfigError(
                    f"{urls.redact(first.folder)} and {urls.redact(index.folder)} differ in {what}: "
                    f"{here!s:.150} and {there!s:.150}. Join them with `wildstream merge` first."
                )


def _shares(ratio: Mapping[str, float]) -> dict[str, float]:
    """Shares that add up to 1."""
    for name, value in ratio.items():
        _check_name(name)
        if not (np.isfinite(value) and value > 0):
            raise ConfigError(f"ratio: {name}={value} must be more than 0. Leave the split out, or give it a share.")
    total = sum(ratio.values())
    if not any(abs(total - whole) <= 1e-6 * whole for whole in (1, 100)):
        raise ConfigError(f"ratio: the shares of {', '.join(ratio)} add up to {total:g}. Make that 1, or 100.")
    return {name: value / total for name, value in ratio.items()}


def _check_name(name: str) -> None:
    """Refuse what can be no folder of a split (ConfigError)."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r:.80} cannot be the name of a split. Take letters, digits, - and _.")


def _render(report: SplitReport, *, looked: bool) -> str:
    """The report as JSON; leaks are null before they were looked for."""
    content = asdict(report) | {"lacking": report.lacking} | ({} if looked else {"leaks": None})
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

"""What one split knows of another: videos of the same file, of the same bytes, or that begin with the same picture.

A model that has seen a test video in training is tested on what it remembers. Compared are, between each two splits,
the source files, the checksums, and the first frames (see `perceptual`), which are decoded for it.

    near-duplicate      the first frames differ in `NEAR` of 64 bits at most: copies that were scaled or encoded anew;
                        and clips of one camera that does not move, whose pictures are alike but for the animal or the
                        signer's hands. Where those are of one recording they belong into one split.

`NEAR` is by 76 videos of mice, flies, people and robots. 1,297 pairs of first frames of different recordings differ in
16 bits or more, most of them in about 31. Copies at half the size and JPEG quality 40 differ in 7 at most (6 bits find
99 % of them), at a quarter and quality 20 in 8 (95 %), those that are 20 % brighter in 5 (all); of copies that are cut
by 2 % on each side 6 bits find 84 %, by 5 % 12 %. Pieces of one recording by a camera that stands still differ in 0 to
12, 78 of 190 pairs of signs by one signer in one studio in 6 or less; by a camera that moves, as any two videos.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from tqdm import tqdm

from wildstream.errors import ConfigError, SampleError, VideoError
from wildstream.facts import borders_of, frame_seconds
from wildstream.marks import byte_runs
from wildstream.shards.grouping import source_names
from wildstream.shards.index import Index
from wildstream.shards.perceptual import BITS, NEAR, hash_frame, nearest
from wildstream.stream.storage import Want, read_members
from wildstream.video import decode

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.shards.perceptual import Hashes

    Hashed = tuple[npt.NDArray[np.int64], Hashes]

Kind = Literal["checksum", "source", "frames"]

LOOKED_AT = (0, 1, 2, 3, 4, 5)
"""Seconds after the first frame at which one is looked for that is not flat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """A video that another split knows."""

    kind: Kind
    """checksum: the same bytes; source: of the same source file; frames: it begins with nearly the same picture."""
    split: str
    key: str
    other_split: str
    """The earlier one of the two splits."""
    other_key: str
    """The video there; the one that looks most alike."""
    more: int = 0
    """Further videos there of which the same is true."""
    bits: int | None = None
    """frames: of 64, in how many the two differ."""

    def __str__(self) -> str:
        """One line for people."""
        what = {
            "checksum": "has the same bytes as",
            "source": "is of the same file as",
            "frames": f"begins like ({self.bits} of {BITS} bits differ)",
        }[self.kind]
        more = f" and {self.more:,} more of {self.other_split}" if self.more else ""
        return f"{self.kind:<8}  {self.split}: {self.key} {what} {self.other_split}: {self.other_key}{more}"


@dataclass(slots=True)
class LeakReport:
    """What one split knows of another."""

    leaks: list[Leak] = field(default_factory=list)
    """The gravest first. A video is named once for each earlier split, with the first of checksum, source and frames
    that holds, and the nearest video there."""
    compared: int = 0
    """Videos whose first frames were compared."""
    flat: list[str] = field(default_factory=list)
    """"split: key" of those that begin with seconds of black, or another flat picture, and were not."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """The same of those whose first frames do not decode, and why."""


def find_leaks(
    indexes: Mapping[str, Index],
    *,
    frames: bool = True,
    near: int = NEAR,
    workers: int | None = None,
    progress: bool = True,
) -> LeakReport:
    """Find what each two splits share.

    Args:
        indexes: The splits, by name.
        frames: Whether to decode and compare first frames; of features there are none.
        near: Bits of 64 in which the first frames of near-duplicates differ, at most.
        workers: Threads that decode; the number of available cores by default.
        progress: Show a progress bar on stderr.

    Raises:
        ConfigError: There are fewer than two splits, or an option is out of range.
        ShardError: A shard is missing or damaged.
    """
    if len(indexes) < 2:
        raise ConfigError(f"leaks are between splits, got {', '.join(indexes) or 'none'}. Give two or more.")
    check_options(near, workers)
    report = LeakReport()
    known: set[tuple[str, str, int]] = set()
    pairs = list(combinations(indexes, 2))
    labels: dict[Kind, dict[str, Sequence[str]]] = {
        "checksum": {name: index.column("sha256") for name, index in indexes.items()},
        "source": {name: source_names(index) for name, index in indexes.items()},
    }
    for kind, of in labels.items():
        for earlier, later in pairs:
            places = defaultdict(list)
            for video, label in enumerate(of[earlier]):
                places[label].append(video)
            for video, label in enumerate(of[later]):
                if label in places and (later, earlier, video) not in known:
                    known.add((later, earlier, video))
                    first, *more = places[label]
                    report.leaks.append(_leak(kind, indexes, later, video, earlier, first, more=len(more)))
    if frames:
        hashes = _hash_all(indexes, report, workers or len(os.sched_getaffinity(0)), progress=progress)
        for earlier, later in pairs:
            _compare(indexes, hashes, later, earlier, known=known, near=near, report=report)
    return report


def check_options(near: int, workers: int | None) -> None:
    """Refuse options that are out of range (ConfigError)."""
    if not 0 <= near < BITS:
        raise ConfigError(f"near={near} must lie within [0, {BITS}).")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers={workers} must be at least 1.")


def _leak(
    kind: Kind,
    indexes: Mapping[str, Index],
    split: str,
    video: int,
    other_split: str,
    other: int,
    *,
    more: int,
    bits: int | None = None,
) -> Leak:
    """A leak, by the numbers of its videos."""
    return Leak(
        kind=kind,
        split=split,
        key=indexes[split].keys[video],
        other_split=other_split,
        other_key=indexes[other_split].keys[other],
        more=more,
        bits=bits,
    )


def _compare(
    indexes: Mapping[str, Index],
    hashes: Mapping[str, Hashed],
    later: str,
    earlier: str,
    *,
    known: set[tuple[str, str, int]],
    near: int,
    report: LeakReport,
) -> None:
    """Name the videos of a split that begin like one of an earlier split, and are not named for more than that."""
    (videos, mine), (others, theirs) = hashes[later], hashes[earlier]
    for video, place, bits, count in zip(
        videos.tolist(), *(column.tolist() for column in nearest(mine, theirs, near=near)), strict=True
    ):
        if place >= 0 and (later, earlier, video) not in known:
            other = int(others[place])
            report.leaks.append(_leak("frames", indexes, later, video, earlier, other, more=count - 1, bits=bits))


def _hash_all(indexes: Mapping[str, Index], report: LeakReport, workers: int, *, progress: bool) -> dict[str, Hashed]:
    """By split, the numbers of the videos that have a hash, increasing, and their hashes."""
    jobs = [
        (name, video) for name, index in indexes.items() if index.info.features is None for video in range(len(index))
    ]
    found: dict[str, list[tuple[int, int]]] = {name: [] for name in indexes}
    with ThreadPoolExecutor(workers, "leaks") as executor:
        hashed = executor.map(lambda job: _hash_video(indexes[job[0]], job[1]), jobs)
        bar = tqdm(hashed, total=len(jobs), desc="first frames", unit="video", disable=not progress)
        for (name, video), outcome in zip(jobs, bar, strict=True):
            if isinstance(outcome, int):
                found[name].append((video, outcome))
            elif outcome is None:
                report.flat.append(f"{name}: {indexes[name].keys[video]}")
            else:
                report.unreadable[f"{name}: {indexes[name].keys[video]}"] = str(outcome)
    report.compared = sum(map(len, found.values()))
    return {
        name: (np.array([video for video, _ in pairs], np.int64), np.array([bits for _, bits in pairs], np.uint64))
        for name, pairs in found.items()
    }


def _hash_video(index: Index, video: int) -> int | SampleError | None:
    """The hash of the first frame that is not flat, of those at `LOOKED_AT`; None where all are, or why there is none.

    Of long files only the bytes that hold these frames are read, as far as the index tells them.
    """
    table = index.frame_table(video)
    shard, offset, size = index.place(video)
    begins = borders_of(frame_seconds(table.pts, table.time_base))[:-1]
    frames = np.unique(np.searchsorted(begins, LOOKED_AT))
    frames = frames[frames < len(begins)]
    problem: SampleError | None = None
    whole = [(0, size)]
    needed = byte_runs(table, 0, int(frames[-1]), size)
    for runs in (needed,) if needed == whole else (needed, whole):
        (data,) = read_members(index.storage, [Want(shard, offset, size, runs)])
        problem = None
        for _, frame in decode(data, frames, table, device=torch.device("cpu")):
            if isinstance(frame, VideoError):
                problem = frame
            elif (found := hash_frame(frame)) is not None:
                return found
        if problem is None:
            return None
    return problem

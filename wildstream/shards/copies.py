"""Copies of one video in a source folder, found by their bytes before anything is packed.

Only files of one size are read. Of copies with the same labels in a split, the first is kept; where labels differ,
nobody knows which are right, so none is. A copy in another split is kept and named, and so is a video that is cut into
parts for several splits: the splits may be official.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from wildstream.shards.formats import Refusal, Scan, Source

BATCH = 64
"""Files that a thread reads before it is asked for more: of tiny ones, each costs less than a task does."""


def leave_out_copies(scan: Scan, root: Path, *, workers: int, progress: bool) -> list[Refusal]:
    """Move sources that are copies from a scan's sources to what it refuses.

    Args:
        scan: Is changed.
        root: The source folder.
        workers: Threads that read files.
        progress: Show a progress bar on stderr.

    Returns:
        The sources that are in another split too, one entry for each but the first.
    """
    leaks, refused = [], set()
    for copies in _find_copies(scan.sources, workers, progress):
        by_split: dict[str, list[Source]] = defaultdict(list)
        for source in copies:
            by_split[source.split].append(source)
        for same in by_split.values():
            for source, reason in _judged(same, root):
                refused.add((source.split, source.key))
                scan.refused.append(_note(source, root, reason))
        first, *others = (same[0] for same in by_split.values())
        leaks += [_note(other, root, f"is in split {first.split} too, as {_told(first, root)}") for other in others]
    leaks += _shared_videos(scan.sources, root)
    scan.sources = [source for source in scan.sources if (source.split, source.key) not in refused]
    return leaks


def _shared_videos(sources: Sequence[Source], root: Path) -> list[Refusal]:
    """One note for each video of which several splits have parts."""
    splits: dict[Path, dict[str, Source]] = defaultdict(dict)
    for source in sources:
        splits[source.video].setdefault(source.split, source)
    return [
        _note(found[max(found)], root, f"has parts in the splits {', '.join(sorted(found))}")
        for found in splits.values()
        if len(found) > 1
    ]


def _find_copies(sources: Sequence[Source], workers: int, progress: bool) -> list[list[Source]]:
    """Sources of which the videos have the same bytes, in order; those that are alone are left out."""
    sizes: dict[int, dict[Path, list[Source]]] = defaultdict(lambda: defaultdict(list))
    for source in sources:
        if source.cut is None:
            sizes[sum(path.stat().st_size for path in source.files())][source.video].append(source)
    several = [found[0] for size, paths in sizes.items() if size and len(paths) > 1 for found in paths.values()]
    owners = {path: found for paths in sizes.values() for path, found in paths.items()}
    groups: dict[bytes, list[Source]] = defaultdict(list)
    batches = [several[start : start + BATCH] for start in range(0, len(several), BATCH)]
    with (
        ThreadPoolExecutor(workers, "copies") as threads,
        tqdm(desc="look for copies", total=len(several), unit="file", disable=not progress or not several) as bar,
    ):
        for batch, digests in zip(batches, threads.map(_digests, batches), strict=True):
            for source, digest in zip(batch, digests, strict=True):
                groups[digest] += owners[source.video]
            bar.update(len(batch))
    return [
        sorted(group, key=lambda source: (source.split, source.key))
        for digest, group in groups.items()
        if digest and len(group) > 1
    ]


def _digests(sources: Sequence[Source]) -> list[bytes]:
    """Hashes of a few videos."""
    return [_digest(source) for source in sources]


def _digest(source: Source) -> bytes:
    """Hash of a video, or of the images that are its frames; empty where one cannot be read, which packing says."""
    whole = hashlib.sha256()
    try:
        for path in source.files():
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
    except OSError:
        return b""
    return whole.digest()


def _judged(same: Sequence[Source], root: Path) -> list[tuple[Source, str]]:
    """Which of several copies in one split are refused, and why."""
    first, *others = same
    labels = [_labels(source) for source in same]
    if not others:
        return []
    if all(label == labels[0] for label in labels):
        return [(other, f"is a copy of {_told(first, root)}, with the same labels; delete one") for other in others]
    told = "is the same video as {}, with other labels; keep the right one"
    return [(first, told.format(_told(others[0], root))), *((one, told.format(_told(first, root))) for one in others)]


def _labels(source: Source) -> object:
    """What tells whether labels are the same."""
    try:
        return source.part if source.labels is None else (source.part, source.labels.read_bytes())
    except OSError:
        return None


def _told(source: Source, root: Path) -> str:
    """A source's file as the user knows it."""
    return source.video.relative_to(root).as_posix()


def _note(source: Source, root: Path, reason: str) -> Refusal:
    """A note about a source."""
    return Refusal(split=source.split, path=_told(source, root), reason=reason)

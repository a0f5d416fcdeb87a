"""The bytes of planned segments: mapped from local shards, requested ahead of time from remote ones.

    wants        members of shards, or the runs of bytes of them that are needed, in order
    window       as many of them as `AHEAD_BYTES` / 2 allow; two are under way
    requests     what a window needs, in order of place: what lies close together is one request, so that a plan that
                 uses most of a shard reads it straight through, and one that jumps reads no more than it needs

Planned reading never parses a tar: the index names offset and size.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from wildstream.errors import ShardError
from wildstream.storage import urls
from wildstream.storage.access import Storage

Bytes = TypeVar("Bytes", Tensor, memoryview)

OPEN_SHARDS = 1024
"""Local shards that stay mapped at a time; they take addresses, no memory and no open files."""
AHEAD_BYTES = 128 << 20
"""What is requested before it is wanted, at most, unless one member is larger."""
REQUESTS = 16
"""Requests that are under way at a time."""
REQUEST_BYTES = 8 << 20
"""Bytes of one request, at most: large ones are cut, because several connections are faster than one."""
GAP_BYTES = 256 << 10
"""So many bytes that nobody wants are read on the way, at most, rather than cutting a request in two."""


@dataclass(frozen=True, slots=True)
class Want:
    """A member of a shard, and what is needed of it."""

    shard: str
    """Path or URL."""
    offset: int
    """First byte of the member in the shard."""
    size: int
    """Bytes of the member."""
    runs: Sequence[tuple[int, int]]
    """First byte and byte behind the last, in the member; increasing, apart from each other. The rest stays zeros."""


def read_members(storage: Storage, wants: Iterable[Want]) -> Iterator[Tensor]:
    """Members as (size,) uint8, CPU, in order; those of local shards are views of the mapped file, nothing is copied.

    Raises:
        ShardError: A shard is missing, shorter than the index says, or cannot be read.
    """
    yield from _read(storage, wants, _Window.members)


def _read(storage: Storage, wants: Iterable[Want], give: Callable[[_Window], Iterator[Bytes]]) -> Iterator[Bytes]:
    """What `give` makes of one window after the other, while the next is under way."""
    executor = ThreadPoolExecutor(REQUESTS, "read")
    under_way: deque[_Window] = deque()
    try:
        for window in _windows(wants):
            under_way.append(_Window(storage, window, executor))
            if len(under_way) > 1:
                yield from give(under_way.popleft())
        while under_way:
            yield from give(under_way.popleft())
    finally:  # whoever stops early does not wait for what nobody wants
        executor.shutdown(wait=False, cancel_futures=True)


def read_runs(storage: Storage, wants: Iterable[Want]) -> Iterator[memoryview]:
    """Runs of bytes of remote shards, one of each want; not copied where one request brought it.

    Raises as `read_members`.
    """
    yield from _read(storage, wants, _Window.runs)


def read_member(storage: Storage, want: Want) -> Tensor:
    """One member, whole, as (size,) uint8, CPU. Raises as `read_members`."""
    if not urls.is_remote(want.shard):
        return _mapped(want)
    found = storage.read(want.shard, want.offset, want.offset + want.size)
    return torch.from_numpy(np.frombuffer(found, np.uint8).copy())


@dataclass(slots=True)
class _Request:
    """Bytes of a shard that are, or will be, there."""

    start: int
    stop: int
    answer: Future[memoryview] | None = None


class _Window:
    """Members that are requested together."""

    def __init__(self, storage: Storage, wants: Sequence[Want], executor: ThreadPoolExecutor) -> None:
        self._wants = wants
        self._requests = {shard: _merge(runs) for shard, runs in _runs_by_shard(wants).items()}
        for want in wants:  # what is wanted first is requested first
            for request in self._of(want):
                if request.answer is None:
                    request.answer = executor.submit(storage.read, want.shard, request.start, request.stop)

    def members(self) -> Iterator[Tensor]:
        """The members, in order."""
        for want in self._wants:
            yield _mapped(want) if not urls.is_remote(want.shard) else self._put_together(want)

    def runs(self) -> Iterator[memoryview]:
        """The bytes of members that are one run, in order."""
        for want in self._wants:
            parts = []
            for request in self._of(want):
                assert request.answer is not None
                first, stop = max(request.start, want.offset), min(request.stop, want.offset + want.size)
                parts.append(request.answer.result()[first - request.start : stop - request.start])
            yield parts[0] if len(parts) == 1 else memoryview(b"".join(parts))

    def _of(self, want: Want) -> list[_Request]:
        """The requests that bring what is needed of a member."""
        if want.shard not in self._requests:
            return []
        requests = self._requests[want.shard]
        found = []
        for first, stop in want.runs:
            place = bisect_right(requests, want.offset + first, key=lambda request: request.start) - 1
            while place < len(requests) and requests[place].start < want.offset + stop:
                found.append(requests[place])
                place += 1
        return found

    def _put_together(self, want: Want) -> Tensor:
        """A member from the answers to its requests; zeros where nothing is needed."""
        member = np.zeros(want.size, np.uint8)  # memory that nobody touches is never had
        for request in self._of(want):
            assert request.answer is not None
            found = np.frombuffer(request.answer.result(), np.uint8)
            first, stop = max(request.start, want.offset), min(request.stop, want.offset + want.size)
            member[first - want.offset : stop - want.offset] = found[first - request.start : stop - request.start]
        return torch.from_numpy(member)


def _windows(wants: Iterable[Want]) -> Iterator[list[Want]]:
    """Runs of wants of so many bytes; local ones, which are not requested, each by itself."""
    window: list[Want] = []
    taken = 0
    for want in wants:
        local = not urls.is_remote(want.shard)
        needed = sum(stop - first for first, stop in want.runs)
        if window and (local or taken + needed > AHEAD_BYTES // 2):
            yield window
            window, taken = [], 0
        if local:
            yield [want]
            continue
        window.append(want)
        taken += needed
    if window:
        yield window


def _runs_by_shard(wants: Sequence[Want]) -> dict[str, list[tuple[int, int]]]:
    """What is needed of each remote shard, as bytes of the shard."""
    runs: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for want in wants:
        if urls.is_remote(want.shard):
            runs[want.shard] += [(want.offset + first, want.offset + stop) for first, stop in want.runs]
    return runs


def _merge(runs: list[tuple[int, int]]) -> list[_Request]:
    """Requests that cover runs of bytes, in order, none twice.

    What nobody wants is read on the way only where it is no more than what is wanted behind it, so that the requests
    are of twice the wanted bytes at most. Requests end at multiples of their size, as the blocks of the cache do.
    """
    covers: list[list[int]] = []
    for start, stop in sorted(runs):
        if covers and start - covers[-1][1] <= min(GAP_BYTES, stop - start):
            covers[-1][1] = max(covers[-1][1], stop)
        else:
            covers.append([start, stop])
    return [
        _Request(max(start, begin), min(start + REQUEST_BYTES, stop))
        for begin, stop in covers
        for start in range(begin - begin % REQUEST_BYTES, stop, REQUEST_BYTES)
    ]


def _mapped(want: Want) -> Tensor:
    """A member of a local shard, a view of the mapped file."""
    shard = urls.local_path(want.shard)
    try:
        status = shard.stat()
        mapped = _map(shard, (status.st_ino, status.st_mtime_ns, status.st_size))
    except (OSError, RuntimeError) as error:
        raise ShardError(f"shard {shard} cannot be opened: {error}. Pack the videos again, or restore it.") from error
    if want.offset + want.size > mapped.numel():
        raise ShardError(
            f"shard {shard} has {mapped.numel():,} bytes, the index says that a video ends at "
            f"{want.offset + want.size:,}; it is truncated or of another packing. Restore it, or pack the videos again."
        )
    return mapped[want.offset : want.offset + want.size]


@lru_cache(maxsize=OPEN_SHARDS)
def _map(shard: Path, identity: tuple[int, int, int]) -> Tensor:
    """A whole shard as uint8, mapped copy-on-write; the file does not stay open, as it would with Python's mmap.

    `identity` (inode, time of writing, size) tells a shard from another one that was packed in its place.
    """
    return torch.from_file(str(shard), shared=False, size=identity[-1], dtype=torch.uint8)


def forget_shards() -> None:
    """Let go of the local files that are mapped and not in use, so that those that were deleted take no more room."""
    _map.cache_clear()

"""What was read from object storage, kept on a local disk: many processes share it, any may be killed at any moment.

    folder/<object>/<version>/<n>.block     bytes n · 1 MiB … of that version, behind a header with their checksum
    folder/writing/…                        files that are being written, each locked by its writer
    folder/written                          as many bytes as blocks are believed to be in the folder
    folder/evicting.lock                    locked by the one process that removes blocks

Read: blocks come from their files where these are whole; the others are fetched, neighbours in one call, and kept. A
file gets its name when it is complete. Nothing is synced: what a power cut damages, the checksum finds. It covers URL,
version and number, so that a file in a wrong place is damaged, and a random salt, which names a file that was checked.

Evict: whoever writes a block appends a byte to `written`, the estimate of all processes together. When that says too
much, one process counts what is there, removes the blocks not used for longest (modification time is use, give or take
a minute), and corrects it. Locks end with their process: a file in `writing` not locked was left by a killed one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import struct
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from wildstream.errors import ConfigError, StorageError
from wildstream.storage.objects import Version
from wildstream.storage.urls import redact

Fetch = Callable[[int, int], memoryview]
"""First byte and byte behind the last → those bytes of the object."""

BLOCK_BYTES = 1 << 20  # bytes of an object in one block; the last block of an object has fewer
EVICT_TO = 0.9  # share of max_bytes that an eviction leaves; the more is removed at once, the fewer scans there are
USE_SECONDS = 60.0  # a use is noted where the last one that was noted is longer ago
_HEADER = struct.Struct("<8sQ16s32s")  # magic, bytes of the block, salt, checksum
_MAGIC = b"WSBLOCK\x01"  # its last byte is the version of the format
_BLOCKS = re.compile(r"/[0-9a-f]{32}/[0-9a-f]{32}$")  # nothing else in the folder is counted or removed

_known: dict[Path, set[object]] = {}
"""What this process knows of a folder: salts of the block files that it has checked, and "warned" if it has warned.
Each change is a single step, so threads need no lock."""
os.register_at_fork(after_in_child=_known.clear)


@dataclass(frozen=True, slots=True)
class BlockCache:
    """A folder of blocks of objects. It can be shared by threads and processes, and pickled."""

    folder: Path
    """Where the blocks lie, on a local disk; it is made when it is first used."""
    max_bytes: int
    """What the blocks may have together, give or take a tenth while some are being removed."""

    def read(self, url: str, version: Version, start: int, stop: int, fetch: Fetch) -> memoryview:
        """The bytes [start, stop) of this version of an object, from the disk where they are there.

        `fetch` is asked for whole blocks, for neighbours at once. What it raises is passed on.

        Raises:
            StorageError: The object has no such bytes, or `fetch` returned too few or too many.
            ConfigError: The folder cannot be made.
        """
        if not 0 <= start <= stop <= version.size:
            raise StorageError(f"{redact(url)} has {version.size:,} bytes; [{start:,}, {stop:,}) are not among them.")
        known = self._open()
        wanted = memoryview(bytearray(stop - start))
        touched = range(start // BLOCK_BYTES, -(-stop // BLOCK_BYTES) if stop > start else 0)
        missing = [number for number in touched if not self._load(known, url, version, number, start, wanted)]
        fetched: dict[int, memoryview] = {}
        # Place and number differ by the same in all of a run of consecutive numbers.
        for _, run in groupby(enumerate(missing), lambda pair: pair[1] - pair[0]):
            numbers = [number for _, number in run]
            first, last = numbers[0] * BLOCK_BYTES, min((numbers[-1] + 1) * BLOCK_BYTES, version.size)
            data = memoryview(fetch(first, last))
            if len(data) != last - first:
                raise StorageError(f"{redact(url)}: asked for {last - first:,} bytes, got {len(data):,}. Try again.")
            wanted[max(first - start, 0) : last - start] = data[max(start - first, 0) : stop - first]
            fetched |= {number: data[number * BLOCK_BYTES - first :][:BLOCK_BYTES] for number in numbers}
        if fetched:
            self._keep(known, url, version, fetched)
        return wanted

    def _open(self) -> set[object]:
        """What this process knows of the folder; at first use, make it and put it in order."""
        if self.folder not in _known:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"cache_dir={str(self.folder)!r} cannot be made: {error.strerror}.") from None
            with suppress(OSError):  # a folder that is only read
                self._remove_abandoned()
                self._has_room()
        known = _known.setdefault(self.folder, set())
        if len(known) > 10_000 + 2 * self.max_bytes // BLOCK_BYTES:  # most of it is of files that are gone
            known.intersection_update({"warned"})
        return known

    def _blocks(self, url: str, version: Version) -> Path:
        """Folder of the blocks of one version."""
        return self.folder / _name(url) / _name(version.size, version.tag)

    def _load(self, known: set[object], url: str, version: Version, number: int, start: int, into: memoryview) -> bool:
        """Copy a block's share of the bytes wanted, which begin at byte `start` of the object; False if missing."""
        first, last = number * BLOCK_BYTES, min((number + 1) * BLOCK_BYTES, version.size)
        skipped, part = max(start - first, 0), into[max(first - start, 0) : last - start]
        path = self._blocks(url, version) / f"{number}.block"
        # Errors: there is no file, none that can be read, or another process has just removed it.
        with suppress(OSError), path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            magic, size, salt, checksum = _HEADER.unpack(file.read(_HEADER.size).ljust(_HEADER.size))
            whole = (magic, size, status.st_size) == (_MAGIC, last - first, _HEADER.size + last - first)
            if whole and salt in known:
                whole = os.preadv(file.fileno(), [part], _HEADER.size + skipped) == len(part)
            elif whole:
                block = memoryview(file.read(size))
                if whole := _checksum(url, version, number, salt, block) == checksum:
                    part[:] = block[skipped : skipped + len(part)]
                    known.add(salt)
            if not whole:
                path.unlink()
            elif abs(time.time() - status.st_mtime) > USE_SECONDS:
                with suppress(OSError):  # where nobody may write, there is no order of use
                    os.utime(file.fileno())
            return whole
        return False

    def _keep(self, known: set[object], url: str, version: Version, blocks: dict[int, memoryview]) -> None:
        """Write blocks by number; warn if that fails, the first time."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)  # somebody may have deleted it
            for number, data in blocks.items():
                if self._has_room():
                    salt = os.urandom(16)
                    header = _HEADER.pack(_MAGIC, len(data), salt, _checksum(url, version, number, salt, data))
                    self._write(self._blocks(url, version) / f"{number}.block", header, data)
                    with (self.folder / "written").open("ab") as written:
                        written.write(b".")  # after the block has its name, so that this counts it if a scan does not
        except OSError as error:
            if "warned" not in known:
                known.add("warned")
                remedy = "Make space there, lower cache_bytes, permit writing, or take another folder."
                warnings.warn(f"{self.folder} keeps no more: {error.strerror}. {remedy}", RuntimeWarning, stacklevel=3)

    def _write(self, path: Path, *parts: bytes | memoryview) -> None:
        """Write a file that has its name when it is complete. Raises OSError."""
        for attempt in range(5):
            # Containers that share a folder have the same process ids, hence the random part.
            temporary = self.folder / "writing" / f"{os.getpid()}-{threading.get_ident()}-{os.urandom(8).hex()}"
            try:
                temporary.parent.mkdir(parents=True, exist_ok=True)
                with temporary.open("xb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX)
                    file.writelines(parts)
                    file.flush()
                    path.parent.mkdir(parents=True, exist_ok=True)
                    temporary.replace(path)
                return
            except (FileNotFoundError, FileExistsError):  # an eviction removed an empty folder, or this unlocked file
                if attempt == 4:
                    raise
            finally:
                temporary.unlink(missing_ok=True)

    def _remove_abandoned(self) -> None:
        """Remove the files that killed processes were writing."""
        for path in _inside(self.folder / "writing"):
            with suppress(OSError), path.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()

    def _has_room(self) -> bool:
        """Whether another block may be kept; evicts first if the folder is believed to be full. Raises OSError."""
        with (self.folder / "written").open("ab") as written, (self.folder / "evicting.lock").open("ab") as lock:
            blocks, file_bytes = written.tell() + 1, _HEADER.size + BLOCK_BYTES
            if blocks == 1 or blocks * file_bytes > self.max_bytes:  # the first of all, or since the file was removed
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:  # another process is at it; it can take long where threads compete
                    return blocks * file_bytes <= (2 - EVICT_TO) * self.max_bytes
                self._remove_abandoned()
                self._evict(min(EVICT_TO * self.max_bytes, self.max_bytes - file_bytes))
        return file_bytes <= self.max_bytes

    def _evict(self, goal: float) -> None:
        """Remove the blocks not used for longest, down to `goal` bytes; correct the estimate. Raises OSError."""
        written = self.folder / "written"
        before, found = written.stat().st_size, list[tuple[int, int, str, str]]()
        for folder, _, names in os.walk(self.folder):
            for name in names if _BLOCKS.search(folder) else ():
                with suppress(FileNotFoundError):
                    status = Path(folder, name).stat()
                    found.append((status.st_mtime_ns, status.st_size, folder, name))
        held = sum(size for _, size, _, _ in found)
        for _, size, folder, name in sorted(found):
            if held <= goal:
                break
            path = Path(folder, name)
            path.unlink(missing_ok=True)
            held -= size
            with suppress(OSError):  # there are blocks left, or again
                path.parent.rmdir()
                path.parents[1].rmdir()
        # What others wrote since `before` stays counted, whether the scan saw it or not.
        os.truncate(written, -(-held // (_HEADER.size + BLOCK_BYTES)) + written.stat().st_size - before)


def _checksum(url: str, version: Version, number: int, salt: bytes, data: memoryview) -> bytes:
    """What tells a whole block from others: SHA-256, at 1.9 GB/s (BLAKE2b has 0.84) while other threads run."""
    found = hashlib.sha256(repr((url, version.size, version.tag, number)).encode() + salt, usedforsecurity=False)
    found.update(data)
    return found.digest()


def _name(*parts: object) -> str:
    """A name for files that tells nothing of what it stands for."""
    return hashlib.sha256(repr(parts).encode(), usedforsecurity=False).hexdigest()[:32]


def _inside(folder: Path) -> list[Path]:
    """The files in a folder; none if there is no such folder."""
    return [Path(place, name) for place, _, names in os.walk(folder) for name in names]

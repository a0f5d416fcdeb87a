"""One face of all places: read and list what lies at a location, be it a path or a URL.

A `Storage` belongs to one index and whatever it names. It remembers which content each object had when it was first
read (its ETag), so that a shard that changes under a running epoch is an error and not a mixture.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wildstream.errors import ConfigError, StorageError
from wildstream.storage import urls
from wildstream.storage.cache import BlockCache
from wildstream.storage.faults import MissingObjectError
from wildstream.storage.objects import Objects, Version
from wildstream.storage.streams import ObjectFile, ObjectStream

READ_BYTES = 1 << 20
"""What a file that is read here and there requests at least."""
STREAM_BYTES = 8 << 20
"""What a stream requests at a time."""
FEWEST_CACHE_BYTES = 16 << 20
CACHE_BYTES = 100 << 30
"""Default of `Storage.cache_bytes`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Storage:
    """Reads locations. It can be pickled; each process has connections of its own."""

    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Options of object stores, by obstore's names: access_key_id, endpoint, region, skip_signature, sas_token, …, and
    connect_timeout, read_timeout and timeout in seconds. The usual environment variables and profiles serve as well."""
    cache_dir: Path | None = None
    """Folder that keeps what was read from object storage; None keeps nothing."""
    cache_bytes: int = CACHE_BYTES
    """What that folder may hold, of all that use it; what was not used for longest goes first."""
    objects: Objects = field(init=False, repr=False)
    """Where URLs are read."""
    _cache: BlockCache | None = field(init=False, repr=False)
    _versions: dict[str, Version] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse values that are out of range (ConfigError); nothing is opened yet."""
        if not isinstance(self.options, Mapping) or not all(isinstance(name, str) for name in self.options):
            raise ConfigError("storage_options must be a dictionary of names and values.")
        if not isinstance(self.cache_bytes, int) or self.cache_bytes < FEWEST_CACHE_BYTES:
            raise ConfigError(
                f"cache_bytes={self.cache_bytes!r} must be a number of bytes, {FEWEST_CACHE_BYTES:,} or more; "
                f"{CACHE_BYTES:,} by default."
            )
        object.__setattr__(self, "objects", Objects(self.options))
        cache = None if self.cache_dir is None else BlockCache(Path(self.cache_dir).expanduser(), self.cache_bytes)
        object.__setattr__(self, "_cache", cache)

    def exists(self, location: str | Path) -> bool:
        """Whether something lies there; StorageError if that cannot be known."""
        if not urls.is_remote(location):
            return urls.local_path(location).exists()
        try:
            self._pin(str(location), self.objects.version(str(location)))
        except MissingObjectError:
            return False
        return True

    def size(self, location: str | Path) -> int:
        """Bytes of what lies there."""
        if not urls.is_remote(location):
            try:
                return urls.local_path(location).stat().st_size
            except OSError as error:
                raise StorageError(f"{location} cannot be read: {error.strerror}.") from error
        return self._version(str(location)).size

    def read(self, location: str | Path, start: int = 0, stop: int | None = None) -> memoryview:
        """The bytes [start, stop) of what lies there, to its end by default; only with `stop` from the cache.

        Raises:
            StorageError: It is missing, forbidden, too short, changed since it was first read, or cannot be had.
        """
        if not urls.is_remote(location):
            return _read_file(urls.local_path(location), start, stop)
        url = str(location)
        if stop is None:
            self._version(url)  # else an answer that is too short, and says that it is all, could not be told
        elif self._cache is not None:
            version = self._version(url)
            if stop > version.size:
                raise StorageError(
                    f"{urls.redact(url)} has {version.size:,} bytes, {stop:,} were wanted; it is truncated. "
                    "Restore it, or pack the videos again."
                )
            name = self.objects.full_name(url)
            return self._cache.read(name, version, start, stop, lambda first, last: self._fetch(url, first, last))
        return self._fetch(url, start, stop)

    def open(self, location: str | Path) -> io.BufferedReader:
        """What lies there as a file that can be read from anywhere; reading raises OSError, as files do."""
        return io.BufferedReader(ObjectFile(self.size(location), self._reader(location)), READ_BYTES)

    def open_stream(self, location: str | Path) -> io.BufferedReader:
        """What lies there as a stream; StorageError if it cannot be read, or is a .tar that was cut off."""
        name = urls.redact(str(location))
        return io.BufferedReader(ObjectStream(name, self.size(location), self._reader(location)), STREAM_BYTES)

    def _reader(self, location: str | Path) -> Callable[[int, int], memoryview]:
        """What reads a range of a location."""
        return lambda start, stop: self.read(location, start, stop)

    def list(self, folder: str | Path) -> dict[str, int]:
        """Names of the files in a folder and below it, relative to it, with their sizes."""
        if urls.is_remote(folder):
            return self.objects.list(str(folder))
        root = urls.local_path(folder)
        found = (path for path in sorted(root.rglob("*")) if path.is_file())
        return {path.relative_to(root).as_posix(): path.stat().st_size for path in found}

    def _fetch(self, url: str, start: int, stop: int | None) -> memoryview:
        """Bytes of an object as the server gives them, of the content that was first seen."""
        data, found = self.objects.read(url, start, stop, version=self._versions.get(url))
        self._pin(url, found)
        return data

    def _version(self, url: str) -> Version:
        """The content of an object that is read: as this process first saw it."""
        if url not in self._versions:
            self._pin(url, self.objects.version(url))
        return self._versions[url]

    def _pin(self, url: str, found: Version) -> None:
        """Remember which content an object has; StorageError if another was seen before."""
        with _PINNING:
            first = self._versions.setdefault(url, found)
        if first != found:
            raise StorageError(
                f"{urls.redact(url)} was changed while it was being read: it has another ETag or size than before. "
                "Leave shards as they are during a run; open the index anew if they were packed again."
            )


_PINNING = threading.Lock()


def _read_file(path: Path, start: int, stop: int | None) -> memoryview:
    """The bytes [start, stop) of a file."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read() if stop is None else file.read(stop - start)
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}.") from error
    if stop is not None and len(data) != stop - start:
        raise StorageError(f"{path} ends before byte {stop:,}; it is truncated. Restore it, or pack the videos again.")
    return memoryview(data)

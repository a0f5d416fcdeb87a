"""Shards that others made: where they lie, what an index calls them, and their bytes, mapped."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from wildstream.errors import ConfigError, FormatError, StorageError
from wildstream.shards.tar import Bytes
from wildstream.storage import urls
from wildstream.storage.access import Storage

FETCHED_BYTES = 32 << 20
"""Bytes of a remote shard that are fetched at once."""


def find_shards(shards: str | Path, storage: Storage) -> list[str]:
    """Paths or URLs of the shards, absolute and in order."""
    if urls.has_login(str(shards)):
        raise ConfigError(
            f"{urls.redact(str(shards))!r} holds a login, which the index would show to all; give it as storage "
            "options or in the environment."
        )
    if str(shards).endswith(".tar"):
        found = [absolute(name) for name in urls.expand(str(shards))]
        often, times = Counter(found).most_common(1)[0]
        if times > 1:
            raise ConfigError(f"{urls.redact(str(shards))!r} names {urls.redact(often)} more than once.")
        return found
    folder = absolute(shards)
    if not urls.is_remote(folder) and not Path(folder).is_dir():
        raise FormatError(f"{folder} is not a folder; give one that holds *.tar, or a pattern such as 00{{0..9}}.tar")
    names = storage.list(folder) if urls.is_remote(folder) else [path.name for path in Path(folder).iterdir()]
    wanted = sorted(name for name in names if name.endswith(".tar") and "/" not in name and not name.startswith("."))
    if not wanted:
        deeper = sorted({name.rpartition("/")[0] for name in names if name.endswith(".tar")})
        hint = f"; {deeper[0]}, in it, holds some" if deeper else ""
        raise FormatError(f"no *.tar in {urls.redact(folder)}{hint}. Give the folder of one split, as shards/train.")
    return [urls.join(folder, name) for name in wanted]


def absolute(location: str | Path) -> str:
    """A location that does not depend on the working directory."""
    return urls.normal(location) if urls.is_remote(location) else str(urls.local_path(location).absolute())


def name_shards(locations: list[str], out: str | Path | None) -> tuple[list[str], str]:
    """What the index calls each shard, and the folder where the index goes."""
    folders = sorted({location.rpartition("/")[0] for location in locations})
    if out is not None and urls.is_remote(out):
        raise ConfigError(f"out={urls.redact(str(out))!r} must be a local folder, or left out: beside the shards.")
    if out is not None and [absolute(out)] != folders:
        return locations, absolute(out)
    if len(folders) > 1:
        raise ConfigError(f"the shards lie in {len(folders)} folders, such as {urls.redact(folders[0])}; give out=.")
    if folders[0].startswith(("http:", "https:")):
        raise ConfigError(f"nothing can be written beside {urls.redact(folders[0])}; give a local folder as out=.")
    return [location.rpartition("/")[2] for location in locations], folders[0]


@contextmanager
def opened(location: str, storage: Storage) -> Iterator[Bytes]:
    """A shard's bytes, mapped from its file, or from a temporary one that has no name."""
    try:
        if not urls.is_remote(location):
            with Path(location).open("rb") as file, _mapped(file) as data:
                yield data
            return
        with tempfile.TemporaryFile(prefix="wildstream-") as copy:
            size = storage.size(location)
            for start in range(0, size, FETCHED_BYTES):
                _keep(copy, storage.read(location, start, min(start + FETCHED_BYTES, size)))
            copy.flush()
            with _mapped(copy) as data:
                yield data
    except FileNotFoundError:
        raise StorageError(f"there is no {location}. Check the name.") from None
    except PermissionError as error:
        raise StorageError(f"{location} cannot be read: {error.strerror}.") from None


def _keep(file: IO[bytes], data: memoryview) -> None:
    """Write to the temporary file."""
    try:
        file.write(data)
    except OSError as error:
        raise StorageError(
            f"a shard does not fit into {tempfile.gettempdir()}: {error.strerror}. Set TMPDIR to a folder with room "
            "for the largest one."
        ) from error


@contextmanager
def _mapped(file: IO[bytes]) -> Iterator[Bytes]:
    """A file's bytes."""
    if os.fstat(file.fileno()).st_size == 0:
        yield b""  # which cannot be mapped
        return
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data

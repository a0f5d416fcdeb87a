"""A Parquet file of the index, wherever it lies: its narrow columns at once, its wide ones by group of rows."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wildstream.errors import ShardError, StorageError
from wildstream.shards.index_schema import OPTIONAL
from wildstream.storage import urls
from wildstream.storage.access import Storage

WHOLE_BYTES = 64 << 20
"""A remote file of so many bytes is fetched whole, a larger one in ranges."""
KEPT_GROUPS = 64
"""Groups of rows whose wide columns are kept in memory."""


@dataclass(eq=False)
class IndexFile:
    """Reads one Parquet file; it can be pickled."""

    location: str
    """Path or URL."""
    storage: Storage
    """Reads it, where it is remote."""
    _whole: memoryview | None = field(default=None, init=False, repr=False)
    _footer: tuple[int, Any] | None = field(default=None, init=False, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)
    _groups: OrderedDict[tuple[int, int], pa.Table] = field(default_factory=OrderedDict, init=False, repr=False)

    def read(self, columns: Sequence[str] | None = None, *, optional: Sequence[str] = OPTIONAL) -> pa.Table:
        """Columns of all rows; by default all that there are.

        Args:
            columns: Their names.
            optional: Those of them that are left out where they are not there.

        Raises:
            ShardError: The file is missing or damaged, or has not all of these columns; optional ones are left out.
        """
        with self._opened() as file:
            missing = [name for name in columns or () if name not in file.schema_arrow.names]
            if needed := [name for name in missing if name not in optional]:
                raise pa.ArrowKeyError(f"columns that it should have are not there ({', '.join(needed)})")
            return file.read(columns=None if columns is None else [name for name in columns if name not in missing])

    def read_group(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Columns of one group of rows, those of them that there are; the last groups are kept. Raises as `read`."""
        with self._lock:
            key = (self._written(), group)
            table = self._groups.pop(key, None)
            if table is None:
                with self._opened() as file:
                    wanted = [name for name in columns if name in file.schema_arrow.names]
                    table = file.read_row_group(group, columns=wanted).combine_chunks()
            self._groups[key] = table
            if len(self._groups) > KEPT_GROUPS:
                self._groups.popitem(last=False)
            return table

    def __getstate__(self) -> dict[str, Any]:
        """What crosses into another process: not what was read."""
        return {"location": self.location, "storage": self.storage}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start anew in this process."""
        self.__init__(**state)  # type: ignore[misc]

    @contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        """The file, opened; what goes wrong is a ShardError. Its footer is read once."""
        try:
            written = self._written()
            known = self._footer[1] if self._footer is not None and self._footer[0] == written else None
            with pq.ParquetFile(self._open(), metadata=known) as file:
                self._footer = (written, file.metadata)
                yield file
        except (OSError, pa.ArrowException) as error:
            if isinstance(error.__cause__, StorageError):
                raise error.__cause__ from None
            raise self._unreadable(error) from error

    def _written(self) -> int:
        """When a local file was written, which keeps what was read of it true to it; remote ones are pinned."""
        if urls.is_remote(self.location):
            return 0
        try:
            return urls.local_path(self.location).stat().st_mtime_ns
        except OSError as error:
            raise self._unreadable(error) from error

    def _open(self) -> Any:  # noqa: ANN401 - whatever pyarrow reads from
        """Something that pyarrow reads from."""
        if not urls.is_remote(self.location):
            return urls.local_path(self.location)
        if self._whole is None and self.storage.size(self.location) <= WHOLE_BYTES:
            self._whole = self.storage.read(self.location)
        if self._whole is not None:
            return pa.BufferReader(pa.py_buffer(self._whole))
        return pa.PythonFile(self.storage.open(self.location), mode="r")

    def _unreadable(self, error: Exception) -> ShardError:
        """What to say of a file that cannot be read; Arrow's messages go on for pages."""
        name = urls.redact(self.location)
        return ShardError(f"{name} cannot be read: {str(error).splitlines()[0]}. Pack the videos again.")

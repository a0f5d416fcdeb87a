"""Objects as files: for programs that read from files."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wildstream.errors import StorageError

Read = Callable[[int, int], memoryview]
"""First byte and byte behind the last → those bytes."""

TAR_BLOCK = 512


class ObjectFile(io.RawIOBase):
    """An object as a file that can be read from anywhere. Raises OSError, as files do, where the object raises."""

    def __init__(self, size: int, read: Read) -> None:
        """Take the object's bytes and what reads them."""
        super().__init__()
        self._size, self._read, self._place = size, read, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The next byte."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go on elsewhere."""
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        """Fill a buffer as far as the object goes."""
        count = min(len(buffer), self._size - self._place)
        if count <= 0:
            return 0
        try:
            buffer[:count] = self._read(self._place, self._place + count)
        except StorageError as error:
            raise OSError(str(error)) from error
        self._place += count
        return count


class ObjectStream(io.RawIOBase):
    """An object as a stream; a .tar must end as tars end, with two blocks of zeros, else StorageError."""

    def __init__(self, name: str, size: int, read: Read) -> None:
        """Take the object's name for messages, its bytes, and what reads them."""
        super().__init__()
        self._size, self._read, self._place = size, read, 0
        if is_tar(name):
            check_end(name, size, read)

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401
        """The next bytes."""
        count = min(len(buffer), self._size - self._place)
        if count > 0:
            buffer[:count] = self._read(self._place, self._place + count)
            self._place += count
        return max(0, count)


def is_tar(name: str | Path) -> bool:
    """Whether a file is, by its name, a tar that is not compressed."""
    return str(name).lower().endswith(".tar")


def check_end(name: str, size: int, read: Read) -> None:
    """Refuse a tar that was cut off (StorageError): tar readers take its end for the end of the archive."""
    end = read(max(0, size - 2 * TAR_BLOCK), size) if size else b""
    if size < 2 * TAR_BLOCK or any(end):
        raise StorageError(
            f"{name} does not end as a tar ends, with two blocks of zeros: it was cut off, or is still being written. "
            "Restore it; what comes before its end could be read, but nobody would know what is missing."
        )

"""A Linux shared library's bytes → the names it asks for, or the same library under another SONAME.

Just enough of ELF for `wildstream.ffmpeg`: 64-bit, little-endian, found by way of the program headers as the dynamic
linker does it.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from wildstream.errors import FFmpegError

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_SONAME = 1, 5, 10, 14


def _dynamic_section(elf: bytes | mmap.mmap) -> tuple[int, int, list[tuple[int, int]]]:
    """Start and end of the string table .dynstr in the file, and the dynamic section's (tag, value) pairs."""
    if elf[:6] != b"\x7fELF\x02\x01":
        raise FFmpegError(f"not a 64-bit little-endian ELF file (it starts with {elf[:6]!r})")
    (table,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    # type, flags, offset in the file, virtual address, physical address, size in the file
    segments = [struct.unpack_from("<IIQQQQ", elf, table + i * size) for i in range(count)]
    dynamic = b"".join(elf[s[2] : s[2] + s[5]] for s in segments if s[0] == _PT_DYNAMIC)
    pairs = [(tag, value) for tag, value in struct.iter_unpack("<qQ", dynamic)]
    address, length = dict(pairs)[_DT_STRTAB], dict(pairs)[_DT_STRSZ]
    start = next(s[2] + address - s[3] for s in segments if s[0] == _PT_LOAD and s[3] <= address < s[3] + s[5])
    return start, start + length, pairs


def needed(file: Path) -> list[str]:
    """The SONAMEs that a shared library asks for."""
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as elf:
        start, _, pairs = _dynamic_section(elf)
        places = [start + value for tag, value in pairs if tag == _DT_NEEDED]
        return [elf[place : elf.find(b"\0", place)].decode() for place in places]


def with_soname(elf: bytes, old: str, new: str) -> bytes:
    """The library with its SONAME overwritten in place (nothing moves); `new` may not be longer than `old`."""
    start, end, pairs = _dynamic_section(elf)
    place = start + dict(pairs)[_DT_SONAME]
    old_bytes = old.encode() + b"\0"
    # Were the string shared with another entry, overwriting it would rename that one too.
    if not elf.startswith(old_bytes, place) or elf.count(old_bytes, start, end) != 1 or len(new) > len(old):
        raise FFmpegError(f"the SONAME of {old} in PyAV's wheel is not where it can be replaced by {new}")
    return elf[:place] + new.encode().ljust(len(old_bytes), b"\0") + elf[place + len(old_bytes) :]

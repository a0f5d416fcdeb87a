"""A tar's bytes → where its members lie, for shards that others made and that may be hostile.

    header ──▶ (extended headers: pax, GNU long names; bounded) ──▶ data, padded to 512 bytes ──▶ next header …
    two blocks of zeros, then nothing but zeros: the end

Python's `tarfile` reads each header block: checksum, numbers, names. What leads from one to the next is done here,
because `tarfile` reads extended headers into memory however large they say they are, takes quadratic time for some of
them (CVE-2024-6232), stops without a word at a file that is cut between two members or at a damaged header, and ends
where zeros begin though more may follow. Nothing is extracted and no link is followed: members are only located.

Headers are understood as `tarfile` does, by which WebDataset reads: a pax size or path goes before the header's own.
Where the walk cannot go on, what came before it stands, and a `Flaw` of the archive tells why and what is not known.
"""

from __future__ import annotations

import mmap
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field

BLOCK_BYTES = 512
EXTENDED_BYTES = 1 << 20
"""Bytes of the extended headers of one member, at most. Names take hundreds of bytes, extended attributes 64 KiB."""
PADDING_BYTES = 4 << 20
"""Zeros at the end of an archive, at most: tar writers fill up a record, which has 10 KiB, with great options 1 MiB."""
SHOWN_LETTERS = 120
"""Characters of a name that messages show."""

_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_NEVER_FOLLOWED = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a FIFO",
}

Bytes = bytes | mmap.mmap
"""An archive, whole: slices of it are bytes."""


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in a tar."""

    name: str
    """As the archive has it: not to be used as a path. Bytes that are no UTF-8 are lone surrogates in it."""
    offset: int
    """Of its first byte in the archive."""
    size: int
    """Bytes."""
    mtime: float
    """Seconds since 1970, as the archive has it."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """What is in a tar and cannot be used, or why the rest of it cannot be read."""

    name: str
    """Name of the member; empty where it is the archive."""
    reason: str


@dataclass(slots=True)
class _Head:
    """All that stands before a member's data."""

    info: tarfile.TarInfo
    data: int
    """Offset of the first byte behind it."""
    pax: dict[bytes, bytes]


class _UnreadableError(Exception):
    """The archive cannot be read from here on."""


def read_tar(data: Bytes) -> Iterator[Member | Flaw]:
    """Locate the members of an uncompressed tar, in order.

    Directories, which hold nothing, are passed over. Links, devices, FIFOs and members of unknown types are flaws, and
    the walk goes on behind them. It ends, with a flaw without a name, where a header is damaged or hostile, where the
    archive is cut, and where something follows its end.
    """
    walk = _Walk(data)
    try:
        yield from walk.members()
    except _UnreadableError as error:
        behind = f"after member {shown(walk.last)}" if walk.last else "before its first member"
        yield Flaw("", f"{error} ({behind}; what follows is not read)")


def shown(name: str) -> str:
    """A name out of an archive, in quotes; see `printable`."""
    return f"'{printable(name)}'"


def printable(name: str) -> str:
    """A name out of an archive, for people: short, and without what a terminal would obey."""
    return repr(name[:SHOWN_LETTERS])[1:-1] + ("…" if len(name) > SHOWN_LETTERS else "")


@dataclass(slots=True)
class _Walk:
    """One pass over an archive."""

    archive: Bytes
    last: str = ""
    """Name of the last member that was passed whole."""
    common: dict[bytes, bytes] = field(default_factory=dict)
    """Global pax records, which hold for all members that follow."""

    def members(self) -> Iterator[Member | Flaw]:
        """All members, and those that cannot be used; _UnreadableError where it cannot go on."""
        place = 0
        while (head := self._head(place)) is not None:
            info, size = head.info, _size(head)
            name = _name(head)
            if info.type in _NEVER_FOLLOWED:  # `tarfile` takes them to have no data, whatever their size
                yield Flaw(name, f"is {_NEVER_FOLLOWED[info.type]}, which is never followed; put the file itself in")
                size = 0
            elif info.isdir():
                size = 0
            elif head.data + size > len(self.archive):
                raise _UnreadableError(
                    f"is truncated within member {shown(name)}: by its header that ends at byte {head.data + size:,}, "
                    f"the file has {len(self.archive):,}"
                )
            elif info.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
                yield Member(name, head.data, size, float(info.mtime))
            else:
                yield Flaw(name, f"is of the unknown type {info.type!r}; put it in as a regular file")
            place = head.data + -(-size // BLOCK_BYTES) * BLOCK_BYTES
            self.last = name

    def _head(self, place: int) -> _Head | None:
        """The header at a place, with the extended ones before it; None at the archive's end."""
        begin, pax, long_name = place, dict(self.common), b""
        while True:
            info = self._block(place)
            if info is None:
                if place == begin:
                    self._check_end(place)
                    return None
                raise _UnreadableError(f"has an extended header at byte {begin:,} without a member")
            place += BLOCK_BYTES
            if info.type not in _EXTENDED:
                break
            _bound(info.size, place - begin + info.size, at=begin)
            if place + info.size > len(self.archive):
                raise _UnreadableError(f"is truncated within the extended header at byte {begin:,}")
            content = self.archive[place : place + info.size]
            place += -(-info.size // BLOCK_BYTES) * BLOCK_BYTES
            if info.type == tarfile.GNUTYPE_LONGNAME:
                long_name = content
            elif info.type == tarfile.XGLTYPE:
                self._set_common(_records(content, begin), begin)
                pax = self.common | pax
            elif info.type != tarfile.GNUTYPE_LONGLINK:
                pax |= _records(content, begin)
        if info.type == tarfile.GNUTYPE_SPARSE or any(name.startswith(b"GNU.sparse.") for name in pax):
            raise _UnreadableError(f"has a sparse member at byte {begin:,}; make the tar without --sparse")
        if long_name and b"path" not in pax:
            pax[b"path"] = long_name.split(b"\0", 1)[0]  # where a C program stops reading
        return _Head(info, place, pax)

    def _block(self, place: int) -> tarfile.TarInfo | None:
        """The header block at a place; None where it is zeros."""
        block = self.archive[place : place + BLOCK_BYTES]
        if not block:
            raise _UnreadableError(
                f"is truncated at byte {len(self.archive):,}: it ends without the two blocks of zeros by which every "
                "tar writer ends an archive, so members may be missing"
                if self.archive
                else "is empty"
            )
        if len(block) < BLOCK_BYTES:
            raise _UnreadableError(f"is truncated at byte {len(self.archive):,}, within a header")
        if not block.strip(b"\0"):
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError, OverflowError) as error:
            compressed = " (it is compressed: unpack it first)" if block[:2] in (b"\x1f\x8b", b"BZ", b"\xfd7") else ""
            raise _UnreadableError(f"has no tar header at byte {place:,}: {error}{compressed}") from None

    def _check_end(self, place: int) -> None:
        """Raise where the archive goes on behind its end, or ends in more zeros than anybody writes.

        A single block of zeros will do: it is half of the end, and no writer puts a member behind it.
        """
        step = 1 << 20
        for begin in range(place, len(self.archive), step):
            part = self.archive[begin : begin + step]
            if rest := part.lstrip(b"\0"):
                found = begin + len(part) - len(rest)
                raise _UnreadableError(f"goes on at byte {found:,}, though it ends at byte {place:,}; was it joined?")
        if len(self.archive) - place > PADDING_BYTES:
            raise _UnreadableError(
                f"ends in {len(self.archive) - place:,} zeros, which no tar writer leaves; a download may have been cut"
            )

    def _set_common(self, records: dict[bytes, bytes], place: int) -> None:
        """Take global records, but none that would befall every member, and not without end."""
        if hostile := {b"path", b"size", b"linkpath"} & set(records):
            raise _UnreadableError(
                f"has a global pax header at byte {place:,} that sets the {min(hostile).decode()} of all members"
            )
        self.common |= records
        _bound(0, sum(len(name) + len(value) for name, value in self.common.items()), at=place)


def _bound(announced: int, total: int, *, at: int) -> None:
    """Refuse extended headers that are too large to be what they should."""
    if announced < 0 or total > EXTENDED_BYTES:
        raise _UnreadableError(
            f"has extended headers of {total:,} bytes at byte {at:,}; {EXTENDED_BYTES:,} are the most"
        )


def _records(content: bytes, at: int) -> dict[bytes, bytes]:
    """The records of a pax header, each a length, a key, "=" and a value on a line, in linear time."""
    found = {}
    place = 0
    while place < len(content) and content[place]:
        digits, space, _ = content[place : place + 9].partition(b" ")
        stop = place + int(digits) if space and digits.isdigit() else 0
        record = content[place + len(digits) + 1 : stop - 1]
        key, equals, value = record.partition(b"=")
        if not key or not equals or stop > len(content) or content[stop - 1 : stop] != b"\n":
            raise _UnreadableError(f"has a malformed pax header at byte {at:,}")
        found[key] = value
        place = stop
    return found


def _size(head: _Head) -> int:
    """Bytes of a member: what pax says goes before the header's own number."""
    told = head.pax.get(b"size")
    size = head.info.size if told is None else int(told) if told.isdigit() and len(told) < 20 else -1
    if size < 0:
        raise _UnreadableError(f"has a member {shown(_name(head))} whose size is no number of bytes")
    return size


def _name(head: _Head) -> str:
    """Name of a member: what pax or a GNU long name says goes before the header's own."""
    told = head.pax.get(b"path")
    return head.info.name if told is None else told.decode("utf-8", "surrogateescape")

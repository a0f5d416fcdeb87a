"""What is true of every layout: names that can be written, links that lead somewhere, media that somebody reads."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from wildstream.errors import FormatError
from wildstream.shards.formats.scanning import IMAGE_EXTENSIONS, WHOLE, Refusal, Scan, parted, walk

OTHER_VIDEOS = ("m4v", "mts", "m2ts", "mpg", "mpeg", "wmv", "flv", "3gp", "ogv", "asf", "mxf", "vob")
OTHER_IMAGES = ("heic", "heif", "gif", "avif", "jp2", "dng", "cr2", "nef", "arw")
"""Media that no format reads; that they are there is told."""


def tidy(scan: Scan, root: Path) -> None:
    """Refuse sources whose names cannot be written, note files that no format reads, and make all notes printable."""
    kept = []
    for source in scan.sources:
        path = str(source.video.relative_to(root))
        if _is_text(path) and _is_text(source.part) and _is_text(str(source.labels or "")):
            kept.append(source)
        else:
            reason = "its name, or that of its class, is not UTF-8; rename it"
            scan.refused.append(Refusal(split=source.split, path=path, reason=reason))
    scan.sources = kept
    if strange := [name for name in scan.categories if not _is_text(name)]:
        raise FormatError(f"the class {strange[0]!r:.60} has a name that is not UTF-8. Rename it")
    used = {path.suffix[1:].lower() for source in scan.sources[:1] for path in source.files()}
    scan.unused += _unread(root, images=bool(used & set(IMAGE_EXTENSIONS)), anything=bool(scan.sources))
    for notes in (scan.refused, scan.unused):
        notes[:] = [
            replace(note, path=_printable(note.path), reason=_printable(note.reason), split=_printable(note.split))
            for note in notes
        ]


def _unread(root: Path, *, images: bool, anything: bool) -> list[Refusal]:
    """Notes of links that lead nowhere, and of each kind of media that no format reads."""
    notes: list[Refusal] = []
    kinds: dict[str, list[str]] = defaultdict(list)
    unread = {*OTHER_VIDEOS, *(OTHER_IMAGES if images else IMAGE_EXTENSIONS if anything else ())}
    for path in walk(str(root), {os.path.realpath(root)}, dangling=True):
        extension = parted(path)[1]
        told = os.path.relpath(path, root)
        if not Path(path).exists():  # a link
            notes.append(Refusal(split=WHOLE, path=told, reason="is a link to a file that is not there; fetch it"))
        elif extension in unread:
            kinds[extension].append(told)
    for extension, found in kinds.items():
        number = "it is" if len(found) == 1 else f"it and {len(found) - 1:,} more .{extension} are"
        reason = f"{number} not read; convert to mp4, or jpg, what is meant to be packed"
        notes.append(Refusal(split=WHOLE, path=found[0], reason=reason))
    return notes


def _is_text(text: str) -> bool:
    """Whether all characters can be written."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(text: str) -> str:
    """A text as a terminal may show it."""
    return text if text.isprintable() else text.encode("unicode_escape", "backslashreplace").decode("ascii")

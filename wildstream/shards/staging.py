"""A folder that is built aside and takes its name when it is complete; one process at a time.

In: the folder's place. Out: a hidden folder beside it (`.train.packing`) to write to. A kill at any moment leaves the
old folder, the new one or, for the blink between two renames, both under hidden names, which the next call puts right.
What marks a folder as complete is its dataset.json, which is therefore written last.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from wildstream.errors import ShardError
from wildstream.shards.index_schema import DATASET_NAME


@contextmanager
def locked(folder: Path, mark: str = DATASET_NAME) -> Iterator[None]:
    """Keep other processes from building the same folder; ends an interrupted renaming first.

    Args:
        folder: The place of what is built.
        mark: Name of the file in it that is written last.

    Raises:
        ShardError: Another process is at it.
    """
    path = folder.with_name(f".{folder.name}.lock")
    with path.open("w") as lock:
        if not _take(lock, path):
            raise ShardError(f"another process is packing into {folder}; wait for it, or take another folder")
        try:
            _finish_interrupted_rename(folder, mark)
            yield
        finally:
            path.unlink()


def staging_folder(folder: Path) -> Path:
    """The hidden folder in which a folder is built, with what a killed call left in it; incomplete by its mark."""
    staging = _hidden(folder, "packing")
    staging.mkdir(exist_ok=True)
    (staging / DATASET_NAME).unlink(missing_ok=True)
    return staging


def remove_staging(folder: Path) -> None:
    """Delete the staging folder of a folder that was completed elsewhere."""
    shutil.rmtree(_hidden(folder, "packing"), ignore_errors=True)


def put_in_place(staging: Path, folder: Path) -> None:
    """Give a complete staging folder its name, in the place of the old folder if there is one."""
    old = _hidden(folder, "old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    staging.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Have the same file under a second name; a copy where the file system knows no hard links."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _hidden(folder: Path, purpose: str) -> Path:
    """A hidden name beside a folder."""
    return folder.with_name(f".{folder.name}.{purpose}")


def _take(lock: IO[str], path: Path) -> bool:
    """Lock a file that others may be removing: it counts only while it still has its name."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(lock.fileno()).st_ino == path.stat().st_ino
    except OSError:
        return False


def _finish_interrupted_rename(folder: Path, mark: str) -> None:
    """Put a complete staging folder in its place if a call was killed between two renames, and remove the old one."""
    staging = _hidden(folder, "packing")
    if not folder.exists() and (staging / mark).is_file():
        staging.rename(folder)
    if folder.exists():
        shutil.rmtree(_hidden(folder, "old"), ignore_errors=True)

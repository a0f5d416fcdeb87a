"""Where a split is packed to: a local folder, or a prefix in object storage; each replaces what was there at once.

    local    built in a hidden folder beside its place, which is renamed when it is complete (see `staging`)
    remote   each shard is built locally, uploaded under a name that tells its sources, and deleted here; when all are
             there the index goes up under a name of its own; dataset.json, which names it, goes last and decides

So whoever opens a remote split finds the old one or the new one. What a killed call had uploaded is kept in a staging
folder on this machine, and not packed again; the old split's objects are deleted when the new one counts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wildstream.errors import ConfigError, ShardError, StorageError
from wildstream.locations import cache_folder
from wildstream.shards.index import Index, open_index
from wildstream.shards.index_file import IndexFile
from wildstream.shards.index_schema import (
    DATASET_NAME,
    INDEX_NAME,
    SCHEMA,
    DatasetInfo,
    complete,
    with_version,
    write_info,
    write_table,
)
from wildstream.shards.staging import link_or_copy, locked, put_in_place, remove_staging, staging_folder
from wildstream.storage import urls
from wildstream.storage.access import Storage
from wildstream.storage.faults import MissingObjectError


class Place(Protocol):
    """Where one split is packed to."""

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes of this machine from packing to the same place."""

    def shard_name(self, number: int, fingerprint: str) -> str:
        """The file name of a shard."""

    def finished(self, fingerprints: dict[str, str]) -> dict[str, pa.Table]:
        """Rows of the shards, by file name, that an earlier packing made of the same sources and that are whole."""

    def is_intact(self, names: Sequence[str]) -> bool:
        """Whether there is an index that opens, of these shards alone."""

    def staging(self) -> Path:
        """The local folder where shards are built, with what a killed call left in it."""

    def has(self, name: str, metadata: dict[str, str]) -> bool:
        """Whether a shard that a killed call packed, and noted the rows of, is where it belongs."""

    def take(self, name: str) -> None:
        """Have a finished shard of the earlier packing in the new one."""

    def add(self, name: str) -> None:
        """Have a shard that was just built in the staging folder in the new packing."""

    def publish(self, info: DatasetInfo, table: pa.Table) -> None:
        """Put the new packing in the place of the old one."""


@dataclass(frozen=True, slots=True)
class LocalPlace:
    """A folder."""

    folder: Path

    def locked(self) -> AbstractContextManager[None]:
        """By a lock file beside the folder."""
        return locked(self.folder)

    def shard_name(self, number: int, fingerprint: str) -> str:
        """A number."""
        return f"{number:06d}.tar"

    def finished(self, fingerprints: dict[str, str]) -> dict[str, pa.Table]:
        """By the index in the folder."""
        table = read_rows(self.folder / INDEX_NAME)
        sizes = {path.name: path.stat().st_size for path in self.folder.glob("*.tar")} if table is not None else {}
        return {} if table is None else _finished(table, fingerprints, sizes)

    def is_intact(self, names: Sequence[str]) -> bool:
        """By the index, and the files that there are."""
        try:
            there = sorted(path.name for path in self.folder.glob("*.tar"))
            return open_index(self.folder).info.shards == there == list(names)
        except ShardError:
            return False

    def staging(self) -> Path:
        """A hidden folder beside it."""
        return staging_folder(self.folder)

    def has(self, name: str, metadata: dict[str, str]) -> bool:
        """Always: rows are written after their shard."""
        return True

    def take(self, name: str) -> None:
        """By a second name of the same file."""
        link_or_copy(self.folder / name, self.staging() / name)

    def add(self, name: str) -> None:
        """It is there."""

    def publish(self, info: DatasetInfo, table: pa.Table) -> None:
        """By two renames."""
        staging = self.staging()
        write_table(staging / INDEX_NAME, table)
        for path in staging.iterdir():
            if path.name not in {INDEX_NAME, *info.shards}:
                path.unlink()
        write_info(staging, with_version(info, table))
        put_in_place(staging, self.folder)


@dataclass(frozen=True, slots=True)
class RemotePlace:
    """A prefix in object storage."""

    url: str
    storage: Storage

    @property
    def _home(self) -> Path:
        """Where this machine keeps what belongs to the split while it is packed."""
        name = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        folder = cache_folder() / "packing" / name / "split"
        folder.parent.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """By a lock file on this machine."""
        with locked(self._home):
            yield

    def shard_name(self, number: int, fingerprint: str) -> str:
        """A number, and what tells its sources: other sources make another object."""
        return f"{number:06d}-{fingerprint[:12]}.tar"

    def finished(self, fingerprints: dict[str, str]) -> dict[str, pa.Table]:
        """By the index there, and the objects that there are."""
        index = self._open()
        if index is None:
            return {}
        try:
            table = complete(IndexFile(urls.join(self.url, index.info.index), index.storage).read(SCHEMA.names))
        except StorageError:
            raise
        except ShardError:  # of an older version, which knew less of the videos
            return {}
        return _finished(table, fingerprints, self.storage.objects.list(self.url))

    def is_intact(self, names: Sequence[str]) -> bool:
        """By dataset.json and the index there."""
        index = self._open()
        return index is not None and index.info.shards == list(names)

    def staging(self) -> Path:
        """A folder among this user's caches, of this URL."""
        return staging_folder(self._home)

    def has(self, name: str, metadata: dict[str, str]) -> bool:
        """Whether there is an object of that size."""
        try:
            return str(self.storage.objects.version(urls.join(self.url, name)).size) == metadata["bytes"]
        except MissingObjectError:
            return False

    def take(self, name: str) -> None:
        """It is there, under the same name."""

    def add(self, name: str) -> None:
        """Upload it, and delete it here."""
        built = self.staging() / name
        self.storage.objects.write(urls.join(self.url, name), built)
        built.unlink()

    def publish(self, info: DatasetInfo, table: pa.Table) -> None:
        """The index, then dataset.json; then what only the old packing had is deleted."""
        before = self._named_objects()
        built = self.staging() / INDEX_NAME
        # What a call that was killed had uploaded of sources that have changed since.
        before |= {path.name.removesuffix(".parquet") for path in built.parent.glob("*.tar.parquet")}
        write_table(built, table)
        digest = hashlib.sha256(built.read_bytes()).hexdigest()[:12]
        info = with_version(info, table).model_copy(update={"index": f"index-{digest}.parquet"})
        self._check_all_there(info, table)
        self.storage.objects.write(urls.join(self.url, info.index), built)
        dataset = (info.model_dump_json(indent=2) + "\n").encode()
        self.storage.objects.write(urls.join(self.url, DATASET_NAME), dataset)
        for name in before - {info.index, *info.shards}:
            self.storage.objects.delete(urls.join(self.url, name))
        remove_staging(self._home)

    def _check_all_there(self, info: DatasetInfo, table: pa.Table) -> None:
        """Refuse to name shards that somebody else has deleted meanwhile (ShardError)."""
        there = self.storage.objects.list(self.url)
        noted = {name: json.loads(facts)["bytes"] for name, facts in metadata_of(table).items()}
        gone = [name for name in info.shards if str(there.get(name)) != noted[name]]
        if gone:
            raise ShardError(
                f"{gone[0]} is no longer in {urls.redact(self.url)} ({len(gone)} of {len(info.shards)} shards): "
                "somebody else packed here meanwhile. Run it again; what is there is taken over."
            )

    def _named_objects(self) -> set[str]:
        """The objects that the packing that is there now consists of; none where there is none that can be read."""
        index = self._open()
        names = set() if index is None else {index.info.index, *index.info.shards}
        # Never what lies elsewhere: an index may name shards that others keep.
        return {name for name in names if "/" not in name and name.endswith((".tar", ".parquet"))}

    def _open(self) -> Index | None:
        """The packing that is there now; None where there is none, or none that this program could read."""
        try:
            # With a storage of its own, which does not mind that the objects change while this one packs.
            return open_index(self.url, Storage(options=self.storage.options))
        except MissingObjectError:
            return None
        except StorageError:
            raise
        except ShardError:
            return None


def make_place(out: str | Path, split: str, storage: Storage) -> Place:
    """The place of a split in a folder or under a URL."""
    if urls.is_remote(out):
        if str(out).lower().startswith("http"):
            raise ConfigError(
                f"{urls.redact(str(out))}: plain HTTP is for reading. Pack to a folder, s3://, gs:// or az://."
            )
        return RemotePlace(urls.join(out, split), storage)
    return LocalPlace(urls.local_path(out) / split)


def read_rows(path: Path) -> pa.Table | None:
    """Rows that an earlier call wrote; None where there are none, or they cannot be read."""
    try:
        table = complete(pq.read_table(path, partitioning=None))
        return table.cast(SCHEMA.with_metadata(table.schema.metadata))
    except (OSError, ValueError, pa.ArrowException):
        return None


def metadata_of(table: pa.Table) -> dict[str, str]:
    """What a table of rows carries beside them: fingerprint and refusals, by shard where it holds several."""
    return {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}


def _finished(table: pa.Table, fingerprints: dict[str, str], sizes: dict[str, int]) -> dict[str, pa.Table]:
    """Rows of the shards in an index that were made from the same sources and have the size that they had."""
    known = {name: json.loads(metadata) for name, metadata in metadata_of(table).items() if name.endswith(".tar")}
    finished = {}
    for name, fingerprint in fingerprints.items():
        metadata = known.get(name, {})
        if metadata.get("fingerprint") == fingerprint and str(sizes.get(name)) == metadata["bytes"]:
            rows = table.filter(pc.field("shard") == name)
            finished[name] = rows.replace_schema_metadata(metadata)
    return finished

"""Folders of splits: found by what lies in them, and written as indexes of shards that lie elsewhere, all at once.

    shards/                       out/
      train/  000000.tar …          train/  index.parquet, dataset.json: rows that name /data/shards/train/000000.tar
      val/    000000.tar …          val/    …
                                    split-report.json, which is written last

No video is copied. The whole folder is built aside and takes the place of an earlier one when it is complete (see
`staging`), so that a split of one call never lies beside one of another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from wildstream.errors import ConfigError
from wildstream.shards.index import Index
from wildstream.shards.index_schema import (
    DATASET_NAME,
    INDEX_NAME,
    DatasetInfo,
    with_version,
    write_info,
    write_table,
    write_text,
)
from wildstream.shards.staging import locked, put_in_place, remove_staging, staging_folder
from wildstream.storage import urls
from wildstream.storage.access import Storage

SPLIT_REPORT = "split-report.json"
MERGE_REPORT = "merge-report.json"
_USUAL = ("train", "val", "test")
_REPORTS = (SPLIT_REPORT, MERGE_REPORT)
_INDEX_FILES = (INDEX_NAME, DATASET_NAME)


def find_splits(path: str | Path, storage: Storage) -> dict[str, str]:
    """The packed splits at a location, by name: itself, or those in the folder.

    Args:
        path: Path or URL of a packed split, or of the folder above some.
        storage: Lists the folder.

    Returns:
        Paths or URLs by the names of their folders, train, val and test before others; where there is no split, the
        location itself.
    """
    folder = urls.normal(path)
    name = urls.local_path(folder).absolute().name if not urls.is_remote(folder) else folder.rpartition("/")[2]
    if folder.endswith(".tar") or storage.exists(urls.join(folder, DATASET_NAME)):
        return {name: folder}
    if urls.is_remote(folder):
        found = [entry.split("/")[0] for entry in storage.list(folder) if _is_dataset(entry)]
    else:
        found = [entry.parent.name for entry in Path(folder).glob(f"*/{DATASET_NAME}")]
    usual = [split for split in _USUAL if split in found]
    others = sorted(split for split in set(found) - set(usual) if not split.startswith("."))
    return {split: urls.join(folder, split) for split in (*usual, *others)} or {name: folder}


def check_source(path: str | Path) -> None:
    """Refuse a location whose login an index that names its shards would show to all (ConfigError)."""
    if urls.has_login(str(path)):
        raise ConfigError(
            f"{urls.redact(str(path))!r} holds a login, which the index would show to all; give it as storage options "
            "or in the environment."
        )


def rows_of(index: Index) -> pa.Table:
    """All that an index holds, its shards named by absolute path or URL."""
    table = index.table()
    home = index.folder if urls.is_remote(index.folder) else str(urls.local_path(index.folder).absolute())
    names = table["shard"].combine_chunks().dictionary_encode()
    places = pa.array([urls.join(home, name) for name in names.dictionary.to_pylist()], pa.string())
    shards = pa.DictionaryArray.from_arrays(names.indices, places).cast(pa.string())
    return table.set_column(table.column_names.index("shard"), "shard", shards)


def info_of(table: pa.Table, infos: Sequence[DatasetInfo], *, split: str, categories: Sequence[str]) -> DatasetInfo:
    """What dataset.json says of rows that come from splits with these; what these do not agree on is left open."""
    transcodes = [info.transcode for info in infos]
    return DatasetInfo(
        categories=list(categories),
        task=infos[0].task,
        split=split,
        format="+".join(sorted({info.format for info in infos})),
        num_videos=table.num_rows,
        num_frames=int(pc.sum(table["num_frames"]).as_py() or 0),
        shards=sorted(set(table["shard"].to_pylist())),
        packed_by=f"wildstream {version('wildstream')}",
        transcode=transcodes[0] if all(one == transcodes[0] for one in transcodes) else None,
        features=infos[0].features,
    )


def check_out(out: str | Path, sources: Sequence[Index]) -> Path:
    """The folder that a set of splits goes to, absolute.

    Raises:
        ConfigError: It is remote, holds something else, or holds one of the sources, or a source holds it.
    """
    if urls.is_remote(out):
        raise ConfigError(f"out={urls.redact(str(out))} must be a local folder: indexes alone are written there.")
    folder = urls.local_path(out).resolve()
    for source in sources:
        if urls.is_remote(source.folder):
            continue
        home = urls.local_path(source.folder).resolve()
        if home.is_relative_to(folder) or folder.is_relative_to(home):
            raise ConfigError(f"out={out} and {home} lie in each other. Take a folder of its own for the indexes.")
    if folder.exists() and (foreign := _foreign(folder)):
        raise ConfigError(
            f"out={out} holds {foreign}, which is no index of an earlier call and would be lost. Take a folder of its "
            "own for the indexes."
        )
    return folder


def write_splits(folder: Path, splits: Mapping[str, tuple[DatasetInfo, pa.Table]], *, report: str, text: str) -> None:
    """Put splits in the place of what an earlier call wrote there: all of them at once.

    Args:
        folder: From `check_out`.
        splits: Of each its dataset.json and its rows, by the name of its folder; "" is the folder itself.
        report: File name of the report, one of those above.
        text: Its content.

    Raises:
        ShardError: Another process is at it.
        OSError: The folder cannot be written to.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder, report):
        remove_staging(folder)
        staging = staging_folder(folder)
        for name, (info, table) in splits.items():
            place = staging / name
            place.mkdir(exist_ok=True)
            write_table(place / INDEX_NAME, table.sort_by("key").replace_schema_metadata(None))
            write_info(place, with_version(info, table))
        write_text(staging / report, text)
        put_in_place(staging, folder)


def _is_dataset(entry: str) -> bool:
    """Whether a name in a listing is the dataset.json of a folder right below."""
    return entry.count("/") == 1 and entry.endswith(f"/{DATASET_NAME}")


def _foreign(folder: Path) -> str:
    """Something in a folder that `write_splits` did not put there; "" where there is nothing."""
    if not folder.is_dir():
        return "a file"
    entries = sorted(folder.iterdir())
    ours = any(entry.name in _REPORTS for entry in entries)
    for entry in entries:
        if entry.is_dir():
            other = [path.name for path in sorted(entry.iterdir()) if path.name not in _INDEX_FILES]
            if other or not ours:
                return f"{entry.name}/{other[0]}" if other else entry.name
        elif not ours or entry.name not in (*_INDEX_FILES, *_REPORTS, *(f".{name}.tmp" for name in _REPORTS)):
            return entry.name
    return ""

"""Several packed sources → one index that points at the shards of all of them; nothing is copied.

    lab=/data/lab      walk, run          OUT/train    lab/fish_01   walk, run         origin lab
    zoo=s3://b/zoo     run, rest                       zoo/bear_7    run, rest         origin zoo
                                          categories   walk, run, rest: those of the first, then what the others add

Keys get the name of their source, the column `origin` holds it, and classes are numbered anew by their names.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wildstream.errors import ConfigError
from wildstream.shards.class_map import map_events
from wildstream.shards.feature_info import FeatureInfo
from wildstream.shards.index import Index, open_index
from wildstream.shards.index_schema import EVENT, DatasetInfo
from wildstream.shards.split_set import (
    MERGE_REPORT,
    check_out,
    check_source,
    find_splits,
    info_of,
    rows_of,
    write_splits,
)
from wildstream.storage import urls
from wildstream.storage.access import Storage

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(slots=True)
class MergeReport:
    """What was merged; OUT/merge-report.json says the same."""

    folder: str
    """Path of the folder that holds the index, or the splits."""
    categories: list[str]
    splits: dict[str, dict[str, int]]
    """Videos of each source, by split; "" where sources are single splits, and so is what they became."""


def merge(
    out: str | Path,
    sources: Mapping[str, str | Path],
    *,
    negatives: bool = False,
    storage: Storage | None = None,
) -> MergeReport:
    """Join packed sources in one index, without copying them.

    Args:
        out: Local folder. Where all sources are single packed splits it becomes one, else it gets each split that any
            of them has. What an earlier call wrote there is replaced; a folder that holds anything else is refused.
        sources: Paths or URLs of packed splits, or of the folders above some, by a name that goes before their keys.
        negatives: Whether a class that a source does not have is absent in its videos. With several labels per video
            sources of other categories are refused without it: that nobody looked for a class does not say that it is
            not there.
        storage: Reads the indexes; one without options by default.

    Raises:
        ConfigError: Sources do not fit each other, or `out` holds something else.
        ShardError: A source holds no packed split, or a damaged one.
    """
    storage = storage or Storage()
    for name in sources:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r:.80} cannot be the name of a source. Take letters, digits, - and _.")
    if len(sources) < 2:
        raise ConfigError(f"there are {len(sources)} sources to merge. Give two or more.")
    opened = _open_all(sources, storage)
    everything = [index for indexes in opened.values() for index in indexes.values()]
    _check_alike(everything)
    categories = list(dict.fromkeys(name for index in everything for name in index.categories))
    if not negatives and everything[0].info.task == "multi_label":
        _refuse_unknown(opened, categories)
    folder = check_out(out, everything)
    splits: dict[str, tuple[DatasetInfo, pa.Table]] = {}
    for split, indexes in opened.items():
        table = pa.concat_tables([_rows(index, name, categories) for name, index in indexes.items()])
        infos = [index.info for index in indexes.values()]
        info = info_of(table, infos, split=split or folder.name, categories=categories)
        splits[split] = info.model_copy(update={"features": _join_features(infos)}), table
    report = MergeReport(
        folder=str(folder),
        categories=categories,
        splits={split: {name: len(index) for name, index in indexes.items()} for split, indexes in opened.items()},
    )
    content = asdict(report) | {"sources": {name: urls.redact(str(path)) for name, path in sources.items()}}
    write_splits(folder, splits, report=MERGE_REPORT, text=json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return report


def _open_all(sources: Mapping[str, str | Path], storage: Storage) -> dict[str, dict[str, Index]]:
    """Indexes by name of the split, "" for single ones, and of the source."""
    opened: dict[str, dict[str, Index]] = {}
    single = {}
    for name, path in sources.items():
        check_source(path)
        found = find_splits(path, storage)
        single[name] = list(found.values()) == [urls.normal(path)]
        for split, location in found.items():
            opened.setdefault("" if single[name] else split, {})[name] = open_index(location, storage)
    if len(set(single.values())) > 1:
        one, other = (next(name for name, is_one in single.items() if is_one is wanted) for wanted in (True, False))
        raise ConfigError(
            f"{one} is one packed split, {other} a folder of splits. Give one split of each, or the folders above them."
        )
    return opened


def _check_alike(indexes: Sequence[Index]) -> None:
    """Refuse sources of another task, or of features that were made otherwise (ConfigError)."""
    first = indexes[0]
    for index in indexes[1:]:
        if index.info.task != first.info.task:
            raise ConfigError(
                f"{urls.redact(first.folder)} is {first.info.task}, {urls.redact(index.folder)} {index.info.task}. "
                "Merge sources of one task."
            )
        here, there = ({} if one.info.features is None else one.info.features.model_dump() for one in (first, index))
        differing = [name for name in here | there if name != "source" and here.get(name) != there.get(name)]
        if differing:
            name = differing[0]
            raise ConfigError(
                f"{urls.redact(first.folder)} holds {_told(here)}, {urls.redact(index.folder)} {_told(there)}: "
                f"{name} is {here.get(name)!r:.80} and {there.get(name)!r:.80}. Merge videos, or features that were "
                "made alike."
            )


def _told(features: dict[str, object]) -> str:
    """What shards hold, for a message."""
    return f"features of {features['backbone']}" if features else "videos"


def _refuse_unknown(opened: Mapping[str, Mapping[str, Index]], categories: Sequence[str]) -> None:
    """Refuse to take classes for absent that a source does not have (ConfigError)."""
    for indexes in opened.values():
        for name, index in indexes.items():
            if lacking := [category for category in categories if category not in index.categories]:
                raise ConfigError(
                    f"{name} has no class {', '.join(lacking):.200}, which may happen in its videos all the same. "
                    "Where they do not, negatives (--negatives) takes them for absent there; else label them and pack "
                    "it again."
                )


def _rows(index: Index, name: str, categories: Sequence[str]) -> pa.Table:
    """The rows of one source in the merged index."""
    table = rows_of(index)
    numbers = np.array([categories.index(category) for category in index.categories], np.int32)
    events, ends = map_events(*index.events, numbers)
    columns = [pa.array(column) for column in events]
    lists = pa.ListArray.from_arrays(
        pa.array(np.append(0, ends).astype(np.int32)), pa.StructArray.from_arrays(columns, fields=list(EVENT))
    )
    changed = {
        "key": pc.binary_join_element_wise(name, table["key"], "/"),
        "events": lists,
        "origin": pa.array([name] * table.num_rows, pa.string()),
    }
    for column, values in changed.items():
        table = table.set_column(table.column_names.index(column), table.schema.field(column), values)
    return table


def _join_features(infos: Sequence[DatasetInfo]) -> FeatureInfo | None:
    """How the features were made, of the clips of all sources; None of videos."""
    features = infos[0].features
    if features is None:
        return None
    sources = [info.features.source for info in infos if info.features is not None]
    return features.model_copy(update={"source": hashlib.sha256(json.dumps(sources).encode()).hexdigest()[:16]})

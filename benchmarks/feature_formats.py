"""The same windows of features in the formats of all libraries, written by each in its own process."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.feature_data import Array, checksums
from benchmarks.lanes import Data
from benchmarks.peers.object_source import Remote, SourceError

FORMATS = ("wildstream", "webdataset", "mosaicml", "litdata", "arrays")


def write_formats(folder: Path, values: Array, sources: dict[str, Remote | str], per_shard: int) -> None:
    """Each into the subfolder of its name, so many windows in a shard; what fails becomes what the source lacks."""
    folder.mkdir(parents=True)
    whole = folder.parent / "values.npy"
    np.save(whole, values)
    for name, remote in sources.items():
        if isinstance(remote, Remote):
            try:
                remote.write_features(whole, folder / name, per_shard)
            except SourceError as error:
                sources[name] = str(error)
    whole.unlink()


def as_data(folder: Path, values: Array) -> Data:
    """What was written, as the lanes take it."""
    return Data(
        folder=folder,
        formats={name: name for name in FORMATS},
        everything=[(number,) for number in range(values.shape[0] * values.shape[1])],
        checksums=lambda: checksums(values),
        shape=values.shape[2:],
    )

"""What a model said about every window of a set, as a Parquet file.

A row for each window, in order of (key, start):

  key                  string           the video
  start                int64            source frame of the window's first kept frame; negative in the padding in front
  start_pts_seconds    float64          when that frame is shown, in seconds after the video's first (in the padding:
                                        0); null where the video does not say
  probabilities        list<float32>    of each class; this list and the next ones have the same length in all rows
  targets              list<bool>       the same
  losses               list<float32>    plain loss of the window, of each level; one without a hierarchy
  labelled             bool             false where nobody said what happens in the window: targets and losses mean
                                        nothing there, and are in no figure; not in older files, in which all are

The schema's metadata has, under the key `wildstream`, JSON: schema_version, task, classes (their names, in order of
probabilities and targets), levels (null, or name, number of classes and weight of the loss of each level; the classes
of all levels stand side by side), and checkpoint, epoch, split and set.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wildstream.errors import ShardError
from wildstream.facts import NO_PTS
from wildstream.training.predict import Predictions

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.shards.index import Index
    from wildstream.training.checkpoints import Manifest

PREDICTIONS_SCHEMA_VERSION = 1
_KEY = b"wildstream"


def write_predictions(
    path: Path, predictions: Predictions, manifest: Manifest, index: Index, said: dict[str, Any]
) -> None:
    """Write predictions, to a temporary name first.

    Args:
        path: The file.
        predictions: With the losses of the windows.
        manifest: Tells task and classes.
        index: Tells when frames are shown.
        said: What else the metadata says.
    """
    hierarchy = manifest.hierarchy
    levels = hierarchy and [
        {"name": level.name, "classes": len(level.classes), "weight": level.weight} for level in hierarchy.levels
    ]
    classes = [name for level in hierarchy.levels for name in level.classes] if hierarchy else manifest.categories
    losses = np.zeros((len(predictions.keys), 0), np.float32)
    if predictions.window_losses is not None:
        losses = predictions.window_losses
    facts = {"schema_version": PREDICTIONS_SCHEMA_VERSION, "task": manifest.task, "classes": classes, "levels": levels}
    table = pa.table(
        {
            "key": pa.array(predictions.keys, pa.string()),
            "start": pa.array(predictions.starts),
            "start_pts_seconds": pa.array(start_seconds(predictions, index), from_pandas=True),  # NaN becomes null
            "probabilities": _lists(predictions.probabilities),
            "targets": _lists(predictions.targets),
            "losses": _lists(losses),
            "labelled": pa.array(predictions.labelled),
        },
        metadata={_KEY: json.dumps({**facts, **said}).encode()},
    )
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(path)


def read_predictions(path: str | Path) -> Predictions:
    """Read what `write_predictions` wrote.

    Raises:
        ShardError: There is no such file, or it is damaged, or another program's.
    """
    try:
        table = pq.read_table(path)
        facts = json.loads((table.schema.metadata or {})[_KEY])
        found = facts["schema_version"]
        columns = {name: _array(table[name]) for name in ("probabilities", "targets", "losses")}
        keys, starts = table["key"].to_pylist(), table["start"].to_numpy()
        labelled = np.ones(len(keys), np.bool_)
        if "labelled" in table.column_names:
            labelled = table["labelled"].to_numpy().astype(np.bool_)
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        said = (str(error).splitlines() or [""])[0]
        raise ShardError(
            f"{path} holds no predictions of `wildstream evaluate`: {said:.300} Evaluate again."
        ) from error
    if found != PREDICTIONS_SCHEMA_VERSION:
        raise ShardError(
            f"{path} has schema_version={found!r}, this program reads {PREDICTIONS_SCHEMA_VERSION}. Evaluate again."
        )
    means = [float(column.mean()) for column in columns["losses"][labelled].T]
    weights = [level["weight"] for level in facts["levels"]] if facts["levels"] else [1.0]
    return Predictions(
        keys=keys,
        starts=starts,
        probabilities=columns["probabilities"],
        targets=columns["targets"],
        labelled=labelled,
        loss=sum(weight * mean for weight, mean in zip(weights, means, strict=True)),
        level_losses=tuple(means) if facts["levels"] else (),
        window_losses=columns["losses"],
    )


def start_seconds(predictions: Predictions, index: Index) -> npt.NDArray[np.float64]:
    """(num_windows,) when the first frame of each window is shown, after the video's first; NaN where nobody knows."""
    names, videos = predictions.videos
    numbers = {key: number for number, key in enumerate(index.keys)}
    seconds = np.full(len(videos), np.nan)
    order = np.argsort(videos, kind="stable")
    for name, rows in zip(names, np.split(order, np.cumsum(np.bincount(videos))[:-1]), strict=True):
        table = index.frame_table(numbers[name])
        if not len(table.pts) or table.pts[0] == NO_PTS:
            continue
        pts = table.pts[np.clip(predictions.starts[rows], 0, len(table.pts) - 1)]
        unit = float(table.time_base)
        seconds[rows] = np.where(pts == NO_PTS, np.nan, (pts - table.pts[0]) * unit)
    return seconds


def _lists(values: npt.NDArray[Any]) -> pa.FixedSizeListArray:
    """(num_windows, n) as a list for each window; all have one length, so that no 32-bit offsets can run over."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _array(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """A list for each window as (num_windows, n)."""
    values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.array(values.reshape(len(column), -1 if len(column) else 0))

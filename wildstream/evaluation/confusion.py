"""Probabilities and targets → which class was said where which one is there.

single_label   a window counts for its class's row, in the column of the class that is most probable.
multi_label    a window counts for the row of each of its classes. On the diagonal: that class is predicted. Beside it,
               the column's class is predicted, though it is not there. In the column `(nothing)`: no class is.
               Windows without any class have a row of their own, `(nothing)`.

So in both, the diagonal is right and everything else is not. A row of single_label adds up to its windows; one of
multi_label may have more, since several classes can be predicted, or fewer: a class that is missed while others are
rightly predicted counts nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wildstream.training.metrics import decide

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.shards.formats import Task

    Ints = npt.NDArray[np.int64]

NOTHING = "(nothing)"
"""The row of windows without a class, and the column of windows for which none is predicted."""
OTHERS = "(others)"
"""The column of classes that have none of their own."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Confusion:
    """Counts of windows."""

    rows: list[str]
    """What is there."""
    columns: list[str]
    """What is predicted."""
    counts: Ints
    """(rows, columns)."""
    windows: Ints
    """(rows,) windows of each row."""
    right: list[tuple[int, int]]
    """Row and column of the fields that are right."""

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """(rows, columns) counts as shares of the row's windows; NaN for a row without windows."""
        shares = np.full(self.counts.shape, np.nan)
        np.divide(self.counts, self.windows[:, np.newaxis], out=shares, where=self.windows[:, np.newaxis] > 0)
        return shares


def confuse(
    probabilities: npt.NDArray[np.float32],
    targets: npt.NDArray[np.bool_],
    names: Sequence[str],
    *,
    task: Task,
    most: int,
) -> Confusion:
    """Count what was said where.

    Args:
        probabilities: (num_windows, num_classes).
        targets: (num_windows, num_classes).
        names: (num_classes,) of the classes.
        task: What the targets mean.
        most: Classes that have a row and a column, at most: those with the most mistakes, then with the most windows.
            What is predicted besides counts as `(others)`.
    """
    found = decide(probabilities, task)
    chosen = _most_confused(found, targets, most)
    wrong = found & ~targets
    rows = [names[number] for number in chosen]
    columns, right = list(rows), [(place, place) for place in range(len(rows))]
    truth, said = [targets[:, chosen]], [wrong[:, chosen]]
    if len(chosen) < len(names):
        columns.append(OTHERS)
        said.append(np.any(np.delete(wrong, chosen, axis=1), axis=1, keepdims=True))
    if task == "multi_label":
        rows.append(NOTHING)
        columns.append(NOTHING)
        right.append((len(rows) - 1, len(columns) - 1))
        truth.append(~np.any(targets, axis=1, keepdims=True))
        said.append(~np.any(found, axis=1, keepdims=True))
    there = np.concatenate(truth, axis=1)
    # As floats, exact up to 2**53: products of bool or int64 matrices take minutes for 2,000 classes.
    counts = np.rint(there.T.astype(np.float64) @ np.concatenate(said, axis=1).astype(np.float64)).astype(np.int64)
    diagonal = np.arange(len(chosen))
    counts[diagonal, diagonal] = (found & targets)[:, chosen].sum(axis=0)
    windows = there.sum(axis=0, dtype=np.int64)
    return Confusion(rows=rows, columns=columns, counts=counts, windows=windows, right=right)


def _most_confused(found: npt.NDArray[np.bool_], targets: npt.NDArray[np.bool_], most: int) -> Ints:
    """The classes with the most mistakes, then with the most windows, in order of class number."""
    mistakes, windows = (found != targets).sum(axis=0), targets.sum(axis=0)
    order = np.lexsort((np.arange(len(windows)), -windows, -mistakes))
    return np.sort(order[:most]).astype(np.int64)

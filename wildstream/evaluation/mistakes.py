"""Predictions → the mistakes that a model was most sure of.

single_label   a window whose most probable class is not its own; how sure: the probability of that class.
multi_label    a class that is predicted and not there, or is there and not predicted; how sure: its probability p, or
               1 − p.

Neighbouring windows show nearly the same, so of each video only the surest mistake of a kind is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wildstream.training.metrics import decide

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.shards.formats import Task
    from wildstream.training.predict import Predictions

    Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One window that a model is wrong about."""

    window: int
    """Its row of the predictions."""
    label: int
    """The class that is wrongly predicted, or missed."""
    is_miss: bool
    """Whether the class is there, and not predicted."""
    confidence: float
    """How sure the model was, within [0, 1]."""


def surest_mistakes(predictions: Predictions, *, task: Task, most: int) -> list[Mistake]:
    """The mistakes of a model, the surest first; of each video at most one of a kind.

    Args:
        predictions: Of one level.
        task: What the targets mean.
        most: How many, at most.
    """
    probabilities, targets = predictions.probabilities, predictions.targets
    found = decide(probabilities, task)
    missed = targets & ~found
    # Of single_label a mistake is one thing and not two: what is predicted in place of the window's class.
    wrong = found != targets if task == "multi_label" else found & ~targets
    windows, labels = np.nonzero(wrong)
    values = probabilities[windows, labels].astype(np.float64)
    misses = missed[windows, labels]
    confidence = np.where(misses, 1 - values, values)
    truth = targets[windows].argmax(axis=1) if task == "single_label" else np.zeros(len(windows), np.int64)
    taken: list[Mistake] = []
    seen: set[tuple[str, int, bool, int]] = set()
    for place in np.argsort(-confidence, kind="stable").tolist():
        window, label, is_miss = int(windows[place]), int(labels[place]), bool(misses[place])
        kind = (predictions.keys[window], label, is_miss, int(truth[place]))
        if kind not in seen:
            seen.add(kind)
            taken.append(Mistake(window=window, label=label, is_miss=is_miss, confidence=float(confidence[place])))
        if len(taken) == most:
            break
    return taken

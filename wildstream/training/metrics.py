"""Probabilities and targets of a whole set → figures.

Average precision of a class is the area under its precision–recall curve as a step function,
AP = Σ (R_n − R_{n−1}) P_n (torchmetrics, as in scikit-learn). mAP is its mean over the classes that occur; constant
predictions reach the mean positive rate of these classes, `mAP_chance`. `mAP_micro` is the average precision of all
decisions together. Precision is TP / (TP + FP), recall TP / (TP + FN), F1 2 TP / (2 TP + FP + FN): scikit-learn's with
zero_division=nan. The macro average of F1 is over the classes that occur or are predicted.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torchmetrics.functional.classification import binary_average_precision

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.shards.formats import Task

TOP = (1, 5, 10)
"""Most probable classes that top-k figures look at."""
THRESHOLD = 0.5
"""Probability above which a class counts as predicted, for multi-label F1."""


def compute_metrics(
    probabilities: npt.NDArray[np.float32], targets: npt.NDArray[np.bool_], *, task: Task
) -> dict[str, float]:
    """Figures of a whole set.

    Args:
        probabilities: (num_windows, num_classes) within [0, 1]; rows add up to 1 for single_label.
        targets: (num_windows, num_classes).
        task: What the targets mean.

    Returns:
        mAP, mAP_micro, mAP_chance, f1_macro and f1_micro; for single_label also top1 and top1_per_class, and top5,
        top10 and theirs where there are more classes than that. NaN where no class occurs.
    """
    precisions = average_precisions(probabilities, targets)
    occurs = targets.any(axis=0)
    flat = average_precisions(probabilities.reshape(-1, 1), targets.reshape(-1, 1))
    figures = {
        "mAP": float(np.mean(precisions[occurs])) if occurs.any() else math.nan,
        "mAP_micro": float(flat[0]),
        "mAP_chance": float(np.mean(targets.mean(axis=0)[occurs])) if occurs.any() else math.nan,
    }
    figures |= _f1_scores(decide(probabilities, task), targets)
    return figures if task == "multi_label" else figures | _top_figures(probabilities, targets)


def class_figures(
    probabilities: npt.NDArray[np.float32], targets: npt.NDArray[np.bool_], *, task: Task
) -> dict[str, npt.NDArray[np.float64]]:
    """Figures of each class by itself.

    Args:
        probabilities: (num_windows, num_classes) within [0, 1].
        targets: (num_windows, num_classes).
        task: multi_label: a class is predicted where its probability is above 0.5; single_label: where it is highest.

    Returns:
        average_precision, precision, recall and f1, (num_classes,) each. NaN: average precision and recall of a class
        that does not occur, precision of one that is not predicted, F1 of one that is neither.
    """
    return {
        "average_precision": average_precisions(probabilities, targets),
        **decision_figures(decide(probabilities, task), targets),
    }


def decision_figures(
    predicted: npt.NDArray[np.bool_], targets: npt.NDArray[np.bool_]
) -> dict[str, npt.NDArray[np.float64]]:
    """precision, recall and f1 of each class, (num_classes,), by what is predicted, (num_windows, num_classes)."""
    hits, found, there = (truth.sum(axis=0) for truth in (predicted & targets, predicted, targets))
    return {"precision": share(hits, found), "recall": share(hits, there), "f1": share(2 * hits, found + there)}


def decide(probabilities: npt.NDArray[np.float32], task: Task) -> npt.NDArray[np.bool_]:
    """Which classes count as predicted, (num_windows, num_classes)."""
    if task == "multi_label":
        return probabilities > THRESHOLD
    chosen: npt.NDArray[np.bool_] = np.eye(probabilities.shape[1], dtype=np.bool_)[probabilities.argmax(axis=1)]
    return chosen


def share(part: npt.NDArray[np.number], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """A part of each whole as a share, elementwise; NaN where there is no whole."""
    shares = np.full(whole.shape, math.nan)
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares


def _top_figures(probabilities: npt.NDArray[np.float32], targets: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Share of windows whose class is among the k most probable ones, over all, and as the mean over classes.

    Of equally probable classes the first comes first, as with argmax.
    """
    placed = np.argsort(np.argsort(-probabilities, axis=1, kind="stable"), axis=1)
    rank = np.where(targets, placed, targets.shape[1]).min(axis=1, initial=targets.shape[1])
    figures = {}
    for k in (k for k in TOP if k == 1 or k < targets.shape[1]):
        hits = rank < k
        per_class = [hits[truth].mean() for truth in targets.T if truth.any()]
        figures[f"top{k}"] = float(hits.mean()) if len(hits) else math.nan
        figures[f"top{k}_per_class"] = float(np.mean(per_class)) if per_class else math.nan
    return figures


def _f1_scores(predicted: npt.NDArray[np.bool_], targets: npt.NDArray[np.bool_]) -> dict[str, float]:
    """F1 over classes and over all decisions; NaN where there is nothing to find and nothing was found."""
    hits, total = 2 * (predicted & targets).sum(axis=0), predicted.sum(axis=0) + targets.sum(axis=0)
    counts = total > 0
    if not counts.any():
        return {"f1_macro": math.nan, "f1_micro": math.nan}
    return {"f1_macro": float(np.mean(hits[counts] / total[counts])), "f1_micro": float(hits.sum() / total.sum())}


def best_thresholds(probabilities: npt.NDArray[np.float32], targets: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """The threshold of each class above which its F1 is highest, found among all that there are.

    Only thresholds between neighbouring scores differ in what they predict: of each such gap the middle is taken. Where
    several gaps give the same F1, it is the highest of them, which claims least.

    Args:
        probabilities: (num_windows, num_classes) within [0, 1].
        targets: (num_windows, num_classes).

    Returns:
        (num_classes,) within [0, 1); 0.5 for a class that does not occur, or whose every occurrence has probability 0.
    """
    found = [_best_threshold(*column) for column in zip(probabilities.T, targets.T, strict=True)]
    return np.asarray(found, np.float64)


def _best_threshold(scores: npt.NDArray[np.float32], truth: npt.NDArray[np.bool_]) -> float:
    """The threshold of one class, by its scores and targets, (num_windows,)."""
    values, group = np.unique(scores.astype(np.float64), return_inverse=True)
    hits = np.bincount(group[truth], minlength=len(values))[::-1].cumsum()  # of the highest score, the two highest, …
    claims = np.bincount(group, minlength=len(values))[::-1].cumsum()
    borders = (values + np.concatenate([[0.0], values[:-1]]))[::-1] / 2  # below each of these scores
    reachable = values[::-1] > 0  # a probability of 0 is above no threshold
    if not hits[reachable].any():
        return THRESHOLD
    f1 = np.where(reachable, 2 * hits / (claims + truth.sum()), -1.0)
    return float(borders[f1.argmax()])


def average_precisions(
    probabilities: npt.NDArray[np.float32], targets: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Average precision of each class, (num_classes,); NaN for a class that does not occur."""
    precisions = np.full(targets.shape[1], math.nan)
    for number in np.flatnonzero(targets.any(axis=0)):
        scores, truth = (
            torch.from_numpy(probabilities[:, number]),
            torch.from_numpy(targets[:, number].astype(np.int64)),
        )
        precisions[number] = float(binary_average_precision(scores, truth))
    return precisions

"""Probabilities and targets of a whole set → figures.

Average precision of a class is the area under its precision–recall curve as a step function,
AP = Σ (R_n − R_{n−1}) P_n (torchmetrics, as in scikit-learn). mAP is its mean over the classes that occur; constant
predictions reach the mean positive rate of these classes, `mAP_chance`.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_f1_score,
    multilabel_average_precision,
    multilabel_f1_score,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.shards.formats import Task

THRESHOLD = 0.5
"""Probability from which a class counts as predicted, for multi-label F1."""


def compute_metrics(
    probabilities: npt.NDArray[np.float32], targets: npt.NDArray[np.bool_], *, task: Task
) -> dict[str, float]:
    """Figures of a whole set.

    Args:
        probabilities: (num_windows, num_classes) within [0, 1]; rows add up to 1 for single_label.
        targets: (num_windows, num_classes).
        task: What the targets mean.

    Returns:
        mAP, mAP_chance, f1_macro and f1_micro; for single_label also top1. NaN where no class occurs.
    """
    precisions = average_precisions(probabilities, targets)
    occurs = targets.any(axis=0)
    figures = {
        "mAP": float(np.mean(precisions[occurs])) if occurs.any() else math.nan,
        "mAP_chance": float(np.mean(targets.mean(axis=0)[occurs])) if occurs.any() else math.nan,
    }
    if not len(targets):
        return figures | {"f1_macro": math.nan, "f1_micro": math.nan}
    scores = torch.from_numpy(probabilities)
    truth = torch.from_numpy(targets.astype(np.int64))
    classes = targets.shape[1]
    if task == "multi_label":
        for average in ("macro", "micro"):
            f1 = multilabel_f1_score(scores, truth, num_labels=classes, threshold=THRESHOLD, average=average)
            figures[f"f1_{average}"] = float(f1)
        return figures
    numbers = truth.argmax(dim=1)
    for average in ("macro", "micro"):
        figures[f"f1_{average}"] = float(multiclass_f1_score(scores, numbers, num_classes=classes, average=average))
    figures["top1"] = float(multiclass_accuracy(scores, numbers, num_classes=classes, average="micro"))
    return figures


def average_precisions(
    probabilities: npt.NDArray[np.float32], targets: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Average precision of each class, (num_classes,); NaN for a class that does not occur."""
    classes = targets.shape[1]
    if not len(targets):
        return np.full(classes, math.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a class does not occur: it becomes NaN below
        values = multilabel_average_precision(
            torch.from_numpy(probabilities),
            torch.from_numpy(targets.astype(np.int64)),
            num_labels=classes,
            average=None,
        )
    return np.where(targets.any(axis=0), values.numpy().astype(np.float64), math.nan)

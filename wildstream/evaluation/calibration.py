"""Whether probabilities are what they say: of all decisions with probability 0.7, do 70 % hold?

Expected calibration error (Guo et al. 2017, "On Calibration of Modern Neural Networks"), with 15 bins of equal width
over probabilities p, (0, 1/15], (1/15, 2/15], …, the first with 0: ECE = Σ |B| / n · |share(B) − mean p(B)|, share(B)
being the part of bin B's decisions that hold. For multi_label each class by itself, p its probability and what holds
that it happens; for single_label p is the highest probability and what holds that its class is right.

Brier score (Brier 1950): for multi_label the mean of (p − target)² of a class; for single_label the mean over windows
of Σ over classes of (p − target)², which lies within [0, 2].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wildstream.training.metrics import decide, share

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from wildstream.shards.formats import Task
    from wildstream.training.predict import Predictions

BINS = 15
"""Bins of equal width that probabilities are sorted into."""


def calibration(predictions: Predictions, names: Sequence[str], *, task: Task) -> dict[str, Any]:
    """How far probabilities are to be trusted.

    Args:
        predictions: Of one level, of one window at least.
        names: (num_classes,) names of the classes.
        task: What the targets mean.

    Returns:
        For multi_label: ece and brier, means over all classes, and classes, for each of them its ece, brier and bins.
        For single_label: ece, brier and bins. A bin is {above, windows, probability, share}: its lower border, how many
        windows it has, their mean probability, and the share that holds; bins without windows are left out.
    """
    found, truth = predictions.probabilities.astype(np.float64), predictions.targets
    squares = (found - truth) ** 2
    if task == "single_label":
        chosen = decide(predictions.probabilities, task)
        bins = reliability(found.max(axis=1), (chosen & truth).sum(axis=1) > 0)
        return {"ece": expected_error(bins), "brier": float(squares.sum(axis=1).mean()), "bins": bins}
    classes = {}
    for number, name in enumerate(names):
        bins = reliability(found[:, number], truth[:, number])
        classes[name] = {"ece": expected_error(bins), "brier": float(squares[:, number].mean()), "bins": bins}
    means = {figure: float(np.mean([of[figure] for of in classes.values()])) for figure in ("ece", "brier")}
    return {**means, "classes": classes}


def reliability(probabilities: npt.NDArray[np.float64], holds: npt.NDArray[np.bool_]) -> list[dict[str, float]]:
    """The bins of decisions by their probabilities, (n,) each; those that hold any, from low to high."""
    borders = np.linspace(0, 1, BINS + 1)
    number = np.searchsorted(borders[1:-1], probabilities, side="left")
    count = np.bincount(number, minlength=BINS)
    mean, true = (share(np.bincount(number, values, BINS), count) for values in (probabilities, holds))
    return [
        {
            "above": float(borders[bin_]),
            "windows": int(count[bin_]),
            "probability": float(mean[bin_]),
            "share": float(true[bin_]),
        }
        for bin_ in np.flatnonzero(count)
    ]


def expected_error(bins: Sequence[dict[str, float]]) -> float:
    """The expected calibration error of what `reliability` gave."""
    total = sum(one["windows"] for one in bins)
    return sum(one["windows"] / total * abs(one["share"] - one["probability"]) for one in bins)

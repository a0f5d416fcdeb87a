"""How far figures would differ with other videos: percentile intervals of the bootstrap (Efron 1979).

What is drawn anew, with replacement and as many as there are, are videos, not windows: windows of one video are not
independent, and intervals of resampled windows would be far too narrow (the cluster bootstrap; Davison and Hinkley
1997, section 3.8). A drawn video comes with all its windows, as often as it was drawn. So a resample is a weight for
each video, and every figure is computed from weights: counts of videos are added up, and average precision goes through
the windows sorted once. What a figure is defined by, such as the classes that occur, is that of the resample.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from wildstream.evaluation.videos import count_by_video, ends_of_ties, mean_of_defined
from wildstream.training.metrics import decide, share

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from wildstream.shards.formats import Task
    from wildstream.training.predict import Predictions

    Ints = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float64]

LEVEL = 0.95
"""Share of the resamples that lie within an interval."""
AT_ONCE = 1 << 21
"""Weights of windows that are looked at at a time: bounds the memory."""

# R resamples at a time, V videos, N windows, K classes


def intervals(
    predictions: Predictions, names: Sequence[str], *, task: Task, resamples: int, seed: int
) -> dict[str, Any]:
    """Intervals of the figures of a set.

    Args:
        predictions: Of one level.
        names: (num_classes,) names of the classes.
        task: What the targets mean.
        resamples: How often videos are drawn; 0 gives no interval.
        seed: Decides which.

    Returns:
        resamples, seed, level, videos; metrics: figure → [low, high], of loss, mAP, f1_macro, f1_micro and for
        single_label top1; classes: class → figure → [low, high], of average_precision, precision, recall and f1. None
        for an interval of a figure that no resample defines. With fewer than two videos, or no resamples, `reason` says
        so, and there are neither metrics nor classes.
    """
    videos, _ = predictions.videos
    said = {"resamples": resamples, "seed": seed, "level": LEVEL, "videos": len(videos)}
    if resamples == 0:
        return {**said, "reason": "no resamples were asked for"}
    if len(videos) < 2:
        return {**said, "reason": "windows of one video are not independent: intervals take two videos at least"}
    parts = list(_resampled(_Counts.of(predictions, task), resamples, np.random.default_rng(seed)))
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    per_class = ("average_precision", "precision", "recall", "f1")
    return {
        **said,
        "metrics": {name: percentiles(drawn) for name, drawn in values.items() if name not in per_class},
        "classes": {
            name: {figure: percentiles(values[figure][:, number]) for figure in per_class}
            for number, name in enumerate(names)
        },
    }


def percentiles(values: Floats) -> list[float] | None:
    """The interval that holds LEVEL of the values that are defined, (R,); None where none is."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [float(low), float(high)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Counts:
    """What a weight for each video makes figures of."""

    task: Task
    """What the targets mean."""
    windows: Ints
    """(V,) windows."""
    losses: Floats | None
    """(V,) sums of the windows' losses; None where these are not known."""
    hits: Ints
    """(V, K) windows for which a class is rightly predicted."""
    found: Ints
    """(V, K) windows for which it is predicted."""
    there: Ints
    """(V, K) windows where it happens."""
    ranked: list[_Ranked] = field(default_factory=list)
    """Of each class the windows in order of its probability."""

    @classmethod
    def of(cls, predictions: Predictions, task: Task) -> _Counts:
        """Count predictions."""
        names, videos = predictions.videos
        count = len(names)
        predicted, truth = decide(predictions.probabilities, task), predictions.targets
        losses = predictions.window_losses
        return cls(
            task=task,
            windows=np.bincount(videos, minlength=count),
            losses=None if losses is None else np.bincount(videos, losses[:, 0], count).astype(np.float64),
            hits=count_by_video(predicted & truth, videos, count),
            found=count_by_video(predicted, videos, count),
            there=count_by_video(truth, videos, count),
            ranked=[_rank(*column, videos) for column in zip(predictions.probabilities.T, truth.T, strict=True)],
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Ranked:
    """The windows in order of falling probability of a class."""

    videos: Ints
    """(N,) their videos."""
    positives: Ints
    """(P,) places of those where the class happens."""
    claims: Ints
    """(P,) for each of these, the last place of the same probability."""
    hits: Ints
    """(P,) for each of these, the last of the positives up to there."""


def _rank(scores: npt.NDArray[np.float32], truth: npt.NDArray[np.bool_], videos: Ints) -> _Ranked:
    """Sort windows by (N,) probabilities; truth says where the class happens."""
    order = np.argsort(-scores, kind="stable")
    positives = np.flatnonzero(truth[order])
    claims = ends_of_ties(scores[order])[positives]
    return _Ranked(videos[order], positives, claims, np.searchsorted(positives, claims, side="right") - 1)


def _resampled(counts: _Counts, resamples: int, random: np.random.Generator) -> Iterator[dict[str, Any]]:
    """The figures of some resamples at a time, (R,) of the set and (R, K) of the classes."""
    num_videos, num_windows = len(counts.windows), int(counts.windows.sum())
    step = max(1, AT_ONCE // max(num_windows, num_videos))
    for first in range(0, resamples, step):
        size = min(step, resamples - first)
        yield _figures(counts, random.multinomial(num_videos, np.full(num_videos, 1 / num_videos), size))


def _figures(counts: _Counts, weights: Ints) -> dict[str, Floats]:
    """Figures by weights of the videos, (R, V)."""
    windows = weights @ counts.windows
    # As floats, in which these whole numbers are exact: products of int64 matrices take minutes for many classes.
    drawn = weights.astype(np.float64)
    hits, found, there = (
        np.rint(drawn @ one.astype(np.float64)).astype(np.int64) for one in (counts.hits, counts.found, counts.there)
    )
    precisions = [_average_precision(ranked, weights) for ranked in counts.ranked]
    classes = {
        "average_precision": np.stack(precisions, axis=1),
        "precision": share(hits, found),
        "recall": share(hits, there),
        "f1": share(2 * hits, found + there),
    }
    figures = {
        "mAP": mean_of_defined(classes["average_precision"]),
        "f1_macro": mean_of_defined(classes["f1"]),
        "f1_micro": share(2 * hits.sum(axis=1), (found + there).sum(axis=1)),
    }
    if counts.losses is not None:
        # Not a matrix product, whose rounding depends on the number of threads.
        figures = {"loss": share((weights * counts.losses).sum(axis=1), windows)} | figures
    if counts.task == "single_label":
        figures["top1"] = share(hits.sum(axis=1), windows)
    return figures | classes


def _average_precision(ranked: _Ranked, weights: Ints) -> Floats:
    """Average precision of a class in each resample, (R,): the mean over positives of the precision up to each."""
    if not len(ranked.positives):
        return np.full(len(weights), np.nan)
    of_windows = weights.astype(np.int32)[:, ranked.videos]
    positives = of_windows[:, ranked.positives]
    claims = np.cumsum(of_windows, axis=1, dtype=np.int32)[:, ranked.claims]
    hits = np.cumsum(positives, axis=1, dtype=np.int32)[:, ranked.hits]
    return share((positives * (hits / np.maximum(claims, 1))).sum(axis=1), positives.sum(axis=1))

"""Predictions → the content of an evaluation's JSON file.

RESULTS/<name>.json, of which source.py says where and what name; figures that are not defined are null

  schema_version   3
  checkpoint       best, last, epoch_NNN, or the name of the checkpoint's folder
  epoch            epochs of training that it had
  data, split      path or URL of the split, and its name
  fingerprint      of the split's index: keys, bytes, frame counts, labels
  set              full: all windows of the split. partial: those that carry at least one label, of any class; windows
                   of nothing but background are left out of every figure. (For single_label the two are the same.)
  categories, task what the labels are
  windows, videos_count    how many the figures are of
  unlabelled       windows of which nobody said what happens: they are in no figure, but among the predictions of full
  predictions      name of the Parquet file beside this one: what was said of every window (predictions_file.py)
  ledger           planned, delivered, padded, skipped, and reasons: windows that did not decode, by reason
  metrics          loss, mAP, mAP_micro, mAP_chance, f1_macro, f1_micro, and for single_label top1, top5, top10 and
                   their means over classes (training/metrics.py)
  classes          class → windows (positives), chance (their share), average_precision, precision, recall, f1
  thresholds       null, or class → threshold, precision, recall, f1 above it: the thresholds that training tuned on its
                   validation split, and `wildstream predict` takes. All other figures of decisions are of 0.5
  levels           with a hierarchy alone: level → weight in the loss, of_category (for each category the number of its
                   class) and classes, as above. Then metrics has each level's figures too, as genus/mAP, and all else
                   here is of the first level; loss is the sum over levels of weight × loss
  tolerance        a list, for 0, 1, 3, 5 and 7 windows: windows; metrics as above without the loss, and precision_macro
                   and recall_macro, means over classes; classes: precision, recall, f1, average_precision. Of targets
                   that are dilated by so many windows within their video (tolerance.py). For partial, targets reach
                   over from all windows of the split
  groups           group → classes, windows, mAP, mAP_chance, precision, recall, f1_macro, top1 (groups.py)
  videos           video → windows, loss, mAP, f1_macro, f1_micro, top1 for single_label (videos.py)
  calibration      ece, brier, and for multi_label classes → ece, brier, bins; for single_label bins (calibration.py)
  bootstrap        resamples, seed, level, videos; metrics and classes: figure → [low, high]; or reason (bootstrap.py)
  shuffled_frames  null, or seed, permutation, entropy in bits, metrics with it, and difference: these less `metrics`
  training         epoch, split, metrics: what training's validation said; agrees: true, false, or null with `reason`;
                   largest_difference, and the figure it is of (agreement.py)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wildstream.evaluation.bootstrap import intervals
from wildstream.evaluation.calibration import calibration
from wildstream.evaluation.groups import Groups, choose_groups, group_figures
from wildstream.evaluation.shuffled import permutation_entropy
from wildstream.evaluation.tolerance import TOLERANCES, tolerant_targets
from wildstream.evaluation.videos import video_figures
from wildstream.training.metrics import class_figures, compute_metrics, decision_figures
from wildstream.training.predict import Predictions, figures_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.training.checkpoints import Manifest

EVALUATION_SCHEMA_VERSION = 3
Classes = dict[str, dict[str, float | None]]
"""For each class: windows, chance, average_precision, precision, recall and f1; None where one is not defined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Analyses:
    """What is looked at besides the figures of training."""

    groups: Mapping[str, Sequence[str]] | None = None
    """Class names of each group of classes; None: with a hierarchy the classes of its upper levels, else no groups."""
    bootstrap: int = 1000
    """Resamples of the videos that intervals come from; 0 gives none."""
    shuffled_frames: bool = False
    """Whether to go over the set again with the frames of every clip in another order."""
    seed: int = 0
    """Decides the resamples and that order."""


def describe(
    predictions: Predictions, manifest: Manifest, analyses: Analyses, *, windows: npt.NDArray[np.bool_] | None = None
) -> dict[str, Any]:
    """What the report says of predictions; figures that are not defined are None.

    Args:
        predictions: Of all windows of a set.
        manifest: Of the checkpoint.
        analyses: What is looked at.
        windows: (num_windows,) which of them count, if they are labelled; None: all. The others are only neighbours.
    """
    hierarchy, task = manifest.hierarchy, manifest.task
    windows = _labelled(predictions, windows)
    counted = predictions if windows is None else predictions.only(windows, hierarchy)
    parts = counted.by_level(hierarchy) if hierarchy is not None else {}
    levels = {
        level.name: {
            "weight": level.weight,
            "of_category": list(level.of_category),
            "classes": _classes(parts[level.name], level.classes, manifest),
        }
        for level in (hierarchy.levels if hierarchy is not None else ())
    }
    names: Sequence[str] = hierarchy.levels[0].classes if hierarchy is not None else manifest.categories
    whole, first = (of_first_level(given, manifest) for given in (predictions, counted))
    groups = choose_groups(analyses.groups, names, hierarchy)
    keys, _ = counted.videos
    return {
        "schema_version": EVALUATION_SCHEMA_VERSION,
        "categories": manifest.categories,
        "task": task,
        "windows": len(counted.keys),
        "unlabelled": int((~predictions.labelled).sum()),
        "videos_count": len(keys),
        "metrics": defined(figures_of(counted, task=task, hierarchy=hierarchy)),
        "classes": _classes(first, names, manifest),
        "thresholds": _at_thresholds(first, names, manifest),
        **({"levels": levels} if levels else {}),
        "tolerance": [_tolerant(whole, first, windows, names, manifest, reach=reach) for reach in TOLERANCES],
        "groups": _groups(first, names, groups, manifest),
        "videos": _videos(first, manifest),
        "calibration": calibration(first, names, task=task),
        "bootstrap": intervals(first, names, task=task, resamples=analyses.bootstrap, seed=analyses.seed),
    }


def describe_shuffled(
    predictions: Predictions,
    metrics: Mapping[str, float | None],
    manifest: Manifest,
    permutation: Sequence[int],
    *,
    windows: npt.NDArray[np.bool_] | None,
    seed: int,
) -> dict[str, Any]:
    """What the report says of predictions with shuffled frames, beside the figures of those in order."""
    windows = _labelled(predictions, windows)
    counted = predictions if windows is None else predictions.only(windows, manifest.hierarchy)
    shuffled = defined(figures_of(counted, task=manifest.task, hierarchy=manifest.hierarchy))
    return {
        "seed": seed,
        "permutation": list(permutation),
        "entropy": permutation_entropy(permutation),
        "metrics": shuffled,
        "difference": {
            name: None if value is None or plain is None else value - plain
            for (name, value), plain in zip(shuffled.items(), metrics.values(), strict=True)
        },
    }


def _labelled(predictions: Predictions, windows: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_] | None:
    """Those of some windows, (num_windows,), or of all (None), that are labelled; None: all of all are."""
    if predictions.labelled.all():
        return windows
    return predictions.labelled if windows is None else windows & predictions.labelled


def _at_thresholds(
    predictions: Predictions, names: Sequence[str], manifest: Manifest
) -> dict[str, dict[str, float | None]] | None:
    """Figures of the decisions that `predict` would take; None where nothing was tuned."""
    if manifest.thresholds is None:
        return None
    thresholds = np.array([manifest.thresholds[name] for name in names], np.float64)
    figures = decision_figures(predictions.probabilities > thresholds, predictions.targets)
    return {
        name: {
            "threshold": float(thresholds[number]),
            **defined({figure: float(values[number]) for figure, values in figures.items()}),
        }
        for number, name in enumerate(names)
    }


def of_first_level(predictions: Predictions, manifest: Manifest) -> Predictions:
    """The predictions of the first level; without a hierarchy they are all."""
    hierarchy = manifest.hierarchy
    return predictions if hierarchy is None else predictions.by_level(hierarchy)[hierarchy.levels[0].name]


def defined(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Figures for JSON, which knows no NaN."""
    return {name: _defined(value) for name, value in figures.items()}


def _classes(predictions: Predictions, names: Sequence[str], manifest: Manifest) -> Classes:
    """Figures of the classes of one level, in order of their numbers."""
    positives = predictions.targets.sum(axis=0)
    figures = class_figures(predictions.probabilities, predictions.targets, task=manifest.task)
    return {
        name: {
            "windows": int(positives[number]),
            "chance": _defined(positives[number] / max(1, len(predictions.keys))),
            **{figure: _defined(values[number]) for figure, values in figures.items()},
        }
        for number, name in enumerate(names)
    }


def _tolerant(
    whole: Predictions,
    counted: Predictions,
    windows: npt.NDArray[np.bool_] | None,
    names: Sequence[str],
    manifest: Manifest,
    *,
    reach: int,
) -> dict[str, Any]:
    """Figures of the counted windows, with targets dilated over those of the whole set."""
    truth = tolerant_targets(whole, manifest.sliding_style, windows=reach, task=manifest.task)
    truth = truth if windows is None else truth[windows]
    figures = class_figures(counted.probabilities, truth, task=manifest.task)
    macro = {f"{name}_macro": _mean(figures[name]) for name in ("precision", "recall")}
    return {
        "windows": reach,
        "metrics": defined(compute_metrics(counted.probabilities, truth, task=manifest.task) | macro),
        "classes": {
            name: {figure: _defined(values[number]) for figure, values in figures.items()}
            for number, name in enumerate(names)
        },
    }


def _groups(predictions: Predictions, names: Sequence[str], groups: Groups, manifest: Manifest) -> dict[str, Any]:
    """Figures of the groups."""
    return {
        group: {name: _defined(value) if isinstance(value, float) else value for name, value in figures.items()}
        for group, figures in group_figures(predictions, names, groups, task=manifest.task).items()
    }


def _videos(predictions: Predictions, manifest: Manifest) -> dict[str, dict[str, float | None]]:
    """Figures of each video."""
    keys, _ = predictions.videos
    figures = video_figures(predictions, task=manifest.task)
    counts = figures.pop("windows")
    return {
        key: {"windows": int(counts[row]), **{name: _defined(values[row]) for name, values in figures.items()}}
        for row, key in enumerate(keys)
    }


def _mean(values: npt.NDArray[np.float64]) -> float:
    """The mean of those that are defined."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _defined(value: float) -> float | None:
    """A figure for JSON, which knows no NaN."""
    return float(value) if math.isfinite(value) else None

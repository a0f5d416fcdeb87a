"""Figures of each video by itself, all videos at once: `compute_metrics` of one after the other would take minutes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wildstream.training.metrics import decide, share

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.shards.formats import Task
    from wildstream.training.predict import Predictions

    Ints = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float64]


def video_figures(predictions: Predictions, *, task: Task) -> dict[str, Floats]:
    """Figures of each video, defined as those of a whole set.

    Args:
        predictions: Of one level.
        task: What the targets mean.

    Returns:
        windows, loss, mAP, f1_macro and f1_micro, for single_label also top1: (num_videos,) each, in order of the
        videos' keys. NaN where a figure is not defined.
    """
    names, videos = predictions.videos
    count = len(names)
    windows = np.bincount(videos, minlength=count)
    predicted = decide(predictions.probabilities, task)
    there, found, hits = (
        count_by_video(flags, videos, count)
        for flags in (predictions.targets, predicted, predictions.targets & predicted)
    )
    precisions = np.stack(
        [
            video_precisions(scores, truth, videos, count)
            for scores, truth in zip(predictions.probabilities.T, predictions.targets.T, strict=True)
        ],
        axis=1,
    )
    figures = {"windows": windows.astype(np.float64)}
    if predictions.window_losses is not None:
        figures["loss"] = share(np.bincount(videos, predictions.window_losses[:, 0], count), windows)
    figures["mAP"] = mean_of_defined(precisions)
    figures["f1_macro"] = mean_of_defined(share(2 * hits, found + there))
    figures["f1_micro"] = share(2 * hits.sum(axis=1), (found + there).sum(axis=1))
    if task == "single_label":
        figures["top1"] = share(hits.sum(axis=1), windows)
    return figures


def count_by_video(flags: npt.NDArray[np.bool_], videos: Ints, count: int) -> Ints:
    """Windows of each video for which each of (num_windows, num_classes) is True: (count, num_classes)."""
    columns = [np.bincount(videos[column], minlength=count) for column in flags.T]
    return np.stack(columns, axis=1).astype(np.int64)


def mean_of_defined(values: Floats) -> Floats:
    """The mean over the last axis of what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(values)
    return share(np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1))


def video_precisions(scores: npt.NDArray[np.float32], truth: npt.NDArray[np.bool_], videos: Ints, count: int) -> Floats:
    """Average precision of one class within each video, (count,); NaN where it does not happen.

    Windows are sorted by video and falling score. AP is the mean over positives of the precision among all windows of
    the video that have at least the positive's score: those up to the last with the same score.
    """
    order = np.lexsort((-scores, videos))
    score, true, video = scores[order], truth[order], videos[order]
    ends = ends_of_ties(video, score)
    first = np.searchsorted(video, video)  # of the same video
    hits = np.concatenate([[0], np.cumsum(true)])  # before each window
    precision = (hits[ends + 1] - hits[first]) / (ends - first + 1)
    return share(np.bincount(video[true], precision[true], count), np.bincount(video[true], minlength=count))


def ends_of_ties(*columns: npt.NDArray[np.generic]) -> Ints:
    """For each place, the last of those that have the same values; equal ones stand side by side."""
    length = len(columns[0])
    is_last = np.ones(length, np.bool_)
    is_last[:-1] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    group: Ints = np.cumsum(is_last) - is_last
    ends: Ints = np.flatnonzero(is_last)[group]
    return ends

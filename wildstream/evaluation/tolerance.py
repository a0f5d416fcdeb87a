"""Figures that forgive an event for being found some windows too early or too late.

    windows of one video     0 1 2 3 4 5 6 7
    a class happens          . . . 1 . . . .
    dilated by 1             . . 1 1 1 . . .
    dilated by 3             1 1 1 1 1 1 1 .

multi_label: the targets of each class are dilated, by so many windows on both sides, and every figure is that of the
dilated targets. So a prediction is right if a window of its class lies within reach, and what is to be found grows too.
single_label: of the classes that happen within reach of a window, the most probable one counts as its class; so its
prediction is right if a window of the predicted class lies within reach. Dilated by 0, both are the plain figures.

Neighbours are told by their numbers within the video: windows that did not decode keep their places, and no target
reaches into another video. Unlabelled windows keep theirs too, and no target reaches from them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.shards.formats import Task
    from wildstream.stream.windows import SlidingStyle
    from wildstream.training.predict import Predictions

    Ints = npt.NDArray[np.int64]
    Bools = npt.NDArray[np.bool_]

TOLERANCES = (0, 1, 3, 5, 7)
"""Windows on both sides that targets are dilated by."""


def tolerant_targets(predictions: Predictions, style: SlidingStyle, *, windows: int, task: Task) -> Bools:
    """What counts as true where predictions may be off by so many windows.

    Args:
        predictions: Of all windows of the set, of one level.
        style: How the windows slide, which tells their numbers.
        windows: Windows on both sides, at least 0.
        task: What the targets mean.

    Returns:
        (num_windows, num_classes); for single_label one class for each window.
    """
    _, videos = predictions.videos
    numbers = (predictions.starts - style.starts(0)) // (style.step_size * style.temporal_sample_interval)
    near = dilate(predictions.targets & predictions.labelled[:, np.newaxis], videos, numbers, windows=windows)
    if task == "multi_label":
        return near
    matched = np.where(near, predictions.probabilities, -1).argmax(axis=1)
    chosen: Bools = np.eye(near.shape[1], dtype=np.bool_)[matched]
    return chosen


def dilate(targets: Bools, videos: Ints, numbers: Ints, *, windows: int) -> Bools:
    """Whether a class happens within so many windows, within the same video.

    Args:
        targets: (num_windows, num_classes).
        videos: (num_windows,) number of each window's video, from 0.
        numbers: (num_windows,) number of each window within its video, from 0; some may be missing.
        windows: On both sides.
    """
    if not len(targets):
        return targets.copy()
    lengths = np.zeros(int(videos.max()) + 1, np.int64)
    np.maximum.at(lengths, videos, numbers + 1)
    lengths += windows  # behind each video a gap as wide as the reach: from the next one nothing reaches over it
    places = (np.cumsum(lengths) - lengths)[videos] + numbers
    low, high = np.maximum(places - windows, 0), np.minimum(places + windows + 1, int(lengths.sum()))
    near = np.zeros_like(targets)
    for number, column in enumerate(targets.T):
        happened = np.zeros(int(lengths.sum()) + 1, np.int64)  # before each place
        happened[places[column] + 1] = 1
        np.cumsum(happened, out=happened)
        near[:, number] = happened[high] > happened[low]
    return near

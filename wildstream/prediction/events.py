"""Probabilities of every frame → events: a class, from which frame and second until which.

    probability   .1 .2 .8 .9 .3 .9 .1 .1 .1 .7 .1       threshold 0.5
    above          .  .  x  x  .  x  .  .  .  x  .
    gaps closed    .  .  x  x  x  x  .  .  .  x  .       gaps that are shorter than min_gap
    events         .  .  [========)  .  .  .  .  .       those that are shorter than min_duration are left out

multi_label: a class happens where its probability is above its threshold. single_label: the most probable class
happens, where it is above its threshold, and a gap in which another class happens stays, unless that is left out as too
short: then the gap is closed after all, if it is short enough. Nothing happens at frames
without a probability (NaN). Intervals are half-open: `stop_frame` is the first frame after, `stop_seconds` is when that
is shown. Seconds count from when the first frame is shown, as players and annotators count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.shards.formats import Task

    Floats = npt.NDArray[np.float64]
    Bools = npt.NDArray[np.bool_]

ROUNDING = 1e-6
"""Seconds by which a duration that equals a limit may come out below it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A class that happens from one frame until just before another."""

    label: str
    """The class."""
    first_frame: int
    stop_frame: int
    """The first frame after."""
    start_seconds: float
    """When `first_frame` is shown, since the first frame of the video."""
    stop_seconds: float
    """When `stop_frame` is shown, or the video ends."""
    mean_probability: float
    """Over its frames that have one."""
    max_probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRules:
    """What counts as an event."""

    thresholds: dict[str, float]
    """For each class the probability above which it happens."""
    min_duration: float
    """Seconds; shorter events are left out."""
    min_gap: float
    """Seconds; events of a class that are less apart become one."""


def find_events(
    probabilities: npt.NDArray[np.float32],
    borders: Floats,
    *,
    classes: Sequence[str],
    task: Task,
    rules: EventRules,
) -> list[Event]:
    """The events of one video, in order of their first frame, then of class.

    Args:
        probabilities: (num_frames, num_classes), NaN where there are none.
        borders: (num_frames + 1,) seconds, as `borders_of` gives them.
        classes: Names, in order of class number.
        task: Whether classes may overlap.
        rules: What counts.
    """
    thresholds = np.asarray([rules.thresholds[name] for name in classes], np.float64)
    happens = probabilities > thresholds  # of NaN nothing is above
    if task == "single_label":
        told = np.where(np.isnan(probabilities), -1.0, probabilities)
        happens &= np.arange(len(classes)) == told.argmax(axis=1)[:, np.newaxis]
    runs = [_runs(column, happens.any(axis=1) & ~column, borders, rules, task) for column in happens.T]
    if task == "single_label":  # what was too short to count no longer parts others
        count = np.zeros(happens.shape, np.bool_)
        for column, of_class in zip(count.T, runs, strict=True):
            for first, stop in of_class:
                column[first:stop] = True
        runs = [_runs(column, count.any(axis=1) & ~column, borders, rules, task) for column in count.T]
    found = []
    for number, name in enumerate(classes):
        for first, stop in runs[number]:
            own = probabilities[first:stop, number].astype(np.float64)
            event = Event(
                label=name,
                first_frame=first,
                stop_frame=stop,
                start_seconds=float(borders[first]),
                stop_seconds=float(borders[stop]),
                mean_probability=float(np.nanmean(own)),
                max_probability=float(np.nanmax(own)),
            )
            found.append((first, number, event))
    return [event for _, _, event in sorted(found, key=lambda entry: entry[:2])]


def _runs(happens: Bools, others: Bools, borders: Floats, rules: EventRules, task: Task) -> list[tuple[int, int]]:
    """Runs of frames of one class, short gaps closed and short runs left out.

    Of classes that exclude each other no gap is closed in which one of the others happens.
    """
    edges = np.diff(happens.astype(np.int8), prepend=0, append=0)
    first, stop = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    if not len(first):
        return []
    apart = borders[first[1:]] - borders[stop[:-1]] >= rules.min_gap - ROUNDING
    if task == "single_label":
        before = np.concatenate([[0], np.cumsum(others)])
        apart |= before[first[1:]] > before[stop[:-1]]
    first, stop = first[np.append(True, apart)], stop[np.append(apart, True)]
    long = borders[stop] - borders[first] >= rules.min_duration - ROUNDING
    return list(zip(first[long].tolist(), stop[long].tolist(), strict=True))

"""Label tracks: what happens in one video and when, as events on its frames.

A track is a list of events (class, first frame, last frame + 1). Every way in (rows per frame, one class per clip,
events in seconds) becomes one, and every way out (dense rows, labels of windows) is computed from one.

    frame      0 1 2 3 4 5 6 7
    class 0    . x x x . . . .      event (0, 1, 4)
    class 1    . . x x x x . .      event (1, 2, 6)

A frame without any event is a negative of every class: somebody looked, and nothing happens. That nobody looked is said
apart, by runs of unlabelled frames, which hold for all classes.

    frame      0 1 2 3 4 5 6 7
    class 0    . x x ? ? ? . .      event (0, 1, 3), unlabelled (3, 6)

Seconds become frames by the frames' own times (pts), never by a frame rate, which not every video has. A frame is shown
from its pts until the next frame's; an event covers every frame that is shown during it, were it for an instant.

    seconds    0    .1   .2   .3   .4   .5
    frame      0    1         2    3    )            shown until the next is; the last as long as is usual
    class 0      [=====)                             event (0, 0, 2)
    class 1                   [====)                 event (1, 2, 3)
    class 2                         [==)             event (2, 3, 4)

All of that is done in whole numbers and fractions. As floats, 0.3 / 0.1 is a little less than 3, which is frame 2.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor
from typing import TYPE_CHECKING

import numpy as np

from wildstream.errors import LabelError
from wildstream.facts import NO_PTS

if TYPE_CHECKING:
    import numpy.typing as npt

END_TOLERANCE = Fraction(1, 10)
"""Seconds that an event may end after the last frame: times are rounded, players count to the end of the sound, and how
long a last frame is shown is an estimate. A label file of another video is mostly wrong by more."""


@dataclass(frozen=True, slots=True)
class TimedEvent:
    """A class that happens from `start` until just before `stop`."""

    label: int
    """Class number."""
    start: Fraction
    """Seconds since the first frame is shown."""
    stop: Fraction
    """Seconds since the first frame is shown."""
    origin: str = ""
    """File and line where it stands, for messages."""

    def __str__(self) -> str:
        """The event as a message names it."""
        place = f"{self.origin}: " if self.origin else ""
        return f"{place}the event of class {self.label} from {_seconds(self.start)} to {_seconds(self.stop)}"


@dataclass(frozen=True, slots=True, eq=False)
class LabelTrack:
    """The events of one video; half-open intervals of frame numbers."""

    num_frames: int
    """Frames of the video."""
    num_classes: int
    """Classes that exist, whether they happen here or not."""
    classes: npt.NDArray[np.int32]
    """(num_events,) class numbers."""
    first: npt.NDArray[np.int32]
    """(num_events,) first frame of each event."""
    stop: npt.NDArray[np.int32]
    """(num_events,) last frame of each event + 1."""
    unlabelled: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 2), np.int32))
    """(num_runs, 2) runs of frames, first and last + 1, of which nobody said anything, of no class; in order, and apart
    from each other. No event lies in them."""

    def __post_init__(self) -> None:
        """Refuse events outside the video or the categories, or in unlabelled frames, and other runs (LabelError)."""
        events = zip(self.classes.tolist(), self.first.tolist(), self.stop.tolist(), strict=True)
        for label, first, stop in events:
            if not 0 <= label < self.num_classes:
                raise LabelError(f"event of class {label}, but there are {self.num_classes} classes")
            if not 0 <= first < stop <= self.num_frames:
                raise LabelError(f"event of frames [{first}, {stop}) does not lie within {self.num_frames} frames")
        if len(self.unlabelled):
            self._check_unlabelled()

    def _check_unlabelled(self) -> None:
        """Refuse runs that are none, and events in them (LabelError)."""
        reached = -1
        for first, stop in self.unlabelled.tolist():
            if not 0 <= first < stop <= self.num_frames:
                raise LabelError(f"unlabelled frames [{first}, {stop}) do not lie within {self.num_frames} frames")
            if first <= reached:
                raise LabelError(
                    f"unlabelled frames [{first}, {stop}) begin where others end, at {reached}, or before; such runs "
                    "come in order, and those that touch are one"
                )
            reached = stop
        # The first run that ends behind the event's first frame is the only one that it can run into.
        after = np.searchsorted(self.unlabelled[:, 1], self.first, side="right")
        begins = np.append(self.unlabelled[:, 0], self.num_frames)[after]
        if len(wrong := np.flatnonzero(begins < self.stop)):
            frame = max(int(begins[wrong[0]]), int(self.first[wrong[0]]))
            raise LabelError(f"frame {frame} is labelled and unlabelled; take one of the two back")

    @classmethod
    def from_rows(cls, rows: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_] | None = None) -> LabelTrack:
        """Make a track from rows, an event for each run of true rows.

        Args:
            rows: (num_frames, num_classes) whether a class happens in a frame.
            known: (num_frames,) False where nobody said anything; all are known by default.

        Raises:
            LabelError: A class happens in a frame that is not known.
        """
        num_frames, num_classes = rows.shape
        classes, first, stop = _runs(rows.T)
        runs = () if known is None else (np.stack(_runs(~known[np.newaxis])[1:], axis=1),)
        return cls(num_frames, num_classes, classes, first, stop, *runs)

    @classmethod
    def from_class(cls, label: int, *, num_frames: int, num_classes: int) -> LabelTrack:
        """Make the track of a clip that is one class from its first frame to its last."""
        one = np.ones(1, np.int32)
        return cls(num_frames, num_classes, one * label, one * 0, one * num_frames)

    @classmethod
    def from_seconds(
        cls,
        events: Iterable[TimedEvent],
        *,
        pts: npt.NDArray[np.int64],
        time_base: Fraction,
        num_classes: int,
        closed: bool = False,
    ) -> LabelTrack:
        """Make a track from events in seconds, by the times at which the frames are shown (see the picture above).

        An event covers the frames from the one that is shown at its start up to, not including, the first that is not
        shown before its stop; so it covers one at least. Events of a class that overlap or touch become one. The last
        frame is taken to be shown for as long as the median of the others, and not at all where there are no others.

        Args:
            events: In any order.
            pts: (num_frames,) presentation times in units of `time_base`, as in `VideoFacts`.
            time_base: Seconds per unit of pts.
            num_classes: Classes that exist.
            closed: Whether an event also covers the frame that is shown at its stop, as annotation programs mean it
                that let people choose the first and the last frame; then it may stop when it starts.

        Raises:
            LabelError: An event stops before it starts, starts before 0 or when the video is over, stops later than
                END_TOLERANCE after that, or is of an unknown class; or there are events, but the video does not say
                when its frames are shown.
        """
        events = list(events)
        if events:
            _refuse_untimed(pts)
        times: list[int] = pts.tolist()  # not an array: whole numbers without a largest
        shown = _shown(times)
        found = []
        for event in events:
            _refuse_outside(event, (times[-1] - times[0]) * time_base, shown * time_base, closed=closed)
            first = frame_at(event.start, pts=times, time_base=time_base)
            if closed:
                stop = frame_at(event.stop, pts=times, time_base=time_base) + 1
            else:
                stop = bisect_left(times, times[0] + ceil(event.stop / time_base))
            found.append((event.label, first, stop))
        columns = np.array(_united(found), np.int32).reshape(-1, 3)
        return cls(len(pts), num_classes, columns[:, 0], columns[:, 1], columns[:, 2])

    def rows(self) -> npt.NDArray[np.bool_]:
        """The track as (num_frames, num_classes) rows."""
        rows = np.zeros((self.num_frames, self.num_classes), np.bool_)
        for label, first, stop in zip(self.classes, self.first, self.stop, strict=True):
            rows[first:stop, label] = True
        return rows

    def known(self) -> npt.NDArray[np.bool_]:
        """(num_frames,) False where nobody said anything."""
        known = np.ones(self.num_frames, np.bool_)
        for first, stop in self.unlabelled.tolist():
            known[first:stop] = False
        return known

    def array(self) -> npt.NDArray[np.uint8] | npt.NDArray[np.int8]:
        """The track as labels.npy holds it: (num_frames, num_classes) uint8 of 0 and 1.

        Where there are unlabelled frames it is int8 and has -1 in all of their columns.
        """
        rows = self.rows().view(np.uint8)
        return np.where(self.known()[:, np.newaxis], rows.view(np.int8), np.int8(-1)) if len(self.unlabelled) else rows


def widen_points(
    events: Iterable[TimedEvent], radius: Fraction, *, pts: npt.NDArray[np.int64], time_base: Fraction
) -> list[TimedEvent]:
    """The events; those without a duration reach from `radius` seconds before to as long after, within the video.

    Args:
        events: In any order; what lies outside the video is left as it is.
        radius: Not negative.
        pts: (num_frames,) presentation times in units of `time_base`.
        time_base: Seconds per unit of pts.
    """
    times: list[int] = pts.tolist()
    length = (times[-1] - times[0] + _shown(times)) * time_base
    return [
        replace(event, start=max(Fraction(0), event.start - radius), stop=min(length, event.stop + radius))
        if radius and event.start == event.stop and 0 <= event.start <= length
        else event
        for event in events
    ]


def frame_at(seconds: Fraction, *, pts: Sequence[int] | npt.NDArray[np.int64], time_base: Fraction) -> int:
    """The frame that is shown at a time: the last whose pts is not after it.

    Time 0 is when the first frame is shown, whatever its pts. Many files begin at another pts (cut from a recording,
    delayed to fit their sound), and players, with which people annotate, show such a file from 0.

    Args:
        seconds: At least 0; from the last frame on, that is the frame.
        pts: (num_frames,) strictly increasing, in units of `time_base`.
        time_base: Seconds per unit of pts.

    Raises:
        LabelError: The time is negative.
    """
    if seconds < 0:
        raise LabelError(f"no frame is shown at {_seconds(seconds)}; times count from the first frame, at 0 s")
    # Between whole numbers, p ≤ t and p ≤ floor(t) are the same.
    return bisect_right(pts, int(pts[0]) + floor(seconds / time_base)) - 1


def _shown(times: Sequence[int]) -> int:
    """How long the last frame is taken to be shown: the median of the others, 0 where there are none."""
    gaps = sorted(later - earlier for earlier, later in pairwise(times))
    return gaps[len(gaps) // 2] if gaps else 0


def _runs(
    rows: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The runs of true values in each of (n, length): their rows, first places, and last places + 1, in that order."""
    edges = np.diff(rows.astype(np.int8), axis=1, prepend=0, append=0)
    row, first = np.nonzero(edges == 1)
    stop = np.nonzero(edges == -1)[1]
    return row.astype(np.int32), first.astype(np.int32), stop.astype(np.int32)


def _seconds(time: Fraction) -> str:
    """A time for people."""
    return f"{float(time):.9g} s"


def _refuse_untimed(pts: npt.NDArray[np.int64]) -> None:
    """Raise LabelError where not every frame is known to be shown after the one before it."""
    if bool((pts == NO_PTS).any()):
        problem = "has frames without a time"
    elif not bool((pts[1:] > pts[:-1]).all()):
        problem = "has frames whose times do not increase"
    else:
        return
    raise LabelError(
        f"the video {problem}, so no time in seconds leads to a frame; give a row per frame (--format frames), or "
        "convert the file to mp4 first"
    )


def _refuse_outside(event: TimedEvent, last: Fraction, shown: Fraction, *, closed: bool) -> None:
    """Raise LabelError where an event is not one, or not in a video whose frame at `last` is shown for `shown`."""
    length = last + shown
    if event.stop < event.start or (event.stop == event.start and not closed):
        problem = "does not stop after it starts"
    elif event.start < 0:
        problem = "starts before the video does, at 0 s"
    elif event.start >= length and event.start > last:
        problem = "starts when the video is over"
    elif event.stop > length + END_TOLERANCE:
        problem = f"stops more than {_seconds(END_TOLERANCE)} after the video"
    else:
        return
    raise LabelError(f"{event} {problem}; the video lasts {_seconds(length)}. Correct it, or pair the right two files")


def _united(events: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Events (class, first, stop) by class and time, with those that overlap or touch made one."""
    united: list[tuple[int, int, int]] = []
    for label, first, stop in sorted(events):
        if united and united[-1][0] == label and first <= united[-1][2]:
            _, begun, reached = united.pop()
            first, stop = begun, max(stop, reached)
        united.append((label, first, stop))
    return united

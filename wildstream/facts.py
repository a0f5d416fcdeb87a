"""What is known of one video: when its frames are shown, where decoding may start, what is lost, what can be spared."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

NO_PTS = -(1 << 63)
"""The pts of a frame whose container does not say when it is shown: the least int64, as in FFmpeg."""
USUAL_FPS = 25
"""Frames per second of a video of which no two frames tell."""


def _no_runs() -> Ints:
    return np.zeros((0, 2), np.int64)


def _no_frames() -> Ints:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameTable:
    """What it takes to find a video's frames; a frame's number is its place in the order in which they are shown."""

    pts: Ints
    """(num_frames,) presentation times in units of `time_base`, in order of output; NO_PTS where there is none."""
    key_frames: Ints
    """(num_key_frames,) frame numbers where decoding may start, tried; 0, the first packet, always is one of them."""
    time_base: Fraction
    """Seconds per unit of pts."""
    lost: Ints = field(default_factory=_no_runs)
    """(n, 2) first and stop of the runs of frames that a damaged packet cost; increasing, apart from each other."""
    packets: Ints = field(default_factory=_no_frames)
    """(num_packets,) frame number of each packet, in the order in which they are decoded; empty where nothing can be
    spared."""
    unreferenced: Ints = field(default_factory=_no_frames)
    """(n,) frame numbers, increasing, of frames that no other is predicted from: where they are not wanted they need
    not be decoded."""
    marks: Ints = field(default_factory=_no_runs)
    """(n, 2) frame and byte: all frames below `frame` lie in the file before `byte`; both increase. Empty where the
    whole file has to be read."""
    opening: Ints = field(default_factory=_no_runs)
    """(n, 2) first byte and byte behind the last of the runs that opening the file reads; empty where there are no
    marks."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VideoFacts(FrameTable):
    """What one full sequential decode says about a video."""

    codec: str
    """FFmpeg's name of the codec, such as "h264"."""
    pixel_format: str
    """FFmpeg's name of the decoded format, such as "yuv420p"."""
    width: int
    """Pixels, upright (after rotation)."""
    height: int
    """Pixels, upright (after rotation)."""
    num_frames: int
    """Frames that decode, whatever the container claims, and those in between that are lost."""
    claimed_frames: int
    """Frames that the container's packets promise."""

    @property
    def fps(self) -> float:
        """Mean frames per second of those that have a time; 0.0 where one frame or equal times leave it undefined."""
        timed = self.pts[self.pts != NO_PTS].tolist()
        span = (timed[-1] - timed[0]) * self.time_base if timed else 0
        return float((len(timed) - 1) / span) if span > 0 else 0.0


def frame_seconds(pts: Ints, time_base: Fraction) -> Floats:
    """When each frame is shown, in seconds as the container has them, (num_frames,); NaN where it does not say."""
    seconds = pts.astype(np.float64) * time_base.numerator / time_base.denominator
    return np.where(pts == NO_PTS, np.nan, seconds)


def borders_of(seconds: Floats) -> Floats:
    """When each frame begins, and at last when the video ends, in seconds since the first frame: (num_frames + 1,).

    The last frame is taken to be shown for the median of the others' durations. A frame whose container does not say
    when it is shown, or says that it is not after the one before, is taken to follow that one by as much.
    """
    steps = np.diff(seconds)
    steps = steps[steps > 0]  # which NaN is not
    usual = float(np.median(steps)) if len(steps) else 1 / USUAL_FPS
    borders = np.append(seconds - (0.0 if np.isnan(seconds[0]) else seconds[0]), np.nan)
    borders[0] = 0.0
    for place in np.flatnonzero(~(np.diff(borders) > 0)) + 1:  # at least the last
        ahead = place
        while ahead < len(borders) and not borders[ahead] > borders[ahead - 1]:
            borders[ahead] = borders[ahead - 1] + usual
            ahead += 1
    return borders

"""Probabilities of windows → probabilities of every source frame, by weighted average of the windows that overlap.

    window_size=4 (W), step_size=2, temporal_sample_interval=1 (t), padding="none"

    source frame       0 1 2 3 4 5 6 7 8
    window 0           w w w w                  each spans N = W t frames: [first kept, last kept + t)
    window 1               w w w w
    window 2                   w w w w h        h: held, since no window spans the rest

    frame f            p(f) = sum over windows j that span f of w(f - start_j) p_j / sum of w(f - start_j)

`hann` is the Hann window (Harris 1978, "On the use of windows for harmonic analysis with the discrete Fourier
transform", eq. 27a), taken in the middle of each of its N frames: w(n) = sin²(π (n + ½) / N), n = 0 … N - 1. So it is
above 0 everywhere, and a frame that one window alone spans has that window's value; where the step is half a window,
the weights of a frame add up to 1. `uniform` is w(n) = 1.

Frames that no window spans, because the style has none there (the rest behind the last; the gaps, where the step is
longer than the window), have the value of the window that is nearest, of two the earlier. Frames whose windows did not
decode have NaN, and so have those of videos that are too short for a window.

The values of a frame follow from the windows that span it, and from nothing else: neither from batches nor segments,
nor from what lies farther away than a window.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from wildstream.errors import ConfigError, LedgerError

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.stream.windows import SlidingStyle

    Floats = npt.NDArray[np.float64]

Weighting = Literal["hann", "uniform"]


def window_weights(length: int, weighting: Weighting) -> Floats:
    """(length,) weights of the frames that a window spans, all above 0; ConfigError for an unknown weighting."""
    if weighting not in ("hann", "uniform"):
        raise ConfigError(f"weighting={weighting!r} is not known. Take one of hann, uniform.")
    if weighting == "uniform":
        return np.ones(length)
    weights: Floats = np.sin(math.pi * (np.arange(length) + 0.5) / length) ** 2
    return weights


class Timeline:
    """Adds up the windows of one video, in the order in which they come."""

    def __init__(
        self, style: SlidingStyle, *, num_frames: int, num_classes: int, weighting: Weighting = "hann"
    ) -> None:
        """Start with no window of a video of so many source frames; takes 8 bytes for each frame and class."""
        self.num_windows = int(style.num_windows(num_frames))
        """Windows that the video has."""
        self.num_failed = 0
        """Those of them that did not decode."""
        self._style = style
        self._step = style.step_size * style.temporal_sample_interval
        self._weights = window_weights(style.window_size * style.temporal_sample_interval, weighting)
        self._sums = np.zeros((num_frames, num_classes))
        self._total = np.zeros(num_frames)
        self._came = np.zeros(self.num_windows, np.bool_)

    def add(self, start: int, probabilities: npt.NDArray[np.float32] | None) -> None:
        """Add a window.

        Args:
            start: Source frame of its first kept frame, as in `Batch.starts`.
            probabilities: (num_classes,), or None where it did not decode.

        Raises:
            LedgerError: The video has no such window, or it came before.
        """
        window, rest = divmod(start + self._style.pad_front, self._step)
        if rest or not 0 <= window < self.num_windows or self._came[window]:
            raise LedgerError(f"a window that starts at frame {start} was not to come. Please report this.")
        self._came[window] = True
        if probabilities is None:
            self.num_failed += 1
            return
        first, stop = self._span(window)
        places = np.arange(first, stop) - start
        weights = self._weights[np.clip(places, 0, len(self._weights) - 1)]
        self._sums[first:stop] += weights[:, np.newaxis] * probabilities
        self._total[first:stop] += weights

    def finish(self) -> npt.NDArray[np.float32]:
        """(num_frames, num_classes) probabilities, NaN where there are none.

        Raises:
            LedgerError: A window did not come.
        """
        if not self._came.all():
            lacking = np.flatnonzero(~self._came)
            raise LedgerError(
                f"{len(lacking):,} of {self.num_windows:,} windows did not come, number {lacking[0]} the first. "
                "Please report this; the result is not to be trusted."
            )
        with np.errstate(invalid="ignore"):  # 0 / 0 is what NaN stands for
            return (self._sums / self._total[:, np.newaxis]).astype(np.float32)

    def _span(self, window: int) -> tuple[int, int]:
        """First and stop of the source frames that a window counts for, within the video."""
        first = int(self._style.starts(window))
        stop, num_frames = first + len(self._weights), len(self._total)
        gap = max(0, self._step - len(self._weights))
        first = first - gap // 2 if window > 0 else min(first, 0)
        stop = stop + gap - gap // 2 if window + 1 < self.num_windows else num_frames
        return max(first, 0), min(stop, num_frames)

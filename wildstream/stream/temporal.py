"""Which of a window's frames make up its clip: chosen by number, before anything is decoded.

A window spans W kept frames, S chunks of W//S, and its clip has S of them (see `stream.windows`). The digits are
places in the clip:

    window_size=8 (W), samples_per_window=4 (S), temporal_sample_interval=2

    kept frame        0  1  2  3  4  5  6  7
    source frame     10 12 14 16 18 20 22 24    clip
    chunks           [   ] [   ] [   ] [   ]
    uniform           0  -  1  -  2  -  3  -    10 14 18 22    the first of each chunk
    chunk_random      0  -  -  1  -  2  3  -    10 16 20 22    a random one of each chunk
    jitter            -  0  -  1  -  2  -  3    12 16 20 24    uniform, all shifted by less than a chunk
    speed of 0.5      -  -  0  1  2  3  -  -    14 16 18 20    uniform, around what the label is centred on, here 16
    reverse           3  -  2  -  1  -  0  -    22 18 14 10    uniform, backwards

No frame is taken from outside the window, whose label it is. So uniform is as fast as it gets, speeds are shares of
that, and below S/W a clip shows frames twice. Where a window reaches into the padding, its frames are the border's.

What is random follows from (seed, epoch, video, window) and from nothing else: neither from ranks, workers or batches,
nor from which windows came before. A window that is drawn twice in an epoch has the same frames both times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from wildstream.errors import ConfigError

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.stream.plan import Segment
    from wildstream.stream.windows import SlidingStyle

    Ints = npt.NDArray[np.int64]

Pick = Literal["uniform", "chunk_random", "jitter"]

OF_FRAMES = 2
"""With seed and epoch, begins the random numbers of this file: the order's have nothing there, the samplers' 1."""
WORDS = 4
"""Random numbers of 64 bits that Philox gives for each count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemporalSampler:
    """Picks the frames of a clip, then slows it down, then turns it round."""

    pick: Pick = "uniform"
    """Which frames: "uniform", the first of each chunk; "chunk_random", a random one of each chunk (as TSN does);
    "jitter", uniform, all shifted by one random number of frames within [0, window_size // samples_per_window)."""
    speed: tuple[float, float] = (1.0, 1.0)
    """Lowest and highest speed of a clip, within (0, 1]; 1 is that of uniform. A random factor between them brings the
    frames so much nearer to the one that the label is centred on; each becomes the nearest kept frame."""
    reverse: float = 0.0
    """Probability that a clip is played backwards."""

    def __post_init__(self) -> None:
        """Refuse values that are out of range (ConfigError)."""
        if self.pick not in get_args(Pick):
            raise ConfigError(f"pick={self.pick!r} must be one of {', '.join(map(repr, get_args(Pick)))}.")
        if not 0 <= self.reverse <= 1:
            raise ConfigError(f"reverse={self.reverse} must be a probability, within [0, 1].")
        object.__setattr__(self, "speed", check_speed(self.speed))
        object.__setattr__(self, "reverse", float(self.reverse))

    @property
    def is_uniform(self) -> bool:
        """Whether nothing is random: every W//S-th frame, from the first on."""
        return self == TemporalSampler()

    def check(self, style: SlidingStyle) -> None:
        """Refuse what can do nothing under a style (ConfigError)."""
        window, samples = style.window_size, style.samples_per_window
        if self.pick != "uniform" and window == samples:
            raise ConfigError(
                f"pick={self.pick!r} takes window_size > samples_per_window, but both are {window}, so that there is "
                "nothing to pick from. Take a style with a larger window_size, or pick='uniform'."
            )
        for name, value, idle in (("speed", self.speed, (1.0, 1.0)), ("reverse", self.reverse, 0.0)):
            if value != idle and samples == 1:
                raise ConfigError(
                    f"{name}={value} takes samples_per_window > 1: a single frame is not played. Leave {name} out."
                )

    def offsets(self, style: SlidingStyle, windows: Ints, *, seed: int, epoch: int, video: int) -> Ints:
        """Kept frames of each window's clip, counted from the window's first: (num_windows, S), within [0, W).

        Args:
            style: How windows slide.
            windows: (num_windows,) their numbers in the video, at least one, in any order.
            seed: Decides, with the epoch and the window's address.
            epoch: Which epoch.
            video: Number of the video in the index.
        """
        chunk = style.window_size // style.samples_per_window
        draws = _draw(windows, 3 + style.samples_per_window, [seed, epoch, OF_FRAMES, video])
        turns, factors, shifts, places = np.split(draws, (1, 2, 3), axis=1)
        offsets = np.arange(0, style.window_size, chunk) + np.zeros_like(windows)[:, np.newaxis]
        if self.pick != "uniform":
            offsets += ((shifts if self.pick == "jitter" else places) * chunk).astype(np.int64)
        lowest, highest = self.speed
        nearer = (offsets - style.middle) * (lowest + (highest - lowest) * factors)
        offsets = style.middle + np.floor(nearer + 0.5).astype(np.int64)
        return np.where(turns < self.reverse, offsets[:, ::-1], offsets)


def check_speed(speed: Sequence[float]) -> tuple[float, float]:
    """The lowest and the highest speed; ConfigError where they are none."""
    if np.shape(speed) != (2,) or not 0 < speed[0] <= speed[1] <= 1:
        raise ConfigError(
            f"speed={speed} must be the lowest and the highest, 0 < lowest <= highest <= 1: at 1 a clip spans its "
            "window, and has no frames from outside. For faster ones take a larger window_size."
        )
    return float(speed[0]), float(speed[1])


TEMPORAL_SAMPLERS = {
    "uniform": TemporalSampler(),
    "chunk_random": TemporalSampler(pick="chunk_random"),
    "jitter": TemporalSampler(pick="jitter"),
    "speed": TemporalSampler(speed=(0.5, 1.0)),
    "reverse": TemporalSampler(reverse=0.5),
}
"""Temporal samplers that can be chosen by name alone."""


def get_temporal_sampler(sampler: TemporalSampler | str) -> TemporalSampler:
    """A temporal sampler by its name, or the sampler itself; ConfigError where there is none of that name."""
    if isinstance(sampler, TemporalSampler):
        return sampler
    if not isinstance(sampler, str) or sampler not in TEMPORAL_SAMPLERS:
        raise ConfigError(
            f"temporal_sampler={sampler!r} is not known. Take one of {', '.join(TEMPORAL_SAMPLERS)}, or a "
            "TemporalSampler."
        )
    return TEMPORAL_SAMPLERS[sampler]


@dataclass(frozen=True, slots=True, kw_only=True)
class PickFrames:
    """The source frames of planned windows, in one epoch."""

    style: SlidingStyle
    """How windows slide."""
    sampler: TemporalSampler = TEMPORAL_SAMPLERS["uniform"]
    """Which frames of a window make up its clip."""
    seed: int = 0
    """With the epoch, decides which."""
    epoch: int = 0
    """Which epoch."""

    def __call__(self, segment: Segment, num_frames: int) -> Ints:
        """Source frames of each window of a segment, (n, S), within [0, num_frames), the frames of its video."""
        if self.sampler.is_uniform:
            return self.style.frames(segment.windows, num_frames)
        offsets = self.sampler.offsets(
            self.style, segment.windows, seed=self.seed, epoch=self.epoch, video=segment.video
        )
        return self.style.frames(segment.windows, num_frames, offsets)


def _draw(windows: Ints, count: int, key: list[int]) -> npt.NDArray[np.float64]:
    """(num_windows, count) random numbers within [0, 1) that follow from each window's number and the key alone.

    Philox is a function of a counter. Every window has counts of its own, so that a run of windows is drawn at once,
    wherever it begins; a segment's windows are such a run.
    """
    counts = -(-count // WORDS)
    first, stop = int(windows.min()), int(windows.max()) + 1
    philox = np.random.Philox(counter=first * counts, key=np.random.SeedSequence(key).generate_state(2, np.uint64))
    words = philox.random_raw((stop - first) * counts * WORDS).reshape(stop - first, counts * WORDS)
    return (words[windows - first, :count] >> 11).astype(np.float64) * 2.0**-53

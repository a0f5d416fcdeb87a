"""Sliding windows: which frames and labels make up each window of a video, by arithmetic alone.

    window_size=4 (W), samples_per_window=2 (S), step_size=2, temporal_sample_interval=2 (t), padding="edge"

    padded video     p 0 1 2 3 4 5 6 7 8 p p      p: (W-1)//2 border frames in front, W//2 behind
    kept frames      k   k   k   k   k   k        every t-th of the padded video
    window 0         f   -   f   -                W kept frames, of which every W//S-th is used
    window 1                 f   -   f   -        step_size kept frames further; an incomplete window is dropped
    label frame              ^                    of window 0: mid = (W-1) - W//2, ± tolerance_region kept frames; if
                                                  one of them is unlabelled, so is the window

A window is an address (video, number); its frames, label and start follow from the style and the number of frames. The
parameters and their meaning are those of WildFins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import yaml

from wildstream.errors import ConfigError
from wildstream.locations import CONFIGS
from wildstream.shards.labels import LabelTrack

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.shards.index import Index

    Ints = npt.NDArray[np.int64]

STYLES_FOLDER = CONFIGS / "sliding"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlidingStyle:
    """How windows slide over a video, and how they are cut into patches."""

    window_size: int = 16
    """Kept frames that a window spans (W)."""
    tolerance_region: int = 0
    """Kept frames on either side of the middle whose labels count; at most (window_size - 1) // 2."""
    samples_per_window: int = 16
    """Frames that are used of each window (S); divides window_size."""
    step_size: int = 1
    """Kept frames from one window to the next."""
    data_ndim: Literal[3, 4] = 4
    """Dimensions of one sample as a model sees it: 3 for single frames (C, H, W), 4 for clips or patches."""
    temporal_sample_interval: int = 1
    """Every how many-th frame is kept (t)."""
    padding: Literal["edge", "none"] = "edge"
    """"edge" repeats the border frames and their labels, so that windows are centred on frames; "none" does not."""
    patch_type: Literal["relative", "absolute"] = "relative"
    """Whether patch_h and patch_w are the rows and columns of a grid, or the height and width of a tile in pixels."""
    patch_h: int = 1
    """Rows of the grid, or height of a tile."""
    patch_w: int = 1
    """Columns of the grid, or width of a tile."""

    def __post_init__(self) -> None:
        """Refuse values that contradict each other (ConfigError)."""
        for name in (
            "window_size",
            "samples_per_window",
            "step_size",
            "temporal_sample_interval",
            "patch_h",
            "patch_w",
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name}={value!r} must be a whole number of at least 1.")
        if self.window_size % self.samples_per_window:
            divisors = [n for n in range(1, self.window_size + 1) if self.window_size % n == 0]
            raise ConfigError(
                f"samples_per_window={self.samples_per_window} must divide window_size={self.window_size}. "
                f"Take one of {', '.join(map(str, divisors))}."
            )
        widest = (self.window_size - 1) // 2
        if not isinstance(self.tolerance_region, int) or not 0 <= self.tolerance_region <= widest:
            raise ConfigError(
                f"tolerance_region={self.tolerance_region!r} must lie within [0, {widest}] for "
                f"window_size={self.window_size}, so that the label's frames lie within the window."
            )
        for name, allowed in (("data_ndim", (3, 4)), ("padding", ("edge", "none"))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} must be one of {', '.join(map(repr, allowed))}.")
        if self.patch_type not in ("relative", "absolute"):
            raise ConfigError(f"patch_type={self.patch_type!r} must be one of 'relative', 'absolute'.")
        if self.data_ndim == 3 and (self.samples_per_window > 1 or self.has_patches):
            raise ConfigError(
                "data_ndim=3 means single frames (C, H, W), but this style gives several frames or patches a sample. "
                "Set data_ndim=4."
            )

    @property
    def has_patches(self) -> bool:
        """Whether frames are cut into patches at all."""
        return self.patch_type == "absolute" or (self.patch_h, self.patch_w) != (1, 1)

    @property
    def pad_front(self) -> int:
        """Frames that padding puts before the first."""
        return (self.window_size - 1) // 2 if self.padding == "edge" else 0

    @property
    def pad_behind(self) -> int:
        """Frames that padding puts after the last."""
        return self.window_size // 2 if self.padding == "edge" else 0

    @property
    def middle(self) -> int:
        """Kept frame of a window that its label is centred on, counted from its first."""
        return (self.window_size - 1) - self.window_size // 2

    def num_windows(self, num_frames: npt.ArrayLike) -> Ints:
        """Windows of videos of so many frames, elementwise: max(0, (ceil(N / t) - W) // step + 1), N padded."""
        frames = np.asarray(num_frames, np.int64)
        kept = -(-(frames + self.pad_front + self.pad_behind) // self.temporal_sample_interval)
        count = np.maximum(0, (kept - self.window_size) // self.step_size + 1)
        return np.where(frames > 0, count, 0)

    def starts(self, windows: npt.ArrayLike) -> Ints:
        """Source frame of each window's first kept frame; negative inside the padding in front."""
        kept = np.asarray(windows, np.int64) * self.step_size
        return kept * self.temporal_sample_interval - self.pad_front

    def frames(self, windows: npt.ArrayLike, num_frames: int, offsets: Ints | None = None) -> Ints:
        """Source frames of each window: (num_windows, samples_per_window), within [0, num_frames).

        Args:
            windows: Their numbers.
            num_frames: Frames of the video.
            offsets: (num_windows, samples_per_window) kept frames that are used of each window, counted from its first;
                every W//S-th by default.
        """
        if offsets is None:
            offsets = np.arange(0, self.window_size, self.window_size // self.samples_per_window)
        return self._source_frames(windows, offsets, num_frames)

    def label_frames(self, windows: npt.ArrayLike, num_frames: int) -> Ints:
        """Source frames whose labels count for each window: (num_windows, 2 * tolerance_region + 1)."""
        tolerance = np.arange(-self.tolerance_region, self.tolerance_region + 1)
        return self._source_frames(windows, self.middle + tolerance, num_frames)

    def labels(self, track: LabelTrack, windows: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.bool_]:
        """Labels of windows of one video, (num_windows, num_classes): the union over each window's label frames.

        Args:
            track: The video's labels.
            windows: Numbers of windows; all of the video by default.
        """
        numbers = np.arange(int(self.num_windows(track.num_frames))) if windows is None else windows
        happens = np.zeros((len(numbers), track.num_classes), np.bool_)
        lowest, highest = self._windows_touched(track.first, track.stop, track.num_frames)
        for label, low, high in zip(track.classes, lowest, highest, strict=True):
            happens[(numbers >= low) & (numbers <= high), label] = True
        return happens

    def labelled(self, track: LabelTrack, windows: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.bool_]:
        """Which windows of one video are labelled, (num_windows,): those of which no label frame is unlabelled.

        Args:
            track: The video's labels.
            windows: Numbers of windows; all of the video by default.
        """
        numbers = np.arange(int(self.num_windows(track.num_frames))) if windows is None else windows
        if not len(track.unlabelled):
            return np.ones(len(numbers), np.bool_)
        lowest, highest = self._windows_touched(track.unlabelled[:, 0], track.unlabelled[:, 1], track.num_frames)
        # Runs come in order, and so do the windows that they touch first: of those up to a window, how far does one go?
        before = np.searchsorted(lowest, numbers, side="right")
        reach = np.append(np.iinfo(np.int64).min, np.maximum.accumulate(highest))
        return numbers > reach[before]

    def labels_of(self, tracks: Iterable[LabelTrack]) -> npt.NDArray[np.bool_]:
        """Labels of all windows of several videos, one after the other: (num_windows, num_classes)."""
        labels = [self.labels(track) for track in tracks]
        return np.concatenate(labels) if labels else np.zeros((0, 0), np.bool_)

    def find_track(self, labels: npt.NDArray[np.bool_]) -> LabelTrack | None:
        """A track that `labels` would give these labels for, (num_windows, num_classes); None where there is none.

        It has as few frames as possible. Frames that count for no window are labelled as those before them.
        """
        kept = (len(labels) - 1) * self.step_size + self.window_size
        shortest = (kept - 1) * self.temporal_sample_interval + 1 - self.pad_front - self.pad_behind
        for num_frames in range(shortest, shortest + self.step_size * self.temporal_sample_interval):
            counting = self.label_frames(np.arange(len(labels)), num_frames)
            happens = np.ones((num_frames, labels.shape[1]), np.bool_)
            for label in range(labels.shape[1]):  # wherever no window denies it
                happens[counting[~labels[:, label]], label] = False
            counts = np.zeros(num_frames, np.bool_)
            counts[counting] = True
            before = np.maximum.accumulate(np.where(counts, np.arange(num_frames), -1))
            track = LabelTrack.from_rows(happens[np.where(before < 0, counts.argmax(), before)])
            if np.array_equal(self.labels(track), labels):
                return track
        return None

    def as_dict(self) -> dict[str, Any]:
        """The parameters by name, as in configs/sliding."""
        return asdict(self)

    def _windows_touched(
        self, first_frame: npt.NDArray[np.int32], stop_frame: npt.NDArray[np.int32], num_frames: int
    ) -> tuple[Ints, Ints]:
        """First and last number of the windows whose label frames meet each run of frames (first > last: none).

        Kept frame k shows source frame clip(k * t - pad_front); those that show a frame of the run are a run [low,
        high], open towards the border where the run touches it. Window j looks at [j * step + middle ± tolerance].
        """
        interval, pad = self.temporal_sample_interval, self.pad_front
        far = np.int64(1) << 40
        low = np.where(first_frame <= 0, -far, -(-(first_frame.astype(np.int64) + pad) // interval))
        high = np.where(stop_frame >= num_frames, far, (stop_frame.astype(np.int64) - 1 + pad) // interval)
        first = -(-(low - self.middle - self.tolerance_region) // self.step_size)
        last = (high - self.middle + self.tolerance_region) // self.step_size
        return first, np.where(low <= high, last, first - 1)

    def _source_frames(self, windows: npt.ArrayLike, offsets: Ints, num_frames: int) -> Ints:
        """Source frames at offsets (in kept frames) from each window's start; padding repeats the border."""
        start = self.starts(windows)[..., np.newaxis]
        frames: Ints = np.clip(start + offsets * self.temporal_sample_interval, 0, num_frames - 1)
        return frames


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowLabels:
    """The labels of all windows of an index, in order of (key, start); computed when they are first asked for."""

    index: Index
    """The videos."""
    style: SlidingStyle
    """How windows slide over them."""

    @property
    def num_windows(self) -> int:
        """Windows that there are."""
        return int(self.style.num_windows(self.index.num_frames).sum())

    @cached_property
    def labels(self) -> npt.NDArray[np.bool_]:
        """(num_windows, num_classes); of a window that is not labelled it means nothing."""
        labels = self.style.labels_of(self._tracks())
        return labels.reshape(-1, len(self.index.categories))

    @cached_property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """(num_windows,) which windows are labelled."""
        return np.concatenate([np.zeros(0, np.bool_), *map(self.style.labelled, self._tracks())])

    def _tracks(self) -> Iterator[LabelTrack]:
        """Of one video after the other."""
        return (self.index.track(video) for video in range(len(self.index)))


def get_style(style: str | SlidingStyle) -> SlidingStyle:
    """A style by its name in configs/sliding, or the style itself.

    Raises:
        ConfigError: There is no style of that name, or its file holds an unknown or invalid parameter.
    """
    if isinstance(style, SlidingStyle):
        return style
    path = STYLES_FOLDER / f"{style}.yaml"
    if style not in style_names():
        raise ConfigError(f"style={style!r} is not known. Take one of {', '.join(style_names())}, or a SlidingStyle.")
    parameters = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        return SlidingStyle(**parameters)
    except TypeError as error:
        raise ConfigError(f"{path}: {error}") from error


def style_names() -> list[str]:
    """Names of the styles that come with the package."""
    return sorted(path.stem for path in STYLES_FOLDER.glob("*.yaml"))

"""What was predicted → a folder, complete or not there: built beside its place, then renamed.

OUT/frames.parquet    a row for each frame of each video, videos in order: key, frame, pts_seconds, and the probability
                      of each class (float32, NaN where there is none): p_NAME, with a hierarchy on levels above the
                      first p_LEVEL/NAME. pts_seconds (float64) is as the container has it, NaN where it has none
OUT/events.csv        a row for each event of each video, with the columns of BORIS (see `boris`)
OUT/boris/KEY.csv     the events of one video as BORIS takes them in
OUT/events.json       schema_version, wildstream, predicted_at (UTC)
  model               source, epoch, task, classes, levels, size, style (with the step that was used)
  rules               weighting, thresholds (by class), min_duration and min_gap in seconds
  videos              for each: key, source, num_frames, duration_seconds, fps, frames_without_probability;
                      windows: planned, delivered, skipped (their numbers); problems: why windows were skipped, and how
                      many for each reason; shortened: what of its end is missing, or null; not_drawn: why it could
                      not be drawn, or null; events: for each label, first_frame, stop_frame (half-open), start_seconds,
                      stop_seconds (since the first frame), mean_probability, max_probability
  refused             for each video that was left out: path, reason
OUT/videos/KEY.mp4    the video with the labels drawn in, where that is asked for
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wildstream.errors import ConfigError
from wildstream.prediction.boris import (
    AGGREGATED_COLUMNS,
    IMPORTED_COLUMNS,
    Observation,
    aggregated_rows,
    imported_rows,
)
from wildstream.prediction.events import Event

if TYPE_CHECKING:
    import numpy.typing as npt

FRAMES_NAME, EVENTS_CSV_NAME, EVENTS_JSON_NAME = "frames.parquet", "events.csv", "events.json"
VIDEOS_NAME, BORIS_NAME = "videos", "boris"
PREDICTION_SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PredictedVideo:
    """What was predicted of one video."""

    key: str
    """Its name."""
    source: str
    """Where it lies, without secrets."""
    seconds: npt.NDArray[np.float64]
    """(num_frames,) when each frame is shown, as the container has it."""
    borders: npt.NDArray[np.float64]
    """(num_frames + 1,) when each frame begins, since the first, and when the video ends."""
    probabilities: npt.NDArray[np.float32]
    """(num_frames, classes of all levels)."""
    events: list[Event]
    """Of the first level's classes."""
    windows: dict[str, int]
    """planned, delivered and skipped."""
    problems: dict[str, int]
    """Why windows were skipped, and how many for each reason."""
    shortened: str = ""
    """What of its end is missing, if anything."""
    not_drawn: str = ""
    """Why it could not be drawn, if that was asked for."""

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last."""
        return float(self.borders[-1])

    @property
    def fps(self) -> float:
        """Mean frames per second."""
        return len(self.seconds) / self.duration

    @property
    def num_lacking(self) -> int:
        """Frames without a probability."""
        return int(np.isnan(self.probabilities).any(axis=1).sum())

    def describe(self) -> dict[str, Any]:
        """What events.json has of it."""
        return {
            "key": self.key,
            "source": self.source,
            "num_frames": len(self.seconds),
            "duration_seconds": self.duration,
            "fps": self.fps,
            "frames_without_probability": self.num_lacking,
            "windows": self.windows,
            "problems": self.problems,
            "shortened": self.shortened or None,
            "not_drawn": self.not_drawn or None,
            "events": [asdict(event) for event in self.events],
        }


def column_names(levels: dict[str, tuple[str, ...]]) -> list[str]:
    """Names of the columns of probabilities; ConfigError where two would be the same."""
    names = [
        f"p_{name}" if place == 0 else f"p_{level}/{name}"
        for place, (level, classes) in enumerate(levels.items())
        for name in classes
    ]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two classes would have the column {doubled[0]!r}; rename a class or a level.")
    return names


class Output:
    """The folder that is being written; as a context it is put in its place at the end, or removed where that fails."""

    def __init__(self, folder: Path, levels: dict[str, tuple[str, ...]], *, date: str) -> None:
        """Begin a folder.

        Args:
            folder: Its place, where there must be nothing yet but an empty folder.
            levels: Classes of each level.
            date: When this was predicted, in ISO 8601.

        Raises:
            ConfigError: There is something in its place, or nothing can be written there.
        """
        probabilities = [(name, pa.float32()) for name in column_names(levels)]
        self.folder = folder = folder.absolute()  # "." has a name then, and "a:b/c" is no address
        self._building = folder.with_name(f".{folder.name}.predicting")
        self._date = date
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise ConfigError(f"{folder} is there already. Remove it, or choose another folder.")
        shutil.rmtree(self._building, ignore_errors=True)
        try:
            self._building.mkdir(parents=True)
        except OSError as error:
            raise ConfigError(f"{folder} cannot be written: {error.strerror}. Choose another folder.") from error
        self._schema = pa.schema(
            [("key", pa.string()), ("frame", pa.int32()), ("pts_seconds", pa.float64()), *probabilities]
        )
        self._frames = pq.ParquetWriter(self._building / FRAMES_NAME, self._schema, compression="zstd")
        self._videos: list[dict[str, Any]] = []
        _write_csv(self._building / EVENTS_CSV_NAME, [AGGREGATED_COLUMNS])

    def __enter__(self) -> Self:
        """The folder, to be filled."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the folder in its place if `finish` was called; else remove it."""
        self._frames.close()
        if (self._building / EVENTS_JSON_NAME).is_file():
            if self.folder.exists():
                self.folder.rmdir()
            self._building.rename(self.folder)
        shutil.rmtree(self._building, ignore_errors=True)

    def drawn_path(self, key: str) -> Path:
        """Where the video with the labels drawn in is to be written now."""
        path = self._building / VIDEOS_NAME / f"{key}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def add(self, video: PredictedVideo) -> None:
        """Write down one video."""
        num_frames = len(video.seconds)
        columns = [
            pa.array([video.key] * num_frames, pa.string()),
            pa.array(np.arange(num_frames, dtype=np.int32)),
            pa.array(video.seconds),
            *(pa.array(np.ascontiguousarray(column)) for column in video.probabilities.T),
        ]
        self._frames.write_table(pa.Table.from_arrays(columns, schema=self._schema))
        observation = Observation(
            name=video.key, media=video.source, date=self._date, duration=video.duration, fps=video.fps
        )
        _write_csv(self._building / EVENTS_CSV_NAME, aggregated_rows(observation, video.events))
        imported = self._building / BORIS_NAME / f"{video.key}.csv"
        imported.parent.mkdir(parents=True, exist_ok=True)
        _write_csv(imported, [IMPORTED_COLUMNS, *imported_rows(video.events)])
        self._videos.append(video.describe())

    def finish(self, content: dict[str, Any]) -> None:
        """Write events.json; `content` is what it has besides the videos."""
        whole = {
            "schema_version": PREDICTION_SCHEMA_VERSION,
            "predicted_at": self._date,
            **content,
            "videos": self._videos,
        }
        text = json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        (self._building / EVENTS_JSON_NAME).write_text(text, encoding="utf-8")


def _write_csv(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """Add rows to a CSV file (RFC 4180, UTF-8)."""
    with path.open("a", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)

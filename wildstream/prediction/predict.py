"""Videos without labels → what a trained model says of every frame: the way from the command to the folder.

    videos ──▶ index of each (one is decoded and checked while another is predicted)
           ──▶ the usual loader, in order ──▶ model ──▶ timeline of each video ──▶ events ──▶ the folder

Of a video, the sums of its frames are in memory, and the segments that are being decoded: no more of a long one.
"""

from __future__ import annotations

import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from tqdm import tqdm

from wildstream.errors import ConfigError, SampleError, ShardError, StorageError, VideoError
from wildstream.facts import borders_of, frame_seconds
from wildstream.prediction.draw import Drawing, draw_video
from wildstream.prediction.events import EventRules, find_events
from wildstream.prediction.loaded import LoadedModel, open_model
from wildstream.prediction.output import Output, PredictedVideo
from wildstream.prediction.sources import Footage, find_videos, index_video
from wildstream.prediction.timeline import Timeline, Weighting, window_weights
from wildstream.storage.access import Storage
from wildstream.storage.urls import is_remote, local_path, redact
from wildstream.stream.loader import Loader
from wildstream.stream.storage import Want, forget_shards, read_member
from wildstream.tables import table

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.samples import Batch
    from wildstream.shards.index import Index
    from wildstream.stream.windows import SlidingStyle

T = TypeVar("T")

THRESHOLD = 0.5
"""Of multi_label classes, where neither the model nor the user says another."""
MIN_SECONDS = 0.1
"""Default of the shortest event and the shortest gap: two or three frames, which flicker rather than happen."""


@dataclass(slots=True)
class PredictionReport:
    """What was predicted and what was not."""

    folder: Path
    """Where it was written."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Duration of each predicted video, by key."""
    events: dict[str, int] = field(default_factory=dict)
    """Events of each class, in all videos."""
    event_seconds: dict[str, float] = field(default_factory=dict)
    """How long they last together."""
    thresholds: dict[str, float] = field(default_factory=dict)
    """Of each class: what is above it happens."""
    refused: dict[str, str] = field(default_factory=dict)
    """Videos that were left out, and why."""
    shortened: dict[str, str] = field(default_factory=dict)
    """Videos whose end is missing, by key, and how much."""
    lacking: dict[str, str] = field(default_factory=dict)
    """Videos of which some frames have no probability, by key, and why."""
    not_drawn: dict[str, str] = field(default_factory=dict)
    """Videos that were to be drawn and could not be, by key, and why."""


def predict_videos(
    model: str | Path | LoadedModel,
    videos: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    checkpoint: str | None = None,
    step: int | None = None,
    weighting: Weighting = "hann",
    thresholds: float | Mapping[str, float] | None = None,
    min_duration: float = MIN_SECONDS,
    min_gap: float = MIN_SECONDS,
    draw: bool = False,
    batch_size: int = 16,
    num_workers: int | None = None,
    device: str | None = None,
    progress: bool = True,
    storage: Storage | None = None,
) -> PredictionReport:
    """Predict videos that have no labels.

    Args:
        model: Run folder, checkpoint or exported file, or what `open_model` gave.
        videos: Files, folders, packed shards, or URLs of them; labels in shards are not looked at.
        out: Folder for the results, which must not be there yet; `wildstream.prediction.output` says what is in it.
        checkpoint: Of a run: best (None), last, or epoch_NNN of those that trainer.keep kept.
        step: Kept frames from one window to the next; those of the training by default. The smaller, the finer.
        weighting: How windows that overlap are averaged: "hann" or "uniform"; see `wildstream.prediction.timeline`.
        thresholds: One for all classes, or some by name; the others are the model's, tuned on validation, else 0.5. Of
            single_label classes the most probable one happens, where it is above its threshold, which is 0 by default.
        min_duration: Seconds; shorter events are left out.
        min_gap: Seconds; events of a class that are less apart become one.
        draw: Write the videos with the labels drawn in, too.
        batch_size: Windows at a time.
        num_workers: Threads that decode; the number of available cores by default.
        device: Where the model runs; a GPU by default, where there is one.
        progress: Show progress bars on stderr.
        storage: Reads what is remote; one without options by default.

    Returns:
        What was predicted. Where no video could be, nothing is written.

    Raises:
        ConfigError: An option is out of range, a location is not there or `out` is; or the model takes features.
        ShardError: The model or packed shards cannot be read.
        LedgerError: A window was lost on the way.
    """
    for name, number in (("batch_size", batch_size), ("num_workers", num_workers or 1)):
        if number < 1:
            raise ConfigError(f"{name}={number} must be at least 1.")
    for name, seconds in (("min_duration", min_duration), ("min_gap", min_gap)):
        if not 0 <= seconds < float("inf"):
            raise ConfigError(f"{name}={seconds} must be seconds, 0 or more.")
    window_weights(1, weighting)
    if is_remote(out):
        raise ConfigError(f"{redact(str(out))} must be a local folder. Predict there, then copy it.")
    place = local_path(out).expanduser()
    storage = storage or Storage()
    loaded = model if isinstance(model, LoadedModel) else open_model(model, checkpoint=checkpoint, device=device)
    rules = EventRules(thresholds=choose_thresholds(loaded, thresholds), min_duration=min_duration, min_gap=min_gap)
    style = loaded.style if step is None else replace(loaded.style, step_size=step)
    prediction = _Prediction(
        model=loaded,
        style=style,
        weighting=weighting,
        rules=rules,
        draw=draw,
        batch_size=batch_size,
        num_workers=num_workers,
        progress=progress,
        storage=storage,
    )
    footage = find_videos([videos] if isinstance(videos, (str, Path)) else videos, storage)
    return prediction.run(footage, place)


def choose_thresholds(model: LoadedModel, given: float | Mapping[str, float] | None) -> dict[str, float]:
    """The threshold of each class of the first level; ConfigError where there is no such class, or none such."""
    usual = THRESHOLD if model.task == "multi_label" else 0.0
    chosen = dict.fromkeys(model.classes, usual) | (model.thresholds or {})
    if given is not None:
        chosen |= given if isinstance(given, Mapping) else dict.fromkeys(model.classes, given)
    if unknown := set(chosen) - set(model.classes):
        raise ConfigError(f"threshold of {sorted(unknown)[0]!r}: the model's classes are {', '.join(model.classes)}.")
    for name, threshold in chosen.items():
        if not 0 <= threshold < 1:
            raise ConfigError(f"threshold of {name}={threshold} must lie within [0, 1): what is above it happens.")
    return chosen


@dataclass(kw_only=True)
class _Prediction:
    """Predicts videos, one after the other."""

    model: LoadedModel
    style: SlidingStyle
    weighting: Weighting
    rules: EventRules
    draw: bool
    batch_size: int
    num_workers: int | None
    progress: bool
    storage: Storage

    def run(self, footage: Sequence[Footage], out: Path) -> PredictionReport:
        """Predict all and write the folder."""
        date = datetime.now(UTC).replace(microsecond=0, tzinfo=None).isoformat()
        report = PredictionReport(out, thresholds=self.rules.thresholds)
        for name in self.model.classes:
            report.events[name], report.event_seconds[name] = 0, 0.0
        with (
            Output(out, self.model.levels, date=date) as output,
            TemporaryDirectory(prefix="wildstream-") as scratch,
        ):
            for index, parts in self._prepared(footage, Path(scratch), report):
                left = {one.number: one for one in parts}
                try:
                    for number, timeline, problems in self._stitched(index, parts):
                        if number not in left:  # it was given twice, by another name of the split
                            continue
                        shortened = report.shortened.get(left[number].key, "")
                        video = self._describe(index, left[number], number, timeline, problems, shortened)
                        if self.draw:
                            video = self._draw(index, number, video, output.drawn_path(video.key))
                        output.add(video)
                        _note(report, video)
                        del left[number]
                except (SampleError, ShardError) as error:  # removed or changed meanwhile, or out of reach
                    for one in left.values():
                        _refuse(report, one, error)
            if report.seconds:
                output.finish(self._content(report))
        return report

    def _prepared(
        self, footage: Sequence[Footage], scratch: Path, report: PredictionReport
    ) -> Iterator[tuple[Index, list[Footage]]]:
        """Indexes with their videos, in order of number; what cannot be used is noted."""
        groups = [list(parts) for _, parts in groupby(footage, key=lambda one: one.split or one.location)]

        def prepare(place: int) -> tuple[Index, str]:
            first, folder = groups[place][0], scratch / str(place)
            folder.mkdir()
            return (first.split, "") if first.split else index_video(first.location, folder, self.storage)

        for place, coming in _one_ahead(prepare, range(len(groups))):
            try:
                index, missing = coming.result()
                if missing:
                    report.shortened[groups[place][0].key] = missing
                yield index, groups[place]
            except (SampleError, StorageError) as error:
                _refuse(report, groups[place][0], error)
            shutil.rmtree(scratch / str(place))  # of a remote video there is a copy in it
            forget_shards()

    def _stitched(self, index: Index, parts: Sequence[Footage]) -> Iterator[tuple[int, Timeline, Counter[str]]]:
        """The complete timelines of the videos of an index, by number, with the reasons why windows were skipped."""
        loader = Loader(
            index=index,
            style=self.style,
            batch_size=self.batch_size,
            size=self.model.size,
            resize=self.model.resize,
            num_workers=self.num_workers,
            rank=0,
            world_size=1,
            max_skipped=1.0,
        )
        numbers = {key: number for number, key in enumerate(index.keys)}
        title = parts[0].key if len(parts) == 1 else index.info.split
        total = int(self.style.num_windows(index.num_frames).sum())
        number, timeline, problems = 0, self._timeline(index, 0), Counter[str]()
        with tqdm(total=total, desc=f"predict {title}", unit="window", disable=not self.progress, leave=False) as bar:
            for batch in loader:
                for key, start, found, problem in self._score(batch):
                    while number < numbers[key]:
                        yield number, timeline, problems
                        number += 1
                        timeline, problems = self._timeline(index, number), Counter()
                    timeline.add(start, found)
                    problems.update([problem] if problem else [])
                    bar.update()
        for rest in range(number, len(index)):
            yield rest, timeline, problems
            timeline, problems = self._timeline(index, min(rest + 1, len(index) - 1)), Counter()

    def _timeline(self, index: Index, number: int) -> Timeline:
        """The timeline of a video, without windows yet."""
        return Timeline(
            self.style,
            num_frames=int(index.num_frames[number]),
            num_classes=sum(map(len, self.model.levels.values())),
            weighting=self.weighting,
        )

    def _score(self, batch: Batch) -> Iterator[tuple[str, int, npt.NDArray[np.float32] | None, str]]:
        """The windows of a batch: video, start, (num_classes,) probabilities or None, and why there are none."""
        scores = self.model.score(batch.inputs).numpy()
        columns = zip(batch.keys, batch.starts.tolist(), batch.mask.tolist(), scores, strict=True)
        for row, (key, start, counts, found) in enumerate(columns):
            if counts and not np.isfinite(found).all():
                raise VideoError(f"{self.model.source} gives {found} for the window at frame {start}")
            if counts or row in batch.problems:  # the rest only fills up the batch
                yield key, start, found if counts else None, batch.problems.get(row, "").removeprefix(f"{key}: ")

    def _describe(
        self, index: Index, one: Footage, number: int, timeline: Timeline, problems: Counter[str], shortened: str
    ) -> PredictedVideo:
        """What was predicted of a video."""
        probabilities, frames = timeline.finish(), index.frame_table(number)
        seconds = frame_seconds(frames.pts, frames.time_base)
        borders, classes = borders_of(seconds), self.model.classes
        events = find_events(
            probabilities[:, : len(classes)], borders, classes=classes, task=self.model.task, rules=self.rules
        )
        planned, failed = timeline.num_windows, timeline.num_failed
        return PredictedVideo(
            key=one.key,
            source=redact(one.location),
            seconds=seconds,
            borders=borders,
            probabilities=probabilities,
            events=events,
            windows={"planned": planned, "delivered": planned - failed, "skipped": failed},
            problems=dict(problems),
            shortened=shortened,
        )

    def _draw(self, index: Index, number: int, video: PredictedVideo, path: Path) -> PredictedVideo:
        """Write a video with the labels drawn in; where it cannot be, the same says why."""
        shard, offset, size = index.place(number)
        classes = self.model.classes
        drawing = Drawing(
            key=video.key,
            classes=classes,
            thresholds=[self.rules.thresholds[name] for name in classes],
            probabilities=video.probabilities[:, : len(classes)],
            events=video.events,
            borders=video.borders,
        )
        data = read_member(index.storage, Want(shard, offset, size, [(0, size)]))
        try:
            draw_video(data, index.frame_table(number), path, drawing, size=index.frame_size(number))
        except VideoError as error:
            path.unlink(missing_ok=True)
            return replace(video, not_drawn=str(error))
        return video

    def _content(self, report: PredictionReport) -> dict[str, Any]:
        """What events.json says besides the videos."""
        model, rules = self.model, self.rules
        return {
            "wildstream": version("wildstream"),
            "model": {
                "source": redact(model.source),
                "epoch": model.epoch,
                "task": model.task,
                "classes": list(model.classes),
                "levels": {name: list(classes) for name, classes in model.levels.items() if name},
                "size": list(model.size),
                "style": self.style.as_dict(),
            },
            "rules": {
                "weighting": self.weighting,
                "thresholds": rules.thresholds,
                "min_duration": rules.min_duration,
                "min_gap": rules.min_gap,
            },
            "refused": [{"path": path, "reason": reason} for path, reason in report.refused.items()],
        }


def _one_ahead(function: Callable[[int], T], items: Iterable[int]) -> Iterator[tuple[int, Future[T]]]:
    """Call a function for items in another thread, one ahead of the item that is handed over."""
    with ThreadPoolExecutor(1, "look") as threads:
        pending: deque[tuple[int, Future[T]]] = deque()
        for item in items:
            pending.append((item, threads.submit(function, item)))
            if len(pending) > 1:
                yield pending.popleft()
        yield from pending


def _refuse(report: PredictionReport, one: Footage, error: Exception) -> None:
    """Note a video that is left out."""
    report.refused[redact(one.location)] = redact(str(error))


def _note(report: PredictionReport, video: PredictedVideo) -> None:
    """Note a video that was predicted."""
    report.seconds[video.key] = video.duration
    if video.not_drawn:
        report.not_drawn[video.key] = video.not_drawn
    for event in video.events:
        report.events[event.label] += 1
        report.event_seconds[event.label] += event.stop_seconds - event.start_seconds
    if video.num_lacking:
        reasons = "; ".join(video.problems) or "it is too short for a window of the model's style"
        report.lacking[video.key] = (
            f"{video.num_lacking:,} of {len(video.seconds):,} frames have no probability: {reasons}"
        )


def render(report: PredictionReport) -> str:
    """What happens how often, as a table for people."""
    whole = sum(report.seconds.values())
    rows = [("class", "threshold", "events", "seconds", "share of time")]
    for name, count in report.events.items():
        lasting, above = report.event_seconds[name], f"{report.thresholds[name]:.3f}"
        rows.append((name, above, f"{count:,}", f"{lasting:,.1f}", f"{100 * lasting / whole:.1f} %"))
    videos = f"{len(report.seconds):,} video" + ("" if len(report.seconds) == 1 else "s")
    rows.append((videos, "", f"{sum(report.events.values()):,}", f"{whole:,.1f}", ""))
    return table(rows)

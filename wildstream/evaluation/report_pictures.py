"""Predictions and figures → the charts of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wildstream.evaluation.confusion import NOTHING, OTHERS, confuse
from wildstream.facts import borders_of, frame_seconds
from wildstream.pictures.charts import (
    MOST_NAMES,
    Bar,
    Curve,
    Panel,
    bar_chart,
    curve_chart,
    matrix_chart,
    panel_chart,
)
from wildstream.pictures.drawing import shorten
from wildstream.pictures.page import Picture
from wildstream.pictures.timelines import Bands, timeline_chart
from wildstream.training.metrics import THRESHOLD, decide

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.shards.formats import Task
    from wildstream.stream.dataset import WindowDataset
    from wildstream.training.predict import Predictions

    Bools = npt.NDArray[np.bool_]
    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

NAMED_CURVES = 8
FAINT_CURVES = 60
POINTS = 400
"""Points of a curve, at most."""
TIMELINE_VIDEOS = 12
FAULTLESS_VIDEOS = 3
"""Timelines that are drawn even where there is no mistake in them."""
TIMELINE_CLASSES = 12
FIGURES = {"precision": "precision", "recall": "recall", "f1": "F1"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LevelResult:
    """What was found of one level of classes; without a hierarchy there is one, of no name."""

    name: str
    """Of the level, or empty."""
    classes: Mapping[str, Mapping[str, Any]]
    """Figures of each class, as in the JSON."""
    predictions: Predictions
    """Of this level."""
    task: Task
    """What the targets mean."""
    intervals: Mapping[str, Mapping[str, Sequence[float] | None]]
    """For each class intervals of its figures, where there are any."""

    @property
    def names(self) -> list[str]:
        """Of the classes, in order of class number."""
        return list(self.classes)

    def stem(self, name: str) -> str:
        """The name of a picture's file."""
        safe = "".join(letter if letter.isalnum() else "_" for letter in self.name)
        return f"{name}_{safe}" if safe else name


def class_pictures(level: LevelResult) -> list[Picture]:
    """Average precision of the classes, and their precision, recall and F1."""
    chosen, note = _spread(level)
    bars = []
    for name in chosen:
        figures = level.classes[name]
        value = _number(figures.get("average_precision"))
        windows = f"{figures['windows']:,} windows"
        told = f"{value:.2f}   {windows}" if np.isfinite(value) else "does not occur"
        interval = level.intervals.get(name, {}).get("average_precision")
        mark = figures["chance"] if np.isfinite(value) else None
        low_high = (float(interval[0]), float(interval[1])) if interval else None
        bars.append(Bar(name=name, value=value, note=told, mark=mark, interval=low_high))
    whiskers = " Whiskers: 95% interval." if any(bar.interval for bar in bars) else ""
    values = np.array([[_number(level.classes[name].get(figure)) for figure in FIGURES] for name in chosen])
    texts = [["" if np.isnan(value) else f"{value:.2f}" for value in row] for row in values]
    rule = (
        f"A class is predicted where its probability is above {THRESHOLD}."
        if level.task == "multi_label"
        else "The class with the highest probability is predicted."
    )
    return [
        Picture(
            name=level.stem("classes"),
            png=bar_chart(bars, axis="average precision", mark="chance: the share of windows that have it", limit=1),
            alt="Bars: the average precision of each class",
            caption="How well each class is told from the rest: 1 is perfect, constant guessing reaches the line."
            f"{whiskers}{note}",
        ),
        Picture(
            name=level.stem("precision_recall_f1"),
            png=matrix_chart(
                values.reshape(-1, len(FIGURES)), rows=chosen, columns=list(FIGURES.values()), texts=texts
            ),
            alt="A table of colours: precision, recall and F1 of each class",
            caption="Precision: how many of the predictions are right. Recall: how many of those that are there are "
            f"found. F1: both together. {rule} Empty: not defined, since the class is never predicted or does not "
            f"occur.{note}",
        ),
    ]


def confusion_picture(level: LevelResult) -> Picture:
    """What was said where which class is there."""
    found = level.predictions
    confusion = confuse(found.probabilities, found.targets, level.names, task=level.task, most=MOST_NAMES)
    shares = confusion.shares
    counted = len(confusion.columns) <= MOST_NAMES // 2
    texts = [
        [
            "" if not count else f"{share:.0%}\n{count:,}" if counted else f"{100 * share:.0f}"
            for share, count in zip(line, counts, strict=True)
        ]
        for line, counts in zip(shares, confusion.counts.tolist(), strict=True)
    ]
    what = "share of the row's windows" + (", and their number" if counted else ", in percent")
    if level.task == "single_label":
        words = f"Each row is a class that is there, each column what was predicted: {what}. The diagonal is right."
    else:
        words = (
            f"Each row is a class that is there. On the diagonal the {what} in which it is predicted (at {THRESHOLD}); "
            f"beside it those in which another class is predicted that is not there; in {NOTHING} no class is. The row "
            f"{NOTHING} has the windows without any class. Outlined fields are right, all others are mistakes. Rows "
            "need not add up to 100%."
        )
    left = len(level.names) - min(len(level.names), MOST_NAMES)
    note = f" {left:,} more classes, with fewer mistakes, are together in {OTHERS}." if left else ""
    return Picture(
        name=level.stem("confusion"),
        png=matrix_chart(
            np.minimum(shares, 1),
            rows=[
                f"{name} ({count:,})" for name, count in zip(confusion.rows, confusion.windows.tolist(), strict=True)
            ],
            columns=confusion.columns,
            texts=texts,
            row_axis="what is there (windows)",
            column_axis="what was predicted",
            outline=confusion.right,
        ),
        alt="Confusion matrix",
        caption=words + note,
    )


def precision_recall_picture(level: LevelResult) -> Picture:
    """Precision over recall, for every threshold."""
    found, windows = level.predictions, [figures["windows"] for figures in level.classes.values()]
    order = [number for number in np.argsort(-np.array(windows), kind="stable").tolist() if windows[number]]
    curves = []
    for place, number in enumerate(order[:FAINT_CURVES]):
        scores, truth = found.probabilities[:, number], found.targets[:, number]
        name = level.names[number]
        figures = level.classes[name]
        label = f"{shorten(name, 36)}  {_number(figures['average_precision']):.2f}" if place < NAMED_CURVES else ""
        at = (figures["recall"], figures["precision"])
        point = (float(at[0]), float(at[1])) if label and level.task == "multi_label" and None not in at else None
        curves.append(_curve(label, scores, truth, point=point))
    if order:
        together = _curve("all decisions together", found.probabilities.ravel(), found.targets.ravel(), is_bold=True)
        curves.append(together)
    dots = f" Dots: where a class is predicted above {THRESHOLD}." if any(curve.point for curve in curves) else ""
    more = len(order) - NAMED_CURVES
    left = f" Named are the {NAMED_CURVES} classes with the most windows; others are grey." if more > 0 else ""
    return Picture(
        name=level.stem("precision_recall"),
        png=curve_chart(curves, x_axis="recall: share of what is there that is found", y_axis="precision"),
        alt="Precision–recall curves",
        caption="Each point of a line is a threshold on the probability: the lower it is, the more is found (to the "
        f"right) and the more is wrong (down). The number is the average precision, the area below.{dots}{left}",
    )


def precision_recall(scores: npt.NDArray[np.float32], truth: Bools) -> tuple[Floats, Floats]:
    """Recall and precision of decisions (n,) above each score that there is, (m,), from the highest score on."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # of equal scores
    hits = np.cumsum(truth[order])[last]
    return hits / max(1, int(truth.sum())), hits / (np.flatnonzero(last) + 1)


def _curve(name: str, scores: npt.NDArray[np.float32], truth: Bools, **options: Any) -> Curve:  # noqa: ANN401
    """The steps of a precision–recall curve; thinned out where it has more points than can be seen."""
    recall, precision = precision_recall(scores, truth)
    found = np.flatnonzero(np.diff(recall, prepend=0.0) > 0)  # where nothing more is found the area stays the same
    found = found[np.unique(np.linspace(0, len(found) - 1, min(len(found), POINTS)).round().astype(int))]
    recall, precision = recall[found], precision[found]
    return Curve(name=name, x=np.concatenate([[0.0], np.repeat(recall, 2)[:-1]]), y=np.repeat(precision, 2), **options)


def timeline_pictures(level: LevelResult, dataset: WindowDataset) -> tuple[list[Picture], int]:
    """Truth over prediction of the videos with the largest share of wrong windows; and how many videos are left out."""
    found = level.predictions
    said = decide(found.probabilities, level.task)
    names, videos = found.videos
    wrong = (said != found.targets).any(axis=1)
    windows = np.bincount(videos, minlength=len(names))
    mistakes = np.bincount(videos, wrong, minlength=len(names))
    shown = min(TIMELINE_VIDEOS, max(FAULTLESS_VIDEOS, int((mistakes > 0).sum())))
    worst = np.argsort(-mistakes / np.maximum(1, windows), kind="stable")[:shown].tolist()
    numbers = {key: number for number, key in enumerate(dataset.index.keys)}
    pictures = []
    for place, video in enumerate(worst, 1):
        rows = np.flatnonzero(videos == video)
        counts = (said[rows] | found.targets[rows]).sum(axis=0)
        labels = np.argsort(-counts, kind="stable")[:TIMELINE_CLASSES]
        labels = np.sort(labels[counts[labels] > 0])
        left = int((counts > 0).sum()) - len(labels)
        spans, length, unit = window_spans(dataset, numbers[names[video]], found.starts[rows])
        bands = Bands(
            names=[level.names[number] for number in labels],
            spans=spans,
            truth=found.targets[np.ix_(rows, labels)],
            found=said[np.ix_(rows, labels)],
            length=length,
            unit=unit,
            unlabelled=unlabelled_spans(dataset, numbers[names[video]]),
        )
        more = f"; {left} more classes, which are rarer here, are left out" if left else ""
        nothing = "" if len(labels) else "; no class is there or predicted"
        pictures.append(
            Picture(
                name=level.stem(f"timeline_{place:02}"),
                png=timeline_chart(bands),
                alt=f"Truth and prediction over time of {names[video]}",
                caption=f"{names[video]}: {int(mistakes[video]):,} of {int(windows[video]):,} windows have a mistake"
                f"{more}{nothing}.",
            )
        )
    return pictures, len(names) - len(worst)


def window_spans(dataset: WindowDataset, video: int, starts: Ints) -> tuple[Floats, float, str]:
    """Where the labels of a video's windows count: each from its middle frame to the next window's.

    Args:
        dataset: The windows.
        video: Number of the video in the index.
        starts: (n,) of its windows.

    Returns:
        (n, 2) from and until, the video's length, and their unit: seconds, or frames where no times are known.
    """
    style, count = dataset.style, int(dataset.index.num_frames[video])
    interval = style.temporal_sample_interval
    first = np.clip(starts + style.middle * interval, 0, max(0, count - 1))
    stop = np.clip(starts + (style.middle + style.step_size) * interval, first + 1, max(1, count))
    borders, unit = _borders(dataset, video)
    return np.stack([borders[first], borders[stop]], axis=1), float(borders[-1]), unit


def unlabelled_spans(dataset: WindowDataset, video: int) -> Floats:
    """The runs of a video's unlabelled frames, (n, 2) from and until, in the unit of `window_spans`."""
    runs, (borders, _) = dataset.index.track(video).unlabelled, _borders(dataset, video)
    return borders[runs]


def _borders(dataset: WindowDataset, video: int) -> tuple[Floats, str]:
    """When each frame of a video is first shown, and the last no longer; and the unit: seconds, or frames."""
    count, table = int(dataset.index.num_frames[video]), dataset.index.frame_table(video)
    if len(table.pts) != count or not count:
        return np.arange(max(1, count) + 1, dtype=np.float64), "frames"
    return borders_of(frame_seconds(table.pts, table.time_base)), "time (seconds)"


def training_picture(history: Sequence[Mapping[str, Any]], *, monitor: str) -> Picture | None:
    """How the training went, from the lines of its history.jsonl; None where there are none."""
    if not history:
        return None

    def curve(part: str, figure: str, name: str) -> Curve:
        values = [_number(line.get(part, {}).get(figure)) for line in history]
        return Curve(name=name, x=np.array([line["epoch"] for line in history], float), y=np.array(values))

    figure = "mAP" if monitor == "loss" else monitor
    others = [curve("val", "mAP_chance", "chance")] if figure == "mAP" else []
    panels = [
        Panel(title="loss", curves=[curve("train", "loss", "training"), curve("val", "loss", "validation")]),
        Panel(title=f"{figure}, validation", curves=[curve("val", figure, figure), *others]),
        Panel(title="learning rate", curves=[curve("train", "lr", "learning rate")]),
        Panel(title="windows per second", curves=[curve("train", "windows_per_second", "windows per second")]),
        Panel(
            title="share of the time that training waits for data",
            curves=[curve("train", "waiting_for_data", "waiting")],
            as_percent=True,
        ),
    ]
    return Picture(
        name="training",
        png=panel_chart(panels, x_axis="epoch"),
        alt="Curves of the training, epoch by epoch",
        caption=f"{len(history)} epochs; checkpoints are compared by {monitor} on the validation set. A training loss "
        "that falls while the validation loss rises means that the model learns its videos by heart.",
    )


def _spread(level: LevelResult) -> tuple[list[str], str]:
    """Classes for a chart, the best first; of too many those with the best and the worst average precision."""
    values = {name: _number(figures.get("average_precision")) for name, figures in level.classes.items()}
    order = sorted(
        values, key=lambda name: (np.isnan(values[name]), -values[name] if values[name] == values[name] else 0)
    )
    if len(order) <= MOST_NAMES:
        return order, ""
    defined = [name for name in order if not np.isnan(values[name])] or order
    if len(defined) > MOST_NAMES:
        defined = [*defined[: MOST_NAMES // 2], *defined[-(MOST_NAMES // 2) :]]
        what = f"the {MOST_NAMES // 2} best and the {MOST_NAMES // 2} worst"
    else:
        defined, what = defined[:MOST_NAMES], f"{min(len(defined), MOST_NAMES)} that occur"
    return defined, f" Of {len(order):,} classes {what} are drawn; the table has all."


def _number(value: float | None) -> float:
    """A figure of the JSON; NaN where it is not defined."""
    return float("nan") if value is None else float(value)

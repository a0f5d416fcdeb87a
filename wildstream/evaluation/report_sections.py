"""What the JSON of an evaluation may hold besides the figures of the classes → sections of its page.

A part that is not there has no section. One that is not known here is shown as a table of what it says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wildstream.pictures.charts import Curve, curve_chart
from wildstream.pictures.page import Html, Picture, Section, fold, heading, paragraph, show, table, verbatim

SHOWN_ELSEWHERE = {
    "schema_version",
    "checkpoint",
    "epoch",
    "data",
    "split",
    "fingerprint",
    "set",
    "categories",
    "task",
    "windows",
    "videos_count",
    "unlabelled",
    "predictions",
    "ledger",
    "metrics",
    "classes",
    "levels",
    "videos",
    "calibration",
    "bootstrap",
    "tolerance",
    "groups",
    "shuffled_frames",
    "training",
}
"""Parts of the JSON that have a place of their own, or are for programs."""
_CALIBRATED_CLASSES = 8


def shown(value: object) -> str:
    """A value of the JSON for people: – where a figure is not defined."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return str(value)


def interval_of(content: Mapping[str, Any], figure: str) -> str:
    """The interval of a figure of the whole set, such as "0.610–0.742"; empty where there is none."""
    interval = (content.get("bootstrap") or {}).get("metrics", {}).get(figure)
    return f"{interval[0]:.3f}–{interval[1]:.3f}" if interval else ""


def optional_sections(content: Mapping[str, Any]) -> tuple[list[Section], list[Picture]]:
    """The sections of what is there, and the pictures that they show."""
    sections, pictures = [], []
    if videos := content.get("videos"):
        sections.append(_videos(videos))
    if groups := content.get("groups"):
        sections.append(Section(title="Groups of classes", parts=[_groups(groups)]))
    if tolerance := content.get("tolerance"):
        sections.append(_tolerance(tolerance))
    if calibration := content.get("calibration"):
        picture = calibration_picture(calibration)
        pictures.append(picture)
        words = (
            f"Expected calibration error {shown(calibration['ece'])}: how far probability and share lie apart, on "
            f"average. Brier score {shown(calibration['brier'])}. 0 is perfect for both."
        )
        sections.append(Section(title="Calibration", parts=[show(picture), paragraph(words)]))
    if shuffled := content.get("shuffled_frames"):
        sections.append(_shuffled(shuffled, content["metrics"]))
    sections += [
        Section(title=name.replace("_", " ").capitalize(), parts=_generic(value))
        for name, value in content.items()
        if name not in SHOWN_ELSEWHERE and value not in (None, {}, [])
    ]
    return sections, pictures


def intervals_told(content: Mapping[str, Any]) -> str:
    """What the intervals are, or why there are none; empty where nothing is said of them."""
    bootstrap = content.get("bootstrap") or {}
    if "reason" in bootstrap:
        return f"There are no intervals: {bootstrap['reason']}."
    if not bootstrap.get("metrics"):
        return ""
    return (
        f"Intervals: within these lie {bootstrap['level']:.0%} of the figures where the {bootstrap['videos']:,} videos "
        f"are drawn anew {bootstrap['resamples']:,} times. With few videos they are wide, and still too narrow."
    )


def agreement_told(content: Mapping[str, Any]) -> str:
    """Whether the figures are what training said of the same windows; empty where nothing is said of it."""
    training = content.get("training") or {}
    if training.get("agrees") is None:
        return ""
    if training["agrees"]:
        return "The figures agree with what training said of the same windows."
    return (
        f"Training said otherwise of the same windows: {training['figure']} differs by "
        f"{shown(training['largest_difference'])}."
    )


def _groups(groups: Mapping[str, Mapping[str, Any]]) -> Html:
    """A row for each group."""
    return _table({name: {**group, "classes": len(group["classes"])} for name, group in groups.items()})


def _tolerance(tolerance: Sequence[Mapping[str, Any]]) -> Section:
    """The figures where predictions may be off by some windows."""
    columns = [
        name for name in ("mAP", "mAP_chance", "f1_macro", "f1_micro", "top1") if name in tolerance[0]["metrics"]
    ]
    rows = [(f"{one['windows']:,}", *(shown(one["metrics"].get(name)) for name in columns)) for one in tolerance]
    words = "How good the model is where a prediction may come so many windows too early or too late."
    return Section(title="Tolerance", parts=[table(["windows", *columns], rows, caption=words)])


def _shuffled(shuffled: Mapping[str, Any], metrics: Mapping[str, Any]) -> Section:
    """The figures beside those of clips whose frames are in another order."""
    rows = [
        (name, shown(metrics.get(name)), shown(value), shown(shuffled["difference"].get(name)))
        for name, value in shuffled["metrics"].items()
    ]
    words = (
        f"The frames of every clip in the order {', '.join(map(str, shuffled['permutation']))} (entropy "
        f"{shuffled['entropy']:.2f} bits). A model that is as good so looks at what is in the frames, not how it moves."
    )
    head = ["figure", "in order", "shuffled", "difference"]
    return Section(title="Shuffled frames", parts=[paragraph(words), table(head, rows)])


def calibration_picture(calibration: Mapping[str, Any]) -> Picture:
    """Whether probabilities are what they say."""
    classes = calibration.get("classes")
    of = {"all windows": calibration} if classes is None else dict(classes)
    most = sorted(of, key=lambda name: -sum(one["windows"] * one["probability"] for one in of[name].get("bins", [])))
    curves = [Curve(name="as they should be", x=np.array([0.0, 1.0]), y=np.array([0.0, 1.0]), is_bold=True)]
    for name in most[:_CALIBRATED_CLASSES]:
        bins = of[name].get("bins", [])
        x, y = (np.array([one[axis] for one in bins], np.float64) for axis in ("probability", "share"))
        curves.append(Curve(name=name, x=x, y=y))
    left = len(most) - _CALIBRATED_CLASSES
    return Picture(
        name="calibration",
        png=curve_chart(curves, x_axis="mean probability that the model gives", y_axis="share that holds", marker="o"),
        alt="Reliability diagram",
        caption="Of all decisions with probability 0.7, do 70% hold? On the black line they do; below it the model is "
        "too sure, above it not sure enough. A point stands for a fifteenth of the probabilities: some for few windows."
        + (f" {left:,} more classes are left out." if left > 0 else ""),
    )


def _videos(videos: Mapping[str, Mapping[str, Any]]) -> Section:
    """A row for each video, the worst first."""
    known = next(iter(videos.values()))
    figure = next((name for name in ("top1", "f1_micro", "mAP") if name in known), "loss")
    order = sorted(videos, key=lambda key: (videos[key].get(figure) is None, videos[key].get(figure) or 0.0, key))
    words = f"Those with the lowest {figure} first."
    rows = [(key, *(shown(videos[key].get(name)) for name in known)) for key in order]
    return Section(title="Videos", parts=[table(["video", *known], rows, caption=words)])


def _generic(value: Any) -> list[Html]:  # noqa: ANN401 - JSON
    """Any part of the JSON as tables; what is deeper than two levels as it is written."""
    if not isinstance(value, Mapping):
        if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
            return [_table({str(number): row for number, row in enumerate(value, 1)})]
        return [paragraph(shown(value))]
    plain = {name: it for name, it in value.items() if not isinstance(it, Mapping)}
    parts = [table(["", "value"], [(name, shown(it)) for name, it in plain.items() if _is_short(it)])] if plain else []
    nested = {name: it for name, it in value.items() if isinstance(it, Mapping)}
    if nested and all(not isinstance(cell, Mapping) for row in nested.values() for cell in row.values()):
        return [*parts, _table(nested)]
    for name, it in nested.items():
        parts += [heading(name.replace("_", " ")), *(_generic(it) if _depth(it) < 3 else [_written(it)])]
    return parts


def _table(rows: Mapping[str, Mapping[str, Any]]) -> Html:
    """Rows by name, of cells by name."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    return table(
        ["", *columns], [(name, *(shown(row.get(column)) for column in columns)) for name, row in rows.items()]
    )


def _is_short(value: object) -> bool:
    """Whether a value fits into a cell."""
    return not isinstance(value, list) or (len(value) <= 64 and not any(isinstance(it, Mapping | list) for it in value))


def _depth(value: object) -> int:
    """How many mappings lie within each other."""
    return 1 + max(map(_depth, value.values()), default=0) if isinstance(value, Mapping) else 0


def _written(value: Mapping[str, Any]) -> Html:
    """What is too deep for a table, folded."""
    lines: Sequence[str] = [f"{name}: {it}" for name, it in value.items()]
    return fold("details", verbatim("\n".join(lines)))

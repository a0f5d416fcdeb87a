"""An evaluation → tables and lines for people, on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from wildstream.tables import table

COLUMNS = {"average_precision": "AP", "precision": "precision", "recall": "recall", "f1": "F1"}
"""Figures of a class, and what their columns are called."""
FEW_VIDEOS = 20
"""Videos of which resamples say too little."""
WORST = 3
"""Videos that are named."""


def render_levels(content: Mapping[str, Any]) -> list[str]:
    """The figures of each class, a table and a line of those of the whole set for each level."""
    metrics = content["metrics"]
    if "levels" not in content:
        return [_render_level("class", content["classes"], metrics)]
    parts = []
    for name, level in content["levels"].items():
        own = {figure.removeprefix(f"{name}/"): it for figure, it in metrics.items() if figure.startswith(f"{name}/")}
        parts.append(_render_level(name, level["classes"], own))
    parts.append(f"loss of all levels {shown(metrics['loss'])}")
    return parts


def render_analyses(content: Mapping[str, Any]) -> list[str]:
    """What was looked at besides: a paragraph each; of a hierarchy the first level."""
    parts = [
        _render_thresholds(content["thresholds"]),
        _render_intervals(content),
        _render_tolerance(content["tolerance"]),
        _render_groups(content["groups"], content["task"]),
        _render_videos(content["videos"]),
        f"calibration: expected error {shown(content['calibration']['ece'])}, Brier score "
        f"{shown(content['calibration']['brier'])}",
        _render_shuffled(content["shuffled_frames"], content["metrics"]),
        _render_training(content["training"]),
    ]
    return [part for part in parts if part]


def shown(value: float | None) -> str:
    """A figure for people."""
    return "–" if value is None else f"{value:.3f}"


def _render_level(head: str, classes: Mapping[str, Any], metrics: Mapping[str, float | None]) -> str:
    """The figures of one level: a row for each class, their means, and what is of the whole split."""
    rows = [(head, "windows", "chance", *COLUMNS.values())]
    for name, figures in classes.items():
        rows.append((name, f"{figures['windows']:,}", *(shown(figures[column]) for column in ("chance", *COLUMNS))))
    means = [_mean(figures[column] for figures in classes.values()) for column in COLUMNS]
    rows.append(("mean", "", shown(metrics["mAP_chance"]), *map(shown, means)))
    in_table = ("mAP", "mAP_chance", "f1_macro")
    footer = "   ".join(f"{name} {shown(value)}" for name, value in metrics.items() if name not in in_table)
    return f"{table(rows)}\n\n{footer}"


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are defined; of average precision and F1 that is mAP and f1_macro."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _render_thresholds(thresholds: Mapping[str, Any] | None) -> str:
    """What holds above the thresholds that `predict` takes, in place of 0.5."""
    if thresholds is None:
        return ""
    rows: list[tuple[str, ...]] = [("class", "threshold", "precision", "recall", "F1")]
    for name, figures in thresholds.items():
        rows.append((name, *(shown(figures[column]) for column in ("threshold", "precision", "recall", "f1"))))
    means = [_mean(figures[column] for figures in thresholds.values()) for column in ("precision", "recall", "f1")]
    rows.append(("mean", "", *map(shown, means)))
    words = "Above, a class is predicted from 0.5 on. With the thresholds tuned on validation, which `predict` takes:"
    return f"{words}\n\n{table(rows)}"


def _render_intervals(content: Mapping[str, Any]) -> str:
    """Figures with their intervals, or why there are none."""
    bootstrap, metrics = content["bootstrap"], content["metrics"]
    if "metrics" not in bootstrap:
        return f"no intervals: {bootstrap['reason']}"
    level = next(iter(content["levels"])) + "/" if "levels" in content else ""
    parts = [
        f"{name} {shown(metrics[f'{level}{name}'])} [{found[0]:.2f}, {found[1]:.2f}]"
        for name, found in bootstrap["metrics"].items()
        if found is not None
    ]
    drawn = (
        f"{bootstrap['level']:.0%} of {bootstrap['resamples']:,} resamples of the {bootstrap['videos']:,} videos lie in"
    )
    few = "\n  (of so few videos these are too narrow)" if bootstrap["videos"] < FEW_VIDEOS else ""
    return f"{drawn}:\n  " + "   ".join(parts) + few


def _render_tolerance(tolerance: list[Mapping[str, Any]]) -> str:
    """A row for each figure, a column for each number of windows."""
    metrics = [one["metrics"] for one in tolerance]
    figures = [name for name in ("mAP", "precision_macro", "recall_macro", "f1_macro", "top1") if name in metrics[0]]
    rows = [("targets dilated by", *(str(one["windows"]) for one in tolerance))]
    rows += [(name.removesuffix("_macro"), *(shown(one[name]) for one in metrics)) for name in figures]
    return _aligned(rows)


def _render_groups(groups: Mapping[str, Any], task: str) -> str:
    """A row for each group; nothing where there is none."""
    if not groups:
        return ""
    columns = {"mAP_chance": "chance", "mAP": "AP", "precision": "precision", "recall": "recall", "f1_macro": "F1"}
    columns |= {"top1": "top1"} if task == "single_label" else {}
    rows = [("means of a group", "classes", "windows", *columns.values())]
    for name, figures in groups.items():
        counts = (f"{len(figures['classes']):,}", f"{figures['windows']:,}")
        rows.append((name, *counts, *(shown(figures[column]) for column in columns)))
    return _aligned(rows)


def _render_videos(videos: Mapping[str, Mapping[str, float | None]]) -> str:
    """The videos with the highest losses."""
    losses = {key: loss for key, of in videos.items() if (loss := of["loss"]) is not None}
    worst = sorted(losses, key=lambda key: -losses[key])[:WORST]
    if len(videos) < 2 or not worst:
        return ""
    named = "   ".join(f"{key} {losses[key]:.3f}" for key in worst)
    return f"highest loss of {len(videos):,} videos: {named}"


def _render_shuffled(shuffled: Mapping[str, Any] | None, metrics: Mapping[str, float | None]) -> str:
    """Figures with shuffled frames and how much they differ; nothing where that was not tried."""
    if shuffled is None:
        return ""
    parts = []
    for name in ("loss", "mAP", "f1_macro", "top1", "top5"):
        if metrics.get(name) is not None:
            difference = shuffled["difference"][name]
            by = "" if difference is None else f" ({difference:+.3f})"
            parts.append(f"{name} {shown(shuffled['metrics'][name])}{by}")
    order = " ".join(map(str, shuffled["permutation"]))
    return f"frames in the order {order} (entropy {shuffled['entropy']:.2f} bits):\n  " + "   ".join(parts)


def _render_training(training: Mapping[str, Any]) -> str:
    """Whether training and testing agree, in one line; nothing where they are of different splits."""
    if training["agrees"] is None:
        same = training["reason"].startswith("training was validated on")
        return "" if same else f"training and testing are not compared: {training['reason']}"
    difference = training["largest_difference"]
    far = "where one is not defined" if difference is None else f"by {difference:.2g}"
    if training["agrees"]:
        return f"training and testing agree: the figures of epoch {training['epoch']} differ {far} at most"
    return f"training and testing DISAGREE: {training['figure']} of epoch {training['epoch']} differs {far}"


def _aligned(rows: list[tuple[str, ...]]) -> str:
    """Rows in columns, the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )

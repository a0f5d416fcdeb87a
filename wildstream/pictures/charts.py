"""Names and numbers → charts: bars, matrices, curves, histograms, lines over epochs. NaN is not drawn.

Every function gives the bytes of a PNG, and takes as many names as fit; callers choose which, and say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from wildstream.pictures.drawing import COLOURS, FAINT, GRID, INK, bare, draw, shorten

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

MOST_NAMES = 30
"""Rows and columns of a chart that can be read."""
_WIDTH = 7.2
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar."""

    name: str
    """What it is of."""
    value: float
    """Its length; NaN where there is none."""
    note: str
    """What stands at its end."""
    mark: float | None = None
    """Where a line crosses it, to hold it against."""
    interval: tuple[float, float] | None = None
    """Where whiskers begin and end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One line."""

    name: str
    """What it is of; empty: it is one of many, drawn faintly and not named."""
    x: Floats
    """(n,) where its points are; NaN interrupts it."""
    y: Floats
    """(n,) likewise."""
    is_bold: bool = False
    """Whether it is that of all together."""
    point: tuple[float, float] | None = None
    """A point of it that is marked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One of several small charts that share what is below."""

    title: str
    """What it shows, with the unit."""
    curves: Sequence[Curve]
    """What is in it."""
    as_percent: bool = False
    """Whether its figures are shares."""
    is_log: bool = False
    """Whether each rule is ten times the one below."""


def bar_chart(bars: Sequence[Bar], *, axis: str, mark: str = "", limit: float | None = None) -> bytes:
    """Bars from left to right, the first on top.

    Args:
        bars: What to draw.
        axis: What their length means, with the unit.
        mark: What the lines across them mean.
        limit: Length that fills the chart; by default the longest bar's.
    """
    values = np.array([bar.value for bar in bars], np.float64)
    ends = [bar.interval[1] if bar.interval else bar.value for bar in bars] + [bar.mark or 0.0 for bar in bars]
    longest = limit or max((end for end in ends if np.isfinite(end)), default=0.0) or 1.0

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        places = np.arange(len(bars))
        axes.barh(places, np.nan_to_num(values), height=0.68, color=COLOURS[0], zorder=2)
        for place, bar in enumerate(bars):
            end = bar.value if np.isfinite(bar.value) else 0.0
            if bar.interval:
                axes.plot(bar.interval, (place, place), color=INK, linewidth=1.3, zorder=3)
                end = max(end, bar.interval[1])
            if bar.mark is not None:
                axes.plot((bar.mark, bar.mark), (place - 0.42, place + 0.42), color=COLOURS[1], linewidth=2, zorder=4)
                end = max(end, bar.mark)
            axes.text(end + longest * 0.012, place, bar.note, va="center", fontsize=8.5, color=INK)
        axes.set_xlim(0, longest * 1.17)
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_yticks(places, [shorten(bar.name) for bar in bars])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(axis)
        if mark and any(bar.mark is not None for bar in bars):
            line = mpl.lines.Line2D([], [], color=COLOURS[1], linewidth=2, label=mark)
            figure.legend(handles=[line], loc="outside upper left", fontsize=8.5)

    return draw(_WIDTH, 1.0 + 0.27 * max(1, len(bars)), paint)


def matrix_chart(
    values: Floats,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    texts: Sequence[Sequence[str]],
    row_axis: str = "",
    column_axis: str = "",
    outline: Sequence[tuple[int, int]] = (),
) -> bytes:
    """A field for each row and column, the darker the higher.

    Args:
        values: (rows, columns) within [0, 1]; NaN stays empty.
        rows: Their names.
        columns: Their names.
        texts: What is written in each field.
        row_axis: What rows are.
        column_axis: What columns are.
        outline: Fields with a border: row and column of each.
    """
    longest = max((max(map(len, line), default=0) for line in texts), default=0)
    side = 0.58 if longest > 4 or "\n" in "".join("".join(line) for line in texts) else 0.4
    names = 0.085 * max((len(shorten(name)) for name in (*rows, *columns)), default=0)
    slanted = max((len(shorten(name)) for name in columns), default=0) > 0.62 * side / 0.085
    width = max(3.2, side * len(columns) + names + 1.3)

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        image = axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        size = 8.5 if side > 0.5 or len(rows) * len(columns) < 400 else 7
        for row, line in enumerate(texts):
            for column, text in enumerate(line):
                colour = "white" if values[row, column] > 0.55 else INK
                axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour, linespacing=1.05)
        for row, column in outline:
            field = mpl.patches.Rectangle(
                (column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=COLOURS[4], linewidth=2
            )
            axes.add_patch(field)
        bare(axes)
        axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
        axes.grid(visible=True, which="minor", color=GRID, linewidth=0.8)
        axes.tick_params(which="minor", length=0)
        turned: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
        axes.set_xticks(np.arange(len(columns)), [shorten(name) for name in columns], **turned)
        axes.set_yticks(np.arange(len(rows)), [shorten(name) for name in rows])
        axes.set_ylabel(row_axis)
        axes.set_xlabel(column_axis)
        bar = figure.colorbar(image, ax=axes, format=PercentFormatter(1), fraction=0.03, pad=0.02, aspect=25)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=8)

    height = side * (0.8 if side > 0.5 else 0.75) * len(rows) + (names * 0.75 if slanted else 0.3) + 0.8
    return draw(width, max(1.7, height), paint)


def curve_chart(curves: Sequence[Curve], *, x_axis: str, y_axis: str, marker: str = "") -> bytes:
    """Curves over [0, 1] × [0, 1], named beside; with a marker, such as "o", each point is shown."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        number = _draw_curves(axes, curves, marker=marker)
        axes.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel=x_axis, ylabel=y_axis)
        if number:
            figure.legend(loc="outside upper left", fontsize=8.5, ncols=3)

    named = sum(1 for curve in curves if curve.name)
    return draw(_WIDTH, 4.2 + 0.2 * -(-named // 3), paint)


def panel_chart(panels: Sequence[Panel], *, x_axis: str) -> bytes:
    """Small charts over whole numbers, two side by side."""
    lines = -(-len(panels) // 2)

    def paint(figure: Figure) -> None:
        grid = figure.subplots(lines, 2, squeeze=False)
        for place, axes in enumerate(grid.flat):
            if place >= len(panels):
                axes.set_axis_off()
                continue
            panel = panels[place]
            named = _draw_curves(axes, panel.curves, marker="o")
            axes.set_title(panel.title, fontweight="normal", fontsize=9.5)
            axes.set_xlabel(x_axis)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            if panel.is_log:
                axes.set_yscale("log")
            elif not panel.as_percent:
                axes.margins(y=0.15)
            if panel.as_percent:
                axes.yaxis.set_major_formatter(PercentFormatter(1))
                axes.set_ylim(0, 1.02)
            if named > 1:
                axes.legend(fontsize=8.5)

    return draw(_WIDTH, 2.35 * lines, paint)


def histogram(values: Floats, *, x_axis: str, y_axis: str) -> bytes:
    """How many values lie where, and where their median is.

    Args:
        values: (n,) finite.
        x_axis: What they are, with the unit.
        y_axis: What is counted.
    """

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        if len(values):
            low, high = float(values.min()), float(values.max())
            alike = high - low <= 1e-6 * max(1.0, abs(high))  # all of one length, but for rounding: one bar
            margin = 0.5 * max(1e-3, abs(high) * 0.1) if alike else 0.0
            number = 1 if alike else int(np.clip(np.sqrt(len(values)) * 1.5, 5, 40))
            axes.hist(values, bins=number, range=(low - margin, high + margin), color=COLOURS[0], edgecolor="white")
            middle = float(np.median(values))
            axes.axvline(middle, color=COLOURS[1], linewidth=1.8, label=f"median {middle:,.4g}")
            figure.legend(loc="outside upper left", fontsize=8.5)
        axes.grid(visible=False, axis="x")
        axes.set(xlabel=x_axis, ylabel=y_axis)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))

    return draw(_WIDTH, 2.7, paint)


def _label(name: str) -> str:
    """A name for the legend, which leaves out what begins with an underscore."""
    short = shorten(name, 44)
    return f" {short}" if short.startswith("_") else short


def _draw_curves(axes: Axes, curves: Sequence[Curve], *, marker: str) -> int:
    """Draw curves in colours and dashes of their own; how many have names."""
    number = 0
    for curve in curves:
        if not curve.name:
            axes.plot(curve.x, curve.y, color=GRID, linewidth=1, zorder=1)
            continue
        if curve.is_bold:
            axes.plot(curve.x, curve.y, color=INK, linewidth=2.6, label=_label(curve.name), zorder=4)
            continue
        colour, dash = COLOURS[number % len(COLOURS)], _DASHES[number // 2 % len(_DASHES)]
        style = {"marker": marker, "markersize": 3.5} if marker and len(curve.x) <= 40 else {}
        axes.plot(curve.x, curve.y, color=colour, linestyle=dash, label=_label(curve.name), zorder=3, **style)  # type: ignore[arg-type]
        if curve.point is not None:
            axes.plot(*curve.point, marker="o", color=colour, markeredgecolor=FAINT, markersize=7, zorder=5)
        number += 1
    return number

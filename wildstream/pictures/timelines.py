"""What is there and what was said, over the time of a video: a row for each class, truth above prediction.

contact     ██████        ████      what is there: dark
             █████  ▒▒▒             what was said: one colour where it is right, another where nothing is above
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from wildstream.pictures.drawing import FAINT, GRID, INK, RIGHT, WRONG, draw, shorten

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bands:
    """What there is to draw of one video."""

    names: Sequence[str]
    """Of the classes, (K,)."""
    spans: Floats
    """(n, 2) where each window's label counts: from and until."""
    truth: Bools
    """(n, K) what is there."""
    found: Bools
    """(n, K) what was said."""
    length: float
    """Of the video."""
    unit: str
    """Of spans and length, such as seconds."""
    unlabelled: Floats = field(default_factory=lambda: np.zeros((0, 2)))
    """(m, 2) from and until, of which nobody said what is there; drawn hatched."""


def timeline_chart(bands: Bands) -> bytes:
    """The bands of one video."""
    rows = max(1, len(bands.names))

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for row, (truth, found) in enumerate(zip(bands.truth.T, bands.found.T, strict=True)):
            axes.axhline(row, color=GRID, linewidth=0.6, zorder=0)
            _bars(axes, bands.spans, truth, INK, row - 0.36)
            _bars(axes, bands.spans, found & truth, RIGHT, row + 0.02)
            _bars(axes, bands.spans, found & ~truth, WRONG, row + 0.02)
        for start, stop in bands.unlabelled.tolist():
            axes.axvspan(start, stop, facecolor="none", edgecolor=GRID, hatch="////", linewidth=0, zorder=1)
        axes.set_xlim(0, max(bands.length, 1e-6))
        axes.set_ylim(rows - 0.45, -0.55)
        axes.set_yticks(range(len(bands.names)), [shorten(name) for name in bands.names])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(bands.unit)
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_color(FAINT)
        keys = ((INK, "is there"), (RIGHT, "predicted, rightly"), (WRONG, "predicted, wrongly"))
        patches = [Patch(color=colour, label=text) for colour, text in keys]
        figure.legend(handles=patches, loc="outside upper left", ncols=3, fontsize=8.5, handlelength=1.2)

    return draw(7.2, 1.05 + 0.34 * rows, paint)


def runs(spans: Floats, happens: Bools) -> list[tuple[float, float]]:
    """Windows that follow each other, as (from, length); a gap, where a window did not decode, ends a run.

    Args:
        spans: (n, 2), in order of time.
        happens: (n,).
    """
    places = np.flatnonzero(happens)
    if not len(places):
        return []
    touches = (np.diff(places) == 1) & (spans[places[1:], 0] <= spans[places[:-1], 1] + 1e-6)
    firsts = places[np.concatenate([[True], ~touches])]
    lasts = places[np.concatenate([~touches, [True]])]
    return [
        (float(spans[first, 0]), float(spans[last, 1] - spans[first, 0]))
        for first, last in zip(firsts, lasts, strict=True)
    ]


def _bars(axes: Axes, spans: Floats, happens: Bools, colour: str, top: float) -> None:
    """One half of a row; what is too short to be seen is drawn as a hair."""
    if found := runs(spans, happens):
        axes.broken_barh(found, (top, 0.34), facecolors=colour, edgecolors=colour, linewidth=0.4, zorder=2)

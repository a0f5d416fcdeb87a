"""A function that paints → a PNG: one look for all charts, the same bytes for the same input, and no display.

Colours are those of Okabe and Ito, which people with any colour vision tell apart, on opaque white, which reads on
light and on dark pages.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PAPER, INK, FAINT, GRID = "#ffffff", "#1f2328", "#59636e", "#d8dee4"
"""Background, text and lines, what matters less, and rules."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#000000")
"""To tell series apart, in this order."""
RIGHT, WRONG = COLOURS[0], COLOURS[1]
"""What a model said rightly, and wrongly."""
PIXELS_PER_INCH = 96
"""Of a page, as browsers count them."""
DENSITY = 1.75
"""Pixels of a PNG for each pixel of the page: sharp on fine screens too."""
LONGEST_NAME = 26
"""Letters of a name that are drawn; the tables of a page have all of them."""
_LOOK: dict[str, Any] = {
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called $x$
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}
_OTHER_SCRIPTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "WenQuanYi Zen Hei",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
)


def draw(width: float, height: float, paint: Callable[[Figure], None]) -> bytes:
    """Paint a figure of so many inches; the bytes of a PNG, without the time or the program in it.

    Letters that no font here has become boxes, in silence: the tables of a page have them as text.
    """
    look: Any = {**_LOOK, "font.family": _fonts()}
    with mpl.rc_context(look), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from")
        figure = Figure(figsize=(width, height), facecolor=PAPER, layout="constrained")
        FigureCanvasAgg(figure)
        paint(figure)
        data = BytesIO()
        figure.savefig(data, format="png", dpi=PIXELS_PER_INCH * DENSITY, metadata={"Software": None})
    return data.getvalue()


def shorten(name: str, longest: int = LONGEST_NAME) -> str:
    """A name in one line and not too long."""
    line = " ".join(name.split()) or " "
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def bare(axes: Axes) -> Axes:
    """Axes without rules, ticks and borders."""
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


@cache
def _fonts() -> list[str]:
    """Matplotlib's own font, and for other scripts those of this machine."""
    # Reading the fonts of a machine for the first time is told at level INFO, some that are broken as warnings.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    there = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in _OTHER_SCRIPTS if name in there)]

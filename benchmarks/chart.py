"""The chart of `benchmarks.windows`: a panel for each case, a bar for each way, whiskers from minimum to maximum."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PAPER, INK, FAINT, OURS, OTHERS, LINE = "#ffffff", "#1f2328", "#6e7781", "#0969da", "#afb8c1", "#d1242f"
"""An opaque light card, which reads on light and on dark pages."""
FAMILIES = (
    "WildStream",
    "whole video, then sliced",
    "torchcodec per window",
    "decord per window",
    "PyAV per clip",
    "SPDL per window",
    "saved as .npy beforehand",
)


@contextmanager
def plotting(path: Path) -> Iterator[Any]:
    """matplotlib.pyplot in the style of these charts; where it is missing, None, and it is said."""
    try:
        import matplotlib
    except ImportError:
        print(
            f"{path.name} is not drawn: matplotlib is not installed; pip install 'wildstream[bench]'", file=sys.stderr
        )
        yield None
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"font.family": "DejaVu Sans", "font.size": 9, "text.color": INK, "axes.labelcolor": INK}):
        yield pyplot


def draw_windows(result: dict[str, Any], path: Path) -> None:
    """Write the chart; where matplotlib is missing, say so."""
    cases = result["cases"]
    steps = sorted({case["step"] for case in cases})
    rows = sorted({(case["height"], case["gop"]) for case in cases})
    width, height = 1.7 + 2.9 * len(steps), 0.75 + 2.05 * len(rows)
    with plotting(path) as pyplot:
        if pyplot is None:
            return
        figure, grid = pyplot.subplots(
            len(rows),
            len(steps),
            figsize=(max(width, 6.2), height),
            squeeze=False,
            facecolor=PAPER,
            layout="constrained",
        )
        for axes in grid.flat:
            axes.set_axis_off()
        for case in cases:
            row, column = rows.index((case["height"], case["gop"])), steps.index(case["step"])
            _panel(grid[row][column], case, names=column == 0)
        figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)
        figure.suptitle(
            f"Windows per second on {result['cores']} cores: clips of 16 frames at 224×224, batches of 8",
            fontsize=11,
            fontweight="bold",
        )
        figure.supxlabel(
            "median; whiskers: minimum to maximum · red line: what decoding alone, without conversion, would allow",
            fontsize=8,
            color=FAINT,
        )
        figure.savefig(path, dpi=130, facecolor=PAPER)
        pyplot.close(figure)


def _panel(axes: Any, case: dict[str, Any], *, names: bool) -> None:  # noqa: ANN401 - matplotlib's Axes
    """One case; of each family the fastest variant."""
    bars = []
    for family in FAMILIES:
        variants = [one for one in case["peers"].values() if one["family"] == family]
        measured = [one["windows_per_second"] for one in variants if "windows_per_second" in one]
        bars.append(max(measured, key=lambda rate: rate["median"]) if measured else None)
    top = max((bar["max"] for bar in bars if bar), default=1.0)
    allowed = case["ceilings"].get("torchcodec_blocks", {}).get("windows_per_second_allowed")
    axes.set_axis_on()
    for place, (family, bar) in enumerate(zip(FAMILIES, bars, strict=True)):
        ours = family == FAMILIES[0]
        style = {"va": "center", "fontsize": 8, "fontweight": "bold" if ours else "normal", "color": INK}
        if bar is None:
            axes.text(top * 0.02, place, "not measured", **{**style, "color": FAINT})
            continue
        axes.barh(place, bar["median"], height=0.68, color=OURS if ours else OTHERS)
        axes.plot([bar["min"], bar["max"]], [place, place], color=INK, linewidth=1.1, solid_capstyle="butt")
        for end in (bar["min"], bar["max"]):
            axes.plot([end, end], [place - 0.16, place + 0.16], color=INK, linewidth=1.1)
        median = bar["median"]
        axes.text(bar["max"] + top * 0.03, place, f"{median:.0f}" if median >= 10 else f"{median:.1f}", **style)
    if allowed is not None and allowed["median"] < top * 1.6:
        axes.axvline(allowed["median"], color=LINE, linewidth=1, linestyle=(0, (3, 2)), zorder=0)
        top = max(top, allowed["median"])
    axes.set_xlim(0, top * 1.22)
    axes.set_ylim(len(FAMILIES) - 0.45, -0.55)
    axes.set_yticks(range(len(FAMILIES)), FAMILIES if names else [""] * len(FAMILIES))
    if names:
        axes.get_yticklabels()[0].set_fontweight("bold")
    axes.set_xticks([])
    axes.tick_params(length=0, colors=INK)
    axes.set_facecolor(PAPER)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color(FAINT)
    axes.set_title(f"step {case['step']} · GOP {case['gop']} · {case['height']}p", fontsize=9, loc="left", color=INK)

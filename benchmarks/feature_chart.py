"""The chart of `benchmarks.features`: a panel for each shape of a window, a bar for each way, on a logarithmic axis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.chart import FAINT, INK, LINE, OTHERS, OURS, PAPER, plotting

FAMILIES = {
    "WildStream": ("wildstream",),
    "safetensors per video, kept open": ("safetensors",),
    "LitData": ("litdata", "litdata_2_workers"),
    ".npy per window": ("folders_per_window",),
    "MosaicML streaming": ("mosaicml", "mosaicml_2_workers", "mosaicml_indexed"),
    "webdataset": ("webdataset", "webdataset_2_workers"),
    ".npy per frame (WildFins)": ("folders_per_frame",),
}
"""Ways, of which the fastest is shown."""
CEILING = "memory_copy"


def draw_features(result: dict[str, Any], path: Path) -> None:
    """Write the chart; where matplotlib is missing, say so."""
    with plotting(path) as pyplot:
        if pyplot is None:
            return
        figure, grid = pyplot.subplots(
            1, len(result), figsize=(10, 3.2), squeeze=False, facecolor=PAPER, layout="constrained"
        )
        for place, (shape, found) in enumerate(result.items()):
            _panel(grid[0][place], shape, found, names=place == 0)
        figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)
        cores = next(iter(result.values()))["cores"]
        figure.suptitle(
            f"Windows of features per second from local files, on {cores} cores: shuffled, batches of 64",
            fontsize=11,
            fontweight="bold",
        )
        figure.supxlabel(
            "logarithmic; median; whiskers: minimum to maximum · red line: copying the same batches within memory",
            fontsize=8,
            color=FAINT,
        )
        figure.savefig(path, dpi=130, facecolor=PAPER)
        pyplot.close(figure)


def _panel(axes: Any, shape: str, found: dict[str, Any], *, names: bool) -> None:  # noqa: ANN401 - matplotlib's Axes
    """One shape; of each family the fastest way."""
    rates = found["windows_per_second"]
    bars = []
    for ways in FAMILIES.values():
        measured = [rates[way] for way in ways if way in rates]
        bars.append(max(measured, key=lambda rate: rate["median"]) if measured else None)
    known = [bar for bar in bars if bar] + [rates[CEILING]]
    low, top = min(bar["min"] for bar in known) / 3, max(bar["max"] for bar in known)
    axes.set_xscale("log")
    axes.set_xlim(low, top * (top / low) ** 0.18)
    for place, (family, bar) in enumerate(zip(FAMILIES, bars, strict=True)):
        ours = family == "WildStream"
        style = {"va": "center", "fontsize": 8, "fontweight": "bold" if ours else "normal", "color": INK}
        behind = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.8}
        if bar is None:
            axes.text(low * 1.1, place, "not measured", **{**style, "color": FAINT})
            continue
        axes.barh(place, bar["median"] - low, left=low, height=0.68, color=OURS if ours else OTHERS)
        axes.plot([bar["min"], bar["max"]], [place, place], color=INK, linewidth=1.1, solid_capstyle="butt")
        for end in (bar["min"], bar["max"]):
            axes.plot([end, end], [place - 0.16, place + 0.16], color=INK, linewidth=1.1)
        axes.text(bar["max"] * (top / low) ** 0.015, place, _short(bar["median"]), bbox=behind, **style)
    axes.axvline(rates[CEILING]["median"], color=LINE, linewidth=1, linestyle=(0, (3, 2)), zorder=0)
    axes.set_ylim(len(FAMILIES) - 0.45, -0.55)
    axes.set_yticks(range(len(FAMILIES)), list(FAMILIES) if names else [""] * len(FAMILIES))
    if names:
        axes.get_yticklabels()[0].set_fontweight("bold")
    axes.set_xticks([])
    axes.minorticks_off()
    axes.tick_params(length=0, colors=INK)
    axes.set_facecolor(PAPER)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color(FAINT)
    size = found["bytes_of_a_window"] / 1000
    axes.set_title(f"{shape.replace('x', ' × ')} fp16 · {size:.1f} kB a window", fontsize=9, loc="left", color=INK)


def _short(rate: float) -> str:
    """A rate in two or three figures."""
    if rate < 1000:
        return f"{rate:.0f}"
    return f"{rate / 1000:.1f}k" if rate < 10_000 else f"{rate / 1000:.0f}k"

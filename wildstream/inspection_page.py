"""Packed shards → a page for people: what they hold, and windows to look at. Only those are decoded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wildstream.inspection import PAIRS_SHOWN, Contents, durations_told, share, shuffle_rows, time_told
from wildstream.pictures.charts import MOST_NAMES, Bar, bar_chart, histogram, matrix_chart
from wildstream.pictures.clips import film_strips
from wildstream.pictures.page import Page, Picture, Section, Tile, cards, heading, paragraph, show, table, verbatim
from wildstream.storage import urls
from wildstream.stream.quality import compare_shuffles

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.stream.dataset import WindowDataset
    from wildstream.stream.loader import Loader

    Ints = npt.NDArray[np.int64]

PER_CLASS = 3
"""Windows of each class that are shown."""
CLASSES_SHOWN = 20
"""Classes of which windows are shown."""


def write_page(path: Path, dataset: WindowDataset, *, seed: int = 0, loader: Loader | None = None) -> None:
    """Write what a dataset holds as one HTML file.

    Args:
        path: The file.
        dataset: Of videos.
        seed: Chooses the windows that are shown.
        loader: Its epoch's shuffling is described; None leaves that out.

    Raises:
        ShardError: A shard cannot be read.
    """
    page = make_page(dataset, seed=seed, loader=loader)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(page.render(), encoding="utf-8")
    temporary.replace(path)


def make_page(dataset: WindowDataset, *, seed: int = 0, loader: Loader | None = None) -> Page:
    """The page; arguments as those of `write_page`."""
    contents, index = Contents(dataset=dataset), dataset.index
    with_class = contents.num_labelled - contents.without_class
    known = contents.seconds[~np.isnan(contents.seconds)]
    tiles = [
        Tile(name="videos", value=f"{len(index):,}", note=f"{int(index.num_frames.sum()):,} frames"),
        Tile(name="length", value=time_told(float(known.sum())) if len(known) else "–", note="of all videos together"),
        Tile(
            name="windows", value=f"{len(dataset):,}", note=f"{share(with_class, contents.num_labelled)} have a label"
        ),
        Tile(name="classes", value=f"{len(index.categories):,}", note=index.info.task.replace("_", " ")),
    ]
    sections = [_classes(contents), *_together(contents), _durations(contents), _sheet(contents, seed)]
    sections += [] if loader is None else [_shuffling(loader)]
    style = [(name, str(value)) for name, value in dataset.style.as_dict().items()]
    sections.append(Section(title="Sliding style", parts=[table(["parameter", "value"], style)]))
    facts = [("split", index.info.split), ("shards", urls.redact(index.folder)), ("packed by", index.info.packed_by)]
    return Page(title=f"Data of {index.info.split}", facts=facts, tiles=tiles, sections=sections)


def _classes(contents: Contents) -> Section:
    """How many windows each class has."""
    names, total = contents.dataset.categories, contents.num_labelled
    order = np.argsort(-contents.windows, kind="stable").tolist()
    bars = [
        Bar(name=names[n], value=float(contents.windows[n]), note=share(int(contents.windows[n]), total)) for n in order
    ]
    bars = bars[:MOST_NAMES]
    bars.append(Bar(name="(no label)", value=float(contents.without_class), note=share(contents.without_class, total)))
    left = len(names) - MOST_NAMES
    more = f" Drawn are the {MOST_NAMES} most frequent of {len(names):,} classes." if left > 0 else ""
    told = f" {told[0].upper()}{told[1:]}." if (told := contents.unlabelled_told()) else ""
    several = " A window may have several." if contents.dataset.index.info.task == "multi_label" else ""
    picture = Picture(
        name="classes",
        png=bar_chart(bars, axis="windows"),
        alt="Bars: windows of each class",
        caption=f"Windows of each class, and their share of all windows.{several}{more}{told}",
    )
    rows = [
        (names[n], f"{contents.frames[n]:,}", f"{contents.windows[n]:,}", share(int(contents.windows[n]), total))
        for n in order
    ]
    rows.append(("(no label)", "", f"{contents.without_class:,}", share(contents.without_class, total)))
    return Section(title="Classes", parts=[show(picture), table(["class", "frames", "windows", "share"], rows)])


def _together(contents: Contents) -> list[Section]:
    """Which classes happen together; nothing where none do."""
    pairs = contents.pairs()
    if not pairs:
        return []
    names = contents.dataset.categories
    most = np.sort(np.argsort(-contents.windows, kind="stable")[:MOST_NAMES])
    most = most[contents.windows[most] > 0]
    both = contents.together[np.ix_(most, most)]
    shares = both / contents.windows[most][:, np.newaxis]
    texts = [
        ["" if not count else f"{100 * part:.0f}" for part, count in zip(*line, strict=True)]
        for line in zip(shares, both, strict=True)
    ]
    left = len(names) - len(most)
    more = f" {left:,} classes that are rarer, or never there, are left out." if left else ""
    picture = Picture(
        name="together",
        png=matrix_chart(
            shares,
            rows=[f"{names[n]} ({contents.windows[n]:,})" for n in most],
            columns=[names[n] for n in most],
            texts=texts,
            row_axis="has (windows)",
            column_axis="has too (%)",
        ),
        alt="Matrix: which classes happen in the same windows",
        caption=f"Of the windows that have the row's class, the percentage that has the column's too.{more}",
    )
    rows = [(f"{names[first]} + {names[second]}", f"{count:,}") for first, second, count in pairs[:PAIRS_SHOWN]]
    return [Section(title="Together", parts=[show(picture), table(["most frequent pairs", "windows"], rows)])]


def _durations(contents: Contents) -> Section:
    """How long videos last."""
    known = contents.seconds[~np.isnan(contents.seconds)]
    picture = Picture(
        name="durations",
        png=histogram(known, x_axis="duration (seconds)", y_axis="videos"),
        alt="Histogram: durations of the videos",
        caption=f"{durations_told(contents.seconds)}.",
    )
    return Section(title="Durations", parts=[show(picture)])


def _sheet(contents: Contents, seed: int) -> Section:
    """Windows of each class to look at."""
    groups = sample_windows(contents, seed=seed)
    numbers = np.unique(np.concatenate([np.zeros(0, np.int64), *groups.values()]))
    strips = film_strips(contents.dataset, numbers)
    dataset, names = contents.dataset, contents.dataset.categories
    videos, starts = dataset.addresses()
    words = "Windows at random, of each class: do the labels fit what is seen? The frames run from left to right."
    left = len(names) - sum(number is not None for number in groups)
    parts = [paragraph(words)]
    for of_class, windows in groups.items():
        items = []
        for n in windows.tolist():
            labels = ", ".join(names[number] for number in np.flatnonzero(contents.labels[n])) or "no label"
            facts = [("video", dataset.index.keys[videos[n]]), ("from frame", f"{starts[n]:,}")]
            items.append((strips.get(n), labels, facts))
        parts += [heading("(no label)" if of_class is None else names[of_class]), cards(items)]
    if left:
        classes = "1 class" if left == 1 else f"{left:,} classes"
        parts.append(paragraph(f"Not shown: {classes} without windows, or rarer than these."))
    return Section(title="Windows", parts=parts)


def sample_windows(contents: Contents, *, seed: int) -> dict[int | None, Ints]:
    """Running numbers of windows at random, by class number, the most frequent class first; and of no class (None).

    The same seed gives the same windows of a class, whatever other classes there are.
    """
    labels = contents.labels
    order = np.argsort(-contents.windows, kind="stable")[:CLASSES_SHOWN].tolist()
    members: dict[int | None, Ints] = {number: np.flatnonzero(labels[:, number]) for number in order}
    members[None] = np.flatnonzero(contents.labelled & ~labels.any(axis=1))

    def choose(number: int, windows: Ints) -> Ints:
        drawn = np.random.default_rng([seed, number]).choice(windows, min(PER_CLASS, len(windows)), replace=False)
        return np.sort(drawn)

    none = labels.shape[1]
    return {
        number: choose(none if number is None else number, windows)
        for number, windows in members.items()
        if len(windows)
    }


def _shuffling(loader: Loader) -> Section:
    """How well an epoch is shuffled."""
    rows, notes = shuffle_rows(compare_shuffles(loader), batch_size=loader.batch_size)
    words = (
        f"In batches of {loader.batch_size}. Good orders put many videos into a batch, and windows that lie side by "
        "side in a video, which look alike, far apart: in a full permutation a third of the epoch."
    )
    parts = [paragraph(words), table(rows[0], rows[1:]), *map(paragraph, notes), verbatim(str(loader))]
    return Section(title="Shuffling", parts=parts)

"""What packed shards hold, on the terminal and as a page: by brute force from the labels themselves."""

import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from browser import look_at
from matplotlib.figure import Figure
from tiny import clips_shards, frames_shards

import wildstream as ws
from wildstream.cli import main
from wildstream.inspection import Contents, describe_dataset, describe_shuffles, durations_told, time_told
from wildstream.inspection_page import PER_CLASS, make_page, sample_windows
from wildstream.pictures.charts import Curve, _draw_curves, histogram
from wildstream.pictures.clips import film_strips, running_numbers


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ws.WindowDataset:
    return ws.DatasetBuilder(path=frames_shards(tmp_path_factory) / "train", style="frames_w_temp").build()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> ws.WindowDataset:
    return ws.DatasetBuilder(path=clips_shards(tmp_path_factory) / "train", style="frames_w_temp").build()


def test_classes_that_happen_together_are_counted(dataset):
    contents, labels = Contents(dataset=dataset), dataset.labels()
    for first in range(3):
        for second in range(3):
            assert contents.together[first, second] == (labels[:, first] & labels[:, second]).sum()
    both = int((labels[:, 0] & labels[:, 1]).sum())
    assert contents.pairs() == [(0, 1, both)]
    shown = describe_dataset(dataset)
    (line,) = [line for line in shown.splitlines() if line.startswith("bright + red")]
    of = [f"{both / labels[:, number].sum():.1%}" for number in (0, 1)]
    assert line.split()[3:] == [str(both), *of]


def test_one_label_each_has_no_pairs(clips):
    assert Contents(dataset=clips).pairs() == []
    assert "together" not in describe_dataset(clips)
    assert "<h2>Together" not in make_page(clips).render()


def test_durations_are_those_of_the_videos(dataset):
    np.testing.assert_allclose(Contents(dataset=dataset).seconds, [0.8, 0.8, 0.8])
    assert "2.4 s in all; a video lasts 0.8 s to 0.8 s, half of them up to 0.8 s" in describe_dataset(dataset)
    assert durations_told(np.array([np.nan])) == "durations are not known"
    assert [time_told(value) for value in (0.04, 61, 3600 * 26 + 59)] == ["0.0 s", "1 min 01 s", "26 h 00 min"]


def test_what_is_too_small_to_shuffle_has_no_nan(dataset):
    shown = describe_shuffles(dataset.loader(batch_size=100, shuffle=True, size=32))
    assert "nan" not in shown
    assert "The epoch has fewer windows than one batch of 100: --batch-size takes a smaller one." in shown
    assert "MB" in shown or "kB" in shown
    alone = ws.SlidingStyle(window_size=16, samples_per_window=1, step_size=100, padding="none")
    single = ws.WindowDataset(index=dataset.index, style=alone)
    shown = describe_shuffles(single.loader(batch_size=1, shuffle=True, size=32))
    assert "nan" not in shown
    assert "No two windows lie side by side in a video." in shown


def test_the_page_says_what_the_terminal_says(dataset):
    page = unescape(make_page(dataset, loader=dataset.loader(batch_size=4, shuffle=True, size=32)).render())
    contents = Contents(dataset=dataset)
    for name, frames, windows in zip(dataset.categories, contents.frames, contents.windows, strict=True):
        row = f"<tr><th scope=row>{name}</th><td>{frames:,}</td><td>{windows:,}</td><td>{windows / 60:.1%}</td></tr>"
        assert row in page
    for title in ("Classes", "Together", "Durations", "Windows", "Shuffling", "Sliding style"):
        assert f"<h2>{title}</h2>" in page
    assert "full permutation" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)


def test_the_windows_that_are_shown_are_of_their_classes(dataset):
    contents = Contents(dataset=dataset)
    groups = sample_windows(contents, seed=1)
    assert dataset.categories[:2] == ["bright", "red"]
    assert set(groups) == {0, 1, None}, "a class without windows has none to show"
    for number in range(2):
        assert len(set(groups[number].tolist())) == PER_CLASS
        assert contents.labels[groups[number], number].all()
    assert not contents.labels[groups[None]].any()
    again, other = (sample_windows(contents, seed=seed) for seed in (1, 2))
    assert all(np.array_equal(groups[number], again[number]) for number in groups)
    assert any(not np.array_equal(groups[number], other[number]) for number in groups)


def test_what_is_not_shown_is_counted(dataset, clips):
    assert "Not shown: 1 class without windows, or rarer than these." in make_page(dataset).render()  # never
    assert clips.labels().any(axis=0).all()
    assert "Not shown" not in make_page(clips).render()


def test_durations_that_differ_by_rounding_alone_are_one_bar():
    assert histogram(np.array([1.6, 1.5999999999999996]), x_axis="seconds", y_axis="videos").startswith(b"\x89PNG")


def test_a_name_with_an_underscore_has_its_place_in_the_legend():
    """Matplotlib leaves out labels that begin with one."""
    figure = Figure()
    axes = figure.add_subplot()
    _draw_curves(axes, [Curve(name=name, x=np.arange(2), y=np.arange(2)) for name in ("_grooming", "walk")], marker="")
    assert [name.strip() for name in axes.get_legend_handles_labels()[1]] == ["_grooming", "walk"]


def test_the_same_seed_gives_the_same_page(dataset):
    pages = [make_page(dataset, seed=seed).render() for seed in (3, 3, 4)]
    assert pages[0] == pages[1] != pages[2]


@pytest.mark.parametrize(
    "style",
    [
        ws.SlidingStyle(window_size=4, samples_per_window=2, step_size=2),
        ws.SlidingStyle(window_size=4, samples_per_window=4, step_size=2, patch_h=2, patch_w=2),
        ws.SlidingStyle(window_size=7, samples_per_window=7, padding="none", temporal_sample_interval=2),
        ws.SlidingStyle(window_size=1, samples_per_window=1, data_ndim=3),
    ],
    ids=["clips", "patches", "prime", "frames"],
)
def test_strips_are_of_the_windows_that_were_asked_for(dataset, style):
    """A strip is as bright as the frames of its window, which the labels say."""
    from io import BytesIO

    from PIL import Image

    styled = ws.WindowDataset(index=dataset.index, style=style)
    windows = np.arange(0, len(styled), 3)
    strips = film_strips(styled, windows)
    assert sorted(strips) == windows.tolist()
    videos, starts = styled.addresses()
    for number, jpeg in strips.items():
        image = np.asarray(Image.open(BytesIO(jpeg)), np.float32)
        assert image.shape[0] == 96
        used = style.frames(
            np.array([(starts[number] + style.pad_front) // (style.step_size * style.temporal_sample_interval)]), 20
        )
        bright = dataset.index.track(videos[number]).rows()[used[0], 0]
        if bright.all() or not bright.any():
            assert (image[..., 1].mean() > 90) == bool(bright.all()), number
    keys = [styled.index.keys[video] for video in videos]
    assert np.array_equal(running_numbers(styled, keys, starts), np.arange(len(styled)))
    assert running_numbers(styled, ["nowhere"], starts[:1]).tolist() == [-1]


def test_inspect_writes_the_page(tmp_path, tmp_path_factory, capsys):
    shards = frames_shards(tmp_path_factory) / "val"
    page = tmp_path / "new" / "data.html"
    arguments = [
        "inspect",
        str(shards),
        "--style",
        "frames_w_temp",
        "--html",
        str(page),
        "--shuffle",
        "--batch-size",
        "64",
    ]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert f"page: {page}" in shown
    assert "nan" not in shown
    assert "Data of val" in page.read_text()
    assert main(["inspect", str(shards), "--html", str(tmp_path)]) == 1
    assert "IsADirectoryError" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_chromium_opens_the_page_without_a_complaint(dataset, tmp_path: Path, width):
    path = tmp_path / "data.html"
    path.write_text(make_page(dataset).render())
    seen = look_at(path, width=width)
    assert (seen.complaints, seen.requests, seen.overflow) == ([], [], 0)
    assert len(seen.images) > 6
    assert all(complete and pixels > 0 for complete, pixels in seen.images)

"""How well an order is shuffled, against definitions by brute force; and what people see of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import frames_shards

import wildstream as ws
from wildstream.cli import main
from wildstream.stream.plan import Order, make_plan
from wildstream.stream.quality import buffered_order, compare_shuffles, neighbour_distance, videos_per_batch
from wildstream.stream.windows import get_style

counts = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@given(counts, st.integers(1, 5), st.randoms(use_true_random=False))
def test_both_figures_are_what_their_definitions_say(counts, batch_size, random):
    first = np.concatenate([[0], np.cumsum(counts)])
    video_of = [video for video, count in enumerate(counts) for _ in range(count)]
    order = list(range(len(video_of)))
    random.shuffle(order)
    batches = [order[n : n + batch_size] for n in range(0, len(order) - batch_size + 1, batch_size)]
    expected = np.mean([len({video_of[w] for w in batch}) for batch in batches]) if batches else np.nan
    assert videos_per_batch(np.array(order), first, batch_size) == pytest.approx(expected, nan_ok=True)
    distances = [
        abs(order.index(w) - order.index(w + 1)) for w in range(len(order) - 1) if video_of[w] == video_of[w + 1]
    ]
    expected = np.mean(distances) / len(order) if distances else np.nan
    assert neighbour_distance(np.array(order), first) == pytest.approx(expected, nan_ok=True)


@given(counts, st.integers(1, 40), st.integers(0, 5))
def test_the_buffer_gives_each_window_once(counts, size, seed):
    first = np.concatenate([[0], np.cumsum(counts)])
    order = buffered_order(np.arange(first[-1]), first, size, seed=seed)
    assert sorted(order.tolist()) == list(range(first[-1]))


def test_the_planned_order_mixes_like_a_full_permutation_and_far_better_than_a_buffer():
    frames = np.random.default_rng(0).integers(200, 3000, 200)
    style = get_style("sliding_window_w_temp")
    plan = make_plan(frames, style, Order())
    mixed = videos_per_batch(plan.order, plan.first_window, 32)
    permutation = np.random.default_rng(0).permutation(len(plan))
    buffer = buffered_order(np.arange(len(plan)), plan.first_window, 400, seed=0)
    assert mixed > 0.97 * videos_per_batch(permutation, plan.first_window, 32)
    assert mixed > 3 * videos_per_batch(buffer, plan.first_window, 32)
    assert neighbour_distance(plan.order, plan.first_window) > 2 * neighbour_distance(buffer, plan.first_window)


def test_a_comparison_has_all_three_orders(tmp_path_factory):
    dataset = ws.DatasetBuilder(path=frames_shards(tmp_path_factory) / "train", style="frames_w_temp").build()
    planned, buffer, permutation = compare_shuffles(dataset.loader(batch_size=4, shuffle=True, size=32))
    assert planned.pool_bytes == buffer.pool_bytes > 0
    assert permutation.pool_bytes is None
    assert buffer.name.startswith("buffer of ")
    for quality in (planned, buffer, permutation):
        assert 1 <= quality.videos_per_batch <= 3
        assert 0 < quality.neighbour_distance < 1


def test_inspect_describes_shards(tmp_path_factory, capsys):
    shards = frames_shards(tmp_path_factory) / "train"
    assert main(["inspect", str(shards), "--style", "frames_w_temp", "--shuffle", "--batch-size", "4"]) == 0
    shown = capsys.readouterr().out
    index = ws.open_index(shards)
    rows = np.concatenate([index.track(video).rows() for video in range(len(index))])
    assert "3 videos, 60 frames, 60 windows, multi_label" in shown
    for number, name in enumerate(index.categories):
        (line,) = [line for line in shown.splitlines() if line.startswith(f"{name} ") and " + " not in line]
        count = int(rows[:, number].sum())
        assert line.split()[1:] == [str(count), str(count), f"{count / 60:.1%}"]
    for text in ("no label", "planned", "buffer of", "full permutation", "frames converted for"):
        assert text in shown
    assert main(["inspect", str(shards / "nothing")]) == 1
    assert "no dataset.json" in capsys.readouterr().err

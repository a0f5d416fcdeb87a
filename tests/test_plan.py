"""The order of an epoch: each window once, whatever the ranks, known before a video is opened."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wildstream.errors import ConfigError
from wildstream.stream.plan import Order, Share, make_plan, num_batches, segment_starts
from wildstream.stream.windows import SlidingStyle

lengths = st.lists(st.integers(0, 90), max_size=12)
styles = st.builds(
    lambda window, step, interval: SlidingStyle(
        window_size=window, samples_per_window=window, step_size=step, temporal_sample_interval=interval
    ),
    st.integers(1, 8),
    st.integers(1, 5),
    st.integers(1, 3),
)
orders = st.builds(
    Order,
    shuffle=st.booleans(),
    seed=st.integers(0, 99),
    lanes=st.sampled_from([1, 2, 4, 6, 24]),
    pool_segments=st.integers(1, 4),
    segment_frames=st.integers(1, 64),
)


def streams(plan, *, batch_size, world_size, tail):
    """What each rank gets, by position: (video, window, real)."""
    result = []
    for rank in range(world_size):
        stream = {}
        share = Share(batch_size=batch_size, rank=rank, world_size=world_size, tail=tail)
        for segment in plan.segments(share):
            for window, position, real in zip(segment.windows, segment.positions, segment.real, strict=True):
                assert position not in stream, "two windows at one place"
                stream[int(position)] = (segment.video, int(window), bool(real))
        assert sorted(stream) == list(range(len(stream))), "a gap in the stream"
        result.append([stream[place] for place in range(len(stream))])
    return result


@given(lengths, styles, orders, st.integers(1, 8), st.integers(1, 5))
def test_the_ranks_together_deliver_each_window_once(lengths, style, order, world_size, batch_size):
    plan = make_plan(np.array(lengths, np.int64), style, order)
    expected = [(video, w) for video, frames in enumerate(lengths) for w in range(int(style.num_windows(frames)))]
    assert len(plan) == len(expected)
    ranks = streams(plan, batch_size=batch_size, world_size=world_size, tail="pad")
    batches = num_batches(len(plan), Share(batch_size=batch_size, world_size=world_size))
    assert [len(stream) for stream in ranks] == [batches * batch_size] * world_size
    delivered = [(video, window) for stream in ranks for video, window, real in stream if real]
    assert sorted(delivered) == expected
    if not order.shuffle:
        assert delivered == expected


@given(lengths, styles, st.integers(1, 5), st.sampled_from([1, 2, 3]))
def test_dropping_the_tail_leaves_out_less_than_a_batch_per_rank(lengths, style, batch_size, world_size):
    plan = make_plan(np.array(lengths, np.int64), style, Order())
    ranks = streams(plan, batch_size=batch_size, world_size=world_size, tail="drop")
    delivered = [item for stream in ranks for item in stream]
    assert len(set(delivered)) == len(delivered)
    assert all(real for _, _, real in delivered)
    assert len({len(stream) for stream in ranks}) == 1
    assert len(plan) - len(delivered) < batch_size * world_size


@given(lengths, styles, st.integers(0, 9))
def test_the_sequence_of_global_batches_is_the_same_for_every_number_of_ranks(lengths, style, seed):
    plan = make_plan(np.array(lengths, np.int64), style, Order(seed=seed, lanes=24))
    one = streams(plan, batch_size=12, world_size=1, tail="drop")[0]
    for world_size in (2, 3, 4, 6, 12):
        ranks = streams(plan, batch_size=12 // world_size, world_size=world_size, tail="drop")
        together = [ranks[p % world_size][p // world_size] for p in range(len(one))]
        assert together == one


@given(lengths, styles, orders, st.integers(0, 4))
def test_the_rest_of_an_epoch_is_what_the_whole_would_have_given(lengths, style, order, skipped):
    plan = make_plan(np.array(lengths, np.int64), style, order)
    whole = streams(plan, batch_size=3, world_size=1, tail="pad")[0]
    rest = {}
    for segment in plan.segments(Share(batch_size=3, skip=3 * skipped)):
        for window, position, real in zip(segment.windows, segment.positions, segment.real, strict=True):
            rest[int(position)] = (segment.video, int(window), bool(real))
    assert [rest[place] for place in range(len(rest))] == whole[3 * skipped :]


STYLE = SlidingStyle(window_size=2, samples_per_window=2, step_size=1, padding="none")


def test_one_small_permutation_to_the_letter():
    """A change of the order makes every run of everyone differ; it must be on purpose."""
    order = Order(seed=7, lanes=2, pool_segments=2, segment_frames=4)
    key_frames = np.array([[0, 0], [0, 7], [1, 0], [2, 0]])
    plan = make_plan(np.array([12, 9, 10]), STYLE, order, epoch=3, key_frames=key_frames)
    assert plan.order[:14].tolist() == [5, 23, 6, 4, 1, 22, 19, 24, 13, 17, 2, 3, 16, 0]
    assert plan.order[14:].tolist() == [18, 27, 12, 11, 20, 21, 10, 14, 15, 25, 9, 26, 7, 8]


def test_seed_and_epoch_decide_the_order():
    frames = np.full(20, 40)
    first = make_plan(frames, STYLE, Order(seed=0), epoch=0).order
    assert (first == make_plan(frames, STYLE, Order(seed=0), epoch=0).order).all()
    for seed, epoch in ((0, 1), (1, 0)):
        other = make_plan(frames, STYLE, Order(seed=seed), epoch=epoch).order
        assert (first != other).mean() > 0.9


def test_neighbouring_windows_are_far_apart_and_few_segments_are_open():
    order = Order(lanes=4, pool_segments=3, segment_frames=16)
    plan = make_plan(np.full(100, 100), STYLE, order)
    place = np.empty(len(plan), np.int64)
    place[plan.order] = np.arange(len(plan))
    distance = np.abs(np.diff(place))
    assert np.median(distance) > 20
    segments = list(plan.segments(Share(batch_size=1)))
    opened = np.sort([segment.positions.min() for segment in segments])
    closed = np.sort([segment.positions.max() for segment in segments])
    open_at = [np.searchsorted(opened, p, "right") - np.searchsorted(closed, p, "left") for p in range(len(plan))]
    assert max(open_at) <= order.lanes * (2 * order.pool_segments + 2)


@pytest.mark.parametrize("frames", [[], [0], [1, 1, 1], [5]])
def test_empty_and_tiny_splits(frames):
    plan = make_plan(np.array(frames, np.int64), STYLE, Order())
    assert len(plan) == (4 if frames == [5] else 0)
    assert len(list(plan.segments(Share(batch_size=3)))) == min(len(plan), 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"lanes": 0}, "lanes=0"), ({"pool_segments": 0}, "pool_segments=0"), ({"seed": -1}, "seed=-1")],
)
def test_orders_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Order(**options)


@given(lengths, styles, orders, st.integers(1, 8), st.integers(1, 4), st.integers(1, 5))
def test_the_workers_of_a_rank_have_each_place_once(lengths, style, order, world_size, workers, batch_size):
    plan = make_plan(np.array(lengths, np.int64), style, order)
    for rank in range(world_size):
        whole = Share(batch_size=batch_size, rank=rank, world_size=world_size)
        expected = list(range(batch_size * plan.num_batches(whole)))
        shares = [replace(whole, worker=worker, num_workers=workers) for worker in range(workers)]
        assert sorted(place for share in shares for place in plan.positions(share).tolist()) == expected
        for share in shares:
            places = [place for segment in plan.segments(share) for place in segment.positions.tolist()]
            assert sorted(places) == plan.positions(share).tolist()
        segments = sum(len(list(plan.segments(share))) for share in shares)
        assert segments == len(list(plan.segments(whole))), "a segment is decoded by two workers"


@given(lengths, styles, orders, st.data())
def test_a_drawn_epoch_has_exactly_the_drawn_windows(lengths, style, order, data):
    total = int(style.num_windows(np.array(lengths, np.int64)).sum())
    drawn = sorted(data.draw(st.lists(st.integers(0, max(0, total - 1)), max_size=40 if total else 0)))
    plan = make_plan(np.array(lengths, np.int64), style, order, drawn=np.array(drawn, np.int64))
    assert sorted(plan.order.tolist()) == drawn
    (stream,) = streams(plan, batch_size=2, world_size=1, tail="pad")
    numbers = [int(plan.first_window[video]) + window for video, window, real in stream if real]
    assert numbers == plan.order.tolist()


@pytest.mark.parametrize(
    "frames",
    [
        [400],  # one video
        [3] * 1000,  # shorter than a window
        [900_000, *[50] * 1000],  # ten hours among two seconds
        [17] * 5,  # fewer windows than lanes
        [],
    ],
    ids=["one video", "all too short", "one huge", "fewer than lanes", "empty"],
)
@pytest.mark.parametrize("world_size", [1, 4, 8])
def test_pathological_lengths_give_equal_steps(frames, world_size):
    style = SlidingStyle(window_size=16, samples_per_window=16, step_size=8, padding="none")
    plan = make_plan(np.array(frames, np.int64), style, Order(lanes=24))
    assert len(plan) == int(style.num_windows(np.array(frames, np.int64)).sum())
    ranks = streams(plan, batch_size=4, world_size=world_size, tail="pad")
    assert len({len(stream) for stream in ranks}) == 1
    assert sum(real for stream in ranks for _, _, real in stream) == len(plan)


def test_a_long_video_is_spread_over_all_lanes():
    style = SlidingStyle(window_size=16, samples_per_window=16, step_size=8)
    plan = make_plan(np.array([900_000, *[50] * 1000]), style, Order(lanes=8))
    videos = np.searchsorted(plan.first_window, plan.order, side="right") - 1
    per_lane = [(videos[lane::8] == 0).mean() for lane in range(8)]
    assert min(per_lane) > 0.8  # 112,500 of 118,500 windows are of the long one


@pytest.mark.parametrize("broken", ["dropped", "doubled"])
def test_the_tests_above_notice_a_window_that_is_lost_or_doubled(broken):
    plan = make_plan(np.array([50, 60]), STYLE, Order())
    order = plan.order.copy()
    if broken == "doubled":
        order[5] = order[6]
        mutant = replace(plan, order=order)
    else:
        mutant = replace(plan, order=order[:-1], segment=plan.segment[:-1])
    delivered = sorted((v, w) for v, w, real in streams(mutant, batch_size=1, world_size=1, tail="pad")[0] if real)
    expected = [(video, w) for video, frames in enumerate([50, 60]) for w in range(int(STYLE.num_windows(frames)))]
    assert delivered != expected


@given(lengths, styles, orders)
def test_a_segment_converts_no_more_than_the_overlap_twice(lengths, style, order):
    plan = make_plan(np.array(lengths, np.int64), style, order)
    per_video: dict[int, list[np.ndarray]] = {}
    for segment in plan.segments(Share(batch_size=1)):
        frames = np.unique(style.frames(segment.windows, lengths[segment.video]))
        assert len(frames) <= max(order.segment_frames, style.window_size)
        per_video.setdefault(segment.video, []).append(frames)
    if order.shuffle and order.lanes > 1:
        return  # a segment on the border of two lanes is cut at random places, and decoded in both
    for segments in per_video.values():
        segments.sort(key=lambda frames: int(frames[0]))
        for one, other in pairwise(segments):
            assert len(np.intersect1d(one, other)) <= max(0, style.window_size - style.step_size)


videos = st.lists(
    st.integers(1, 400).flatmap(
        lambda length: st.tuples(st.just(length), st.lists(st.integers(1, length), max_size=12).map(sorted))
    ),
    min_size=1,
    max_size=6,
)
"""Lengths, and the key frames behind the first."""


def in_rows(chosen):
    """Key frames as a plan takes them."""
    return np.array(
        [(v, frame) for v, (length, more) in enumerate(chosen) for frame in (0, *more) if frame < length], np.int32
    )


@given(videos, styles, st.integers(4, 64))
def test_segments_are_cut_as_by_hand(chosen, style, segment_frames):
    """Against a definition with loops: even cuts, each moved to the nearest window that begins behind a key frame."""
    order = Order(segment_frames=segment_frames)
    counts = style.num_windows([length for length, _ in chosen])
    longest, most = order.segment_windows(style), order.most_windows(style)
    expected, base = set(), 0
    for (length, more), count in zip(chosen, counts.tolist(), strict=True):
        first_frames = [int(style.starts(window)) for window in range(count)]
        borders = {0, count} | {sum(start < key for start in first_frames) for key in more if key < length}
        for piece in range(pieces := -(-count // longest)):
            cut = min(window for window in range(count) if window * pieces >= piece * count)
            below, above = max(b for b in borders if b <= cut), min(b for b in borders if b >= cut)
            nearest = below if cut - below <= above - cut else above
            if above - below <= most or abs(cut - nearest) <= most // 4:
                cut = nearest
            expected.add(base + cut)
        base += count
    starts = segment_starts(counts, style, order, in_rows(chosen)).tolist()
    assert sorted({start for start in starts if start < base}) == sorted(start for start in expected if start < base)
    lengths = np.diff(sorted({*starts, base}))
    assert max(lengths, default=0) <= most


@given(videos, styles, orders, st.booleans())
def test_key_frames_decide_what_is_decoded_together_and_no_more(chosen, style, order, some):
    lengths = np.array([length for length, _ in chosen], np.int64)
    total = int(style.num_windows(lengths).sum())
    drawn = np.sort(np.random.default_rng(0).integers(0, total, total)) if some and total else None
    plan = make_plan(lengths, style, order, drawn=drawn, key_frames=in_rows(chosen))
    assert sorted(plan.order) == (list(range(total)) if drawn is None else drawn.tolist())
    for segment in plan.segments(Share(batch_size=1)):
        assert len(set(segment.windows.tolist())) <= order.most_windows(style)


@pytest.mark.parametrize("gop", [12, 30, 100, 250])
def test_segments_decode_little_that_they_do_not_need(gop):
    """Every cut at a key frame: what a segment decodes before its first window is less than a window's step."""
    style = SlidingStyle(window_size=16, samples_per_window=16, step_size=4, padding="none")
    lengths = np.full(40, 2000)
    keys = in_rows([(2000, list(range(gop, 2000, gop)))] * 40)
    plan = make_plan(lengths, style, Order(), key_frames=keys)
    begins = [int(style.starts(segment.windows[0])) for segment in plan.segments(Share(batch_size=32))]
    by_lanes = sum(begin % gop >= style.step_size for begin in begins)
    assert by_lanes < Order().lanes, "only the borders of lanes cut segments elsewhere"


def test_small_splits_have_fewer_lanes_and_are_decoded_about_once():
    style = SlidingStyle(window_size=16, samples_per_window=16, step_size=4, padding="none")
    plan = make_plan(np.full(8, 600), style, Order(lanes=48), key_frames=in_rows([(600, [250, 500])] * 8))
    segments = list(plan.segments(Share(batch_size=8)))
    frames = sum(len(np.unique(style.frames(segment.windows, 600))) for segment in segments)
    assert len(segments) <= 8 * 3 + 6
    assert frames < 1.25 * 8 * 600

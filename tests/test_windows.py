"""Windows and labels against their definition, frame by frame."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wildstream.errors import ConfigError
from wildstream.shards.labels import LabelTrack
from wildstream.stream.windows import SlidingStyle, get_style, style_names


@st.composite
def styles(draw):
    samples = draw(st.integers(1, 6))
    window = samples * draw(st.integers(1, 4))
    return SlidingStyle(
        window_size=window,
        samples_per_window=samples,
        tolerance_region=draw(st.integers(0, (window - 1) // 2)),
        step_size=draw(st.integers(1, 9)),
        temporal_sample_interval=draw(st.integers(1, 5)),
        padding=draw(st.sampled_from(["edge", "none"])),
    )


@st.composite
def tracks(draw):
    num_frames, num_classes = draw(st.integers(1, 70)), draw(st.integers(1, 3))
    bits = draw(st.lists(st.booleans(), min_size=num_frames * num_classes, max_size=num_frames * num_classes))
    return LabelTrack.from_rows(np.array(bits, bool).reshape(num_frames, num_classes))


def windows_by_definition(style: SlidingStyle, rows: np.ndarray):
    """Lay the padded video out as a list of source frames, and walk over it."""
    num_frames = len(rows)
    padded = list(range(num_frames))
    if style.padding == "edge":
        padded = [0] * ((style.window_size - 1) // 2) + padded + [num_frames - 1] * (style.window_size // 2)
    offset = -((style.window_size - 1) // 2) if style.padding == "edge" else 0
    kept = [
        (source, place + offset) for place, source in enumerate(padded) if place % style.temporal_sample_interval == 0
    ]
    middle = (style.window_size - 1) - style.window_size // 2
    for first in range(0, len(kept), style.step_size):
        window = kept[first : first + style.window_size]
        if len(window) < style.window_size:
            return
        label = np.zeros(rows.shape[1], bool)
        for source, _ in window[middle - style.tolerance_region : middle + style.tolerance_region + 1]:
            label |= rows[source]
        used = [source for source, _ in window][:: style.window_size // style.samples_per_window]
        yield window[0][1], used, label


@given(styles(), tracks())
def test_addresses_frames_and_labels_follow_the_definition(style, track):
    expected = list(windows_by_definition(style, track.rows()))
    count = int(style.num_windows(track.num_frames))
    assert count == len(expected)
    numbers = np.arange(count)
    assert style.starts(numbers).tolist() == [start for start, _, _ in expected]
    assert style.frames(numbers, track.num_frames).tolist() == [frames for _, frames, _ in expected]
    assert style.labels(track).tolist() == [label.tolist() for _, _, label in expected]


@given(styles(), tracks(), st.data())
def test_any_windows_can_be_asked_for(style, track, data):
    count = int(style.num_windows(track.num_frames))
    chosen = np.array(data.draw(st.lists(st.integers(0, max(0, count - 1)), max_size=8 if count else 0)), np.int64)
    assert (style.labels(track, chosen) == style.labels(track)[chosen]).all()
    all_frames = style.frames(np.arange(count), track.num_frames)
    assert (style.frames(chosen, track.num_frames) == all_frames[chosen]).all()


@given(styles(), st.lists(st.integers(0, 200), max_size=8))
def test_counts_of_many_videos_are_those_of_each(style, lengths):
    assert style.num_windows(lengths).tolist() == [int(style.num_windows(length)) for length in lengths]


def test_a_picture_of_one_style():
    style = SlidingStyle(window_size=4, samples_per_window=2, step_size=2, temporal_sample_interval=2)
    # padded: 0 0 1 2 3 4 5 6 7 7 7, every second: 0 1 3 5 7 7
    assert style.num_windows(8) == 2
    assert style.starts([0, 1]).tolist() == [-1, 3]
    assert style.frames([0, 1], 8).tolist() == [[0, 3], [3, 7]]
    assert style.label_frames([0, 1], 8).tolist() == [[1], [5]]


WILDFINS = {
    "frames": (1, 0, 1, 1, 3, 2),
    "frames_w_temp": (1, 0, 1, 1, 3, 1),
    "sliding_window": (16, 7, 16, 8, 4, 2),
    "sliding_window_w_temp": (16, 7, 16, 8, 4, 1),
    "sliding_window_w_stride": (16, 7, 16, 16, 4, 2),
    "fix_patched_224": (1, 0, 1, 1, 4, 2),
    "fix_patched_512": (1, 0, 1, 1, 4, 2),
    "test_frames": (1, 0, 1, 1, 3, 1),
    "test_sliding_window": (16, 0, 16, 1, 4, 1),
    "test_fix_patched_512": (1, 0, 1, 1, 4, 1),
}


def test_the_styles_that_come_with_the_package_are_those_of_wildfins():
    assert set(style_names()) == set(WILDFINS)
    for name, values in WILDFINS.items():
        style = get_style(name)
        found = (
            style.window_size,
            style.tolerance_region,
            style.samples_per_window,
            style.step_size,
            style.data_ndim,
            style.temporal_sample_interval,
        )
        assert found == values, name
        side = next((int(part) for part in name.split("_") if part.isdigit()), None)
        assert (style.patch_type, style.patch_h, style.patch_w) == (
            ("absolute", side, side) if side else ("relative", 1, 1)
        )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"window_size": 0}, r"window_size=0 must be a whole number of at least 1"),
        ({"step_size": 1.5}, r"step_size=1.5 must be a whole number"),
        (
            {"window_size": 16, "samples_per_window": 5},
            r"samples_per_window=5 must divide window_size=16. Take one of 1, 2, 4, 8",
        ),
        ({"window_size": 16, "tolerance_region": 8}, r"tolerance_region=8 must lie within \[0, 7\]"),
        ({"padding": "zero"}, r"padding='zero' must be one of 'edge', 'none'"),
        ({"data_ndim": 5}, r"data_ndim=5 must be one of 3, 4"),
        ({"patch_type": "round"}, r"patch_type='round' must be one of"),
        ({"data_ndim": 3}, r"data_ndim=3 means single frames"),
        ({"data_ndim": 3, "window_size": 1, "samples_per_window": 1, "patch_h": 2}, r"data_ndim=3 means single frames"),
    ],
)
def test_styles_that_contradict_themselves_are_refused(parameters, message):
    with pytest.raises(ConfigError, match=message):
        SlidingStyle(**parameters)


def test_an_unknown_style_is_refused_with_those_that_exist():
    with pytest.raises(ConfigError, match=r"style='slide' is not known. Take one of fix_patched_224, .*sliding_window"):
        get_style("slide")
    with pytest.raises(ConfigError, match="is not known"):
        get_style("../train")

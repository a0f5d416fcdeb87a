"""Prediction: windows stitched into frames, frames into events, and the folder that comes out."""

import csv
import json
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import moving_pattern, read_tensor, write_rows, write_video
from hypothesis import given, settings
from hypothesis import strategies as st
from test_damage import damage
from tiny import frames_shards, tiny_config

import wildstream as ws
from wildstream.cli import main
from wildstream.errors import ConfigError, LedgerError, VideoError
from wildstream.facts import borders_of, frame_seconds
from wildstream.prediction import draw
from wildstream.prediction import predict as predicting
from wildstream.prediction.boris import AGGREGATED_COLUMNS, IMPORTED_COLUMNS
from wildstream.prediction.events import EventRules, find_events
from wildstream.prediction.loaded import LoadedModel, open_model
from wildstream.prediction.predict import predict_videos
from wildstream.prediction.timeline import Timeline, window_weights
from wildstream.training.metrics import best_thresholds
from wildstream.training.run import train

STYLE = ws.SlidingStyle(window_size=4, samples_per_window=2, step_size=2)
CLASSES = ("red", "green", "blue")


def by_colour(frames):
    """A model that needs no training: how red, green and blue a clip is, (B, 3)."""
    return frames.float().mean(dim=(1, 3, 4)) / 255


def a_model(style=STYLE, *, score=by_colour, task="multi_label", levels=None, thresholds=None):
    return LoadedModel(
        source="colours",
        levels=levels or {"": CLASSES},
        task=task,
        style=style,
        size=(24, 32),
        resize="swscale",
        thresholds=thresholds,
        epoch=None,
        score=score,
    )


def predicted(model, videos, out, **options):
    """The report and the rows of frames.parquet, as a table."""
    report = predict_videos(model, videos, out, progress=False, **options)
    return report, pq.read_table(out / "frames.parquet")


def columns(table, key=None, classes=CLASSES):
    """(num_frames, num_classes) probabilities of a video, or of all."""
    frame = table.to_pandas()
    frame = frame if key is None else frame[frame["key"] == key]
    return frame[[f"p_{name}" for name in classes]].to_numpy()


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """a.mp4 (60 frames), deep/b.mp4 (41), and what is no video."""
    root = tmp_path_factory.mktemp("videos")
    write_video(root / "a.mp4", moving_pattern(1))
    write_video(root / "deep" / "b.mp4", moving_pattern(2, num_frames=41))
    (root / "notes.txt").write_text("not a video")
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    yield train(tiny_config(frames_shards(tmp_path_factory), tmp_path_factory.mktemp("run") / "run"))
    AcceleratorState._reset_state(reset_partial_state=True)


# --- windows → frames -------------------------------------------------------------------------------------------------


def stitched_by_hand(style, num_frames, windows, weighting):
    """The definition, frame by frame: windows that span it, else the nearest; NaN where these did not decode."""
    length, step = style.window_size * style.temporal_sample_interval, style.step_size * style.temporal_sample_interval
    starts = [number * step - style.pad_front for number in range(len(windows))]
    classes = next((len(window) for window in windows if window is not None), 2)
    result = np.full((num_frames, classes), np.nan)
    for frame in range(num_frames):
        spanning = [n for n, start in enumerate(starts) if start <= frame < start + length]
        weight = dict.fromkeys(spanning, 1.0)
        if weighting == "hann":
            weight = {n: np.sin(np.pi * (frame - starts[n] + 0.5) / length) ** 2 for n in spanning}
        if not spanning and starts:
            apart = [max(start - frame, frame - (start + length - 1)) for start in starts]
            weight = {int(np.argmin(apart)): 1.0}
        weight = {n: w for n, w in weight.items() if windows[n] is not None}
        if weight:
            result[frame] = sum(w * windows[n] for n, w in weight.items()) / sum(weight.values())
    return result


@st.composite
def timelines(draw):
    window = draw(st.integers(1, 9))
    style = ws.SlidingStyle(
        window_size=window,
        samples_per_window=1,
        step_size=draw(st.integers(1, 12)),
        temporal_sample_interval=draw(st.integers(1, 4)),
        padding=draw(st.sampled_from(["edge", "none"])),
    )
    num_frames = draw(st.integers(1, 70))
    count = int(style.num_windows(num_frames))
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    windows = [random.random(2).astype(np.float32) if random.random() < 0.9 else None for _ in range(count)]
    return style, num_frames, windows, draw(st.sampled_from(["hann", "uniform"]))


@given(timelines())
@settings(max_examples=300, deadline=None)
def test_stitching_is_its_definition(case):
    style, num_frames, windows, weighting = case
    timeline = Timeline(style, num_frames=num_frames, num_classes=2, weighting=weighting)
    for number, window in enumerate(windows):
        timeline.add(int(style.starts(number)), window)
    found = timeline.finish()
    assert found.shape == (num_frames, 2)
    assert found.dtype == np.float32
    assert timeline.num_failed == sum(window is None for window in windows)
    np.testing.assert_allclose(found, stitched_by_hand(style, num_frames, windows, weighting), atol=1e-6)


def test_weights_are_above_0_symmetric_and_add_up_at_half_a_window():
    weights = window_weights(16, "hann")
    assert weights.min() > 0
    np.testing.assert_allclose(weights, weights[::-1])
    np.testing.assert_allclose(weights[:8] + weights[8:], 1)
    assert window_weights(1, "hann").tolist() == [1.0]
    with pytest.raises(ConfigError, match="weighting='hamming' is not known"):
        window_weights(4, "hamming")


@given(timelines(), st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_a_video_from_frame_k_on_has_the_same_probabilities_away_from_its_borders(case, steps):
    """Which frame the first window starts at makes no difference, as long as windows start at the same frames."""
    style, num_frames, _, weighting = case
    random = np.random.default_rng(num_frames).random(400).astype(np.float32)
    stride = style.step_size * style.temporal_sample_interval
    shift, length = steps * stride, style.window_size * style.temporal_sample_interval
    if num_frames <= shift:
        return

    def predict(first):
        """What a model says that looks at the frames of each window alone."""
        frames = num_frames - first
        timeline = Timeline(style, num_frames=frames, num_classes=1, weighting=weighting)
        for window in range(timeline.num_windows):
            shown = style.frames([window], frames)[0] + first
            timeline.add(int(style.starts(window)), random[shown].mean(keepdims=True))
        return timeline.finish()[:, 0]

    margin = length + stride
    whole, part = predict(0)[shift:], predict(shift)
    inner = slice(margin, max(margin, len(part) - margin))
    np.testing.assert_array_equal(whole[inner], part[inner])


def test_of_steps_of_one_frame_every_phase_is_the_same():
    style = ws.SlidingStyle(window_size=8, samples_per_window=4, step_size=1)
    random = np.random.default_rng(0).random(100).astype(np.float32)
    results = []
    for first in range(5):
        timeline = Timeline(style, num_frames=100 - first, num_classes=1)
        for window in range(timeline.num_windows):
            shown = style.frames([window], 100 - first)[0] + first
            timeline.add(int(style.starts(window)), random[shown].mean(keepdims=True))
        results.append(timeline.finish()[20 - first : 80 - first])
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def test_windows_that_are_missing_doubled_or_foreign_are_errors():
    timeline = Timeline(STYLE, num_frames=20, num_classes=1)
    one = np.ones(1, np.float32)
    timeline.add(-1, one)
    for start in (-1, 0, 99, -3):
        with pytest.raises(LedgerError, match=f"starts at frame {start} was not to come"):
            timeline.add(start, one)
    with pytest.raises(LedgerError, match="9 of 10 windows did not come, number 1 the first"):
        timeline.finish()


# --- frames → events --------------------------------------------------------------------------------------------------


def events_by_hand(happens, blocked, borders, min_gap, min_duration):
    """Runs of one class as [first, stop), by going through the frames again and again."""
    runs = []
    for frame in np.flatnonzero(happens):
        if runs and runs[-1][1] == frame:
            runs[-1][1] += 1
        else:
            runs.append([frame, frame + 1])
    place = 0
    while place + 1 < len(runs):
        stop, first = runs[place][1], runs[place + 1][0]
        if borders[first] - borders[stop] < min_gap - 1e-6 and not blocked[stop:first].any():
            runs[place][1] = runs.pop(place + 1)[1]
        else:
            place += 1
    return [tuple(run) for run in runs if borders[run[1]] - borders[run[0]] >= min_duration - 1e-6]


@given(st.integers(0, 10_000), st.sampled_from(["multi_label", "single_label"]))
@settings(max_examples=300, deadline=None)
def test_events_are_their_definition(seed, task):
    random = np.random.default_rng(seed)
    num_frames = int(random.integers(1, 60))
    found = np.repeat(random.random((num_frames, 3)), random.integers(1, 5), axis=0)[:num_frames].astype(np.float32)
    found[random.random(num_frames) < 0.1] = np.nan
    borders = np.concatenate([[0], np.cumsum(random.choice([0.02, 0.04, 0.1], num_frames))])
    rules = EventRules(
        thresholds=dict(zip("abc", random.random(3).tolist(), strict=True)),
        min_duration=float(random.choice([0, 0.04, 0.2])),
        min_gap=float(random.choice([0, 0.04, 0.2])),
    )
    above = np.stack([found[:, n] > rules.thresholds[name] for n, name in enumerate("abc")], axis=1)
    blocked = np.zeros_like(above)
    if task == "single_label":
        best = np.array([-1 if np.isnan(row).any() else int(row.argmax()) for row in found])
        above &= best[:, np.newaxis] == np.arange(3)
        blocked = above.any(axis=1)[:, np.newaxis] & ~above
    for _ in range(2 if task == "single_label" else 1):  # once more without what was too short
        runs = [
            events_by_hand(above[:, n], blocked[:, n], borders, rules.min_gap, rules.min_duration) for n in range(3)
        ]
        above = np.array([[any(a <= frame < b for a, b in one) for one in runs] for frame in range(num_frames)])
        blocked = above.any(axis=1)[:, np.newaxis] & ~above if task == "single_label" else blocked
    expected = {(name, *run) for n, name in enumerate("abc") for run in runs[n]}
    events = find_events(found, borders, classes=("a", "b", "c"), task=task, rules=rules)
    assert {(event.label, event.first_frame, event.stop_frame) for event in events} == expected
    assert len(events) == len(expected)
    assert [event.first_frame for event in events] == sorted(event.first_frame for event in events)
    for event in events:
        own = found[event.first_frame : event.stop_frame, "abc".index(event.label)].astype(float)
        assert (event.start_seconds, event.stop_seconds) == (borders[event.first_frame], borders[event.stop_frame])
        assert event.mean_probability == pytest.approx(np.nanmean(own))
        assert event.max_probability == np.nanmax(own)
    if task == "single_label":  # classes exclude each other
        taken = [frame for event in events for frame in range(event.first_frame, event.stop_frame)]
        assert len(taken) == len(set(taken))


def test_a_frame_that_is_too_short_for_an_event_does_not_part_another():
    found = np.tile(np.array([0.9, 0.1], np.float32), (100, 1))
    found[50] = 0.3, 0.6
    rules = EventRules(thresholds={"a": 0.0, "b": 0.0}, min_duration=0.1, min_gap=0.1)
    events = find_events(found, np.arange(101) / 25, classes=("a", "b"), task="single_label", rules=rules)
    assert [(event.label, event.first_frame, event.stop_frame) for event in events] == [("a", 0, 100)]


def f1_above(threshold, scores, targets):
    claimed = scores > threshold
    return 2 * (claimed & targets).sum() / max(1, claimed.sum() + targets.sum())


@given(st.integers(0, 100_000))
@settings(max_examples=300, deadline=None)
def test_the_best_thresholds_are_the_best_of_all(seed):
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 25))
    found = (random.integers(0, random.integers(2, 12), (count, 2)) / 11).astype(np.float32)
    truth = random.random((count, 2)) < random.random()
    for scores, targets, threshold in zip(found.T, truth.T, best_thresholds(found, truth), strict=True):
        occurs = scores.astype(float), targets
        assert 0 <= threshold < 1
        others = [*np.arange(0, 1, 1 / 44), *(occurs[0] - 1e-9).clip(0)]
        assert f1_above(threshold, *occurs) == max(f1_above(other, *occurs) for other in others)
        if not targets.any():
            assert threshold == 0.5


def test_a_best_threshold_lies_in_the_middle_between_two_scores():
    scores = np.array([[0.1, 0.2, 0.7, 0.9]], np.float32).T
    assert best_thresholds(scores, np.array([[0, 0, 1, 1]], bool).T)[0] == pytest.approx(0.45)
    assert best_thresholds(scores, np.array([[1, 1, 1, 1]], bool).T)[0] == pytest.approx(0.05)


# --- when frames are shown --------------------------------------------------------------------------------------------


def write_uneven(path, pts, *, time_base=Fraction(1, 1000), **options):
    """A video whose frames are shown at these times."""
    with av.open(str(path), "w") as result:
        stream = result.add_stream("libx264", 30, {"x264-params": "keyint=12:bframes=2"}, time_base=time_base)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = time_base
        for shown_at, image in zip(pts, moving_pattern(3, num_frames=len(pts)), strict=True):
            frame = av.VideoFrame.from_ndarray(image.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            frame.pts, frame.time_base = shown_at, time_base
            result.mux(stream.encode(frame))
        result.mux(stream.encode(None))


def test_times_are_the_frames_own_also_with_variable_frame_rate(tmp_path):
    pts = (500 + np.cumsum(np.random.default_rng(0).choice([10, 40, 170], 50))).tolist()
    write_uneven(tmp_path / "uneven.mkv", pts)
    model = a_model(thresholds={"red": 0.0, "green": 0.0, "blue": 0.0})
    _, table = predicted(model, tmp_path / "uneven.mkv", tmp_path / "out")
    np.testing.assert_allclose(table["pts_seconds"].to_numpy(), np.array(pts) / 1000, atol=1e-9)
    video = json.loads((tmp_path / "out" / "events.json").read_text())["videos"][0]
    usual = float(np.median(np.diff(pts))) / 1000
    assert video["duration_seconds"] == pytest.approx((pts[-1] - pts[0]) / 1000 + usual)
    assert [event["stop_seconds"] for event in video["events"]] == [pytest.approx(video["duration_seconds"])] * 3
    assert [event["start_seconds"] for event in video["events"]] == [0, 0, 0]


def test_real_times_are_those_that_another_decoder_tells(shared_data, tmp_path):
    path = shared_data / "edge" / "vfr.mp4"
    with av.open(str(path)) as container:
        expected = [frame.time for frame in container.decode(video=0)]
    assert len(set(np.diff(expected).round(6))) > 1
    _, table = predicted(a_model(), path, tmp_path / "out")
    np.testing.assert_allclose(table["pts_seconds"].to_numpy(), expected, atol=1e-6)


def test_frames_without_a_time_follow_the_frame_before():
    pts = np.array([5, 15, 25, -(1 << 63), 45, 44, 60], np.int64)
    seconds = frame_seconds(pts, Fraction(1, 10))
    assert np.isnan(seconds).tolist() == [False] * 3 + [True] + [False] * 3
    np.testing.assert_allclose(borders_of(seconds), [0, 1, 2, 3, 4, 5, 5.5, 6.5])
    np.testing.assert_allclose(borders_of(np.array([3.0])), [0, 0.04])


# --- the whole way ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "style",
    [
        STYLE,
        ws.SlidingStyle(window_size=6, samples_per_window=3, step_size=1, temporal_sample_interval=2),
        ws.SlidingStyle(window_size=4, samples_per_window=4, step_size=7, padding="none"),
    ],
    ids=["edge", "interval", "gaps"],
)
def test_what_comes_out_is_what_the_loader_gives_stitched_by_the_definition(style, tiny_shards, tmp_path):
    model = a_model(style)
    dataset = ws.DatasetBuilder(path=tiny_shards / "train", style=style).build()
    windows = {}
    for batch in dataset.loader(batch_size=5, size=model.size):
        found = by_colour(batch.frames).numpy()
        windows |= {(key, start): row for key, start, row in zip(batch.keys, batch.starts.tolist(), found, strict=True)}
    _, table = predicted(model, tiny_shards / "train", tmp_path / "out")
    for key in ("v0", "v1", "v2"):
        own = [row for (video, _), row in sorted(windows.items(), key=lambda one: one[0]) if video == key]
        np.testing.assert_allclose(columns(table, key), stitched_by_hand(style, 60, own, "hann"), atol=1e-6)


def test_neither_batch_size_nor_threads_change_anything(videos, run, tmp_path):
    results = []
    for size, threads in ((1, 1), (7, 2), (64, 1)):
        out = tmp_path / f"{size}"
        _, table = predicted(run, videos / "deep" / "b.mp4", out, batch_size=size, num_workers=threads)
        results.append(columns(table, classes=("bright", "red", "never")))
    assert results[0].shape == (41, 3)
    for other in results[1:]:
        np.testing.assert_allclose(results[0], other, atol=1e-6)


def test_files_folders_and_packed_shards_give_the_same(videos, tmp_path):
    source = tmp_path / "source"
    for name, path in (("a", videos / "a.mp4"), ("b", videos / "deep" / "b.mp4")):
        (source / "train" / name).mkdir(parents=True)
        (source / "train" / name / f"{name}.mp4").write_bytes(path.read_bytes())
        write_rows(source / "train" / name / f"{name}.tsv", np.zeros((60 if name == "a" else 41, 1), np.uint8))
    (source / "categories.json").write_text('["any"]')
    ws.pack(source, tmp_path / "shards", format="frames", progress=False)
    given = {
        "files": [videos / "a.mp4", videos / "deep" / "b.mp4"],
        "folder": [videos],
        "split": [tmp_path / "shards" / "train"],
        "splits": [tmp_path / "shards"],
        "pattern": [f"{tmp_path / 'shards' / 'train'}/{{000000..000000}}.tar"],
    }
    keys = {"folder": ["a", "deep/b"]}
    results = []
    for name, locations in given.items():
        report, table = predicted(a_model(), locations, tmp_path / name)
        assert list(report.seconds) == keys.get(name, ["a", "b"])
        assert table["frame"].to_pylist() == [*range(60), *range(41)]
        results.append(columns(table))
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def test_shards_that_are_given_twice_are_predicted_once(tiny_shards, tmp_path):
    some = f"{tiny_shards / 'train'}/{{000001..000001}}.tar"
    report, table = predicted(a_model(), [some, tiny_shards / "train"], tmp_path / "out")
    assert sorted(report.seconds) == ["v0", "v1", "v2"]
    assert len(table) == 180
    _, alone = predicted(a_model(), tiny_shards / "train", tmp_path / "alone")
    for key in ("v0", "v1", "v2"):
        np.testing.assert_array_equal(columns(table, key), columns(alone, key))


def test_urls_of_videos_and_shards(videos, http_folder, tmp_path):
    (http_folder.root / "b.mp4").write_bytes((videos / "deep" / "b.mp4").read_bytes())
    _, local = predicted(a_model(), videos / "deep" / "b.mp4", tmp_path / "local")
    report, table = predicted(a_model(), f"{http_folder.url}/b.mp4", tmp_path / "remote")
    assert list(report.seconds) == ["b"]
    np.testing.assert_array_equal(columns(local), columns(table))
    report, _ = predicted(a_model(), [f"{http_folder.url}/gone.mp4", f"{http_folder.url}/b.mp4"], tmp_path / "gone")
    assert list(report.refused) == [f"{http_folder.url}/gone.mp4"]


def test_a_bucket_of_videos(videos, s3, tmp_path):
    s3.put("new/a.mp4", (videos / "a.mp4").read_bytes())
    s3.put("new/deep/b.mp4", (videos / "deep" / "b.mp4").read_bytes())
    report, table = predicted(a_model(), f"{s3.url}/new", tmp_path / "out")
    assert list(report.seconds) == ["a", "deep/b"]
    _, local = predicted(a_model(), videos, tmp_path / "local")
    np.testing.assert_array_equal(columns(local), columns(table))


# --- keys -------------------------------------------------------------------------------------------------------------


def test_videos_of_one_name_are_told_apart(videos, tmp_path):
    data = (videos / "deep" / "b.mp4").read_bytes()
    for name in ("left/cam/v.mp4", "right/cam/v.mp4", "both/w.mp4", "both/w.mov"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    report, _ = predicted(a_model(), [tmp_path / "left", tmp_path / "right", tmp_path / "both"], tmp_path / "out")
    assert list(report.seconds) == ["left/cam/v", "right/cam/v", "w_mov", "w_mp4"]
    twice = [tmp_path / "left", tmp_path / "left" / "cam" / "v.mp4"]
    report, table = predicted(a_model(), twice, tmp_path / "twice")
    assert list(report.seconds) == ["cam/v"]
    assert len(table) == 41
    assert len(set(table["key"].to_pylist())) == 1
    with pytest.raises(ConfigError, match="have names that cannot be told apart"):
        predicted(a_model(), [tmp_path / "left" / "cam", tmp_path / "right" / "cam"], tmp_path / "no")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nothing", "is not there. Give video files"),
        (lambda folder: folder, "holds no video"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        predict_videos(a_model(), make(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- nothing is lost in silence ---------------------------------------------------------------------------------------


def test_a_lost_window_is_an_error_and_nothing_is_written(videos, tmp_path, monkeypatch):
    score = predicting._Prediction._score
    monkeypatch.setattr(
        predicting._Prediction,
        "_score",
        lambda self, batch: (it for it in score(self, batch) if it[:2] != ("video", 9)),
    )
    with pytest.raises(LedgerError, match="1 of 30 windows did not come, number 5 the first"):
        predict_videos(a_model(), videos / "a.mp4", tmp_path / "out", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_damage_costs_the_frames_that_need_it_and_is_named(videos, tmp_path, capsys):
    data = damage(read_tensor(videos / "a.mp4"), 18)
    (tmp_path / "bad.mp4").write_bytes(data.numpy().tobytes())
    report, table = predicted(a_model(), [tmp_path / "bad.mp4", videos / "a.mp4"], tmp_path / "out")
    found, whole = columns(table, "bad"), columns(table, "a")
    content = json.loads((tmp_path / "out" / "events.json").read_text())["videos"][0]
    lost = np.isnan(found).any(axis=1)
    assert 0 < lost.sum() < 30
    assert content["frames_without_probability"] == lost.sum()
    assert content["windows"]["planned"] == content["windows"]["delivered"] + content["windows"]["skipped"] == 30
    assert sum(content["problems"].values()) == content["windows"]["skipped"] > 0
    assert list(report.lacking) == ["bad"]
    assert "not decode" in report.lacking["bad"]
    far = np.r_[0:12, 48:60]  # no window that spans these sees a lost frame
    np.testing.assert_array_equal(found[far], whole[far])
    assert len(found) == 60


def test_a_video_that_is_too_short_for_a_window_has_no_probabilities_and_is_named(tmp_path):
    write_video(tmp_path / "short.mp4", moving_pattern(1, num_frames=5))
    style = ws.SlidingStyle(window_size=8, samples_per_window=4, step_size=2, padding="none")
    report, table = predicted(a_model(style), tmp_path / "short.mp4", tmp_path / "out")
    assert np.isnan(columns(table)).all()
    assert len(table) == 5
    assert "too short for a window" in report.lacking["short"]


def test_a_video_that_the_model_gives_no_numbers_for_is_left_out_and_the_others_stay(videos, tmp_path):
    def score(frames):
        found = by_colour(frames)
        return found * float("nan") if broken else found

    broken = True
    report = predict_videos(a_model(score=score), videos / "a.mp4", tmp_path / "none", progress=False)
    assert "colours gives [nan nan nan] for the window at frame -1" in report.refused[str(videos / "a.mp4")]
    assert not (tmp_path / "none").exists()
    seen = []

    def later(frames):
        seen.append(len(frames))
        return by_colour(frames) * (float("nan") if sum(seen) > 30 else 1)  # in b.mp4, which comes second

    report, table = predicted(a_model(score=later), videos, tmp_path / "out", batch_size=5)
    assert list(report.refused) == [str(videos / "deep" / "b.mp4")]
    assert set(table["key"].to_pylist()) == {"a"}


def test_a_damaged_split_does_not_take_the_videos_before_it_along(videos, tiny_shards, tmp_path):
    split = shutil.copytree(tiny_shards / "train", tmp_path / "split")
    for shard in split.glob("*.tar"):
        shard.chmod(0o644)
        shard.write_bytes(shard.read_bytes()[:1000])
    report, table = predicted(a_model(), [videos / "a.mp4", split], tmp_path / "out")
    assert set(table["key"].to_pylist()) == {"a"}
    assert len(report.refused) == 3
    assert all("truncated" in reason or "ends" in reason for reason in report.refused.values()), report.refused


def test_what_is_there_is_not_replaced(videos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(ConfigError, match="is there already"):
        predict_videos(a_model(), videos / "a.mp4", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# --- what comes out ---------------------------------------------------------------------------------------------------


def read_boris_aggregated(path):
    """Aggregated events as BORIS' user guide lists their columns, by name: (observation, behaviour, start, stop)."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert row["Behavior type"] == "STATE"
        assert row["Subject"] == "No focal subject"
        assert float(row["Duration (s)"]) == pytest.approx(float(row["Stop (s)"]) - float(row["Start (s)"]), abs=2e-6)
        assert float(row["Stop (s)"]) <= float(row["Media duration (s)"]) + 1e-3
    return [(row["Observation id"], row["Behavior"], float(row["Start (s)"]), float(row["Stop (s)"])) for row in rows]


def read_boris_events(path):
    """The table that BORIS imports: rows of one behaviour start and stop it in turn."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    events, open_since = [], {}
    assert [float(row["time"]) for row in rows] == sorted(float(row["time"]) for row in rows)
    for row in rows:
        assert (row["subject"], row["modifier"]) == ("", "")
        assert int(row["frame index"]) >= 0
        if (since := open_since.pop(row["code"], None)) is None:
            open_since[row["code"]] = float(row["time"])
        else:
            events.append((row["code"], since, float(row["time"])))
    assert not open_since, "a state event without a stop"
    return sorted(events)


def test_csv_json_and_parquet_tell_the_same(videos, tmp_path):
    thresholds = {"red": 0.5, "green": 0.48, "blue": 0.52}
    model = a_model(ws.SlidingStyle(window_size=2, samples_per_window=2, step_size=1), score=flicker)
    _, table = predicted(model, videos, tmp_path / "out", thresholds=thresholds, min_duration=0.05, min_gap=0.05)
    assert table.schema.names == ["key", "frame", "pts_seconds", "p_red", "p_green", "p_blue"]
    assert [str(field.type) for field in table.schema] == ["string", "int32", "double", "float", "float", "float"]
    content = json.loads((tmp_path / "out" / "events.json").read_text())
    assert content["schema_version"] == 1
    assert content["model"]["style"]["window_size"] == 2
    assert content["rules"] == {"weighting": "hann", "thresholds": thresholds, "min_duration": 0.05, "min_gap": 0.05}
    told, total = [], 0
    for video in content["videos"]:
        found = columns(table, video["key"])
        seconds = table.to_pandas().query("key == @video['key']")["pts_seconds"].to_numpy()
        rules = EventRules(thresholds=thresholds, min_duration=0.05, min_gap=0.05)
        expected = find_events(found, borders_of(seconds), classes=CLASSES, task="multi_label", rules=rules)
        assert [(e["label"], e["first_frame"], e["stop_frame"]) for e in video["events"]] == [
            (e.label, e.first_frame, e.stop_frame) for e in expected
        ]
        own = [(e["label"], e["start_seconds"], e["stop_seconds"]) for e in video["events"]]
        imported = read_boris_events(tmp_path / "out" / "boris" / f"{video['key']}.csv")
        assert imported == [
            (name, pytest.approx(a, abs=6e-4), pytest.approx(b, abs=6e-4)) for name, a, b in sorted(own)
        ]
        told += [(video["key"], *event) for event in own]
        total += len(own)
    assert total > 8
    aggregated = read_boris_aggregated(tmp_path / "out" / "events.csv")
    assert aggregated == [(k, n, pytest.approx(a, abs=1e-6), pytest.approx(b, abs=1e-6)) for k, n, a, b in told]
    with (tmp_path / "out" / "events.csv").open() as file:
        assert tuple(next(csv.reader(file))) == AGGREGATED_COLUMNS
    with (tmp_path / "out" / "boris" / "a.csv").open() as file:
        assert tuple(next(csv.reader(file))) == IMPORTED_COLUMNS


def flicker(frames):
    """Probabilities that change often, and follow from the frames."""
    return (by_colour(frames) * 997) % 1


def test_exclusive_classes_happen_one_at_a_time(videos, tmp_path):
    model = a_model(
        ws.SlidingStyle(window_size=2, samples_per_window=2, step_size=1),
        score=lambda frames: flicker(frames).softmax(dim=1),
        task="single_label",
    )
    predicted(model, videos / "a.mp4", tmp_path / "out", min_duration=0, min_gap=0.1)
    events = json.loads((tmp_path / "out" / "events.json").read_text())["videos"][0]["events"]
    assert sum(event["stop_frame"] - event["first_frame"] for event in events) == 60
    predicted(model, videos / "a.mp4", tmp_path / "some", thresholds=0.4, min_duration=0)
    some = json.loads((tmp_path / "some" / "events.json").read_text())["videos"][0]["events"]
    assert 0 < sum(event["stop_frame"] - event["first_frame"] for event in some) < 60


def test_levels_above_the_first_are_further_columns(videos, tmp_path):
    levels = {"species": ("red", "green"), "genus": ("any",)}
    _, table = predicted(a_model(levels=levels), videos / "a.mp4", tmp_path / "out")
    assert table.schema.names[3:] == ["p_red", "p_green", "p_genus/any"]
    content = json.loads((tmp_path / "out" / "events.json").read_text())
    assert set(content["rules"]["thresholds"]) == {"red", "green"}


def test_labels_are_drawn_below_every_frame_at_its_time(tmp_path):
    pts = np.cumsum([0, 40, 40, 120, 10, 40, 300, 40, 40, 40, 40, 40]).tolist()
    write_uneven(tmp_path / "v.mkv", pts)
    predicted(a_model(), tmp_path / "v.mkv", tmp_path / "out", draw=True)
    with av.open(str(tmp_path / "out" / "videos" / "v.mp4")) as container:
        frames = list(container.decode(video=0))
    np.testing.assert_allclose([frame.time for frame in frames], np.array(pts) / 1000, atol=1e-4)
    assert {(frame.width % 2, frame.height % 2) for frame in frames} == {(0, 0)}
    assert frames[0].width == 480  # 64 pixels are too narrow for words
    original = moving_pattern(3, num_frames=len(pts))[5].permute(1, 2, 0).numpy().astype(float)
    drawn = np.asarray(frames[5].to_image().crop((0, 0, 480, 360)).resize((64, 48))).astype(float)
    assert abs(drawn - original).mean() < 8
    panel = np.asarray(frames[5].to_image())[362:]
    assert panel.mean() < 90 < panel.max()


@pytest.mark.parametrize("encoder", draw.ENCODERS)
def test_a_tall_video_is_drawn_with_margins_by_either_encoder(tmp_path, monkeypatch, encoder):
    monkeypatch.setattr(draw, "ENCODERS", (encoder,))
    write_video(tmp_path / "v.mp4", moving_pattern(3, num_frames=12, height=600, width=32))
    report, _ = predicted(a_model(), tmp_path / "v.mp4", tmp_path / "out", draw=True)
    assert report.not_drawn == {}
    with av.open(str(tmp_path / "out" / "videos" / "v.mp4")) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == 12
    assert frames[0].width == 480
    picture = np.asarray(frames[0].to_image())[:600].mean(axis=(0, 2))
    assert picture[:200].max() < 40 < picture[230:250].min()


def test_a_video_that_cannot_be_drawn_is_predicted_all_the_same(videos, tmp_path, monkeypatch):
    def fail(data, table, path, drawing, *, size):
        path.write_bytes(b"half")
        raise VideoError(f"{drawing.key} cannot be drawn")

    monkeypatch.setattr(predicting, "draw_video", fail)
    report, table = predicted(a_model(), videos, tmp_path / "out", draw=True)
    assert report.not_drawn == {"a": "a cannot be drawn", "deep/b": "deep/b cannot be drawn"}
    assert report.refused == {}
    assert set(table["key"].to_pylist()) == {"a", "deep/b"}
    content = json.loads((tmp_path / "out" / "events.json").read_text())
    assert [entry["not_drawn"] for entry in content["videos"]] == ["a cannot be drawn", "deep/b cannot be drawn"]
    assert not list((tmp_path / "out").rglob("*.mp4"))


def test_that_a_video_is_cut_short_stands_in_the_file_too(shared_data, tmp_path):
    predicted(a_model(), shared_data / "edge" / "truncated_tail.mp4", tmp_path / "out")
    (entry,) = json.loads((tmp_path / "out" / "events.json").read_text())["videos"]
    assert "container promises" in entry["shortened"]


def test_where_it_may_go_and_where_not(videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for url in ("s3://bucket/out", "https://host/out"):
        with pytest.raises(ConfigError, match=r"must be a local folder"):
            predict_videos(a_model(), videos / "a.mp4", url, progress=False)
    assert list(tmp_path.iterdir()) == []
    predict_videos(a_model(), videos / "a.mp4", "exp:1/out", progress=False)
    assert (tmp_path / "exp:1" / "out" / "frames.parquet").is_file()
    with pytest.raises(ConfigError, match="two classes would have the column"):
        predict_videos(a_model(levels={"": ("a", "a", "b")}), videos / "a.mp4", "doubled", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["exp:1"]
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    predict_videos(a_model(), videos / "a.mp4", ".", progress=False)
    assert (tmp_path / "empty" / "frames.parquet").is_file()


# --- a trained model, and the command ---------------------------------------------------------------------------------


def test_training_keeps_the_thresholds_that_are_best_on_validation(run, tmp_path_factory):
    manifest = json.loads((run / "last" / "manifest.json").read_text())
    model = open_model(run, checkpoint="last")
    dataset = ws.DatasetBuilder(path=frames_shards(tmp_path_factory) / "val", style=model.style).build()
    parts = [
        (model.score(batch.frames)[batch.mask], batch.labels[batch.mask])
        for batch in dataset.loader(batch_size=8, size=model.size)
    ]
    found, truth = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    assert list(manifest["thresholds"]) == ["bright", "red", "never"]
    np.testing.assert_allclose(list(manifest["thresholds"].values()), best_thresholds(found, truth), atol=1e-5)
    assert manifest["thresholds"]["never"] == 0.5
    assert model.thresholds == manifest["thresholds"]


def test_the_command_predicts_names_what_is_broken_and_ends_with_3(run, videos, tmp_path, capsys):
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "good.mp4").write_bytes((videos / "a.mp4").read_bytes())
    (folder / "bad.mp4").write_bytes(b"no video")
    (folder / "empty.mov").touch()
    out = tmp_path / "out"
    options = ["--step", "1", "--threshold", "0.4", "--threshold", "red=0.3", "--min-gap", "0.2", "--draw"]
    assert main(["predict", str(run), str(folder), str(out), *options]) == 3
    said = capsys.readouterr()
    assert f"refused  {folder / 'bad.mp4'}: not a video that FFmpeg can open" in said.out
    assert f"refused  {folder / 'empty.mov'}: the file is empty" in said.out
    assert "share of time" in said.out
    assert f"results: {out}" in said.out
    assert f"2 videos were left out; see {out / 'events.json'}" in said.err
    content = json.loads((out / "events.json").read_text())
    assert content["rules"]["thresholds"] == {"bright": 0.4, "red": 0.3, "never": 0.4}
    assert content["model"]["style"]["step_size"] == 1
    assert [Path(entry["path"]).name for entry in content["refused"]] == ["bad.mp4", "empty.mov"]
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == [
        "boris/good.csv",
        "events.csv",
        "events.json",
        "frames.parquet",
        "videos/good.mp4",
    ]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_where_no_video_can_be_predicted_nothing_is_written(run, tmp_path, capsys):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    assert main(["predict", str(run), str(tmp_path / "bad.mp4"), str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "no video could be predicted; nothing was written" in said.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.mp4"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threshold", "flying=0.3"], "threshold of 'flying': the model's classes are bright, red, never."),
        (["--threshold", "1"], "threshold of bright=1.0 must lie within [0, 1)"),
        (["--min-gap", "-1"], "min_gap=-1.0 must be seconds, 0 or more."),
        (["--min-duration", "nan"], "min_duration=nan must be seconds, 0 or more."),
    ],
)
def test_options_that_cannot_be_are_refused(run, videos, tmp_path, options, message, capsys):
    assert main(["predict", str(run), str(videos), str(tmp_path / "out"), *options]) == 1
    assert message in capsys.readouterr().err


def test_what_is_no_model_is_refused(videos, tmp_path, capsys):
    assert main(["predict", str(tmp_path), str(videos), str(tmp_path / "out")]) == 1
    assert "is neither a checkpoint nor a finished run" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["predict", "run", "videos", "out", "--threshold", "high"])
    assert "'high' is neither a number nor CLASS=NUMBER" in capsys.readouterr().err


def test_an_exported_model_predicts_what_its_checkpoint_does(run, videos, tmp_path):
    ws.export_model(run, tmp_path / "model.pt2")
    _, first = predicted(run, videos / "a.mp4", tmp_path / "first")
    _, second = predicted(tmp_path / "model.pt2", videos / "a.mp4", tmp_path / "second")
    classes = ("bright", "red", "never")
    np.testing.assert_allclose(columns(first, classes=classes), columns(second, classes=classes), atol=1e-5)
    rules = [json.loads((tmp_path / name / "events.json").read_text())["rules"] for name in ("first", "second")]
    assert rules[0] == rules[1]

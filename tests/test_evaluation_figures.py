"""What evaluation adds to training's figures: each against its definition by brute force, or scikit-learn's."""

import json
import math
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from wildstream.errors import ConfigError, ShardError
from wildstream.evaluation.bootstrap import intervals
from wildstream.evaluation.calibration import calibration, reliability
from wildstream.evaluation.groups import choose_groups, group_figures, read_groups
from wildstream.evaluation.predictions_file import read_predictions, start_seconds, write_predictions
from wildstream.evaluation.shuffled import ShuffleFrames, draw_permutation, permutation_entropy
from wildstream.evaluation.tolerance import dilate, tolerant_targets
from wildstream.evaluation.videos import video_figures
from wildstream.facts import NO_PTS, FrameTable
from wildstream.models.hierarchy import make_hierarchy
from wildstream.samples import Batch
from wildstream.stream.windows import SlidingStyle
from wildstream.training.metrics import class_figures, compute_metrics
from wildstream.training.predict import Predictions

STYLE = SlidingStyle(window_size=4, samples_per_window=4, step_size=2)
NAMES = ["a", "b", "c"]


def make_predictions(rng, lengths, *, task="multi_label", classes=3, levels=4, rate=0.3, missing=0.0):
    """Random predictions with ties, of videos of so many windows; some of the windows did not decode."""
    keys = [f"v{video:03}" for video, length in enumerate(lengths) for _ in range(length)]
    numbers = np.concatenate([np.arange(length) for length in lengths])
    count = len(keys)
    probabilities = (rng.integers(0, levels + 1, (count, classes)) / levels).astype(np.float32)
    targets = rng.random((count, classes)) < rate
    if task == "single_label":
        targets = np.eye(classes, dtype=bool)[rng.integers(0, classes, count)]
        probabilities = (probabilities + 0.25) / (probabilities + 0.25).sum(axis=1, keepdims=True)
    losses = rng.random((count, 1)).astype(np.float32)
    whole = Predictions(
        keys=keys,
        starts=STYLE.starts(numbers),
        probabilities=probabilities,
        targets=targets,
        loss=float(losses.mean()),
        window_losses=losses,
    )
    return whole.only(rng.random(count) >= missing)


TASKS = st.sampled_from(["multi_label", "single_label"])
LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=5)


@st.composite
def cases(draw, missing=0.0):
    rng, task = np.random.default_rng(draw(st.integers(0, 2**32))), draw(TASKS)
    rate = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    found = make_predictions(rng, draw(LENGTHS), task=task, rate=rate, missing=missing)
    return found, task


# --- tolerance --------------------------------------------------------------------------------------------------------


def near_by_brute_force(found, reach):
    """A class is near a window if a window of the same video, at most so many numbers away, has it."""
    stride = STYLE.step_size * STYLE.temporal_sample_interval
    near = np.zeros_like(found.targets)
    for one in range(len(found.keys)):
        for other in range(len(found.keys)):
            if found.keys[one] == found.keys[other] and abs(found.starts[one] - found.starts[other]) <= reach * stride:
                near[one] |= found.targets[other]
    return near


@settings(max_examples=60, deadline=None)
@given(cases(missing=0.2), st.sampled_from([0, 1, 3, 5, 7]))
def test_targets_are_dilated_within_their_video_alone(case, reach):
    found, task = case
    near = near_by_brute_force(found, reach)
    tolerant = tolerant_targets(found, STYLE, windows=reach, task=task)
    if task == "multi_label":
        assert np.array_equal(tolerant, near)
        return
    assert (tolerant.sum(axis=1) == 1).all()
    predicted = found.probabilities.argmax(axis=1)
    rows = np.arange(len(predicted))
    assert np.array_equal(tolerant[rows, predicted], near[rows, predicted])  # right where such a window is near
    assert not (tolerant & ~near).any()


def test_a_target_at_the_end_of_a_video_does_not_reach_into_the_next():
    targets = np.array([[0], [1], [0], [0]], bool)
    videos, numbers = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    assert dilate(targets, videos, numbers, windows=7).tolist() == [[True], [True], [False], [False]]
    first = np.array([[0], [0], [1], [0]], bool)
    assert dilate(first, videos, numbers, windows=7).tolist() == [[False], [False], [True], [True]]


def test_windows_that_did_not_decode_keep_their_places():
    targets, videos = np.array([[1], [0]], bool), np.array([0, 0])
    assert not dilate(targets, videos, np.array([0, 3]), windows=2)[1, 0]
    assert dilate(targets, videos, np.array([0, 3]), windows=3)[1, 0]


@settings(max_examples=40, deadline=None)
@given(cases())
def test_tolerance_of_no_window_changes_nothing(case):
    found, task = case
    assert np.array_equal(tolerant_targets(found, STYLE, windows=0, task=task), found.targets)


def test_topk_of_single_label_is_right_where_a_near_class_is_among_the_k():
    found = make_predictions(np.random.default_rng(1), [12, 9], task="single_label", classes=12, levels=50)
    near = near_by_brute_force(found, 2)
    truth = tolerant_targets(found, STYLE, windows=2, task="single_label")
    figures = compute_metrics(found.probabilities, truth, task="single_label")
    for k in (1, 5, 10):
        order = np.argsort(-found.probabilities, axis=1, kind="stable")[:, :k]
        expected = np.mean([near[row, columns].any() for row, columns in enumerate(order)])
        assert figures[f"top{k}"] == pytest.approx(expected)


# --- videos -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(cases())
def test_figures_of_a_video_are_those_of_a_set_with_that_video_alone(case):
    found, task = case
    figures = video_figures(found, task=task)
    keys, _ = found.videos
    assert keys == sorted(set(found.keys))
    for row, key in enumerate(keys):
        alone = found.only(np.array([one == key for one in found.keys]))
        expected = compute_metrics(alone.probabilities, alone.targets, task=task)
        assert figures["windows"][row] == len(alone.keys)
        assert figures["loss"][row] == pytest.approx(alone.loss, rel=1e-5)
        for name in ("mAP", "f1_macro", "f1_micro", *(["top1"] if task == "single_label" else [])):
            assert figures[name][row] == pytest.approx(expected[name], rel=1e-5, nan_ok=True), name


# --- calibration ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.sampled_from([0.0, 0.4, 1.0]))
def test_calibration_of_classes_is_that_of_scikit_learn_and_torchmetrics(seed, windows, rate):
    rng = np.random.default_rng(seed)
    found = make_predictions(rng, [windows], levels=int(rng.integers(1, 90)), rate=rate)
    described = calibration(found, NAMES, task="multi_label")
    for number, name in enumerate(NAMES):
        truth, scores = found.targets[:, number], found.probabilities[:, number].astype(np.float64)
        of_class = described["classes"][name]
        assert of_class["brier"] == pytest.approx(brier_score_loss(truth, scores, pos_label=1, labels=[0, 1]), abs=1e-7)
        share, mean = calibration_curve(truth, scores, n_bins=15)
        assert [one["share"] for one in of_class["bins"]] == pytest.approx(share.tolist())
        assert [one["probability"] for one in of_class["bins"]] == pytest.approx(mean.tolist())
        assert sum(one["windows"] for one in of_class["bins"]) == windows
    assert described["ece"] == pytest.approx(np.mean([of["ece"] for of in described["classes"].values()]))


def test_expected_calibration_error_is_that_of_torchmetrics():
    rng = np.random.default_rng(0)
    found = make_predictions(rng, [400], levels=997)  # no probability on a border, where torchmetrics differs
    for number, name in enumerate(NAMES):
        reference = binary_calibration_error(
            torch.from_numpy(found.probabilities[:, number].copy()),
            torch.from_numpy(found.targets[:, number]).long(),
            15,
        )
        described = calibration(found, NAMES, task="multi_label")["classes"][name]
        assert described["ece"] == pytest.approx(float(reference), abs=1e-6)
    probabilities = rng.dirichlet(np.ones(3), 400).astype(np.float32)
    numbers = rng.integers(0, 3, 400)
    found = replace(found, probabilities=probabilities, targets=np.eye(3, dtype=bool)[numbers])
    described = calibration(found, NAMES, task="single_label")
    reference = multiclass_calibration_error(torch.from_numpy(probabilities), torch.from_numpy(numbers), 3, 15)
    assert described["ece"] == pytest.approx(float(reference), abs=1e-6)
    assert described["brier"] == pytest.approx(brier_score_loss(numbers, probabilities, scale_by_half=False), abs=1e-6)


# --- groups -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(cases())
def test_figures_of_a_group_are_means_over_its_classes(case):
    found, task = case
    figures = group_figures(found, NAMES, {"all": NAMES, "some": ["c", "a"]}, task=task)
    of_classes = class_figures(found.probabilities, found.targets, task=task)
    plain = compute_metrics(found.probabilities, found.targets, task=task)
    for name in ("mAP", "mAP_chance", "f1_macro"):
        assert figures["all"][name] == pytest.approx(plain[name], nan_ok=True), name
    for name, column in (("mAP", "average_precision"), ("precision", "precision"), ("recall", "recall")):
        values = [of_classes[column][number] for number in (0, 2) if not math.isnan(of_classes[column][number])]
        assert figures["some"][name] == pytest.approx(np.mean(values) if values else math.nan, nan_ok=True)
    assert figures["some"]["windows"] == (found.targets[:, 0] | found.targets[:, 2]).sum()
    if task == "single_label":
        assert figures["all"]["top1"] == pytest.approx(plain["top1"])


def test_groups_are_read_checked_and_taken_from_a_hierarchy(tmp_path):
    (tmp_path / "groups.yaml").write_text("motion: [a, b]\nstill: [c]\n")
    expected = {"motion": ["a", "b"], "still": ["c"]}
    assert read_groups(str(tmp_path / "groups.yaml")) == read_groups("{motion: [a, b], still: [c]}") == expected
    assert choose_groups(expected, NAMES, None) == expected
    assert choose_groups(None, NAMES, None) == {}
    for wrong, message in (
        ({"x": ["a", "z"]}, r"'x' names 'z', which the model does not know\. Take some of a, b, c"),
        ({"x": []}, r"'x' is \[\], but must be a list of classes"),
        ({"x": ["a", "a"]}, "names a class twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            choose_groups(wrong, NAMES, None)
    for text, message in (("{x: a}", "must be lists"), ("{x: [", "is no YAML"), ("/no/file", "cannot be read")):
        with pytest.raises(ConfigError, match=message):
            read_groups(text)
    parents = {"ater": ("parus",), "major": ("parus",), "corax": ("corvus",), "rare": ("corvus",), "odd": ("parus",)}
    birds = make_hierarchy(list(parents), ("species", "genus"), parents)
    assert choose_groups(None, birds.levels[0].classes, birds) == {
        "genus/parus": ["ater", "major", "odd"],
        "genus/corvus": ["corax", "rare"],
    }
    labels = np.repeat(np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0]], bool), 3, axis=0)
    merged = birds.merge_rare(labels, min_samples=2)  # `other` has categories of both genera: it is in neither group
    assert choose_groups(None, merged.levels[0].classes, merged) == {
        "genus/parus": ["ater", "major"],
        "genus/corvus": ["corax"],
    }


# --- intervals --------------------------------------------------------------------------------------------------------


def resampled_by_brute_force(found, task, resamples, seed):
    """Videos are drawn as the module draws them; their windows are then put together, and figures computed anew."""
    keys, videos = found.videos
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(keys), np.full(len(keys), 1 / len(keys)), resamples)
    drawn = []
    for row in weights:
        windows = np.repeat(np.arange(len(videos)), row[videos])
        probabilities, targets = found.probabilities[windows], found.targets[windows]
        figures = compute_metrics(probabilities, targets, task=task)
        figures["loss"] = found.window_losses[windows, 0].mean(dtype=np.float64)
        drawn.append((figures, class_figures(probabilities, targets, task=task)))
    return drawn


@settings(max_examples=15, deadline=None)
@given(cases(), st.integers(0, 100))
def test_intervals_are_percentiles_over_resampled_videos(case, seed):
    found, task = case
    told = intervals(found, NAMES, task=task, resamples=25, seed=seed)
    if told["videos"] == 1:
        assert "metrics" not in told
        return
    drawn = resampled_by_brute_force(found, task, 25, seed)

    def expected(values):
        known = [value for value in values if not math.isnan(value)]
        return pytest.approx(np.percentile(known, [2.5, 97.5]).tolist(), rel=1e-5) if known else None

    for name, interval in told["metrics"].items():
        assert interval == expected([figures[name] for figures, _ in drawn]), name
    assert set(told["metrics"]) >= {"loss", "mAP", "f1_macro", "f1_micro"}
    for number, name in enumerate(NAMES):
        for figure, interval in told["classes"][name].items():
            assert interval == expected([of_classes[figure][number] for _, of_classes in drawn]), (name, figure)


def test_intervals_are_the_same_for_the_same_seed_whatever_is_computed_at_a_time(monkeypatch):
    found = make_predictions(np.random.default_rng(0), [5, 9, 3, 7])
    first = intervals(found, NAMES, task="multi_label", resamples=50, seed=3)
    monkeypatch.setattr("wildstream.evaluation.bootstrap.AT_ONCE", 100)
    assert intervals(found, NAMES, task="multi_label", resamples=50, seed=3) == first
    assert intervals(found, NAMES, task="multi_label", resamples=50, seed=4) != first


def test_one_video_and_no_resamples_have_no_intervals_and_say_so():
    found = make_predictions(np.random.default_rng(0), [9])
    told = intervals(found, NAMES, task="multi_label", resamples=50, seed=0)
    assert "two videos at least" in told["reason"]
    assert "metrics" not in told
    assert "reason" in intervals(found, NAMES, task="multi_label", resamples=0, seed=0)


def test_intervals_cover_the_truth_where_windows_of_a_video_are_alike():
    """Each video has its own error rate, 0.3 on average. Resampled windows would cover it far too seldom."""
    covered = trials = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        right = np.repeat(rng.random(30) > 0.3, 20)  # of 30 videos, all 20 windows are right, or none
        targets = np.tile([True, False], (len(right), 1))
        found = Predictions(
            keys=[f"{window // 20:02}" for window in range(len(right))],
            starts=np.tile(STYLE.starts(np.arange(20)), 30),
            probabilities=np.where(right, [[0.9], [0.1]], [[0.1], [0.9]]).T.astype(np.float32),
            targets=targets,
            loss=0.0,
            window_losses=np.zeros((len(right), 1), np.float32),
        )
        low, high = intervals(found, ["x", "y"], task="single_label", resamples=200, seed=seed)["metrics"]["top1"]
        covered, trials = covered + (low <= 0.7 <= high), trials + 1
    assert 0.87 <= covered / trials <= 1.0


# --- shuffled frames --------------------------------------------------------------------------------------------------


def entropy_by_definition(order):
    steps = Counter((order[(i + 1) % len(order)] - order[i]) % len(order) for i in range(len(order)))
    return -sum(count / len(order) * math.log2(count / len(order)) for count in steps.values())


@settings(max_examples=100, deadline=None)
@given(st.permutations(range(9)))
def test_the_entropy_is_that_of_the_circular_steps(order):
    assert permutation_entropy(order) == pytest.approx(entropy_by_definition(order), abs=1e-12)
    assert permutation_entropy(order) <= math.log2(8) + 1e-12


@pytest.mark.parametrize("length", [2, 3, 8, 16, 33])
def test_frames_in_order_turned_or_backwards_have_no_entropy(length):
    order = np.arange(length)
    for even in (order, np.roll(order, 3), order[::-1]):
        assert permutation_entropy(even) == 0


def test_random_permutations_have_the_entropy_that_is_expected():
    exact = np.mean([entropy_by_definition(order) for order in permutations(range(6))])
    drawn = [permutation_entropy(np.random.default_rng(seed).permutation(6)) for seed in range(3000)]
    assert np.mean(drawn) == pytest.approx(exact, abs=0.02)
    # Of many frames each step occurs as often as Poisson says: H = log2 n − E[k log2 k], k of mean 1.
    surplus = sum(math.exp(-1) / math.factorial(k) * k * math.log2(k) for k in range(2, 20))
    drawn = [permutation_entropy(draw_permutation(512, seed=seed)) for seed in range(100)]
    assert np.mean(drawn) == pytest.approx(math.log2(512) - surplus, abs=0.02)


def test_a_drawn_permutation_follows_from_the_seed_and_is_never_the_order_itself():
    for length in (2, 3, 16):
        drawn = [draw_permutation(length, seed=seed) for seed in range(50)]
        assert drawn == [draw_permutation(length, seed=seed) for seed in range(50)]
        assert tuple(range(length)) not in drawn
        assert all(sorted(order) == list(range(length)) for order in drawn)


def test_every_clip_gets_the_same_order_and_nothing_else_changes():
    frames = torch.randint(0, 255, (2, 4, 3, 5, 5), dtype=torch.uint8)
    batch = Batch(
        frames=frames,
        labels=torch.ones(2, 1, dtype=torch.bool),
        keys=["a", "b"],
        starts=torch.tensor([0, 4]),
        mask=torch.tensor([True, False]),
        positions=torch.tensor([0, 1]),
    )
    before = frames.clone()
    (changed,) = ShuffleFrames(permutation=(2, 0, 3, 1))([batch])
    for place, frame in enumerate((2, 0, 3, 1)):
        assert torch.equal(changed.frames[:, place], before[:, frame])
    assert torch.equal(frames, before)
    assert (changed.keys, changed.mask.tolist()) == (batch.keys, [True, False])


# --- the file of predictions ------------------------------------------------------------------------------------------


class FakeIndex:
    """Two videos: one whose first frame is shown at 0.4 s, one of which nothing is known."""

    keys = ("v000", "v001")

    def frame_table(self, video):
        pts = np.array([[10, 11, 13, NO_PTS, 16, 17], []][video], np.int64)
        return FrameTable(pts=pts, key_frames=np.zeros(1, np.int64), time_base=Fraction(1, 25))


class FakeManifest:
    task, categories = "multi_label", NAMES

    def __init__(self, hierarchy=None):
        self.hierarchy = hierarchy


def test_predictions_are_read_as_they_were_written(tmp_path):
    import pyarrow.parquet as pq

    found = make_predictions(np.random.default_rng(0), [4, 2])
    write_predictions(tmp_path / "x.parquet", found, FakeManifest(), FakeIndex(), {"split": "test"})
    read = read_predictions(tmp_path / "x.parquet")
    assert read.keys == found.keys
    assert np.array_equal(read.starts, found.starts)
    for name in ("probabilities", "targets", "window_losses"):
        assert np.array_equal(getattr(read, name), getattr(found, name)), name
        assert getattr(read, name).dtype == getattr(found, name).dtype
    assert (read.loss, read.level_losses) == (pytest.approx(found.loss), ())
    table = pq.read_table(tmp_path / "x.parquet")
    columns = ["key", "start", "start_pts_seconds", "probabilities", "targets", "losses", "labelled"]
    assert table.column_names == columns
    facts = json.loads(table.schema.metadata[b"wildstream"])
    assert (facts["classes"], facts["task"], facts["split"]) == (NAMES, "multi_label", "test")
    assert found.starts[:4].tolist() == [-1, 1, 3, 5]
    assert table["start_pts_seconds"].to_pylist() == [0, pytest.approx(0.04), None, pytest.approx(0.28), None, None]
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]


def test_predictions_of_levels_keep_their_losses(tmp_path):
    parents = {"a": ("x",), "b": ("x",), "c": ("y",)}
    levels = make_hierarchy(NAMES, ("low", "high"), parents).weigh({"low": 3, "high": 1})
    rng = np.random.default_rng(0)
    found = make_predictions(rng, [4, 2], classes=5)
    found = replace(found, window_losses=rng.random((6, 2)).astype(np.float32)).only(np.ones(6, bool), levels)
    assert found.loss == pytest.approx(1.5 * found.level_losses[0] + 0.5 * found.level_losses[1])
    write_predictions(tmp_path / "x.parquet", found, FakeManifest(levels), FakeIndex(), {})
    read = read_predictions(tmp_path / "x.parquet")
    assert (read.loss, read.level_losses) == (pytest.approx(found.loss), pytest.approx(found.level_losses))
    assert read.by_level(levels)["high"].window_losses.tolist() == found.window_losses[:, [1]].tolist()


def test_what_holds_no_predictions_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "y.parquet")
    for name in ("x", "y", "nowhere"):
        with pytest.raises(ShardError, match=rf"{name}\.parquet holds no predictions of `wildstream evaluate`"):
            read_predictions(tmp_path / f"{name}.parquet")


def test_times_do_not_depend_on_the_order_of_the_windows():
    found = make_predictions(np.random.default_rng(0), [4, 2])
    turned = replace(found, keys=found.keys[::-1], starts=found.starts[::-1].copy())
    assert np.array_equal(start_seconds(turned, FakeIndex())[::-1], start_seconds(found, FakeIndex()), equal_nan=True)


@settings(max_examples=30, deadline=None)
@given(cases())
def test_means_of_tolerance_are_scikit_learns_on_dilated_targets(case):
    found, task = case
    if task == "single_label":
        return
    truth, scores = near_by_brute_force(found, 1), found.probabilities
    figures = compute_metrics(scores, tolerant_targets(found, STYLE, windows=1, task=task), task=task)
    occurs = truth.any(axis=0)
    if occurs.any():
        expected = np.mean([average_precision_score(truth[:, k], scores[:, k]) for k in np.flatnonzero(occurs)])
        assert figures["mAP"] == pytest.approx(expected, rel=1e-5)
        assert figures["f1_micro"] == pytest.approx(f1_score(truth.ravel(), scores.ravel() > 0.5))


def test_a_probability_on_a_border_is_of_the_bin_below():
    bins = reliability(np.linspace(0, 1, 16), np.arange(16) % 2 == 0)
    assert [one["windows"] for one in bins] == [2] + [1] * 14
    assert bins[0] == {"above": 0.0, "windows": 2, "probability": pytest.approx(1 / 30), "share": 0.5}
    assert bins[-1]["probability"] == 1.0

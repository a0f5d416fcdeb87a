"""WildFins' saved features: what is imported is what was saved, bit by bit, or it is refused."""

import csv
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import contents, snapshot
from tiny import ROOT, run_python

import wildstream as ws
from wildstream.cli import main
from wildstream.errors import FormatError, LabelError
from wildstream.features import wildfins
from wildstream.shards.index import open_index
from wildstream.shards.labels import LabelTrack

CATEGORIES = ["feeding", "chasing", "never"]
STYLE = ws.SlidingStyle(
    window_size=8, samples_per_window=4, step_size=3, tolerance_region=0, temporal_sample_interval=2
)
SINGLE = ws.SlidingStyle(window_size=1, samples_per_window=1)
VIDEOS = {"b_reef": 7, "a_1": 4, "c": 1}


def features_of(video, number, *, shape=(2, 6), dtype=np.float16):
    """Features of a sample, from its name: any bits but those of NaN and infinity."""
    rng = np.random.default_rng([number, *video.encode()])
    return rng.normal(size=shape).astype(dtype)


def labels_of(video, count):
    return np.random.default_rng(list(video.encode())).random((count, 3)) < 0.4


def write_labels(path, rows):
    """As WildFins does: csv.writer with tabs, so that lines end in \\r\\n."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(np.asarray(rows).astype(int).tolist())


def save(root, videos=None, *, nested=True, kind="dino_features", digits=8, labels=labels_of, **form):
    """A split as WildFins saves it."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "categories.json").write_text(json.dumps(CATEGORIES))
    for video, count in (videos or VIDEOS).items():
        home = root / video if nested else root
        (home / kind).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            np.save(home / kind / f"{video}_{number:0{digits}d}.npy", features_of(video, number, **form))
        write_labels(home / "labels" / f"{video}.tsv", labels(video, count))
    return root


def load(root, out, style=STYLE, **options):
    """Import, and open what was imported."""
    report = ws.import_features(root, out, style=style, progress=False, **options)
    return ws.DatasetBuilder(path=report.folder, style=style, precomputed=True).build(), report


def windows_of(loader):
    """Features and labels of every window of an epoch, by video and start."""
    found = {}
    for batch in loader:
        for row in batch.mask.nonzero().flatten().tolist():
            address = batch.keys[row], int(batch.starts[row])
            assert address not in found, "a window came twice"
            found[address] = batch.features[row].numpy(), batch.labels[row].numpy()
    return found


def check_windows(dataset, videos, style, **form):
    """Every window of every video came once, with the bits and the labels that were saved."""
    for options in ({}, {"shuffle": True, "seed": 3}):
        found = windows_of(dataset.loader(batch_size=4, **options))
        assert len(found) == sum(videos.values()) == len(dataset)
        for video, count in videos.items():
            labels = labels_of(video, count)
            for number, start in enumerate(style.starts(np.arange(count)).tolist()):
                features, label = found[video, start]
                assert features.tobytes() == np.atleast_2d(features_of(video, number, **form)).tobytes()
                assert np.array_equal(label, labels[number])


# --- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("form", [{}, {"shape": (6,), "dtype": np.float32}, {"shape": (1, 5)}])
@pytest.mark.parametrize("style", [STYLE, SINGLE, replace(STYLE, padding="none")])
def test_windows_are_those_that_were_saved(tmp_path, nested, form, style):
    dataset, report = load(save(tmp_path / "train", nested=nested, **form), tmp_path / "out", style)
    assert report.windows == dict(sorted(VIDEOS.items()))
    assert (report.not_finite, report.reused, report.are_frames) == ({}, 0, False)
    assert dataset.index.info.features.backbone == "dino"
    assert dataset.index.info.split == "train"
    assert dataset.categories == CATEGORIES
    check_windows(dataset, VIDEOS, style, **form)


def test_samples_go_into_shards_of_a_size(tmp_path):
    dataset, _ = load(save(tmp_path / "train"), tmp_path / "out", shard_bytes=8 * 24)
    assert dataset.index.info.shards == ["000000.tar", "000001.tar"]
    check_windows(dataset, VIDEOS, STYLE)


def test_what_was_not_saved_is_noticed_by_the_comparison(tmp_path):
    """The comparison of the other tests can fail: another label, another bit."""
    dataset, _ = load(save(tmp_path / "train"), tmp_path / "out")
    with pytest.raises(AssertionError):
        check_windows(dataset, VIDEOS | {"c": 2}, STYLE)
    path = tmp_path / "train" / "a_1" / "dino_features" / "a_1_00000002.npy"
    changed = np.load(path)
    changed.view(np.uint16)[0, 0] ^= 1
    np.save(path, changed)
    with pytest.raises(AssertionError):
        check_windows(load(tmp_path / "train", tmp_path / "out")[0], VIDEOS, STYLE)


@pytest.mark.parametrize("tolerance", [0, 1, 3])
@pytest.mark.parametrize("interval", [1, 2, 3])
@pytest.mark.parametrize("step", [1, 2, 5])
@pytest.mark.parametrize("padding", ["edge", "none"])
def test_labels_that_frames_gave_are_found_again(tolerance, interval, step, padding):
    style = ws.SlidingStyle(
        window_size=8,
        samples_per_window=2,
        step_size=step,
        tolerance_region=tolerance,
        temporal_sample_interval=interval,
        padding=padding,
    )
    rng = np.random.default_rng([tolerance, interval, step])
    tried = 0
    for num_frames in range(1, 60):
        rows = np.repeat(rng.random((20, 3)) < 0.3, 3, axis=0)[:num_frames]
        wanted = style.labels(LabelTrack.from_rows(rows))
        if len(wanted):
            track = style.find_track(wanted)
            assert track is not None
            assert int(style.num_windows(track.num_frames)) == len(wanted)
            assert np.array_equal(style.labels(track), wanted)
            tried += 1
    assert tried > 5


def test_labels_that_no_frames_give_are_refused_and_taken_without_tolerance(tmp_path):
    style = ws.SlidingStyle(window_size=8, samples_per_window=8, step_size=1, tolerance_region=2)
    root = save(tmp_path / "train", labels=lambda _, count: np.arange(count)[:, None] == [2, 2, 2])
    with pytest.raises(LabelError, match=r"a_1\.tsv: no labels of frames give these rows with tolerance_region=2"):
        load(root, tmp_path / "out", style)
    dataset, _ = load(root, tmp_path / "out", replace(style, tolerance_region=0))
    assert dataset.labels().sum(axis=0).tolist() == [2, 2, 2]


def test_one_of_several_models_is_chosen(tmp_path):
    root = save(tmp_path / "train", kind="dino_features")
    save(root, kind="videomae_features", shape=(9,))
    with pytest.raises(ws.ConfigError, match=r"model=None: .* has features of dino, videomae"):
        load(root, tmp_path / "out")
    with pytest.raises(ws.ConfigError, match=r"model='clip'.* has features of dino, videomae. Take one"):
        load(root, tmp_path / "out", model="clip")
    dataset, _ = load(root, tmp_path / "out", model="videomae")
    check_windows(dataset, VIDEOS, STYLE, shape=(9,))


def test_inputs_need_the_name_of_their_model_and_may_be_no_clips(tmp_path):
    root = save(tmp_path / "train", kind="inputs")
    with pytest.raises(ws.ConfigError, match="has inputs, which does not tell the model"):
        load(root, tmp_path / "out")
    dataset, _ = load(root, tmp_path / "out", model="dino")
    check_windows(dataset, VIDEOS, STYLE)
    clips = save(tmp_path / "clips", kind="inputs", shape=(4, 3, 8, 8), dtype=np.uint8)
    with pytest.raises(FormatError, match=r"a_1_00000000.npy is uint8 \(4, 3, 8, 8\); .* pack the videos"):
        load(clips, tmp_path / "out", model="dino")


def test_videos_can_be_chosen_and_the_split_named(tmp_path):
    root = save(tmp_path / "all", nested=False)
    dataset, _ = load(root, tmp_path / "out", subset=["c", "a_1"], split="val")
    assert dataset.index.info.split == "val"
    check_windows(dataset, {"a_1": 4, "c": 1}, STYLE)
    with pytest.raises(ws.ConfigError, match=r"subset='d' is not in .*It has a_1, b_reef, c"):
        load(root, tmp_path / "out", subset=["d"])
    with pytest.raises(ws.ConfigError, match=r"split='../x' must be a plain name"):
        load(root, tmp_path / "out", split="../x")


def test_folders_of_other_styles_are_left_out(tmp_path):
    """WildFins' later layout: split, video, style."""
    save(tmp_path / "train")
    for video in VIDEOS:
        home = tmp_path / "train" / video
        (home / "test_frames").mkdir()
        (home / "dino_features").rename(home / "test_frames" / "dino_features")
        (home / "labels").rename(home / "test_frames" / "labels")
        (home / "sliding_window" / "dino_features").mkdir(parents=True)
        np.save(home / "sliding_window" / "dino_features" / f"{video}_00000000.npy", np.zeros(3, np.float16))
        write_labels(home / "sliding_window" / "labels" / f"{video}.tsv", [[1, 1, 1]])
    dataset, _ = load(tmp_path / "train", tmp_path / "out", "test_frames")
    check_windows(dataset, VIDEOS, dataset.style)
    with pytest.raises(
        FormatError, match="'a_1' is in a_1/test_frames/dino_features and in a_1/sliding_window/dino_features"
    ):
        load(tmp_path / "train", tmp_path / "again", SINGLE)


def test_class_numbers_are_a_single_label(tmp_path):
    root = save(tmp_path / "train", labels=lambda _, count: np.arange(count)[:, None] % 3)
    dataset, _ = load(root, tmp_path / "out")
    assert dataset.index.info.task == "single_label"
    assert windows_of(dataset.loader(batch_size=3))["b_reef", 2 * 3 * 2 - 3][1].tolist() == [False, False, True]
    write_labels(root / "a_1" / "labels" / "a_1.tsv", [[3], [0], [1], [2]])
    with pytest.raises(LabelError, match=r"a_1.tsv, line 1: '3' is no class from 0 to 2"):
        load(root, tmp_path / "out")
    write_labels(root / "a_1" / "labels" / "a_1.tsv", np.eye(4, 3))
    with pytest.raises(LabelError, match="hold class numbers and others 0/1"):
        load(root, tmp_path / "out")


def test_rows_of_one_class_each_are_what_the_task_says(tmp_path):
    root = save(tmp_path / "train", labels=lambda _, count: np.eye(3)[np.arange(count) % 3])
    assert load(root, tmp_path / "out")[0].index.info.task == "multi_label"
    assert load(root, tmp_path / "out", task="single_label")[0].index.info.task == "single_label"
    write_labels(root / "c" / "labels" / "c.tsv", [[1, 1, 0]])
    with pytest.raises(LabelError, match=r"c.tsv, line 1: 2 classes, but task='single_label' means one"):
        load(root, tmp_path / "out", task="single_label")


# --- frames -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "style", [STYLE, ws.SlidingStyle(window_size=4, samples_per_window=2, tolerance_region=1), SINGLE]
)
def test_windows_are_cut_from_frames_within_a_video(tmp_path, style):
    videos = {"a_1": 30, "b": 11, "short": 1}
    root = save(tmp_path / "train", videos, nested=False, kind="frames", digits=6)
    dataset, report = load(root, tmp_path / "out", style, model="dino")
    assert report.are_frames
    found = windows_of(dataset.loader(batch_size=4, shuffle=True))
    assert len(found) == sum(int(style.num_windows(count)) for count in videos.values()) == len(dataset)
    for video, count in videos.items():
        numbers = np.arange(int(style.num_windows(count)))
        labels = style.labels(LabelTrack.from_rows(labels_of(video, count)))
        for number, start, frames in zip(
            numbers, style.starts(numbers).tolist(), style.frames(numbers, count).tolist(), strict=True
        ):
            features, label = found[video, start]
            wanted = np.concatenate([features_of(video, frame) for frame in frames])
            assert features.tobytes() == wanted.tobytes()
            assert np.array_equal(label, labels[number])
    info = dataset.index.info.features
    assert (info.members, info.num_tokens, info.dim) == (style.samples_per_window, 2, 6)


# --- what is refused --------------------------------------------------------------------------------------------------


def drop(home):
    (home / "dino_features" / "b_reef_00000003.npy").unlink()


def drop_last(home):
    (home / "dino_features" / "b_reef_00000006.npy").unlink()


def double(home):
    np.save(home / "dino_features" / "b_reef_3.npy", features_of("b_reef", 3))


def misname(home):
    np.save(home / "dino_features" / "mean.npy", features_of("b_reef", 3))


def shorten_labels(home):
    write_labels(home / "labels" / "b_reef.tsv", labels_of("b_reef", 6))


def lose_labels(home):
    (home / "labels" / "b_reef.tsv").unlink()


def lose_samples(home):
    for path in (home / "dino_features").iterdir():
        path.unlink()


def other_label(home):
    write_labels(home / "labels" / "b_reef.tsv", labels_of("b_reef", 7) * 2)


def other_columns(home):
    write_labels(home / "labels" / "b_reef.tsv", labels_of("b_reef", 7)[:, :2])


def other_shape(home):
    np.save(home / "dino_features" / "b_reef_00000003.npy", np.zeros((3, 6), np.float16))


def other_precision(home):
    np.save(home / "dino_features" / "b_reef_00000003.npy", np.zeros((2, 6), np.float32))


def double_precision(home):
    np.save(home / "dino_features" / "b_reef_00000003.npy", np.zeros((2, 6)))


def cut_off(home):
    path = home / "dino_features" / "b_reef_00000003.npy"
    path.write_bytes(path.read_bytes()[:-1])


def no_header(home):
    (home / "dino_features" / "b_reef_00000003.npy").write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': (((   ")


def nothing(home):
    (home / "dino_features" / "b_reef_00000003.npy").write_bytes(b"")


class Bomb:
    """Makes a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("bomb"),)


def bomb(home):
    np.save(home / "dino_features" / "b_reef_00000003.npy", np.array([Bomb()], object), allow_pickle=True)


def bare_bomb(home):
    (home / "dino_features" / "b_reef_00000003.npy").write_bytes(pickle.dumps(Bomb()))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (drop, FormatError, r"b_reef_00000003.npy is missing in .*it has 6 samples up to number 6"),
        (drop_last, LabelError, r"b_reef.tsv has 7 rows, but there are 6 samples b_reef_\*.npy"),
        (double, FormatError, r"are both sample 3; remove one"),
        (misname, FormatError, r"mean.npy is not named VIDEO_NUMBER.npy"),
        (shorten_labels, LabelError, r"b_reef.tsv has 6 rows, but there are 7 samples"),
        (lose_labels, LabelError, r"b_reef_00000000.npy has no labels; there is no .*labels/b_reef.tsv"),
        (lose_samples, FormatError, r"b_reef.tsv has 7 rows, but .*dino_features has no b_reef_\*.npy"),
        (other_label, LabelError, r"b_reef.tsv, line 1: '2' is neither 0 nor 1 \(in folder .*b_reef/labels\)"),
        (other_columns, LabelError, r"b_reef.tsv, line 1: 2 columns, but there are 3 categories"),
        (other_shape, FormatError, r"b_reef_00000003.npy is float16 \(3, 6\), but .*a_1_00000000.npy is .* \(2, 6\)"),
        (other_precision, FormatError, r"b_reef_00000003.npy is float32 \(2, 6\), but .*a_1_00000000.npy is float16"),
        (double_precision, FormatError, r"b_reef_00000003.npy is float64 \(2, 6\); .*float16 or float32"),
        (cut_off, FormatError, r"b_reef_00000003.npy cannot be read as .npy: "),
        (no_header, FormatError, r"b_reef_00000003.npy cannot be read as .npy: "),
        (nothing, FormatError, r"b_reef_00000003.npy cannot be read as .npy: "),
        (bomb, FormatError, r"b_reef_00000003.npy cannot be read as .npy: Object arrays cannot be loaded"),
        (bare_bomb, FormatError, r"b_reef_00000003.npy cannot be read as .npy: "),
    ],
)
def test_what_is_wrong_is_named_and_leaves_no_split(tmp_path, monkeypatch, spoil, error, message):
    monkeypatch.chdir(tmp_path)
    root, out = save(tmp_path / "train"), tmp_path / "out"
    spoil(root / "b_reef")
    with pytest.raises(error, match=message):
        load(root, out)
    assert not (out / "train").exists()
    assert not list(out.rglob("dataset.json"))
    assert not (tmp_path / "bomb").exists()
    # Mended, it goes on from what there is.
    save(root)
    for name in ("b_reef_3.npy", "mean.npy"):
        (root / "b_reef" / "dino_features" / name).unlink(missing_ok=True)
    check_windows(load(root, out)[0], VIDEOS, STYLE)
    assert [path.name for path in out.iterdir()] == ["train"]


def test_what_is_no_such_folder_is_refused(tmp_path):
    with pytest.raises(FormatError, match=r"no categories.json in"):
        load(tmp_path, tmp_path / "out")
    with pytest.raises(FormatError, match=r"no .npy below .* in a folder MODEL_features"):
        load(tmp_path, tmp_path / "out", categories=CATEGORIES)
    with pytest.raises(FormatError, match="is not a folder"):
        load(tmp_path / "nowhere", tmp_path / "out", categories=CATEGORIES)
    with pytest.raises(ws.ConfigError, match="shard_bytes=0 must be at least 1"):
        load(tmp_path, tmp_path / "out", shard_bytes=0)
    with pytest.raises(ws.ConfigError, match="task='both' is not known"):
        load(tmp_path, tmp_path / "out", task="both")


def test_what_is_imported_is_only_read(tmp_path):
    root = save(tmp_path / "train")
    before = snapshot(root)
    for out in (tmp_path, Path(os.path.relpath(tmp_path))):
        with pytest.raises(ws.ConfigError, match="which is imported, would be replaced"):
            load(root, out)
    load(root, tmp_path / "out")
    assert snapshot(root) == before


def test_values_that_are_not_finite_are_counted_and_kept_unless_all_are(tmp_path):
    root = save(tmp_path / "train")
    for number, value in ((1, np.nan), (2, -np.inf)):
        path = root / "a_1" / "dino_features" / f"a_1_{number:08d}.npy"
        array = features_of("a_1", number)
        array[1, number] = value
        np.save(path, array)
    for reused in (0, 3):
        dataset, report = load(root, tmp_path / "out")
        assert (report.not_finite, report.reused) == ({"a_1": 2}, reused)
    found = windows_of(dataset.loader(batch_size=4))
    assert np.isnan(found["a_1", 3][0][1, 1])
    assert np.isneginf(found["a_1", 9][0][1, 2])
    for path in root.rglob("*.npy"):
        np.save(path, np.full((2, 6), np.nan, np.float16))
    with pytest.raises(FormatError, match="all 12 windows have NaN or infinity"):
        load(root, tmp_path / "other")
    assert not list((tmp_path / "other").rglob("dataset.json"))


# --- twice, and killed ------------------------------------------------------------------------------------------------


def test_a_second_call_writes_only_what_changed(tmp_path):
    root, out = save(tmp_path / "train"), tmp_path / "out"
    load(root, out, shard_bytes=1)
    before = snapshot(out)
    assert load(root, out, shard_bytes=1)[1].reused == 3
    assert snapshot(out) == before
    assert [path.name for path in out.iterdir()] == ["train"]
    write_labels(root / "c" / "labels" / "c.tsv", ~labels_of("c", 1))
    dataset, report = load(root, out, shard_bytes=1)
    assert report.reused == 2
    assert windows_of(dataset.loader(batch_size=2))["c", -3][1].tolist() == (~labels_of("c", 1))[0].tolist()


def test_a_split_that_fails_leaves_the_old_one(tmp_path):
    root, out = save(tmp_path / "train"), tmp_path / "out"
    load(root, out)
    before = contents(out)
    (root / "c" / "dino_features" / "c_00000000.npy").write_bytes(b"")
    with pytest.raises(FormatError):
        load(root, out)
    assert {name: data for name, data in contents(out).items() if name.startswith("train/")} == before


PROGRAM = """
    import sys, time
    import wildstream as ws
    from wildstream.features import wildfins
    load = wildfins.load_sample
    def slow(path):
        time.sleep(0.02)
        return load(path)
    wildfins.load_sample = slow
    style = ws.SlidingStyle(window_size=1, samples_per_window=1)
    ws.import_features(sys.argv[1], sys.argv[2], style=style, shard_bytes=1, progress=False)
"""


def test_killed_it_leaves_no_split_and_goes_on(tmp_path):
    """A real process, killed at several moments while it writes."""
    root, calm, wild = save(tmp_path / "train"), tmp_path / "calm", tmp_path / "wild"
    load(root, calm, SINGLE, shard_bytes=1)
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(root), str(wild)]
    for kill in range(3):
        with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
            while (
                process.poll() is None and len(list(wild.rglob("*.parquet"))) < kill and not (wild / "train").exists()
            ):
                time.sleep(0.002)
            while process.poll() is None and not list(wild.rglob("*.tmp")):
                time.sleep(0.002)
            assert process.poll() is None, "it was to be killed, and ended by itself"
            process.send_signal(signal.SIGKILL)
        assert not list(wild.rglob("dataset.json"))
        with pytest.raises(ws.ShardError):
            open_index(wild / "train")
    _, report = load(root, wild, SINGLE, shard_bytes=1)
    assert report.reused > 0
    assert {name: data for name, data in contents(wild).items() if name.endswith(".tar")} == {
        name: data for name, data in contents(calm).items() if name.endswith(".tar")
    }
    assert [path.name for path in wild.iterdir()] == ["train"]


def test_failing_at_any_step_leaves_no_split(tmp_path, monkeypatch):
    root, out = save(tmp_path / "train"), tmp_path / "out"
    for name in ("finish_array", "pack_shard", "left_rows", "publish"):

        def fail(*_, **__):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(wildfins, name, fail)
            with pytest.raises(KeyboardInterrupt):
                load(root, out)
        assert not list(out.rglob("dataset.json"))
    check_windows(load(root, out)[0], VIDEOS, STYLE)


# --- what it is for ---------------------------------------------------------------------------------------------------


def test_a_head_learns_from_them(tmp_path):
    """Features that tell the label; one model's own name, which is no backbone of this program."""
    rng = np.random.default_rng(0)
    for split, videos in (("train", {"v1": 60, "v2": 30}), ("val", {"v3": 40})):
        root = save(tmp_path / "saved" / split, videos, shape=(8,), dtype=np.float32)
        for video, count in videos.items():
            labels = labels_of(video, count)
            for number in range(count):
                features = rng.normal(size=8).astype(np.float32)
                features[:3] += 6 * labels[number] - 3
                np.save(root / video / "dino_features" / f"{video}_{number:08d}.npy", features)
        ws.import_features(root, tmp_path / "features", style=STYLE, progress=False)
    style = "{window_size: 8, samples_per_window: 4, step_size: 3, tolerance_region: 0, temporal_sample_interval: 2}"
    overrides = [f"data.path={tmp_path / 'features'}", "data.precomputed=true", f"data.style={style}"]
    overrides += ["model.classifier=linear", "trainer.epochs=1", "trainer.batch_size=4", "trainer.lr=0.1"]
    overrides += ["trainer.wandb=disabled", "trainer.progress=false", f"trainer.out={tmp_path / 'run'}"]
    with pytest.raises(ws.ConfigError, match="feature_model='tiny3d', but the features are of 'dino'"):
        ws.train(ws.compose_config([*overrides, "model.backbone=tiny3d"]))
    with pytest.raises(ws.ConfigError, match=r"model.backbone='dino_of_ours' is not known"):
        ws.compose_config([f"data.path={tmp_path}", "model.backbone=dino_of_ours"])
    run = ws.train(ws.compose_config([*overrides, "model.backbone=dino"]))
    evaluation = ws.evaluate(run, split="val", progress=False)
    assert json.loads(evaluation.report.read_text())["metrics"]["mAP"] > 0.9


def test_remote_feature_shards_are_the_same(s3, tmp_path):
    root = save(tmp_path / "train")
    for _ in range(2):
        dataset, report = load(root, f"{s3.url}/features")
        check_windows(dataset, VIDEOS, STYLE)
    assert report.reused == 3


def test_the_command_says_what_was_imported(tmp_path, capsys):
    root = save(tmp_path / "train")
    assert main(["import", str(root), str(tmp_path / "out"), "--style", "test_frames", "--subset", "c"]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path / 'out' / 'train'}: 1 windows of 1 videos\n" in said
    assert "of each window 2 × 6 fp16, 24 bytes; windows of dino" in said
    arguments = [root, tmp_path / "tool", "--style", "{window_size: 4, samples_per_window: 2}", "--split", "val"]
    done = run_python(ROOT / "tools" / "import_features.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'tool' / 'val'}: 12 windows of 3 videos\n" in done.stdout
    assert main(["import", str(tmp_path / "nowhere"), str(tmp_path), "--style", "frames"]) == 1
    assert "FormatError: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ("nope", "style='nope' is not known"),
        ("{windows: 3}", "windows"),
        ("{window_size: 0}", "window_size=0"),
        ("{", ""),
    ],
)
def test_wrong_styles_are_refused_with_2(style, message, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["import", "a", "b", "--style", style])
    assert exit.value.code == 2
    assert message in capsys.readouterr().err

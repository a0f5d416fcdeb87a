"""Evaluation: its files hold what it takes to find every figure again, and fit only the shards they were made for."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, log_loss, precision_recall_fscore_support
from test_trackers import wandb_records
from tiny import CATEGORIES, clips_shards, frames_shards, free_port, run_python, tiny_config

from wildstream.errors import ConfigError, EnvironmentProblem, ShardError, WildStreamError
from wildstream.evaluation import evaluate as evaluate_module
from wildstream.evaluation import source
from wildstream.evaluation.describe import Analyses
from wildstream.evaluation.evaluate import evaluate, render
from wildstream.evaluation.predictions_file import read_predictions
from wildstream.shards.index import open_index
from wildstream.stream.dataset import WindowDataset
from wildstream.stream.ledger import Ledger
from wildstream.training.checkpoints import load_checkpoint
from wildstream.training.run import train


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return frames_shards(tmp_path_factory)


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ("trainer.epochs=3", "trainer.lr=0.05", "trainer.monitor=loss")
    return train(tiny_config(shards, tmp_path_factory.mktemp("run") / "run", *options))


@pytest.fixture(scope="module")
def clips_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny_config(clips_shards(tmp_path_factory), tmp_path_factory.mktemp("clips") / "run"))


@pytest.fixture(autouse=True, scope="module")
def fresh_accelerate():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def read(path: Path) -> tuple[dict, np.ndarray, np.ndarray]:
    """A report, its probabilities and its targets."""
    report = json.loads(path.read_text())
    found = read_predictions(path.with_name(report["predictions"]))
    assert len(found.keys) == report["windows"]
    return report, found.probabilities, found.targets


def test_the_figures_follow_from_the_windows_in_the_report(run):
    evaluation = evaluate(run, progress=False)
    report, probabilities, targets = read(run / "evaluation" / "test.json")
    occurs = targets.any(axis=0)
    precisions = [average_precision_score(targets[:, k], probabilities[:, k]) for k in np.flatnonzero(occurs)]
    metrics = report["metrics"]
    assert metrics["mAP"] == pytest.approx(np.mean(precisions), rel=1e-6)
    assert metrics["mAP_chance"] == pytest.approx(targets.mean(axis=0)[occurs].mean())
    assert metrics["loss"] == pytest.approx(
        np.mean([log_loss(targets[:, k], probabilities[:, k], labels=[0, 1]) for k in range(3)]), rel=1e-4
    )
    found = probabilities > 0.5
    assert metrics["f1_micro"] == pytest.approx(f1_score(targets.ravel(), found.ravel()))
    assert metrics["f1_macro"] == pytest.approx(f1_score(targets, found, average="macro", zero_division=np.nan))
    assert list(report["classes"]) == CATEGORIES
    for number, (name, figures) in enumerate(report["classes"].items()):
        assert figures["windows"] == targets[:, number].sum()
        assert figures["chance"] == pytest.approx(targets[:, number].mean())
        if name == "never":
            assert figures["average_precision"] is None
        else:
            assert figures["average_precision"] == pytest.approx(precisions[number], rel=1e-6)
        expected = precision_recall_fscore_support(
            targets[:, number], found[:, number], labels=[1], zero_division=np.nan
        )
        for figure, value in zip(("precision", "recall", "f1"), expected[:3], strict=True):
            assert figures[figure] == (None if np.isnan(value[0]) else pytest.approx(value[0]))
    assert evaluation.metrics == metrics
    assert evaluation.classes == report["classes"]
    assert (report["checkpoint"], report["split"], report["schema_version"]) == ("best", "test", 3)
    assert evaluation.content == report


def test_every_window_is_in_the_report_once_and_in_order(run, shards):
    found = read_predictions(evaluate(run, batch_size=7, progress=False).predictions)
    _, manifest = load_checkpoint(run / "best")
    dataset = WindowDataset(index=open_index(shards / "test"), style=manifest.sliding_style)
    videos, starts = dataset.addresses()
    assert found.keys == [dataset.index.keys[video] for video in videos]
    assert found.starts.tolist() == starts.tolist()
    assert np.array_equal(found.targets, dataset.labels())
    seconds = pq.read_table(run / "evaluation" / "test.parquet")["start_pts_seconds"].to_numpy()
    np.testing.assert_allclose(seconds, np.maximum(starts, 0) / 25)  # 25 frames a second; the padding is before them


def test_the_batch_size_changes_nothing(run):
    first, second = (evaluate(run, batch_size=size, progress=False).metrics for size in (1, 64))
    assert first == pytest.approx(second, rel=1e-4)


def test_a_checkpoint_on_the_validation_split_says_what_the_training_said(run):
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    best = min(lines, key=lambda line: line["val"]["loss"])
    for checkpoint, line in (("best", best), ("last", lines[-1])):
        evaluation = evaluate(run, split="val", checkpoint=checkpoint, progress=False)
        assert evaluation.metrics == pytest.approx(line["val"], rel=1e-4)
        report = json.loads(evaluation.report.read_text())
        assert report["checkpoint"] == checkpoint
        training = report["training"]
        assert training["agrees"]
        assert training["largest_difference"] < 1e-4
        assert (training["metrics"], training["epoch"]) == (line["val"], line["epoch"])
        assert "training and testing agree: the figures of epoch" in render(evaluation)


def test_each_checkpoint_is_evaluated_by_its_own_weights(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    weights = load_file(copy / "last" / "model.safetensors")
    save_file({name: torch.zeros_like(tensor) for name, tensor in weights.items()}, copy / "last" / "model.safetensors")
    assert evaluate(copy, checkpoint="best", progress=False).metrics == pytest.approx(
        evaluate(run, checkpoint="best", progress=False).metrics
    )
    evaluate(copy, checkpoint="last", progress=False)
    _, probabilities, _ = read(copy / "evaluation" / "test-last.json")
    assert (probabilities == 0.5).all()
    assert {path.stem for path in (copy / "evaluation").iterdir()} >= {"test", "test-last"}  # neither takes the place
    disagrees = evaluate(copy, split="val", checkpoint="last", progress=False)
    assert disagrees.content["training"]["agrees"] is False
    assert "training and testing DISAGREE" in render(disagrees)


def test_single_label_figures_follow_from_the_report_too(clips_run):
    evaluate(clips_run, progress=False)
    report, probabilities, targets = read(clips_run / "evaluation" / "test.json")
    assert report["task"] == "single_label"
    assert report["categories"] == ["dark", "bright"]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    truth, found = targets.argmax(axis=1), probabilities.argmax(axis=1)
    metrics = report["metrics"]
    assert metrics["top1"] == pytest.approx(accuracy_score(truth, found))
    assert metrics["f1_micro"] == pytest.approx(metrics["top1"])
    assert metrics["f1_macro"] == pytest.approx(f1_score(truth, found, average="macro", zero_division=0.0))
    assert metrics["loss"] == pytest.approx(-np.log(probabilities[targets.astype(bool)]).mean(), rel=1e-4)
    assert metrics["mAP"] == pytest.approx(average_precision_score(targets, probabilities), rel=1e-5)
    assert set(report["videos"]) == {"dark/c0", "bright/c1", "dark/c2", "bright/c3"}


def test_a_run_and_its_shards_may_move(run, shards, tmp_path, monkeypatch):
    expected = evaluate(run, progress=False).metrics
    moved = shutil.copytree(run, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert evaluate("moved", progress=False).metrics == expected
    elsewhere = shutil.copytree(shards, tmp_path / "elsewhere")
    for name in ("best", "last"):
        manifest = moved / name / "manifest.json"
        manifest.write_text(manifest.read_text().replace(str(shards), "/gone"))
    with pytest.raises(ShardError, match=r"no longer at /gone\. Say where they are: --data SHARDS"):
        evaluate("moved", progress=False)
    assert evaluate("moved", data="elsewhere", progress=False).metrics == expected
    other = evaluate("moved", data=elsewhere, progress=False)
    assert other.report == Path(
        f"moved/evaluation/test-on-elsewhere-{open_index(elsewhere / 'test').fingerprint[:8]}.json"
    )


def test_figures_above_the_tuned_thresholds_are_told_too(run, tmp_path):
    done = evaluate(run, split="test", out=tmp_path, progress=False)
    thresholds = json.loads((run / "best" / "manifest.json").read_text())["thresholds"]
    told, found = done.content["thresholds"], pq.read_table(done.predictions)
    probabilities, targets = (np.array(found[name].to_pylist()) for name in ("probabilities", "targets"))
    for number, (name, threshold) in enumerate(thresholds.items()):
        predicted, truth = probabilities[:, number] > threshold, targets[:, number].astype(bool)
        assert told[name]["threshold"] == threshold
        assert told[name]["recall"] == (pytest.approx((predicted & truth).sum() / truth.sum()) if truth.any() else None)
        hits, both = (predicted & truth).sum(), predicted.sum() + truth.sum()
        assert told[name]["f1"] == (pytest.approx(2 * hits / both) if both else None)
    assert "With the thresholds tuned on validation, which `predict` takes:" in render(done)


def test_a_page_of_an_earlier_evaluation_does_not_stay(run, tmp_path):
    done = evaluate(run, split="test", out=tmp_path, html=True, progress=False)
    assert done.page.is_file()
    assert list((tmp_path / "test").glob("*.png"))
    evaluate(run, split="test", out=tmp_path, progress=False)
    assert not done.page.exists()
    assert not list((tmp_path / "test").glob("*.png"))


def test_a_model_that_gives_no_numbers_is_told_with_the_window(run, tmp_path, monkeypatch):
    real = evaluate_module.predict

    def broken(*arguments, **options):
        found = real(*arguments, **options)
        found.probabilities[3, 0] = np.nan
        return found

    monkeypatch.setattr(evaluate_module, "predict", broken)
    with pytest.raises(WildStreamError, match=r"NaN or infinity for 1 windows, the first of them at frame \d+ of"):
        evaluate(run, split="test", out=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_shuffled_frames_that_fail_elsewhere_are_not_compared(run, tmp_path, monkeypatch):
    first, gone = [Ledger(10, 10)], Ledger(10, 9, 0, Counter({"gone": 1}))
    monkeypatch.setattr(evaluate_module, "total_ledger", lambda _: first.pop() if first else gone)
    with pytest.raises(WildStreamError, match="other windows failed to decode with shuffled frames"):
        evaluate(run, split="test", out=tmp_path, analyses=Analyses(shuffled_frames=True), progress=False)


def test_shards_of_other_categories_are_refused(run, tmp_path_factory):
    with pytest.raises(ConfigError, match=r"categories \['dark', 'bright'\], the model knows \['bright', 'red'"):
        evaluate(run, data=clips_shards(tmp_path_factory), progress=False)


def test_what_is_no_run_no_split_or_no_checkpoint_is_refused(run, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ShardError, match=rf"{folder} is neither a checkpoint nor a finished run"):
            evaluate(folder, progress=False)
    with pytest.raises(ShardError, match=r"no dataset\.json in .*nope"):
        evaluate(run, split="nope", progress=False)
    with pytest.raises(ConfigError, match=r"checkpoint='first' is not known\. Take one of best, last"):
        evaluate(run, checkpoint="first", progress=False)
    with pytest.raises(ConfigError, match=r"batch_size=0 must be at least 1"):
        evaluate(run, batch_size=0, progress=False)


def test_the_table_shows_every_class_and_what_is_not_defined(run):
    evaluation = evaluate(run, progress=False)
    rows = render(evaluation).splitlines()
    assert rows[0].split() == ["class", "windows", "chance", "AP", "precision", "recall", "F1"]
    assert [row.split()[0] for row in rows[2:5]] == CATEGORIES
    assert rows[4].split()[:4] == ["never", "0", "0.000", "–"]
    assert rows[4].split()[5] == "–"  # nothing to find
    assert rows[6].startswith("mean")
    metrics = evaluation.metrics
    assert rows[6].split()[1:3] == [f"{metrics['mAP_chance']:.3f}", f"{metrics['mAP']:.3f}"]
    assert rows[6].split()[-1] == f"{metrics['f1_macro']:.3f}"
    assert len({len(row) for row in rows[:7]}) == 1
    assert rows[8].startswith("loss")


# --- what is evaluated, and where the results go ----------------------------------------------------------------------


def test_a_checkpoint_alone_is_enough_on_another_machine(run, shards, tmp_path, monkeypatch):
    """Without the run, its configuration and its data: from a copied folder, on copied shards."""
    expected = evaluate(run, progress=False).metrics
    copy = shutil.copytree(run / "best", tmp_path / "fish")
    manifest = copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace(str(shards), "/gone"))
    shutil.copytree(shards / "test", tmp_path / "elsewhere" / "test")
    found = evaluate(copy, data=tmp_path / "elsewhere", progress=False)
    assert found.metrics == expected
    assert found.report.parent == tmp_path / "fish-evaluation"
    assert sorted(path.name for path in copy.iterdir()) == ["manifest.json", "model.safetensors"]
    monkeypatch.chdir(copy)
    assert evaluate(".", data="../elsewhere", out=tmp_path / "out", progress=False).report.parent == tmp_path / "out"
    with pytest.raises(ConfigError, match=r"checkpoint='last' is for a run, and .*fish is a single model"):
        evaluate(copy, checkpoint="last", progress=False)


def test_checkpoints_of_a_run_are_found_by_their_folders_too(tmp_path):
    run = tmp_path / "run"
    for name in ("best", "last", "kept/epoch_004", "kept/epoch_007"):
        (run / name).mkdir(parents=True)
        (run / name / "manifest.json").touch()
    (run / "config.yaml").touch()
    for given, checkpoint, name in (
        (run, None, "test"),
        (run, "last", "test-last"),
        (run, "epoch_004", "test-epoch_004"),
        (run / "best", None, "test"),
        (run / "last", None, "test-last"),
        (run / "kept" / "epoch_007", None, "test-epoch_007"),
    ):
        found = source.find_source(given, checkpoint=checkpoint)
        assert found.result_name("test", partial=False, data=None) == name
        assert (found.run, found.results) == (run, run / "evaluation")
    assert found.result_name("val", partial=True, data="x-1") == "val-partial-epoch_007-on-x-1"
    with pytest.raises(ShardError, match=r"run has no checkpoint epoch_005; it has best, last, epoch_004, epoch_007\."):
        source.find_source(run, checkpoint="epoch_005")


def test_artifacts_are_named_and_what_cannot_be_had_is_explained(tmp_path, monkeypatch):
    assert source.parse_artifact("wandb:me/fish/run-best:v3") == "me/fish/run-best:v3"
    for text in (
        "wandb:fish/run-best:v3",
        "wandb:me/fish/run-best",
        "wandb:me/fish/a/b:v3",
        "wandb:",
        "wandb:me/fish/x:",
    ):
        with pytest.raises(ConfigError, match=r"Write wandb:ENTITY/PROJECT/NAME:ALIAS"):
            source.find_source(text)
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(EnvironmentProblem, match=r"nobody is logged in here, or WANDB_MODE.*wandb login"):
        evaluate("wandb:me/fish/run-best:v3", progress=False)
    monkeypatch.setenv("WANDB_MODE", "online")

    class Artifact:
        type = "model"

        def download(self):
            return str(tmp_path / "artifacts" / "run-best:v3")

    class Api:
        def artifact(self, name):
            if name == "me/fish/run-best:v3":
                return Artifact()
            raise ValueError(f"Unable to fetch {name}\nand more")

    monkeypatch.setattr("wandb.Api", Api)
    found = source.find_source("wandb:me/fish/run-best:v3")
    assert found.folder == tmp_path / "artifacts" / "run-best:v3"
    assert found.results == tmp_path / "artifacts" / "run-best:v3-evaluation"
    with pytest.raises(
        EnvironmentProblem, match=r"wandb:me/fish/gone:v1 cannot be had: Unable to fetch me/fish/gone:v1 "
    ):
        source.find_source("wandb:me/fish/gone:v1")
    monkeypatch.setattr(Artifact, "type", "dataset")
    with pytest.raises(ConfigError, match=r"is of type 'dataset'\. Give an artifact of type 'model'"):
        source.find_source("wandb:me/fish/run-best:v3")


# --- what is looked at besides ----------------------------------------------------------------------------------------


def test_the_partial_set_has_the_windows_with_a_label(run):
    full, partial = (evaluate(run, windows=windows, progress=False) for windows in ("full", "partial"))
    assert (full.report.name, partial.report.name) == ("test.json", "test-partial.json")
    report, probabilities, targets = read(partial.report)
    _, all_probabilities, all_targets = read(full.report)
    labelled = all_targets.any(axis=1)
    assert 0 < labelled.sum() < len(labelled)
    assert np.array_equal(probabilities, all_probabilities[labelled])
    assert np.array_equal(targets, all_targets[labelled])
    losses = [log_loss(targets[:, k], probabilities[:, k], labels=[0, 1]) for k in range(3)]
    assert report["metrics"]["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert report["metrics"]["mAP_chance"] > full.metrics["mAP_chance"]
    assert report["training"]["agrees"] is None
    near = [one["metrics"]["mAP_chance"] for one in report["tolerance"]]
    assert near == sorted(near)


def test_the_report_has_tolerance_videos_calibration_and_intervals(run):
    evaluation = evaluate(run, analyses=Analyses(groups={"light": ["bright", "red"]}, bootstrap=50), progress=False)
    content = evaluation.content
    plain = content["tolerance"][0]
    assert [one["windows"] for one in content["tolerance"]] == [0, 1, 3, 5, 7]
    assert {name: plain["metrics"][name] for name in content["metrics"] if name != "loss"} == {
        name: value for name, value in content["metrics"].items() if name != "loss"
    }
    for name, figures in plain["classes"].items():
        assert figures == {key: content["classes"][name][key] for key in figures}
    assert list(content["videos"]) == ["v0", "v1"]
    weights = [of["windows"] for of in content["videos"].values()]
    losses = [of["loss"] for of in content["videos"].values()]
    assert np.average(losses, weights=weights) == pytest.approx(content["metrics"]["loss"], rel=1e-5)
    for name, (low, high) in content["bootstrap"]["metrics"].items():
        assert low - 1e-6 <= content["metrics"][name] <= high + 1e-6, name
    assert content["groups"]["light"]["mAP"] == pytest.approx(content["metrics"]["mAP"])  # never never occurs
    assert set(content["calibration"]["classes"]) == set(CATEGORIES)
    assert content["shuffled_frames"] is None
    shown = render(evaluation)
    assert "95% of 50 resamples of the 2 videos lie in:" in shown
    assert "targets dilated by      0" in shown
    assert "calibration: expected error" in shown


def test_shuffled_frames_show_whether_the_order_matters(run, tmp_path, shards):
    """A mean over frames does not see their order; the network of clips does."""
    same = evaluate(run, analyses=Analyses(shuffled_frames=True, seed=1), progress=False)
    report = same.content["shuffled_frames"]
    assert sorted(report["permutation"]) == [0, 1, 2, 3] != report["permutation"]
    assert report["metrics"] == pytest.approx(same.metrics, rel=1e-4)
    assert all(value == pytest.approx(0, abs=1e-4) for value in report["difference"].values() if value is not None)
    assert f"frames in the order {' '.join(map(str, report['permutation']))} (entropy" in render(same)
    clips = train(tiny_config(shards, tmp_path / "run", "model.backbone=tiny3d", "trainer.lr=0.01"))
    other = evaluate(clips, analyses=Analyses(shuffled_frames=True), progress=False)
    assert other.metrics["loss"] != pytest.approx(other.content["shuffled_frames"]["metrics"]["loss"], rel=1e-5)
    assert other.metrics == evaluate(clips, progress=False).metrics
    single = "data.style={window_size: 1, samples_per_window: 1, step_size: 4}"
    frames = train(tiny_config(shards, tmp_path / "frames", single))
    with pytest.raises(ConfigError, match=r"takes samples_per_window > 1, but the model's clips have 1 frame"):
        evaluate(frames, analyses=Analyses(shuffled_frames=True), progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windows": "some"}, r"windows='some' is not known\. Take one of full, partial"),
        ({"wandb": "on"}, r"wandb='on' is not known"),
        ({"analyses": Analyses(bootstrap=-1)}, r"bootstrap=-1 must be at least 0"),
        ({"analyses": Analyses(groups={"x": ["blue"]})}, r"'x' names 'blue'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_decoded(run, options, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(run, data="/nowhere", progress=False, **options)


def test_training_is_compared_on_its_own_validation_split_alone(run, shards, tmp_path):
    assert "validated on val, this is test" in evaluate(run, progress=False).content["training"]["reason"]
    shutil.copytree(shards / "test", tmp_path / "others" / "val")
    others = evaluate(run, split="val", data=tmp_path / "others", progress=False)
    assert others.content["training"]["agrees"] is None
    assert "training and testing are not compared: these are other videos or labels" in render(others)
    shutil.copytree(shards / "val", tmp_path / "same" / "val")
    assert evaluate(run, split="val", data=tmp_path / "same", progress=False).content["training"]["agrees"]


def test_results_are_mirrored_to_the_training_s_run_offline(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "wandb-id").write_text("abc12345\n")
    assert evaluate(copy, progress=False).mirrored is None  # as the training was: disabled
    assert not (copy / "wandb").exists()
    evaluation = evaluate(copy, wandb="offline", windows="partial", progress=False)
    assert evaluation.mirrored == "W&B: artifact run-evaluation-test-partial (offline)"
    records = wandb_records(copy)
    (artifact,) = [record.artifact for record in records if record.HasField("artifact")]
    assert (artifact.type, artifact.name) == ("metrics", "run-evaluation-test-partial")
    assert {entry.path for entry in artifact.manifest.contents} == {"test-partial.json", "test-partial.parquet"}
    assert {record.run.run_id for record in records if record.HasField("run")} == {"abc12345"}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_ranks_write_what_one_does_to_the_byte(run, tmp_path):
    """One window at a time, so that each is computed alike; everything after that is the same by construction."""
    copies = [shutil.copytree(run, tmp_path / name / "run") for name in ("one", "two")]
    launch = ("-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}")
    options = ("--batch-size", "1", "--shuffled-frames", "--split", "val")
    done = run_python(*launch, "-m", "wildstream.cli", "evaluate", copies[1], *options, ACCELERATE_USE_CPU="true")
    assert done.returncode == 0, done.stderr
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of the two
    evaluate(copies[0], split="val", batch_size=1, analyses=Analyses(shuffled_frames=True), progress=False)
    torch.set_num_threads(threads)
    one, two = (json.loads((copy / "evaluation" / "val.json").read_text()) for copy in copies)
    assert one.pop("ledger")["delivered"] == two.pop("ledger")["delivered"]
    assert one == two
    first, second = (pq.read_table(copy / "evaluation" / "val.parquet") for copy in copies)
    assert first.equals(second)

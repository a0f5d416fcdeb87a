"""Evaluation: the report holds what it takes to find every figure again, and fits only the shards it was made for."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, log_loss
from tiny import CATEGORIES, clips_shards, frames_shards, tiny_config

from wildstream.errors import ConfigError, ShardError
from wildstream.evaluation import evaluate, render
from wildstream.shards.index import open_index
from wildstream.stream.dataset import WindowDataset
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
    windows = report["windows"]
    return report, np.array(windows["probabilities"]), np.array(windows["targets"])


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
    assert evaluation.metrics == metrics
    assert evaluation.classes == report["classes"]
    assert (report["checkpoint"], report["split"], report["schema_version"]) == ("best", "test", 1)


def test_every_window_is_in_the_report_once_and_in_order(run, shards):
    evaluate(run, batch_size=7, progress=False)
    report, _, targets = read(run / "evaluation" / "test.json")
    _, manifest = load_checkpoint(run / "best")
    dataset = WindowDataset(index=open_index(shards / "test"), style=manifest.sliding_style)
    videos, starts = dataset.addresses()
    assert report["windows"]["key"] == [dataset.index.keys[video] for video in videos]
    assert report["windows"]["start"] == starts.tolist()
    assert np.array_equal(targets, dataset.labels())


def test_the_batch_size_changes_nothing(run):
    first, second = (evaluate(run, batch_size=size, progress=False).metrics for size in (1, 64))
    assert first == pytest.approx(second, rel=1e-4)


def test_a_checkpoint_on_the_validation_split_says_what_the_training_said(run):
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    best = min(lines, key=lambda line: line["val"]["loss"])
    for checkpoint, line in (("best", best), ("last", lines[-1])):
        evaluation = evaluate(run, split="val", checkpoint=checkpoint, progress=False)
        assert evaluation.metrics == pytest.approx(line["val"], rel=1e-4)
        assert json.loads(evaluation.report.read_text())["checkpoint"] == checkpoint


def test_each_checkpoint_is_evaluated_by_its_own_weights(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    weights = load_file(copy / "last" / "model.safetensors")
    save_file({name: torch.zeros_like(tensor) for name, tensor in weights.items()}, copy / "last" / "model.safetensors")
    assert evaluate(copy, checkpoint="best", progress=False).metrics == pytest.approx(
        evaluate(run, checkpoint="best", progress=False).metrics
    )
    evaluate(copy, checkpoint="last", progress=False)
    _, probabilities, _ = read(copy / "evaluation" / "test.json")
    assert (probabilities == 0.5).all()


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
    assert set(report["windows"]["key"]) == {"dark/c0", "bright/c1", "dark/c2", "bright/c3"}


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
    assert evaluate("moved", data=elsewhere, progress=False).report == Path("moved/evaluation/test.json")


def test_shards_of_other_categories_are_refused(run, tmp_path_factory):
    with pytest.raises(ConfigError, match=r"categories \['dark', 'bright'\], the model knows \['bright', 'red'"):
        evaluate(run, data=clips_shards(tmp_path_factory), progress=False)


def test_what_is_no_run_no_split_or_no_checkpoint_is_refused(run, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ShardError, match=rf"{folder} is no finished run: it has no folder best/"):
            evaluate(folder, progress=False)
    with pytest.raises(ShardError, match=r"no dataset\.json in .*nope"):
        evaluate(run, split="nope", progress=False)
    with pytest.raises(ConfigError, match=r"checkpoint='first' is not known\. Take one of best, last"):
        evaluate(run, checkpoint="first", progress=False)
    with pytest.raises(ConfigError, match=r"batch_size=0 must be at least 1"):
        evaluate(run, batch_size=0, progress=False)


def test_the_table_shows_every_class_and_what_is_not_defined(run):
    rows = render(evaluate(run, progress=False)).splitlines()
    assert rows[0].split() == ["class", "windows", "chance", "average", "precision"]
    assert [row.split()[0] for row in rows[2:5]] == CATEGORIES
    assert rows[4].split() == ["never", "0", "0.000", "–"]
    assert rows[6].startswith("mean")
    assert len({len(row) for row in rows[:7]}) == 1
    assert rows[8].startswith("loss")

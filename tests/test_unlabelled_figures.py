"""Windows of which nobody said anything: no loss is of them, and no figure; by brute force on the labelled ones."""

import json
import math
import shutil
from dataclasses import replace
from html import unescape

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.state import AcceleratorState
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, log_loss
from test_augmentation import draw_frames, make_batch, mixed
from test_evaluation_figures import STYLE as FIGURE_STYLE
from test_evaluation_figures import FakeIndex, FakeManifest, make_predictions
from test_report import make_manifest
from test_training import TINY_STYLE, Mean, trainer_of
from tiny import (
    CATEGORIES,
    FRAMES,
    UNLABELLED,
    frames_shards,
    free_port,
    history,
    partly_labelled_shards,
    partly_labelled_source,
    tiny_config,
    tiny_overrides,
    torchrun,
    weights,
)

import wildstream as ws
from wildstream.errors import ConfigError, WildStreamError
from wildstream.evaluation.describe import Analyses, describe
from wildstream.evaluation.evaluate import evaluate, render
from wildstream.evaluation.predictions_file import read_predictions, write_predictions
from wildstream.evaluation.report_pictures import LevelResult, timeline_pictures, unlabelled_spans
from wildstream.evaluation.tolerance import TOLERANCES
from wildstream.features.extract import extract
from wildstream.inspection import Contents, describe_dataset
from wildstream.inspection_page import make_page, sample_windows
from wildstream.pictures.timelines import Bands, timeline_chart
from wildstream.samples import Batch
from wildstream.shards.pack import pack
from wildstream.stream.loader import Loader
from wildstream.training.augmentation import Augment
from wildstream.training.losses import clip_losses
from wildstream.training.metrics import best_thresholds, compute_metrics
from wildstream.training.predict import Predictions
from wildstream.training.run import train
from wildstream.training.trainer import tune_thresholds

WIDE = ws.SlidingStyle(window_size=4, samples_per_window=4, step_size=2, tolerance_region=1)


@pytest.fixture(autouse=True)
def fresh_accelerate():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return partly_labelled_shards(tmp_path_factory)


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    return train(tiny_config(shards, tmp_path_factory.mktemp("run") / "run", "trainer.epochs=2"))


# --- the loss ---------------------------------------------------------------------------------------------------------


class Scrambled(Loader):
    """A loader that says anything of clips that nobody labelled."""

    def __iter__(self):
        generator = torch.Generator().manual_seed(9)
        for batch in super().__iter__():
            anything = torch.rand(batch.labels.shape, generator=generator) < 0.5
            yield replace(batch, labels=torch.where(batch.labelled[:, None], batch.labels, anything))


def seeded_model():
    torch.manual_seed(0)
    return Mean()


def trained(loader, tmp_path, **options):
    """The weights and the loss of an epoch by the trainer."""
    model = seeded_model()
    trainer = trainer_of(loader, tmp_path, model, batch_size=loader.batch_size, **options)
    trainer.schedule.base_lrs = [0.5]
    trainer.optimizer.param_groups[0]["lr"] = 0.5
    loss = trainer._train_epoch()["loss"]
    AcceleratorState._reset_state(reset_partial_state=True)
    return [parameter.detach().clone() for parameter in model.parameters()], loss


def trained_by_hand(loader, accumulate=1):
    """The same by definition: of each step the mean over the windows that are labelled; others do not exist."""
    model, total, count = seeded_model(), 0.0, 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    batches = list(loader)
    for first in range(0, len(batches), accumulate):
        parts = batches[first : first + accumulate]
        frames, labels = (
            torch.cat([getattr(batch, name)[batch.mask & batch.labelled] for batch in parts])
            for name in ("frames", "labels")
        )
        if len(frames):
            losses = clip_losses(model(frames), labels, task="multi_label")
            losses.mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            total, count = total + float(losses.detach().sum()), count + len(losses)
    return [parameter.detach() for parameter in model.parameters()], total / count


@pytest.mark.parametrize(("batch_size", "accumulate"), [(1, 1), (4, 1), (7, 2), (3, 4), (64, 1)])
def test_an_epoch_learns_from_the_labelled_windows_alone(shards, tmp_path, batch_size, accumulate):
    dataset = ws.DatasetBuilder(path=shards / "train", style=WIDE).build()
    assert 0 < dataset.labelled().sum() < len(dataset)
    options = {"batch_size": batch_size, "shuffle": True, "seed": 1}
    found, loss = trained(dataset.loader(**options), tmp_path, accumulate=accumulate, clip_norm=1.0)
    expected, expected_loss = trained_by_hand(dataset.loader(**options), accumulate)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_what_the_labels_of_unlabelled_windows_are_does_not_matter(shards, tmp_path):
    dataset = ws.DatasetBuilder(path=shards / "train", style=WIDE).build()
    options = {"batch_size": 4, "shuffle": True, "seed": 1}
    scrambled = Scrambled(index=dataset.index, style=dataset.style, **options)
    pairs = zip(dataset.loader(**options), scrambled, strict=True)
    assert any(not torch.equal(one.labels, other.labels) for one, other in pairs)
    (first, loss), (second, same) = (trained(loader, tmp_path) for loader in (dataset.loader(**options), scrambled))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert loss == same


def test_a_batch_without_labels_teaches_nothing_and_says_how_many_it_had(tmp_path):
    batch = Batch(
        frames=torch.randint(0, 255, (3, 2, 3, 8, 8), dtype=torch.uint8),
        labels=torch.ones(3, 3, dtype=torch.bool),
        keys=["a", "b", "c"],
        starts=torch.arange(3),
        positions=torch.arange(3),
        mask=torch.tensor([True, True, False]),
        labelled=torch.zeros(3, dtype=torch.bool),
    )
    model = Mean()
    trainer = trainer_of([], tmp_path, model)
    learnt = trainer._learn(batch, sync=True)
    assert (learnt.loss, learnt.clips, learnt.windows) == (0.0, 0, 2)
    assert all(torch.equal(parameter.grad, torch.zeros_like(parameter)) for parameter in model.parameters())
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trainer.schedule.base_lrs = [1.0]
    trainer._step(trainer._learn(replace(batch, labelled=torch.ones(3, dtype=torch.bool)), sync=True).clips)
    assert trainer.optimizer.param_groups[0]["lr"] == 1
    trainer._step(trainer._learn(batch, sync=True).clips)
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


def test_what_is_not_finite_at_unlabelled_windows_is_left_out_of_loss_gradient_and_blame(tmp_path):
    class Explode(Mean):
        def forward(self, frames):
            return super().forward(frames) + torch.tensor([0.0, math.inf, math.nan])[:, None]

    batch = Batch(
        frames=torch.ones(3, 2, 3, 8, 8, dtype=torch.uint8),
        labels=torch.zeros(3, 3, dtype=torch.bool),
        keys=["fish", "frog", "newt"],
        starts=torch.tensor([-2, 14, 99]),
        positions=torch.arange(3),
        mask=torch.ones(3, dtype=torch.bool),
        labelled=torch.tensor([True, False, False]),
    )
    model = Explode()
    trainer = trainer_of([], tmp_path, model)
    assert math.isfinite(trainer._learn(batch, sync=True).loss)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert any(parameter.grad.any() for parameter in model.parameters())
    with pytest.raises(WildStreamError, match=r"at the windows \(newt, 99\)\. "):
        trainer._learn(replace(batch, labelled=torch.tensor([True, False, True])), sync=True)


@pytest.mark.parametrize("options", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 1.0}])
def test_unlabelled_clips_are_neither_mixed_in_nor_mix(options):
    batch = make_batch(draw_frames(6, 2))
    batch = replace(batch, labelled=torch.tensor([True, True, False, True, True, False]))
    was_mixed = [False] * 6
    for seed in range(5):
        found = mixed(Augment(**options), batch, seed)
        for clip in range(6):
            is_same = torch.equal(found.labels[clip], batch.labels[clip].float())
            assert torch.equal(found.frames[clip], batch.frames[clip]) or not is_same
            was_mixed[clip] |= not is_same
        assert torch.equal(found.labelled, batch.labelled)
    assert was_mixed == [False, True, False, False, True, False]  # 0 and 3 come after an unlabelled one


@pytest.mark.slow
def test_two_ranks_learn_what_one_does_also_where_one_of_them_has_no_label(shards, tmp_path):
    # Batches of one clip: often all that a rank has is unlabelled, and sometimes all that both have.
    options = ("model.backbone=test_convnext", "trainer.epochs=1", "trainer.lr=1e-4", "trainer.accumulate=2")
    one = train(tiny_config(shards, tmp_path / "one", *options, "trainer.batch_size=2"))
    two = tiny_overrides(shards, tmp_path / "two", *options, "trainer.batch_size=1")
    done = torchrun(free_port(), *two, ACCELERATE_USE_CPU="true")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("train: 6 of 30 windows are not labelled; losses and figures leave them out") == 1
    (first,), (second,) = history(one), history(tmp_path / "two")
    assert first["train"]["loss"] == pytest.approx(second["train"]["loss"], rel=1e-4)
    assert first["val"] == pytest.approx(second["val"], rel=1e-3)
    for name, tensor in weights(one).items():
        torch.testing.assert_close(tensor, weights(tmp_path / "two")[name], rtol=1e-2, atol=1e-3)


def test_a_split_without_any_label_is_refused_before_training_and_by_evaluation(run, tmp_path, tmp_path_factory):
    source = tmp_path / "source"
    shutil.copytree(partly_labelled_source(tmp_path_factory), source)
    for path in (source / "val").rglob("*.tsv"):
        path.write_text("-1\t-1\t-1\n" * FRAMES)
    pack(source, tmp_path / "shards", format="frames", progress=False)
    with pytest.raises(ConfigError, match=r"val: none of the 20 windows is labelled\. Label some of its frames"):
        train(tiny_config(tmp_path / "shards", tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match=r"no window of .*val is labelled, so there is nothing to compare with"):
        evaluate(run, split="val", data=tmp_path / "shards", progress=False)


def test_the_training_tells_what_it_leaves_out_and_the_ledger_counts_it(shards, tmp_path, capsys, tmp_path_factory):
    run = train(tiny_config(shards, tmp_path / "run"))
    out = capsys.readouterr().out
    assert "train: 6 of 30 windows are not labelled; losses and figures leave them out" in out
    assert "val: 6 of 20 windows are not labelled" in out
    assert history(run)[0]["train"]["delivered"] == 30
    AcceleratorState._reset_state(reset_partial_state=True)
    train(tiny_config(frames_shards(tmp_path_factory), tmp_path / "other"))
    assert "not labelled" not in capsys.readouterr().out


# --- evaluation -------------------------------------------------------------------------------------------------------


def assert_figures(metrics, probabilities, targets):
    """Against scikit-learn, on labelled windows."""
    occurs = targets.any(axis=0)
    precisions = [average_precision_score(targets[:, k], probabilities[:, k]) for k in np.flatnonzero(occurs)]
    assert metrics["mAP"] == pytest.approx(np.mean(precisions), rel=1e-6)
    assert metrics["mAP_chance"] == pytest.approx(targets.mean(axis=0)[occurs].mean())
    losses = [log_loss(targets[:, k], probabilities[:, k], labels=[0, 1]) for k in range(targets.shape[1])]
    assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert metrics["f1_micro"] == pytest.approx(f1_score(targets.ravel(), (probabilities > 0.5).ravel()))


@pytest.mark.parametrize("split", ["val", "test"])
def test_figures_are_of_the_labelled_windows_and_predictions_of_all(run, shards, split):
    evaluation = evaluate(run, split=split, progress=False, html=True)
    dataset = ws.DatasetBuilder(path=shards / split, style=TINY_STYLE).build()
    labelled = dataset.labelled()
    left_out = int((~labelled).sum())
    assert left_out > 0
    found = read_predictions(evaluation.predictions)
    assert len(found.keys) == len(dataset)
    assert found.labelled.tolist() == labelled.tolist()
    assert pq.read_table(evaluation.predictions)["labelled"].to_pylist() == labelled.tolist()
    assert np.isfinite(found.probabilities).all()
    content = evaluation.content
    assert (content["windows"], content["unlabelled"]) == (int(labelled.sum()), left_out)
    assert_figures(content["metrics"], found.probabilities[labelled], dataset.labels()[labelled])
    assert found.loss == pytest.approx(content["metrics"]["loss"], rel=1e-5)
    assert f"{left_out} windows are not labelled: they are in no figure" in render(evaluation)
    page = unescape(evaluation.page.read_text())
    assert f"{labelled.sum()} of 2 videos; {left_out} more are not labelled, and in no figure" in page
    assert "Hatched: not labelled." in page
    if split == "val":
        best = min(history(run), key=lambda line: line["val"]["loss"])
        assert content["metrics"] == pytest.approx(best["val"], rel=1e-4)
        assert content["training"]["agrees"]


def test_where_all_is_labelled_nothing_is_said_of_it(run, tmp_path_factory, tmp_path):
    plain = frames_shards(tmp_path_factory)
    evaluation = evaluate(run, split="test", data=plain, out=tmp_path, progress=False, html=True)
    assert evaluation.content["unlabelled"] == 0
    assert "not labelled" not in render(evaluation)
    assert "not labelled" not in unescape(evaluation.page.read_text())


def test_the_labelled_windows_that_carry_a_label(run, shards):
    evaluation = evaluate(run, split="test", windows="partial", progress=False)
    dataset = ws.DatasetBuilder(path=shards / "test", style=TINY_STYLE).build()
    carries = dataset.labelled() & dataset.labels().any(axis=1)
    found = read_predictions(evaluation.predictions)
    assert len(found.keys) == evaluation.content["windows"] == int(carries.sum())
    assert found.labelled.all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["multi_label", "single_label"]))
def test_every_figure_is_that_of_the_labelled_windows(shards, seed, task):
    """All that a report says, against the same of predictions that have the labelled windows alone."""
    rng = np.random.default_rng(seed)
    whole = make_predictions(rng, [6, 4, 5], task=task, rate=0.4)
    labelled = rng.random(len(whole.keys)) < 0.7
    labelled[rng.integers(len(labelled))] = True
    found = replace(whole, labelled=labelled)
    alone = replace(whole, labelled=np.ones_like(labelled)).only(labelled)
    dataset = ws.DatasetBuilder(path=shards / "train", style=FIGURE_STYLE).build()
    # The thresholds of all classes are looked at too.
    manifest = make_manifest(dataset, shards).model_copy(update={"task": task, "thresholds": None})
    if task == "multi_label":
        manifest = manifest.model_copy(update={"thresholds": dict.fromkeys(manifest.categories, 0.4)})
    analyses = Analyses(bootstrap=20, groups={"some": manifest.categories[:2]})
    one, other = describe(found, manifest, analyses), describe(alone, manifest, analyses)
    assert one.pop("unlabelled") == int((~labelled).sum())
    assert other.pop("unlabelled") == 0
    for name in set(one) - {"tolerance"}:
        assert json.dumps(one[name]) == json.dumps(other[name]), name
    for reach, told in zip(TOLERANCES, one["tolerance"], strict=True):
        near = near_labelled(found, reach)[labelled]
        scores = found.probabilities[labelled]
        if task == "single_label":
            near = np.eye(3, dtype=bool)[np.where(near, scores, -1).argmax(axis=1)]
        for name, value in compute_metrics(scores, near, task=task).items():
            assert told["metrics"][name] == (None if math.isnan(value) else pytest.approx(value)), name
    if task == "multi_label":
        tuned = tune_thresholds(found, manifest)
        assert list(tuned.values()) == best_thresholds(alone.probabilities, alone.targets).tolist()


def near_labelled(found, reach):
    """A class is near a window if a labelled one of its video, at most so many numbers away, has it."""
    stride = FIGURE_STYLE.step_size * FIGURE_STYLE.temporal_sample_interval
    near = np.zeros_like(found.targets)
    for one in range(len(found.keys)):
        for other in np.flatnonzero(found.labelled):
            if found.keys[one] == found.keys[other] and abs(found.starts[one] - found.starts[other]) <= reach * stride:
                near[one] |= found.targets[other]
    return near


def test_predictions_of_before_are_all_labelled(tmp_path):
    found = make_predictions(np.random.default_rng(0), [4, 2])
    found = replace(found, labelled=np.array([True, False, True, True, False, True])).only(np.ones(6, bool))
    assert found.loss == pytest.approx(float(found.window_losses[[0, 2, 3, 5]].mean()))
    write_predictions(tmp_path / "x.parquet", found, FakeManifest(), FakeIndex(), {})
    read = read_predictions(tmp_path / "x.parquet")
    assert read.labelled.tolist() == found.labelled.tolist()
    assert read.loss == pytest.approx(found.loss)
    table = pq.read_table(tmp_path / "x.parquet")
    pq.write_table(table.drop_columns(["labelled"]), tmp_path / "old.parquet")
    old = read_predictions(tmp_path / "old.parquet")
    assert old.labelled.tolist() == [True] * 6
    assert old.loss == pytest.approx(float(found.window_losses.mean()))


def test_timelines_show_what_is_not_labelled(shards):
    dataset = ws.DatasetBuilder(path=shards / "test", style=TINY_STYLE).build()
    spans = unlabelled_spans(dataset, dataset.index.keys.index("v1"))
    np.testing.assert_allclose(spans, np.array(UNLABELLED["test/v1"]) / 25)
    assert unlabelled_spans(dataset, dataset.index.keys.index("v0")).shape == (0, 2)
    bands = Bands(
        names=["a"],
        spans=np.array([[0.0, 1.0]]),
        truth=np.ones((1, 1), bool),
        found=np.ones((1, 1), bool),
        length=2.0,
        unit="s",
    )
    assert timeline_chart(replace(bands, unlabelled=np.array([[1.2, 1.8]]))) != timeline_chart(bands)


def test_only_the_timelines_of_videos_that_have_such_frames_are_hatched(shards, tmp_path_factory):
    datasets = [
        ws.DatasetBuilder(path=path / "test", style=TINY_STYLE).build()
        for path in (shards, frames_shards(tmp_path_factory))
    ]
    videos, starts = datasets[0].addresses()
    targets = datasets[0].labels()
    found = Predictions(
        keys=[datasets[0].index.keys[video] for video in videos],
        starts=starts,
        probabilities=targets.astype(np.float32),
        targets=targets,
        loss=0.0,
    )
    classes = {name: {} for name in CATEGORIES}
    level = LevelResult(name="", classes=classes, predictions=found, task="multi_label", intervals={})
    (partly, _), (whole, _) = (timeline_pictures(level, dataset) for dataset in datasets)
    same = {one.caption[:2]: one.png == other.png for one, other in zip(partly, whole, strict=True)}
    assert same == {"v0": True, "v1": False}


def test_a_head_on_features_learns_with_the_same_masks(shards, tmp_path):
    style = "data.style={window_size: 4, samples_per_window: 4, step_size: 2, tolerance_region: 1}"
    for split in ("train", "val"):
        extract(shards / split, tmp_path / "features", backbone="tiny3d", style=WIDE, size=16, progress=False)
    options = ("data.precomputed=true", "model.backbone=tiny3d", style, "trainer.lr=0.1")
    run = train(tiny_config(tmp_path / "features", tmp_path / "run", *options))
    clips = ws.DatasetBuilder(path=shards / "val", style=WIDE).build()
    evaluation = evaluate(run, split="val", progress=False)
    found, labelled = read_predictions(evaluation.predictions), clips.labelled()
    assert found.labelled.tolist() == labelled.tolist()
    assert_figures(evaluation.metrics, found.probabilities[labelled], clips.labels()[labelled])
    assert evaluation.metrics == pytest.approx(history(run)[0]["val"], rel=1e-4)


# --- inspect ----------------------------------------------------------------------------------------------------------


def test_statistics_are_of_what_is_labelled_and_say_how_much_is_not(shards):
    dataset = ws.DatasetBuilder(path=shards / "train", style=WIDE).build()
    labelled, labels = dataset.labelled(), dataset.labels()
    assert labels[~labelled].any()
    contents, known = Contents(dataset=dataset), int(labelled.sum())
    assert contents.windows.tolist() == labels[labelled].sum(axis=0).tolist()
    assert contents.without_class == int((~labels[labelled].any(axis=1)).sum())
    frames = sum(stop - first for video, runs in UNLABELLED.items() if "train" in video for first, stop in runs)
    told = (
        f"not labelled: {frames} of 60 frames ({frames / 60:.1%}), {30 - known} of 30 windows ({1 - known / 30:.1%}); "
        "shares are of the others"
    )
    shown = describe_dataset(dataset)
    assert told in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("bright  ")]
    count = int(labels[labelled, 0].sum())
    assert line.split()[-2:] == [str(count), f"{count / known:.1%}"]
    (line,) = [line for line in shown.splitlines() if line.startswith("no label")]
    assert line.split()[-2:] == [str(contents.without_class), f"{contents.without_class / known:.1%}"]
    page = unescape(make_page(dataset).render())
    assert told[1:] in page
    assert f"{(known - contents.without_class) / known:.1%} have a label" in page
    for of_class, windows in sample_windows(contents, seed=0).items():
        assert labelled[windows].all(), of_class


def test_where_all_is_labelled_statistics_say_nothing_of_it(tmp_path_factory):
    dataset = ws.DatasetBuilder(path=frames_shards(tmp_path_factory) / "train", style=WIDE).build()
    assert "not labelled" not in describe_dataset(dataset)
    assert "ot labelled" not in make_page(dataset).render()

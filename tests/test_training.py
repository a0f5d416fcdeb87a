"""Training: what a run leaves behind, and that every window counts once, whatever the batches and ranks."""

import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tiny import (
    CATEGORIES,
    FRAMES,
    clips_shards,
    frames_shards,
    free_port,
    history,
    make_frames_source,
    tiny_config,
    tiny_overrides,
    torchrun,
    weights,
)
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from wildstream.config.trainer import TrainerConfig
from wildstream.errors import ConfigError, LaunchError, SampleError, ShardError, WildStreamError
from wildstream.evaluation.evaluate import evaluate
from wildstream.launch import check_launch
from wildstream.samples import Batch
from wildstream.shards.index import open_index
from wildstream.shards.pack import pack
from wildstream.stream.dataset import DatasetBuilder
from wildstream.stream.windows import SlidingStyle
from wildstream.training.checkpoints import current_commit, load_checkpoint, save_checkpoint, used_versions
from wildstream.training.losses import Criterion, clip_losses
from wildstream.training.predict import predict
from wildstream.training.run import make_accelerator, train
from wildstream.training.trackers import choose_wandb_mode
from wildstream.training.trainer import Trainer

TINY_STYLE = SlidingStyle(window_size=4, samples_per_window=4, step_size=2)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return frames_shards(tmp_path_factory)


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny_config(shards, tmp_path_factory.mktemp("run") / "run", "trainer.epochs=2"))


@pytest.fixture(autouse=True)
def fresh_accelerate():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


# --- what a run leaves behind -----------------------------------------------------------------------------------------


def test_a_run_leaves_its_options_its_history_and_two_checkpoints(run, shards):
    assert sorted(path.name for path in run.iterdir()) == ["best", "config.yaml", "history.jsonl", "last"]
    options = yaml.safe_load((run / "config.yaml").read_text())
    assert options["data"]["path"] == str(shards)
    assert options["data"]["style"]["window_size"] == 4
    lines = history(run)
    assert [line["epoch"] for line in lines] == [1, 2]
    for line in lines:
        ledger = {"planned", "delivered", "padded", "skipped"}
        assert set(line["train"]) == {"loss", "lr", "windows_per_second", "waiting_for_data"} | ledger
        assert set(line["val"]) == {"loss", "mAP", "mAP_micro", "mAP_chance", "f1_macro", "f1_micro"}
        assert all(math.isfinite(value) for part in ("train", "val") for value in line[part].values())


def test_a_manifest_says_all_that_is_needed_to_use_the_weights(run, shards):
    model, manifest = load_checkpoint(run / "last")
    assert manifest.categories == CATEGORIES
    assert manifest.task == "multi_label"
    assert manifest.sliding_style.window_size == 4
    assert manifest.size == (32, 32)
    assert manifest.fingerprint == DatasetBuilder(path=shards / "train", style="frames").build().index.fingerprint
    assert manifest.epoch == 2
    assert manifest.metrics == history(run)[-1]["val"]
    assert manifest.config.data.path == str(shards)
    assert manifest.versions == used_versions()
    assert set(weights(run)) == set(model.state_dict())
    assert model(torch.zeros(1, 4, 3, 32, 32, dtype=torch.uint8)).shape == (1, 3)


def test_best_is_the_epoch_with_the_best_monitored_figure(shards, tmp_path):
    run = train(tiny_config(shards, tmp_path / "run", "trainer.epochs=3", "trainer.monitor=loss", "trainer.lr=0.05"))
    losses = [line["val"]["loss"] for line in history(run)]
    _, best = load_checkpoint(run / "best")
    assert best.epoch == int(np.argmin(losses)) + 1
    assert load_checkpoint(run / "last")[1].epoch == 3


def test_a_second_run_into_the_same_folder_is_refused(run, shards):
    before = (run / "history.jsonl").read_text()
    with pytest.raises(
        ConfigError, match=r"trainer\.out=.* holds a run already\. Go on with it by trainer\.resume=auto"
    ):
        train(tiny_config(shards, run))
    assert (run / "history.jsonl").read_text() == before


def test_a_run_folder_that_is_a_file_is_refused(shards, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is not a folder"):
        train(tiny_config(shards, tmp_path / "file"))


def test_missing_shards_and_styles_without_windows_are_refused_before_anything_is_written(shards, tmp_path):
    with pytest.raises(ShardError, match="wildstream pack"):
        train(tiny_config(tmp_path / "nowhere", tmp_path / "run"))
    long = "data.style={window_size: 64, samples_per_window: 64, padding: none}"
    with pytest.raises(ConfigError, match=rf"no window of data\.style=.*longest video has {FRAMES} frames"):
        train(tiny_config(shards, tmp_path / "run", long))
    assert not (tmp_path / "run").exists()


def test_splits_of_different_categories_are_refused(shards, tmp_path, tmp_path_factory):
    (tmp_path / "train").symlink_to(shards / "train")
    (tmp_path / "val").symlink_to(clips_shards(tmp_path_factory) / "val")
    with pytest.raises(ConfigError, match=r"the categories of train are .*bright.*, those of val .*dark"):
        train(tiny_config(tmp_path, tmp_path / "run"))


# --- learning ---------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_and_another_one_others(run, shards, tmp_path):
    again = train(tiny_config(shards, tmp_path / "again", "trainer.epochs=2"))
    other = train(tiny_config(shards, tmp_path / "other", "trainer.epochs=2", "trainer.seed=1"))
    first, same, different = (weights(folder) for folder in (run, again, other))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], different[name]) for name in first)


def test_ten_windows_are_learned_by_heart(tmp_path):
    source = make_frames_source(tmp_path / "source", {"train": 1, "val": 1})
    pack(source, tmp_path / "shards", format="frames", progress=False)
    run = train(
        tiny_config(
            tmp_path / "shards",
            tmp_path / "run",
            "trainer.epochs=25",
            "trainer.lr=2e-2",
            "trainer.weight_decay=0",
            "trainer.batch_size=10",
        )
    )
    losses = [line["train"]["loss"] for line in history(run)]
    assert losses[0] > 0.4
    assert losses[-1] < 0.05


class Mean(nn.Module):
    """Scores that depend on the frames alone, clip by clip."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(1, num_classes)

    def forward(self, frames):
        return self.linear(frames.float().mean(dim=(1, 2, 3, 4))[:, None] / 255)


def trainer_of(loader, tmp_path, model: nn.Module, **options) -> Trainer:
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    return Trainer(
        config=TrainerConfig(progress=False, **options),
        accelerator=accelerator,
        model=model,
        criterion=Criterion(loss="auto", task="multi_label"),
        optimizer=accelerator.prepare(optimizer),
        schedule=LambdaLR(optimizer, lambda _: 1.0),
        train_loader=loader,
        val_loader=loader,
        task="multi_label",
        manifest=SimpleNamespace(hierarchy=None),  # all that is asked of it here
        run=tmp_path,
    )


@pytest.mark.parametrize("batch_size", [1, 4, 7, 64])
def test_padding_counts_neither_in_training_nor_in_validation(shards, tmp_path, batch_size):
    style = SlidingStyle(window_size=4, samples_per_window=4, step_size=3)
    dataset = DatasetBuilder(path=shards / "train", style=style).build()
    model = Mean()
    trainer = trainer_of(dataset.loader(batch_size=batch_size), tmp_path, model, batch_size=batch_size)
    with torch.no_grad():
        real = [
            clip_losses(model(batch.frames), batch.labels, task="multi_label")[batch.mask]
            for batch in dataset.loader(batch_size=5)
        ]
    expected = float(torch.cat(real).mean())
    assert len(torch.cat(real)) == len(dataset)
    assert trainer._train_epoch()["loss"] == pytest.approx(expected, rel=1e-5)
    predictions = trainer.validate()
    assert predictions.loss == pytest.approx(expected, rel=1e-5)
    assert len(predictions.keys) == len(dataset)


def test_the_gradient_of_a_padded_batch_is_that_of_its_real_clips(tmp_path):
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 255, (4, 2, 3, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.rand(4, 3, generator=generator) < 0.5
    padded = Batch(
        frames=frames,
        labels=labels,
        keys=list("abcd"),
        starts=torch.arange(4),
        positions=torch.arange(4),
        mask=torch.tensor([True, True, True, False]),
    )
    model = Mean()
    trainer = trainer_of([], tmp_path, model)
    loss, clips, *_ = trainer._learn(padded, sync=True)
    trainer.optimizer.zero_grad = lambda: None
    trainer._step(clips)
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    expected = clip_losses(model(frames[:3]), labels[:3], task="multi_label").mean()
    expected.backward()
    norm = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).norm()
    assert norm < 1, "the clipping of gradients would hide a difference"
    assert clips == 3
    assert loss / 3 == pytest.approx(expected.item())
    for gradient, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_windows(tmp_path):
    class Explode(Mean):
        def forward(self, frames):
            return super().forward(frames) / torch.tensor([1.0, 0.0, 0.0])[:, None]

    batch = Batch(
        frames=torch.ones(3, 2, 3, 8, 8, dtype=torch.uint8),
        labels=torch.ones(3, 3, dtype=torch.bool),
        keys=["fish", "frog", "filler"],
        starts=torch.tensor([-2, 14, 99]),
        positions=torch.arange(3),
        mask=torch.tensor([True, True, False]),
    )
    model = Explode()
    trainer = trainer_of([], tmp_path, model)
    with pytest.raises(WildStreamError, match=r"the loss is .* at the windows \(frog, 14\)\. Lower trainer\.lr"):
        trainer._learn(batch, sync=True)
    fine = replace(batch, mask=torch.tensor([True, False, False]))
    assert math.isfinite(trainer._learn(fine, sync=True)[0])
    nothing = replace(batch, mask=torch.zeros(3, dtype=torch.bool))
    assert trainer._learn(nothing, sync=True)[:2] == (0.0, 0)  # none of it decoded


def test_predictions_are_each_window_once_in_order_without_dropout(shards, run):
    model, manifest = load_checkpoint(run / "last")
    dataset = DatasetBuilder(path=shards / "val", style=manifest.sliding_style).build()
    predictions = predict(
        model.train(), dataset.loader(batch_size=7, size=32), task="multi_label", accelerator=Accelerator(cpu=True)
    )
    videos, starts = dataset.addresses()
    assert predictions.keys == [dataset.index.keys[video] for video in videos]
    assert predictions.starts.tolist() == starts.tolist()
    assert np.array_equal(predictions.targets, dataset.labels())
    assert predictions.loss == pytest.approx(history(run)[-1]["val"]["loss"], rel=1e-5)


# --- processes --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_ranks_learn_and_predict_what_one_does(shards, tmp_path):
    # A network without batch norm, whose figures depend on what shares a batch; some of its layers learn nothing.
    options = ("model.backbone=test_convnext", "trainer.epochs=2")
    one = train(tiny_config(shards, tmp_path / "one", *options, "trainer.batch_size=8"))
    done = torchrun(
        free_port(),
        *tiny_overrides(shards, tmp_path / "two", *options, "trainer.batch_size=4"),
        ACCELERATE_USE_CPU="true",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("next: wildstream evaluate") == 1
    for first, second in zip(history(one), history(tmp_path / "two"), strict=True):
        assert first["train"]["loss"] == pytest.approx(second["train"]["loss"], rel=1e-4)
        assert first["val"] == pytest.approx(second["val"], rel=1e-3)
    first, second = weights(one), weights(tmp_path / "two")
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-2, atol=1e-3)


def test_the_average_that_two_ranks_validate_is_the_one_that_is_kept(shards, tmp_path):
    """Each rank averages its own statistics of batch norm; what is kept is the first's."""
    options = tiny_overrides(shards, tmp_path / "run", "model.backbone=tiny3d", "trainer.ema=0.5", "trainer.lr=0.1")
    done = torchrun(free_port(), *options, ACCELERATE_USE_CPU="true")
    assert done.returncode == 0, done.stderr
    found = evaluate(tmp_path / "run", checkpoint="last", split="val", progress=False)
    assert found.metrics["loss"] == pytest.approx(history(tmp_path / "run")[-1]["val"]["loss"], rel=1e-4)


def test_ranks_that_do_not_know_of_each_other_are_refused(shards, tmp_path):
    done = torchrun(
        free_port(), *tiny_overrides(shards, tmp_path / "run"), ACCELERATE_USE_CPU="false", CUDA_VISIBLE_DEVICES=""
    )
    assert done.returncode == 1
    assert "LaunchError: the launcher started 2 processes (WORLD_SIZE), but Accelerate runs 1" in done.stderr
    assert "ACCELERATE_USE_CPU=true" in done.stderr
    assert 'Traceback (most recent call last):\n  File "train.py"' not in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_launch_is_checked_against_the_environment(monkeypatch):
    accelerator = Accelerator(cpu=True)
    check_launch(accelerator.num_processes)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(LaunchError, match="started 4 processes"):
        check_launch(accelerator.num_processes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can do it")
def test_a_precision_that_the_device_lacks_is_a_config_error():
    with pytest.raises(ConfigError, match=r"trainer\.precision=fp16 needs a GPU.*Take trainer\.precision=bf16 or no"):
        make_accelerator(TrainerConfig(precision="fp16"))


# --- Weights & Biases -------------------------------------------------------------------------------------------------


def test_offline_tracking_leaves_files_and_disabled_none(run, shards, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")  # the option wins
    offline = train(tiny_config(shards, tmp_path / "run", "trainer.wandb=offline"))
    assert list((offline / "wandb").glob("offline-run-*/*.wandb"))
    assert not (run / "wandb").exists()


def test_auto_tracking_is_online_only_where_there_is_a_key(tmp_path, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert choose_wandb_mode("auto") == "offline"
    (tmp_path / ".netrc").write_text("machine wandb.example.org login user password hush\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert choose_wandb_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert choose_wandb_mode("auto") == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert choose_wandb_mode("auto") == "disabled"
    assert choose_wandb_mode("online") == "online"


# --- checkpoints ------------------------------------------------------------------------------------------------------


def copied(run: Path, to: Path) -> Path:
    model, manifest = load_checkpoint(run / "last")
    save_checkpoint(to / "copy", model, manifest)
    return to / "copy"


def test_a_checkpoint_is_replaced_as_a_whole(run, tmp_path):
    model, manifest = load_checkpoint(run / "last")
    (tmp_path / ".last.tmp").mkdir()
    (tmp_path / ".last.tmp" / "left by a kill").touch()
    save_checkpoint(tmp_path / "last", model, manifest)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    save_checkpoint(tmp_path / "last", model, manifest.model_copy(update={"epoch": 9}))
    again, said = load_checkpoint(tmp_path / "last")
    assert said.epoch == 9
    assert torch.equal(next(again.parameters()), next(model.parameters()))
    assert [path.name for path in tmp_path.iterdir()] == ["last"]
    assert sorted(path.name for path in (tmp_path / "last").iterdir()) == ["manifest.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("model.safetensors", lambda data: data[: len(data) // 2], "model.safetensors does not fit manifest.json"),
        ("model.safetensors", None, "model.safetensors is missing"),
        ("manifest.json", None, "manifest.json is missing"),
        ("manifest.json", lambda data: data[:-20], "manifest.json is damaged"),
        ("manifest.json", lambda data: data.replace(b'"epoch"', b'"epoc"'), "is damaged: .*epoch"),
        ("manifest.json", lambda data: data.replace(b'_version": 1', b'_version": 2'), "schema_version=2, .*reads 1"),
        ("manifest.json", lambda data: data.replace(b'"never"', b'"never", "x"', 1), "does not fit manifest.json"),
    ],
)
def test_a_damaged_checkpoint_is_told_apart(run, tmp_path, file, damage, message):
    folder = copied(run, tmp_path)
    path = folder / file
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ShardError, match=message):
        load_checkpoint(folder)


def test_the_commit_is_that_of_the_checkout_only():
    commit = current_commit()
    assert commit is None or (len(commit) == 40 and set(commit) <= set("0123456789abcdef"))


# --- samplers and the ledger ------------------------------------------------------------------------------------------


def test_the_history_holds_a_ledger_that_adds_up(run):
    for line in history(run):
        figures = line["train"]
        assert figures["planned"] == figures["delivered"] + figures["skipped"] + figures["padded"]
        assert figures["delivered"] == 3 * 10  # ten windows of each of three videos of 20 frames
        assert figures["skipped"] == 0


def test_a_balanced_epoch_has_as_many_windows_of_each_class(shards, tmp_path):
    overrides = ("data.sampler=balanced", "data.per_class=3")
    figures = history(train(tiny_config(shards, tmp_path / "run", *overrides)))[0]["train"]
    labels = DatasetBuilder(path=shards / "train", style=TINY_STYLE).build().labels()
    classes = int(labels.any(axis=0).sum()) + bool((~labels.any(axis=1)).any())
    assert figures["delivered"] == 3 * classes


def test_a_video_that_breaks_after_packing_costs_its_windows_and_is_named(shards, tmp_path, capsys):
    shutil.copytree(shards, tmp_path / "shards")
    index = open_index(tmp_path / "shards" / "train")
    shard, offset, size = index.place(1)
    shard = Path(shard)
    data = bytearray(shard.read_bytes())
    data[offset : offset + size] = bytes(size)
    shard.write_bytes(data)
    with pytest.raises(SampleError, match=f"more than max_skipped=0.01:\n.*{index.keys[1]}: not a video"):
        train(tiny_config(tmp_path / "shards", tmp_path / "strict"))
    AcceleratorState._reset_state(reset_partial_state=True)
    figures = history(train(tiny_config(tmp_path / "shards", tmp_path / "lenient", "data.max_skipped=0.5")))[0]["train"]
    assert (figures["delivered"], figures["skipped"]) == (20, 10)
    assert f"10 windows  {index.keys[1]}: not a video" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.per_class=3"], "data.per_class=3 goes with data.sampler=balanced, not shuffle"),
        (["data.sampler=balanced", "data.num_windows=3"], "data.num_windows=3 goes with data.sampler=random"),
        (["data.sampler=equal"], "data.sampler='equal'"),
        (["data.max_skipped=2"], "data.max_skipped=2"),
    ],
)
def test_sampler_options_that_do_not_go_together_are_refused(overrides, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        tiny_config(tmp_path, tmp_path / "run", *overrides)


# --- speed-ups that change nothing ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(400)  # the compiler takes a minute
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPUs")
def test_a_compiled_model_learns_the_same_goes_on_and_its_checkpoints_know_nothing_of_it(shards, tmp_path):
    options = ("trainer.epochs=2", "model.backbone=test_vit", "data.size=160")
    plain = train(tiny_config(shards, tmp_path / "plain", *options))
    compiled = train(tiny_config(shards, tmp_path / "compiled", *options, "trainer.compile=true"))
    for first, second in zip(history(plain), history(compiled), strict=True):
        assert first["train"]["loss"] == pytest.approx(second["train"]["loss"], abs=1e-4)
    first, second = weights(plain), weights(compiled)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], atol=1e-3, rtol=1e-2)
    assert evaluate(compiled, split="test", progress=False).metrics["loss"] > 0

"""A training that is left, by a kill or a signal, goes on exactly there, also on other ranks."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from tiny import ROOT, assert_same_run, frames_shards, history, stop_after, tiny_config, tiny_overrides, weights

from wildstream.errors import ConfigError, Interrupted, ShardError
from wildstream.evaluation.evaluate import evaluate
from wildstream.models.classifier import ModelBuilder
from wildstream.training.run import train
from wildstream.training.trainer import Trainer

CONVNEXT = ("model.backbone=test_convnext", "trainer.epochs=2", "trainer.batch_size=4")
EACH_STEP = "trainer.checkpoint_minutes=0"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return frames_shards(tmp_path_factory)


@pytest.fixture(autouse=True)
def fresh_accelerate():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


OPTIONS = {
    "accumulated": ("trainer.accumulate=3", "trainer.ema=0.9", "trainer.optimizer=sgd"),
    "dropout": ("model.classifier=mlp", "trainer.schedule=cosine", "trainer.warmup_epochs=1"),
    "balanced": (
        "data.sampler=balanced",
        "data.per_class=9",
        "trainer.precision=bf16",
        "trainer.schedule=plateau",
        "trainer.plateau_patience=0",
        "trainer.optimizer=lamb",
    ),
    "augmented": ("augment.transforms=[crop,flip,erasing]", "augment.mixup=0.8", "augment.cutmix=1.0"),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_told_to_stop_in_any_batch_it_ends_with_the_same_bits(shards, tmp_path, monkeypatch, options):
    options = (*CONVNEXT, *options)
    calm = train(tiny_config(shards, tmp_path / "calm", *options))
    config = tiny_config(shards, tmp_path / "told", *options, "trainer.resume=auto")
    for batches in (2, 7):
        AcceleratorState._reset_state(reset_partial_state=True)
        with monkeypatch.context() as patch:
            stop_after(patch, batches)
            with pytest.raises(Interrupted, match=r"stopped by SIGTERM in epoch \d after batch \d+\. To go on:"):
                train(config)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert_same_run(calm, train(config))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_told_to_stop_in_validation_it_ends_with_the_same_bits(shards, tmp_path, monkeypatch):
    options = (*CONVNEXT, "trainer.ema=0.9", "trainer.schedule=cosine")
    calm = train(tiny_config(shards, tmp_path / "calm", *options))
    config = tiny_config(shards, tmp_path / "told", *options, "trainer.resume=auto")
    finish, seen = Trainer.validate, []

    def validate(self):
        seen.append(1)
        if len(seen) in (1, 3):
            os.kill(os.getpid(), signal.SIGTERM)
        return finish(self)

    for epoch in (1, 2):
        AcceleratorState._reset_state(reset_partial_state=True)
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "validate", validate)
            with pytest.raises(Interrupted, match=rf"stopped by SIGTERM in epoch {epoch} after batch 8\. To go on:"):
                train(config)
        written = config.trainer.out / "history.jsonl"
        assert (len(written.read_text().splitlines()) if written.exists() else 0) == epoch - 1
    AcceleratorState._reset_state(reset_partial_state=True)
    assert_same_run(calm, train(config))


def test_the_test_notices_a_batch_that_is_left_out(shards, tmp_path, monkeypatch):
    calm = train(tiny_config(shards, tmp_path / "calm", *CONVNEXT))
    config = tiny_config(shards, tmp_path / "told", *CONVNEXT, "trainer.resume=auto")
    AcceleratorState._reset_state(reset_partial_state=True)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Interrupted):
            train(config)
    path = config.trainer.out / "last" / "state.pt"
    state = torch.load(path, weights_only=True)
    state["loader"]["position"] += 4  # a batch is skipped
    torch.save(state, path)
    AcceleratorState._reset_state(reset_partial_state=True)
    again = train(config)
    assert not all(torch.equal(weights(calm)[name], weights(again)[name]) for name in weights(calm))


def launch(processes: int, *overrides: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "train.py"), *overrides]
    if processes > 1:
        spread = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command = [sys.executable, *spread, *command[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


MOTHER = """
    import os, sys
    import av, timm, torchmetrics  # what training imports only when it needs it, so that no child has to
    from wildstream.config.compose import compose_config
    from wildstream.training.run import train
    print("ready", flush=True)
    for line in sys.stdin:  # each line is a folder; nothing was computed before the fork
        if not (child := os.fork()):
            train(compose_config([*sys.argv[1:], f"trainer.out={line.strip()}"]))
            os._exit(0)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.mark.slow
def test_killed_at_random_it_ends_with_the_same_bits(shards, tmp_path):
    """Killed five times, each at a random moment after an attempt began to learn."""
    overrides = [*tiny_overrides(shards, tmp_path, *CONVNEXT, EACH_STEP), "model.classifier=mlp", "trainer.resume=auto"]
    command = [sys.executable, "-c", textwrap.dedent(MOTHER), *overrides]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    random, kills, wild = np.random.default_rng(0), 0, tmp_path / "wild"
    log = (tmp_path / "log").open("w")
    with (
        log,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as mother,
    ):

        def begin(folder: Path) -> int:
            mother.stdin.write(f"{folder}\n")
            mother.stdin.flush()
            return int(next(line for line in iter(mother.stdout.readline, "") if line.strip().isdigit()))

        def status() -> int:
            return int(next(line for line in iter(mother.stdout.readline, "") if line.strip().isdigit()))

        assert mother.stdout.readline() == "ready\n"
        began = time.monotonic()
        begin(tmp_path / "calm")
        assert status() == 0, (tmp_path / "log").read_text()
        duration = time.monotonic() - began
        for _ in range(30):
            child = begin(wild)
            time.sleep(random.uniform(0, duration))
            if kills < 5:
                with contextlib.suppress(ProcessLookupError):  # it ended by itself a moment before: no kill to count
                    os.kill(child, signal.SIGKILL)
            if status() == signal.SIGKILL:
                kills += 1
            elif kills < 5:
                shutil.rmtree(wild)
            else:
                break
        mother.stdin.close()
    assert kills == 5, "too quick to be killed"
    assert_same_run(tmp_path / "calm", wild)


@pytest.mark.slow
def test_it_goes_on_with_other_ranks(shards, tmp_path, monkeypatch):
    """The same global batch on two ranks, from the middle of an epoch; batch norm would see other batches."""
    options = [*CONVNEXT, "trainer.epochs=3", "trainer.batch_size=8"]
    calm = train(tiny_config(shards, tmp_path / "calm", *options))
    AcceleratorState._reset_state(reset_partial_state=True)
    with monkeypatch.context() as patch:
        stop_after(patch, 6)
        with pytest.raises(Interrupted):
            train(tiny_config(shards, tmp_path / "moved", *options))
    overrides = tiny_overrides(shards, tmp_path / "moved", *options, "trainer.batch_size=4", "trainer.resume=auto")
    process = launch(2, *overrides)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "goes on with epoch 2, batch 3" in output
    for one, two in zip(history(calm), history(tmp_path / "moved"), strict=True):
        assert one["train"]["loss"] == pytest.approx(two["train"]["loss"], rel=1e-4)
        assert one["train"]["delivered"] == two["train"]["delivered"]
        assert one["val"] == pytest.approx(two["val"], rel=1e-3)


def test_a_signal_ends_the_process_with_a_status_to_requeue_on(shards, tmp_path):
    run = tmp_path / "run"
    process = launch(1, *tiny_overrides(shards, run, *CONVNEXT, EACH_STEP, "trainer.epochs=500"))
    while process.poll() is None and not (run / "last" / "state.pt").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert "stopped by SIGUSR1 in epoch" in errors
    assert f"trainer.resume=auto trainer.out={run}" in errors


def test_a_signal_while_it_starts_ends_it_after_its_first_step(shards, tmp_path):
    process = launch(1, *tiny_overrides(shards, tmp_path / "run", *CONVNEXT, "trainer.epochs=500"))
    caught, term = 0, 1 << (signal.SIGTERM - 1)
    while process.poll() is None and not caught & term:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), 16)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=280)
    assert process.returncode == 75, errors
    assert "stopped by SIGTERM in epoch 1 after batch 1" in errors


def test_accumulated_batches_are_one_large_batch(shards, tmp_path):
    """Also at the end of an epoch, where fewer are left; 30 windows make steps of 12, 12 and 6."""
    options = ("model.backbone=test_convnext", "trainer.epochs=2")
    large = train(tiny_config(shards, tmp_path / "large", *options, "trainer.batch_size=12"))
    AcceleratorState._reset_state(reset_partial_state=True)
    small = train(tiny_config(shards, tmp_path / "small", *options, "trainer.batch_size=4", "trainer.accumulate=3"))
    for one, two in zip(history(large), history(small), strict=True):
        assert one["train"]["loss"] == pytest.approx(two["train"]["loss"], rel=1e-4)
        assert one["train"]["lr"] == two["train"]["lr"]
        assert one["val"] == pytest.approx(two["val"], rel=1e-3)


def test_the_average_of_the_weights_is_what_is_kept(shards, tmp_path, monkeypatch):
    """Against the definition, over the weights that each step left: 0.8 of the average, 0.2 of them."""
    step, left = Trainer._step, []

    def step_and_note(self, clips):
        step(self, clips)
        left.append(self._bare.state_dict()["classifier.weight"].clone())

    monkeypatch.setattr(Trainer, "_step", step_and_note)
    run = train(tiny_config(shards, tmp_path / "run", *CONVNEXT, "trainer.epochs=1", "trainer.ema=0.8"))
    average = left[0]
    for weight in left[1:]:
        average = 0.8 * average + 0.2 * weight
    assert len(left) == 8
    torch.testing.assert_close(weights(run)["classifier.weight"], average)
    assert not torch.equal(average, left[-1])


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_what_is_kept_is_what_was_validated(shards, tmp_path, precision):
    options = (*CONVNEXT, "trainer.ema=0.5", f"trainer.precision={precision}", "trainer.lr=0.01")
    run = train(tiny_config(shards, tmp_path / "run", *options))
    AcceleratorState._reset_state(reset_partial_state=True)
    found = json.loads(evaluate(run, split="val", checkpoint="last", progress=False).report.read_text())
    assert found["metrics"]["loss"] == pytest.approx(history(run)[-1]["val"]["loss"], rel=1e-5)


def test_the_backbone_learns_little_by_little(shards, tmp_path):
    """Nothing of it in the first epoch, in the second the last half of its tensors."""
    unfreezing = "model.unfreezing={start_epoch: 1, duration: 1, fraction: 0.5}"
    rates = ("trainer.backbone_lr=1e-3", "trainer.layer_decay=0.9", "trainer.lr=1e-2", "trainer.weight_decay=0")
    options = (*CONVNEXT, unfreezing, *rates, "trainer.schedule=constant")
    states = []
    for epochs in (1, 2):
        run = train(tiny_config(shards, tmp_path / f"run{epochs}", *options, f"trainer.epochs={epochs}"))
        AcceleratorState._reset_state(reset_partial_state=True)
        states.append(weights(run))
    set_seed(0)
    first = ModelBuilder().set_backbone("test_convnext").set_classifier("linear", output_dim=3).build()
    start = dict(first.named_parameters())
    inside = [name for name in start if name not in ("classifier.weight", "classifier.bias")]
    assert all(torch.equal(states[0][name], start[name]) for name in inside)
    assert not torch.equal(states[0]["classifier.weight"], start["classifier.weight"])
    half = len(inside) // 2
    assert all(torch.equal(states[1][name], start[name]) for name in inside[:half])
    changed = [not torch.equal(states[1][name], start[name]) for name in inside[half:]]
    assert sum(changed) > len(changed) // 2  # some layers lie behind the tokens and learn nothing


def test_training_ends_where_nothing_gets_better(shards, tmp_path):
    options = ("trainer.epochs=20", "trainer.patience=2", "trainer.lr=1e-30", "trainer.schedule=constant")
    lines = history(train(tiny_config(shards, tmp_path / "run", *options, "model.backbone=test_convnext")))
    assert [line["epoch"] for line in lines] == [1, 2, 3]


def test_other_options_than_the_run_was_begun_with_are_refused(shards, tmp_path):
    run = train(tiny_config(shards, tmp_path / "run"))
    for override, message in (
        ("trainer.lr=0.5", r"holds a run with trainer\.lr=0\.001 \(now 0\.5\)"),
        ("data.sampler=random", r"data\.sampler=shuffle \(now random\)"),
        ("trainer.batch_size=4", r"took 8 windows a step, now .*= 4\. Make them as many as before"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(tiny_config(shards, run, "trainer.resume=auto", override))
        AcceleratorState._reset_state(reset_partial_state=True)
    assert train(tiny_config(shards, run, "trainer.resume=auto")) == run
    assert len(history(run)) == 1, "a finished run is left as it is"


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"nonsense", None])
def test_a_damaged_state_is_refused(shards, tmp_path, damage):
    run = train(tiny_config(shards, tmp_path / "run"))
    path = run / "last" / "state.pt"
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(ShardError, match=r"state\.pt.*Choose another trainer\.out"):
        train(tiny_config(shards, run, "trainer.resume=auto"))


def test_a_state_that_holds_code_is_not_run(shards, tmp_path):
    run = train(tiny_config(shards, tmp_path / "run"))

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'owned'}",)

    torch.save({"model": Evil()}, run / "last" / "state.pt")
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(ShardError, match=r"state\.pt is damaged"):
        train(tiny_config(shards, run, "trainer.resume=auto"))
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_that_was_being_replaced_is_put_back(shards, tmp_path):
    run = train(tiny_config(shards, tmp_path / "run"))
    (run / "last").rename(run / ".last.old")
    AcceleratorState._reset_state(reset_partial_state=True)
    (run / "best").rename(run / ".best.old")
    before = (run / ".last.old" / "state.pt").stat().st_mtime_ns, (run / ".best.old" / "manifest.json").read_text()
    train(tiny_config(shards, run, "trainer.resume=auto"))
    after = (run / "last" / "state.pt").stat().st_mtime_ns, (run / "best" / "manifest.json").read_text()
    assert after == before
    assert [line["epoch"] for line in history(run)] == [1]


def test_killed_before_its_first_checkpoint_it_begins_anew(shards, tmp_path):
    run = train(tiny_config(shards, tmp_path / "run", "trainer.keep=1"))
    shutil.rmtree(run / "last")
    (run / "kept" / "epoch_001").rename(run / "kept" / "epoch_007")
    AcceleratorState._reset_state(reset_partial_state=True)
    train(tiny_config(shards, run, "trainer.keep=1", "trainer.resume=auto"))
    assert [line["epoch"] for line in history(run)] == [1]
    assert [path.name for path in (run / "kept").iterdir()] == ["epoch_001"]


def test_the_history_has_no_epoch_twice(shards, tmp_path):
    """Killed between the line of an epoch and its checkpoint, the epoch is run again."""
    run = train(tiny_config(shards, tmp_path / "run"))
    with (run / "history.jsonl").open("a") as lines:
        lines.write((run / "history.jsonl").read_text())
    AcceleratorState._reset_state(reset_partial_state=True)
    train(tiny_config(shards, run, "trainer.resume=auto"))
    assert [line["epoch"] for line in history(run)] == [1]

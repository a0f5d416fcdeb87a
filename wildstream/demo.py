"""The demo: a small labelled video set, taken down the whole river in a few minutes on two cores.

Each step is one that a user would take by hand, and is printed as the command that does it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from wildstream.config.compose import compose_config
from wildstream.config.train import TrainConfig
from wildstream.evaluation.evaluate import Evaluation, evaluate, render
from wildstream.fishtank import make_fishtank
from wildstream.shards.pack import pack
from wildstream.training.run import train

OVERRIDES = (
    "data.style=sliding_window_w_temp",
    "data.size=64",
    "model.backbone=tiny3d",
    "trainer.epochs=8",
    "trainer.batch_size=16",
    "trainer.lr=2e-3",
)
"""A small network at a small size: minutes on two cores, and clearly better than chance."""


def run_demo(out: Path, *, say: Callable[[str], None]) -> Evaluation:
    """Make videos, pack them, train on them and evaluate; every line for people goes to `say`."""
    videos, shards = out / "videos", out / "shards"
    run = _next_run(out)
    config = demo_config(shards, run)
    say(f"1/4  fish in a tank, labelled frame by frame → {videos}")
    make_fishtank(videos, progress=lambda jobs: tqdm(jobs, desc="draw", unit="video"))
    say(f"2/4  wildstream pack {videos} {shards} --format frames")
    pack(videos, shards, format="frames")
    say(f"3/4  accelerate launch train.py data.path={shards} {' '.join(OVERRIDES)} trainer.out={run}")
    train(config)
    say(f"4/4  wildstream evaluate {run} --split test")
    evaluation = evaluate(run, split="test", html=True)
    say(f"\nVideos that the model has never seen ({evaluation.split}):\n\n{render(evaluation)}")
    say(
        f"\nThe checkpoint is that after epoch {evaluation.epoch}, the best on the validation videos."
        f"\nMean average precision {evaluation.metrics['mAP']:.3f}; chance is {evaluation.metrics['mAP_chance']:.3f}."
        f"\nReport: {evaluation.report}"
        f"\nTo look at: {evaluation.page}"
    )
    return evaluation


def demo_config(shards: Path, run: Path) -> TrainConfig:
    """The options that the demo trains with."""
    return compose_config([f"data.path={shards}", *OVERRIDES, f"trainer.out={run}", "trainer.wandb=offline"])


def _next_run(out: Path) -> Path:
    """The first run folder that is not there yet: run-1, run-2, ..."""
    number = 1
    while (out / f"run-{number}").exists():
        number += 1
    return out / f"run-{number}"

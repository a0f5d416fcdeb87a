"""Whether a training step on the processor waits for its clips: what the trainer itself writes into history.jsonl.

    tiny3d, r3d_18     clips of 16 frames from 360p footage, shuffled, decoded by as many threads as there are cores,
                       beside the training

For each: the share of an epoch in which the training loop waits for the next batch, milliseconds of a step and of the
wait in it, and windows per second. Each epoch is a round; the first, which warms up, does not count. The first batch of
an epoch, for which everything has to be opened, is part of it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.footage import Case, is_real, make_case
from benchmarks.measuring import spread
from wildstream.config.compose import compose_config
from wildstream.training.run import train

ROUNDS = 5
STEP, GOP, HEIGHT = 8, 30, 360
BATCH = 8
CASES = {"tiny3d": ("tiny3d", 112), "r3d_18": ("r3d_18", 112)}
"""Backbone, and pixels of a side."""
WINDOWS = {"tiny3d": 240, "r3d_18": 24}
"""Windows of an epoch."""


def run(*, short: bool) -> dict[str, Any]:
    """Figures of each case; the short form in two rounds, without r3d_18."""
    case = make_case(step=STEP, gop=GOP, height=HEIGHT)
    held_out = make_case(step=STEP, gop=GOP, height=HEIGHT, frames=64, videos=1)
    rounds = 2 if short else ROUNDS
    with tempfile.TemporaryDirectory() as folder:
        found = {
            name: _measure(Path(folder) / name, case, held_out, *CASES[name], windows=WINDOWS[name], rounds=rounds)
            for name in (["tiny3d"] if short else CASES)
        }
    return {
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "footage": f"{'real' if is_real(case) else 'drawn'}, {case.name}",
        "batch": BATCH,
        **found,
    }


def _measure(
    folder: Path, case: Case, held_out: Case, backbone: str, size: int, *, windows: int, rounds: int
) -> dict[str, Any]:
    """Train for so many epochs and one, and read what the trainer noted."""
    (folder / "shards").mkdir(parents=True)
    (folder / "shards" / "train").symlink_to(case.shards)
    (folder / "shards" / "val").symlink_to(held_out.shards)
    style = f"{{window_size: {case.window}, samples_per_window: {case.window}, step_size: {case.step}, padding: none}}"
    config = compose_config(
        [
            f"data.path={folder / 'shards'}",
            f"data.style={style}",
            f"data.size={size}",
            "data.sampler=random",
            f"data.num_windows={windows}",
            f"model.backbone={backbone}",
            f"trainer.epochs={rounds + 1}",
            f"trainer.batch_size={BATCH}",
            f"trainer.out={folder / 'run'}",
            "trainer.wandb=disabled",
            "trainer.progress=false",
        ]
    )
    history = (train(config) / "history.jsonl").read_text(encoding="utf-8")
    epochs = [json.loads(line)["train"] | {"seconds": json.loads(line)["seconds"]} for line in history.splitlines()][1:]
    steps = -(-windows // BATCH)
    return {
        "size": size,
        "waiting_share": spread([epoch["waiting_for_data"] for epoch in epochs]),
        "step_ms": spread([1000 * epoch["seconds"] / steps for epoch in epochs]),
        "wait_ms": spread([1000 * epoch["seconds"] * epoch["waiting_for_data"] / steps for epoch in epochs]),
        "windows_per_second": spread([epoch["windows_per_second"] for epoch in epochs]),
    }

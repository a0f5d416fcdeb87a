"""Tiny labelled videos and what is packed of them: made once per session, in a second, for whoever trains in a test.

frames layout: every video is dark; while it is bright, "bright" happens, while it is red, "red" does.
videos layout: a folder of dark and one of bright videos.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from wildstream.config.compose import compose_config
from wildstream.config.train import TrainConfig
from wildstream.ffmpeg import ensure_ffmpeg
from wildstream.shards.pack import pack
from wildstream.training.trainer import Trainer

ROOT = Path(__file__).parents[1]
FRAMES = 20
CATEGORIES = ["bright", "red", "never"]


def write_video(path: Path, labels_TK: np.ndarray, seed: int) -> None:
    ensure_ffmpeg()
    from torchcodec.encoders import VideoEncoder

    noise = torch.from_numpy(np.random.default_rng(seed).integers(0, 40, (len(labels_TK), 3, 48, 48), np.uint8))
    noise[torch.from_numpy(labels_TK[:, 0])] += 150
    noise[torch.from_numpy(labels_TK[:, 1]), 0] += 60
    path.parent.mkdir(parents=True, exist_ok=True)
    VideoEncoder(noise, frame_rate=25).to_file(path, pixel_format="yuv420p")


def make_frames_source(root: Path, videos: dict[str, int]) -> Path:
    root.mkdir(parents=True)
    (root / "categories.json").write_text(json.dumps(CATEGORIES))
    for split, count in videos.items():
        for number in range(count):
            rng = np.random.default_rng([number, *split.encode()])
            labels = np.zeros((FRAMES, 3), np.bool_)
            labels[:, :2] = np.repeat(rng.random((4, 2)) < 0.5, FRAMES // 4, axis=0)
            labels[: FRAMES // 4, :2] = True
            path = root / split / f"v{number}" / f"v{number}.mp4"
            write_video(path, labels, number)
            np.savetxt(path.with_suffix(".tsv"), labels, fmt="%d", delimiter="\t")
    return root


def frames_source(factory: pytest.TempPathFactory) -> Path:
    """The source of `frames_shards`."""
    root = factory.getbasetemp() / "tiny-source"
    return root if root.exists() else make_frames_source(root, {"train": 3, "val": 2, "test": 2})


def frames_shards(factory: pytest.TempPathFactory) -> Path:
    """Shards of three splits in the frames layout; made once per session."""
    out = factory.getbasetemp() / "tiny-shards"
    if not out.exists():
        pack(frames_source(factory), out, format="frames", progress=False)
    return out


UNLABELLED = {"train/v0": [(4, 9)], "train/v1": [(0, 3), (17, 20)], "val/v0": [(0, 11)], "test/v1": [(6, 7), (9, 16)]}
"""Runs of frames of `partly_labelled_shards` of which nobody said anything, by split and video."""


def partly_labelled_source(factory: pytest.TempPathFactory) -> Path:
    """`frames_source`, but rows of -1 at UNLABELLED; made once per session."""
    root = factory.getbasetemp() / "tiny-partly-source"
    if not root.exists():
        shutil.copytree(frames_source(factory), root)
        for video, runs in UNLABELLED.items():
            path = root / video / f"{Path(video).name}.tsv"
            rows = path.read_text().splitlines()
            for first, stop in runs:
                rows[first:stop] = ["\t".join(["-1"] * len(CATEGORIES))] * (stop - first)
            path.write_text("\n".join(rows) + "\n")
    return root


def partly_labelled_shards(factory: pytest.TempPathFactory) -> Path:
    """Shards of three splits in the frames layout, partly unlabelled; made once per session."""
    out = factory.getbasetemp() / "tiny-partly-shards"
    if not out.exists():
        pack(partly_labelled_source(factory), out, format="frames", progress=False)
    return out


def clips_shards(factory: pytest.TempPathFactory) -> Path:
    """Shards of three splits in the videos layout; made once per session."""
    root, out = (factory.getbasetemp() / f"tiny-clips-{name}" for name in ("source", "shards"))
    if not out.exists():
        for split in ("train", "val", "test"):
            for number in range(4):
                bright = number % 2
                path = root / split / ("dark", "bright")[bright] / f"c{number}.mp4"
                write_video(path, np.tile(np.array([bright, 0], np.bool_), (6, 1)), number)
                path.with_suffix(".txt").write_text(f"{bright}\n")
        pack(root, out, format="videos", progress=False)
    return out


STYLE = "data.style={window_size: 4, samples_per_window: 4, step_size: 2, tolerance_region: 0}"


def tiny_config(shards: Path, out: Path, *overrides: str) -> TrainConfig:
    """A training of a second: clips of 4×3×32×32, a small transformer on frames, one epoch."""
    return compose_config(tiny_overrides(shards, out, *overrides))


def tiny_overrides(shards: Path, out: Path, *overrides: str) -> list[str]:
    return [
        f"data.path={shards}",
        f"trainer.out={out}",
        STYLE,
        "data.size=32",
        "model.backbone=test_byobnet",
        "model.classifier=linear",
        "trainer.epochs=1",
        "trainer.batch_size=8",
        "trainer.lr=1e-3",
        "trainer.wandb=disabled",
        "trainer.progress=false",
        *overrides,
    ]


def run_python(*arguments: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own; stdout and stderr as text."""
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=settings, capture_output=True, text=True, timeout=280
    )


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def torchrun(port: int, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run train.py in two processes."""
    launch = ("-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}", ROOT / "train.py")
    return run_python(*launch, *arguments, **environment)


def history(run: Path) -> list[dict]:
    """The lines of a run's history."""
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    """The weights of a run's checkpoint."""
    return load_file(run / name / "model.safetensors")


def assert_same_run(first: Path, second: Path) -> None:
    """Bit by bit: weights, figures, the ledger."""
    for name in ("last", "best"):
        one, two = weights(first, name), weights(second, name)
        assert one.keys() == two.keys()
        for key in one:
            assert torch.equal(one[key], two[key]), f"{name}: {key}"
    for one, two in zip(history(first), history(second), strict=True):
        assert one["epoch"] == two["epoch"]
        assert one["val"] == two["val"]
        for figure in ("loss", "lr", "planned", "delivered", "padded", "skipped"):
            assert one["train"][figure] == two["train"][figure], figure


def stop_after(monkeypatch, batches: int) -> None:
    """Have a signal come in the course of so many batches."""
    learn, seen = Trainer._learn, []

    def learn_and_count(self, *arguments, **options):
        seen.append(1)
        if len(seen) == batches:
            os.kill(os.getpid(), signal.SIGTERM)
        return learn(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "_learn", learn_and_count)

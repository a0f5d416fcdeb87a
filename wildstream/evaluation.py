"""A run folder → how good its model is on a split: figures, and what it said about every window.

RUN/evaluation/<split>.json
  schema_version, checkpoint, epoch, data, split, categories, task
  metrics       over the whole split: loss, mAP, mAP_micro, mAP_chance, F1, and top-k for single_label
  classes       for each class: windows (positives), chance (their share), average_precision
  windows       columns of equal length, in order of (key, start): key, start, probabilities, targets
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from wildstream.errors import ConfigError, ShardError
from wildstream.shards.index import open_index
from wildstream.storage.access import Storage
from wildstream.storage.urls import is_remote, join, redact
from wildstream.stream.dataset import WindowDataset, check_contents
from wildstream.stream.ledger import Ledger
from wildstream.tables import table
from wildstream.training.checkpoints import Manifest, load_checkpoint
from wildstream.training.metrics import average_precisions, compute_metrics
from wildstream.training.predict import Predictions, predict, total_ledger
from wildstream.training.run import make_accelerator

EVALUATION_SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How good a model is on one split."""

    split: str
    """Name of the split."""
    report: Path
    """The JSON file with everything."""
    epoch: int
    """Epochs of training that the checkpoint had."""
    metrics: dict[str, float | None]
    """Over the whole split; None where a figure is not defined."""
    classes: dict[str, dict[str, float | None]]
    """For each class: windows, chance and average_precision."""
    ledger: Ledger
    """What became of the windows: those that did not decode are not in the figures, and are named here."""


def evaluate(
    run: str | Path,
    *,
    split: str = "test",
    checkpoint: str = "best",
    data: str | Path | None = None,
    batch_size: int | None = None,
    progress: bool = True,
    storage: Storage | None = None,
) -> Evaluation:
    """Evaluate a checkpoint of a run on a split.

    Args:
        run: Run folder of `train.py`.
        split: Split of the shards.
        checkpoint: "best" or "last".
        data: Folder of packed shards; the one that the run was trained on by default.
        batch_size: Clips per batch; the run's by default.
        progress: Show a progress bar on stderr.
        storage: Reads the shards; as in the training by default.

    Raises:
        ShardError: The run has no such checkpoint, or there are no shards.
        ConfigError: The shards have other categories than the model, or no window of its style.
    """
    folder = Path(run)
    if checkpoint not in ("best", "last"):
        raise ConfigError(f"checkpoint={checkpoint!r} is not known. Take one of best, last.")
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size={batch_size} must be at least 1.")
    if not (folder / checkpoint).is_dir():
        raise ShardError(
            f"{folder} is no finished run: it has no folder {checkpoint}/. Give the run folder that train.py printed."
        )
    model, manifest = load_checkpoint(folder / checkpoint)
    path = join(data or manifest.config.data.path, split)
    storage = storage or manifest.config.data.make_storage()
    dataset = _open_data(path, manifest, storage, is_trained_on=data is None)
    accelerator = make_accelerator(manifest.config.trainer)
    loader = dataset.loader(
        batch_size=batch_size or manifest.config.trainer.batch_size,
        size=manifest.size,
        resize=manifest.config.data.resize,
        num_workers=manifest.config.data.num_workers,
        max_skipped=manifest.config.data.max_skipped,
    )
    bar = tqdm(loader, desc=f"evaluate {split}", unit="batch", disable=not progress, leave=False)
    predictions = predict(accelerator.prepare(model), bar, task=manifest.task, accelerator=accelerator)
    report = folder / "evaluation" / f"{split}.json"
    ledger = total_ledger(loader.ledger)
    content = describe(predictions, manifest) | {
        "checkpoint": checkpoint,
        "data": redact(path),
        "split": split,
        "epoch": manifest.epoch,
        "ledger": ledger.as_dict() | {"reasons": dict(ledger.skipped)},
    }
    if accelerator.is_main_process:
        report.parent.mkdir(exist_ok=True)
        report.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")
    return Evaluation(
        split=split,
        report=report,
        epoch=manifest.epoch,
        metrics=content["metrics"],
        classes=content["classes"],
        ledger=ledger,
    )


def describe(predictions: Predictions, manifest: Manifest) -> dict[str, Any]:
    """Predictions as the content of the report; figures that are not defined are None."""
    metrics = {"loss": predictions.loss}
    metrics |= compute_metrics(predictions.probabilities, predictions.targets, task=manifest.task)
    precisions = average_precisions(predictions.probabilities, predictions.targets)
    positives = predictions.targets.sum(axis=0)
    return {
        "schema_version": EVALUATION_SCHEMA_VERSION,
        "categories": manifest.categories,
        "task": manifest.task,
        "metrics": {name: _defined(value) for name, value in metrics.items()},
        "classes": {
            name: {
                "windows": int(positives[number]),
                "chance": _defined(positives[number] / max(1, len(predictions.keys))),
                "average_precision": _defined(precisions[number]),
            }
            for number, name in enumerate(manifest.categories)
        },
        "windows": {
            "key": predictions.keys,
            "start": predictions.starts.tolist(),
            # The shortest decimals that are these float32 numbers: whoever reads them finds the same figures.
            "probabilities": predictions.probabilities.astype(np.str_).astype(np.float64).tolist(),
            "targets": predictions.targets.astype(int).tolist(),
        },
    }


def render(evaluation: Evaluation) -> str:
    """The figures as a table for people."""
    rows = [("class", "windows", "chance", "average precision")]
    for name, figures in evaluation.classes.items():
        rows.append((name, f"{figures['windows']:,}", _shown(figures["chance"]), _shown(figures["average_precision"])))
    rows.append(("mean", "", _shown(evaluation.metrics["mAP_chance"]), _shown(evaluation.metrics["mAP"])))
    others = [(name, value) for name, value in evaluation.metrics.items() if name not in ("mAP", "mAP_chance")]
    footer = "   ".join(f"{name} {_shown(value)}" for name, value in others)
    skipped = f"\n\n{evaluation.ledger}\n{evaluation.ledger.reasons()}" if evaluation.ledger.skipped else ""
    return f"{table(rows)}\n\n{footer}{skipped}"


def _open_data(path: str, manifest: Manifest, storage: Storage, *, is_trained_on: bool) -> WindowDataset:
    """The windows of a split; refuse shards that the model was not made for."""
    home = manifest.config.data.path
    if is_trained_on and not is_remote(home) and not Path(home).is_dir():
        raise ShardError(
            f"the shards that the run was trained on are no longer at {home}. Say where they are: --data SHARDS."
        )
    index = open_index(path, storage)
    backbone = manifest.config.model.backbone
    check_contents(index, manifest.sliding_style, precomputed=manifest.features is not None, feature_model=backbone)
    dataset = WindowDataset(index=index, style=manifest.sliding_style)
    for what in ("categories", "task"):
        known, found = getattr(manifest, what), getattr(dataset.index.info, what)
        if known != found:
            raise ConfigError(
                f"{redact(path)} has the {what} {found}, the model knows {known}. "
                "Take shards packed as those of its training."
            )
    if not len(dataset):
        raise ConfigError(f"{redact(path)} has no window of the model's style {manifest.style}. Take longer videos.")
    return dataset


def _defined(value: float) -> float | None:
    """A figure for JSON, which knows no NaN."""
    return float(value) if math.isfinite(value) else None


def _shown(value: float | None) -> str:
    """A figure for people."""
    return "–" if value is None else f"{value:.3f}"

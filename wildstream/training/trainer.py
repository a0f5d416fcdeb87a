"""The training loop: epochs of steps, validation after each, the best and the last checkpoint.

Accelerate prepares model and optimizer. The loader is never given to it: it is already split by rank, and would be
split again.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from wildstream.config.trainer import TrainerConfig
from wildstream.errors import WildStreamError
from wildstream.samples import Batch
from wildstream.shards.formats import Task
from wildstream.stream.loader import Loader
from wildstream.training.checkpoints import Manifest, save_checkpoint
from wildstream.training.losses import clip_losses
from wildstream.training.metrics import compute_metrics
from wildstream.training.predict import Predictions, predict, total_ledger

HISTORY_NAME = "history.jsonl"


@dataclass(kw_only=True)
class Trainer:
    """Train a model on one loader and validate it on another."""

    config: TrainerConfig
    """The options."""
    accelerator: Accelerator
    """Device, precision, processes and trackers."""
    model: nn.Module
    """As prepared by the accelerator."""
    optimizer: Optimizer
    """As prepared by the accelerator."""
    schedule: LRScheduler
    """Learning rate; one step of it for each batch."""
    train_loader: Loader
    """Shuffled batches."""
    val_loader: Loader
    """Batches in order."""
    task: Task
    """What the labels mean."""
    manifest: Manifest
    """What is said of every checkpoint; epoch and metrics are filled in."""
    run: Path
    """Folder of the run."""
    best: float = field(default=-math.inf, init=False)
    """The best value of the monitored figure so far; the negative loss where that is monitored."""

    def train(self) -> None:
        """Run all epochs."""
        for epoch in range(self.config.epochs):
            started = time.perf_counter()
            train_figures = self._train_epoch(epoch)
            ledger = self._add_up(self.train_loader)
            predictions = self.validate()
            self._add_up(self.val_loader)
            figures = {"loss": predictions.loss} | compute_metrics(
                predictions.probabilities, predictions.targets, task=self.task
            )
            seconds = time.perf_counter() - started
            self._record(
                epoch, train_figures | {name: float(count) for name, count in ledger.items()}, figures, seconds
            )

    def _add_up(self, loader: Loader) -> dict[str, int]:
        """The ledger of all ranks; an error where it does not add up, and a message where windows were skipped."""
        ledger = total_ledger(loader)
        if self.accelerator.is_main_process:
            tqdm.write(f"{loader.index.info.split}: {ledger}" + (f"\n{ledger.reasons()}" if ledger.skipped else ""))
        return ledger.as_dict()

    def validate(self) -> Predictions:
        """Predict the validation set."""
        batches = self._progress(self.val_loader, "validate", len(self.val_loader))
        return predict(self.model, batches, task=self.task, accelerator=self.accelerator)

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training set."""
        self.model.train()
        self.train_loader.set_epoch(epoch)
        name = f"epoch {epoch + 1}/{self.config.epochs}"
        bar = self._progress(self.train_loader, name, len(self.train_loader))
        total, windows, waiting = 0.0, 0, _Stopwatch()
        started = time.perf_counter()
        for batch in waiting.watch(bar):
            loss, clips = self._step(batch)
            total, windows = total + loss * clips, windows + clips
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        seconds = time.perf_counter() - started
        return {
            "loss": total / max(1, windows),
            "lr": float(self.schedule.get_last_lr()[0]),
            "windows_per_second": windows / seconds,
            "waiting_for_data": waiting.seconds / seconds,
        }

    def _step(self, batch: Batch) -> tuple[float, int]:
        """Learn from one batch; the mean loss of its clips over all ranks and their number, padding left out."""
        moved = batch.to(self.accelerator.device)
        with self.accelerator.autocast():
            scores = self.model(moved.inputs)
        losses = clip_losses(scores, moved.labels, task=self.task)
        # The ranks' gradients are averaged, so each rank's sum is scaled to what makes that the mean over all clips.
        clips = self.accelerator.reduce(moved.mask.sum(), reduction="sum")
        loss = torch.where(moved.mask, losses, 0).sum() * self.accelerator.num_processes / clips.clamp(min=1)
        mean = float(self.accelerator.reduce(loss.detach(), reduction="mean"))
        if not math.isfinite(mean):
            raise WildStreamError(_blame(mean, batch, losses))
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        if self.config.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        return mean, int(clips)

    def _record(self, epoch: int, train_figures: dict[str, float], figures: dict[str, float], seconds: float) -> None:
        """Write down one epoch: history, trackers, checkpoints."""
        if not self.accelerator.is_main_process:
            return
        defined = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        line = {"epoch": epoch + 1, "seconds": seconds, "train": train_figures, "val": defined}
        with (self.run / HISTORY_NAME).open("a", encoding="utf-8") as history:
            history.write(json.dumps(line, allow_nan=False) + "\n")
        train_flat = {f"train/{name}": value for name, value in train_figures.items()}
        self.accelerator.log(train_flat | {f"val/{name}": value for name, value in figures.items()}, step=epoch + 1)
        manifest = self.manifest.model_copy(update={"epoch": epoch + 1, "metrics": defined})
        bare = self.accelerator.unwrap_model(self.model)
        save_checkpoint(self.run / "last", bare, manifest)
        value = -figures["loss"] if self.config.monitor == "loss" else figures[self.config.monitor]
        is_better = value > self.best or not (self.run / "best").exists()
        if is_better:
            self.best = value
            save_checkpoint(self.run / "best", bare, manifest)
        tqdm.write(_summary(epoch + 1, train_figures, figures, seconds, is_better))

    def _progress(self, batches: Iterable[Batch], name: str, total: int) -> tqdm[Any]:
        """A progress bar over batches, on the main process alone."""
        hidden = not (self.config.progress and self.accelerator.is_main_process)
        return tqdm(batches, desc=name, total=total, unit="batch", disable=hidden, leave=False)


class _Stopwatch:
    """Time that a loop waits for its next item."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def watch(self, items: Iterable[Batch]) -> Iterator[Batch]:
        """Pass items on and add up the time until each arrives."""
        iterator = iter(items)
        while True:
            started = time.perf_counter()
            item = next(iterator, None)
            self.seconds += time.perf_counter() - started
            if item is None:
                return
            yield item


def _blame(mean: float, batch: Batch, losses: Tensor) -> str:
    """The message about a loss that is not finite: which windows of this process caused it."""
    guilty = (~losses.detach().isfinite().cpu() & batch.mask.cpu()).nonzero().flatten().tolist()
    windows = ", ".join(f"({batch.keys[clip]}, {int(batch.starts[clip])})" for clip in guilty)
    where = f"at the windows {windows}" if guilty else "at windows of another process"
    return f"the loss is {mean} {where}. Lower trainer.lr, or look at these windows."


def _summary(epoch: int, train: dict[str, float], val: dict[str, float], seconds: float, is_best: bool) -> str:
    """One line about one epoch, for people."""
    shown = {name: f"{name} {value:.3f}" for name, value in val.items()}
    shown["mAP"] += f" (chance {val['mAP_chance']:.3f})"
    figures = "  ".join(text for name, text in shown.items() if name != "mAP_chance")
    return (
        f"epoch {epoch}: train loss {train['loss']:.3f}  |  val {figures}  |  "
        f"{train['windows_per_second']:.0f} windows/s, {seconds:.0f} s{'  *best' if is_best else ''}"
    )

"""The training loop: epochs of steps, validation after each, the best and the last checkpoint.

Accelerate prepares model and optimizer. The loader is never given to it: it is already split by rank, and would be
split again.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from wildstream.config.trainer import TrainerConfig
from wildstream.errors import ConfigError, Interrupted, WildStreamError
from wildstream.models.unfreezing import Unfreezing
from wildstream.samples import Batch
from wildstream.shards.formats import Task
from wildstream.stream.ledger import Ledger, add_up
from wildstream.stream.loader import Loader
from wildstream.training.augmentation import Augment
from wildstream.training.checkpoints import Manifest, load_training_state, save_checkpoint
from wildstream.training.interruption import Interruption
from wildstream.training.kept import forget_after, keep, score
from wildstream.training.losses import Criterion, LevelsCriterion
from wildstream.training.metrics import best_thresholds
from wildstream.training.predict import Predictions, figures_of, predict, total_ledger
from wildstream.training.progress import Learnt, Progress, seed_batch

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
    criterion: Criterion | LevelsCriterion
    """What is minimised."""
    optimizer: Optimizer
    """As prepared by the accelerator."""
    schedule: LRScheduler
    """Learning rate; one step of it for each of the optimizer's, or for each epoch with schedule=plateau."""
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
    unfreezing: Unfreezing | None = None
    """What of the backbone learns in which epoch; None leaves it as it is."""
    average: AveragedModel | None = None
    """Moving average of the weights, which is then what is validated and kept."""
    augment: Augment | None = None
    """Changes training batches at random; None leaves them as they are."""
    interruption: Interruption = field(default_factory=Interruption)
    """Says whether to stop."""
    progress: Progress = field(default_factory=Progress, init=False)
    """How far the training is."""
    _saved_at: float = field(default_factory=time.monotonic, init=False)

    def train(self) -> None:
        """Run all epochs that are left; Interrupted where a signal came, after writing what is needed to go on."""
        progress = self.progress
        while progress.epoch < self.config.epochs and not self._is_stale():
            train_figures = self._train_epoch()
            ledger = progress.ledger = self._add_up(self.train_loader, progress.ledger)
            predictions = self.validate()
            self._add_up(self.val_loader)
            figures = figures_of(predictions, task=self.task, hierarchy=self.manifest.hierarchy)
            self.manifest = self.manifest.model_copy(update={"thresholds": tune_thresholds(predictions, self.manifest)})
            self._end_epoch(train_figures | {name: float(count) for name, count in ledger.as_dict().items()}, figures)

    def validate(self) -> Predictions:
        """Predict the validation set; Interrupted where a signal came, after writing what is needed to go on."""
        if self.average is not None and self.accelerator.num_processes > 1:
            for buffer in self.average.module.buffers():  # each process has averaged its own statistics of batch norm
                torch.distributed.broadcast(buffer, src=0)
        batches = self._bar(self._until_told(self.val_loader), "validate", len(self.val_loader))
        model, hierarchy = self.average or self.model, self.manifest.hierarchy
        return predict(model, batches, task=self.task, accelerator=self.accelerator, hierarchy=hierarchy)

    def _until_told(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Batches of validation; Interrupted at the first after a signal came to one of the processes."""
        for batch in batches:
            if self._is_told():
                self._save(self.manifest, ledger=self.progress.ledger)
                raise self._interrupted()
            yield batch

    def _is_told(self) -> bool:
        """Whether a signal told one of the processes to stop."""
        told = torch.tensor(float(self.interruption.came is not None), device=self.accelerator.device)
        return bool(self.accelerator.reduce(told, reduction="sum") > 0)

    def resume(self) -> None:
        """Go on where the run was left; ShardError or ConfigError where that cannot be."""
        state, manifest = load_training_state(self.run / "last")
        if state["windows_per_step"] != self._windows_per_step:
            raise ConfigError(
                f"the run took {state['windows_per_step']} windows a step, now trainer.batch_size * trainer.accumulate "
                f"* processes = {self._windows_per_step}. Make them as many as before."
            )
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self._bare.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.train_loader.load_state_dict(state["loader"])
        self.progress = Progress.from_dict(state["progress"])
        total = len(self.train_loader)
        at, was_over = state["loader"]["position"], state["loader"]["epoch"] > self.progress.epoch
        self.progress.batches = total if was_over else at // self._windows_per_batch  # over: it was left in validation
        known = {name: getattr(manifest, name) for name in ("epoch", "metrics", "thresholds")}
        self.manifest = self.manifest.model_copy(update=known)
        if self.accelerator.is_main_process:
            _cut_history(self.run / HISTORY_NAME, self.progress.epoch)
            forget_after(self.run, self.progress.epoch)
            left = self.progress.epoch < self.config.epochs and not self._is_stale()
            place = "validation" if self.progress.batches == total else f"batch {self.progress.batches + 1}"
            tqdm.write(
                f"goes on with epoch {self.progress.epoch + 1}, {place}"
                if left
                else f"the run is complete: {self.progress.epoch} epochs"
            )

    @property
    def _bare(self) -> nn.Module:
        """The model without what Accelerate and torch.compile put around it."""
        bare: nn.Module = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        return bare

    @property
    def _windows_per_batch(self) -> int:
        """Windows of all ranks' batches together."""
        return self.config.batch_size * int(self.accelerator.num_processes)

    @property
    def _windows_per_step(self) -> int:
        """Windows that the optimizer takes a step for."""
        return self._windows_per_batch * self.config.accumulate

    def _is_stale(self) -> bool:
        """Whether nothing got better for so long that training ends."""
        return self.config.patience is not None and self.progress.stale >= self.config.patience

    def _add_up(self, loader: Loader, before: Ledger | None = None) -> Ledger:
        """The ledger of all ranks; an error where it does not add up, told at first and where windows were skipped."""
        ledger = add_up([total_ledger(loader.ledger), *([before] if before else [])])
        if self.accelerator.is_main_process and (ledger.skipped or self.progress.epoch == 0):
            tqdm.write(f"{loader.index.info.split}: {ledger}" + (f"\n{ledger.reasons()}" if ledger.skipped else ""))
        return ledger

    def _train_epoch(self) -> dict[str, float]:
        """One pass over the training set, or what is left of it."""
        progress, config = self.progress, self.config
        self.model.train()
        if self.unfreezing is not None:
            self.unfreezing.apply(self._bare, progress.epoch)
        self.train_loader.set_epoch(progress.epoch)
        total = len(self.train_loader)
        bar = self._bar(None, f"epoch {progress.epoch + 1}/{config.epochs}", total)
        bar.update(progress.batches)
        batches = iter(self.train_loader) if progress.batches < total else iter(())
        clips_of_step = 0
        while progress.batches < total:
            seed_batch(config.seed, progress.epoch, progress.batches, self.accelerator.process_index)
            started = time.perf_counter()
            batch = next(batches)
            arrived = time.perf_counter()
            is_step = (progress.batches + 1) % config.accumulate == 0 or progress.batches + 1 == total
            learnt = self._learn(batch, sync=is_step)
            clips_of_step += learnt.clips
            if is_step:
                self._step(clips_of_step)
                clips_of_step = 0
            progress.add(learnt)
            progress.waiting += arrived - started
            progress.seconds += time.perf_counter() - started
            bar.set_postfix(loss=f"{learnt.loss / max(1, learnt.clips):.3f}", refresh=False)
            bar.update()
            if is_step and (learnt.due or learnt.told) and progress.batches < total:
                self._save(self.manifest, ledger=self._ledger_so_far())
                if learnt.told:
                    raise self._interrupted()
        next(batches, None)  # only now does the loader check that the epoch adds up
        bar.close()
        return {
            "loss": progress.loss / max(1, progress.clips),
            "lr": float(self.schedule.get_last_lr()[-1]),
            "windows_per_second": progress.windows / max(1e-9, progress.seconds),
            "waiting_for_data": progress.waiting / max(1e-9, progress.seconds),
            **self._gpu_memory(),
        }

    def _gpu_memory(self) -> dict[str, float]:
        """The most bytes that tensors took on this process's GPU since the last call; nothing without one."""
        if self.accelerator.device.type != "cuda":
            return {}
        peak = torch.cuda.max_memory_allocated(self.accelerator.device)
        torch.cuda.reset_peak_memory_stats(self.accelerator.device)
        return {"gpu_memory_bytes": float(peak)}

    def _learn(self, batch: Batch, *, sync: bool) -> Learnt:
        """Add the gradients of one batch, padding and what is not labelled left out.

        Args:
            batch: Of this rank.
            sync: Whether the ranks' gradients are put together; not in the middle of a step.
        """
        moved = batch.to(self.accelerator.device)
        if self.manifest.hierarchy is not None:  # before anything is mixed
            moved = replace(moved, labels=self.manifest.hierarchy.join_labels(moved.labels))
        if self.augment is not None:
            moved = self.augment(moved)
        with nullcontext() if sync else self.accelerator.no_sync(self.model):
            with self.accelerator.autocast():
                scores = self.model(moved.inputs)
            counts = moved.counts
            # Masked before the loss too: what is infinite there has no gradient that 0 times it would be 0.
            losses = self.criterion(torch.where(counts.unsqueeze(1), scores, 0), moved.labels)
            total = torch.where(counts, losses, 0).sum()
            # Of the ranks' gradients the mean is taken: this makes it the mean over a step's windows, if all count.
            self.accelerator.backward(total / (self.config.batch_size * self.config.accumulate))
        due = time.monotonic() - self._saved_at >= 60 * self.config.checkpoint_minutes
        wishes = torch.tensor([due, self.interruption.came is not None], device=total.device, dtype=torch.float32)
        facts = torch.cat([torch.stack([total.detach(), counts.sum().float(), moved.mask.sum().float()]), wishes])
        loss, clips, windows, due, told = self.accelerator.reduce(facts, reduction="sum").tolist()
        if not math.isfinite(loss):
            raise WildStreamError(_blame(loss, batch, losses))
        return Learnt(loss, round(clips), round(windows), due > 0, told > 0)

    def _step(self, clips: int) -> None:
        """Let the optimizer take a step for so many clips of all ranks; none where not one of them counts."""
        if clips:
            for parameter in self.model.parameters():
                if parameter.grad is not None and clips != self._windows_per_step:
                    parameter.grad *= self._windows_per_step / clips
            if self.config.clip_norm is not None:
                self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
            self.optimizer.step()
        self.optimizer.zero_grad()
        if not isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self._bare)

    def _interrupted(self) -> Interrupted:
        """What to say where a rank was told to stop; the checkpoint is written."""
        progress = self.progress
        return Interrupted(
            f"stopped by {self.interruption.came or 'a signal to another process'} in epoch {progress.epoch + 1} after "
            f"batch {progress.batches}. To go on: trainer.resume=auto trainer.out={self.run}"
        )

    def _ledger_so_far(self) -> Ledger:
        """Of this epoch up to here, all ranks."""
        own = self.train_loader.ledger
        done = Ledger(own.delivered + own.num_skipped + own.padded, own.delivered, own.padded, own.skipped)
        return add_up([self.progress.ledger, total_ledger(done)])

    def _end_epoch(self, train_figures: dict[str, float], figures: dict[str, float]) -> None:
        """Write down one epoch: history, trackers, checkpoints."""
        progress, seconds = self.progress, self.progress.seconds
        value = score(figures, self.config.monitor)
        is_better = value > progress.best or not (self.run / "best").exists()
        self.accelerator.wait_for_everyone()  # nobody looks for the best one after it was written
        if is_better:
            progress.best, progress.stale = value, 0
        else:
            progress.stale += 1
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(figures[self.config.monitor])
        progress.next_epoch()
        defined = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        manifest = self.manifest = self.manifest.model_copy(update={"epoch": progress.epoch, "metrics": defined})
        if self.accelerator.is_main_process:
            line = {"epoch": progress.epoch, "seconds": seconds, "train": train_figures, "val": defined}
            with (self.run / HISTORY_NAME).open("a", encoding="utf-8") as history:
                history.write(json.dumps(line, allow_nan=False) + "\n")
            train_flat = {f"train/{name}": value for name, value in train_figures.items()}
            val_flat = {f"val/{name}": value for name, value in defined.items() if value is not None}
            self.accelerator.log(train_flat | val_flat, step=progress.epoch)
            if is_better:
                save_checkpoint(self.run / "best", self._kept(), manifest)
            keep(self.run, self._kept(), manifest, count=self.config.keep, monitor=self.config.monitor)
            tqdm.write(_summary(progress.epoch, train_figures, figures, seconds, is_better))
        self._save(manifest, ledger=Ledger(0))
        if progress.epoch < self.config.epochs and not self._is_stale() and self._is_told():
            raise self._interrupted()

    def _kept(self) -> nn.Module:
        """The weights that checkpoints are of."""
        return self._bare if self.average is None else self.average.module

    def _save(self, manifest: Manifest, *, ledger: Ledger) -> None:
        """Write the last checkpoint, with all that is needed to go on."""
        self._saved_at = time.monotonic()
        self.progress.ledger, before = ledger, self.progress.ledger
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            state = {
                "model": self._bare.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
                "loader": self.train_loader.state_dict(),
                "progress": self.progress.as_dict(),
                "windows_per_step": self._windows_per_step,
            }
            save_checkpoint(self.run / "last", self._kept(), manifest, state)
        self.progress.ledger = before
        self.accelerator.wait_for_everyone()

    def _bar(self, batches: Iterable[Batch] | None, name: str, total: int) -> tqdm[Any]:
        """A progress bar over batches, on the main process alone."""
        hidden = not (self.config.progress and self.accelerator.is_main_process)
        return tqdm(batches, desc=name, total=total, unit="batch", disable=hidden, leave=False)


def tune_thresholds(predictions: Predictions, manifest: Manifest) -> dict[str, float] | None:
    """What `Manifest.thresholds` is by predictions of the validation set; None for single_label."""
    if manifest.task != "multi_label":
        return None
    names: Sequence[str] = manifest.categories
    if (hierarchy := manifest.hierarchy) is not None:
        first = hierarchy.levels[0]
        names, predictions = first.classes, predictions.by_level(hierarchy)[first.name]
    known = predictions.labelled
    thresholds = best_thresholds(predictions.probabilities[known], predictions.targets[known])
    return dict(zip(names, thresholds.tolist(), strict=True))


def _cut_history(path: Path, epochs: int) -> None:
    """Leave out epochs that are going to be run again: the process was killed before their checkpoint was written."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        by_epoch = {json.loads(line)["epoch"]: line for line in lines}
        path.write_text("".join(line for epoch, line in by_epoch.items() if epoch <= epochs), encoding="utf-8")


def _blame(mean: float, batch: Batch, losses: Tensor) -> str:
    """The message about a loss that is not finite: which windows of this process caused it."""
    guilty = (~losses.detach().isfinite().cpu() & batch.counts.cpu()).nonzero().flatten().tolist()
    windows = ", ".join(f"({batch.keys[clip]}, {int(batch.starts[clip])})" for clip in guilty)
    where = f"at the windows {windows}" if guilty else "at windows of another process"
    return f"the loss is {mean} {where}. Lower trainer.lr, or look at these windows."


def _summary(epoch: int, train: dict[str, float], val: dict[str, float], seconds: float, is_best: bool) -> str:
    """One line about one epoch, for people."""
    of_levels = [name for name in val if name.endswith("/mAP")][1:]  # the first level's is mAP itself
    names = [name for name in ("loss", "mAP", "f1_macro", "top1") if name in val] + of_levels
    shown = {name: f"{name} {val[name]:.3f}" for name in names}
    shown["mAP"] += f" (chance {val['mAP_chance']:.3f})"
    figures = "  ".join(shown.values())
    return (
        f"epoch {epoch}: train loss {train['loss']:.3f}  |  val {figures}  |  "
        f"{train['windows_per_second']:.0f} windows/s, {seconds:.0f} s{'  *best' if is_best else ''}"
    )

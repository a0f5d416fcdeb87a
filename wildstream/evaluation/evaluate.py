"""A run, a checkpoint or an artifact → how good its model is on a split.

RESULTS/<name>.json       the figures; describe.py says what is in it
RESULTS/<name>.parquet    what was said about every window (predictions_file.py)
RESULTS/<name>.html       a page for people, where it is asked for, and its pictures in RESULTS/<name>/ (report.py)

source.py says where RESULTS is, and what name: RUN/evaluation/test.json, or test-partial-last-on-OTHER-DATA.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from wildstream.errors import ConfigError, ShardError, WildStreamError
from wildstream.evaluation.agreement import compare_with_training
from wildstream.evaluation.describe import Analyses, Classes, describe, describe_shuffled
from wildstream.evaluation.groups import choose_groups
from wildstream.evaluation.mirror import mirror_results
from wildstream.evaluation.predictions_file import write_predictions
from wildstream.evaluation.render import render_analyses, render_levels
from wildstream.evaluation.shuffled import ShuffleFrames, check_shuffling, draw_permutation
from wildstream.evaluation.source import Source, find_source, remove_page
from wildstream.shards.index import open_index
from wildstream.shards.index_schema import write_text
from wildstream.storage.access import Storage
from wildstream.storage.urls import is_remote, join, redact
from wildstream.stream.dataset import WindowDataset, check_contents
from wildstream.stream.ledger import Ledger
from wildstream.training.checkpoints import Manifest, load_checkpoint
from wildstream.training.predict import Predictions, predict, total_ledger
from wildstream.training.run import make_accelerator
from wildstream.training.trainer import HISTORY_NAME

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from accelerate import Accelerator
    from torch import nn

    from wildstream.samples import Batch
    from wildstream.stream.loader import Loader

PATIENCE = timedelta(hours=12)
"""How long other processes wait while the first one describes what was found: of many classes that takes minutes."""
WindowSet = Literal["full", "partial"]
"""full: all windows of the split; partial: those that carry at least one label, of any class."""
WandbMode = Literal["auto", "online", "offline", "disabled"]
"""As trainer.wandb."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How good a model is on one split."""

    split: str
    """Name of the split."""
    report: Path
    """The JSON file with everything."""
    predictions: Path
    """The Parquet file with what was said about every window; `read_predictions` reads it."""
    epoch: int
    """Epochs of training that the checkpoint had."""
    metrics: dict[str, float | None]
    """Over the whole set; None where a figure is not defined. With a hierarchy also each level's, as genus/mAP."""
    classes: Classes
    """Figures of each class; with a hierarchy of the first level's."""
    levels: dict[str, Classes]
    """With a hierarchy, the same of each level."""
    content: dict[str, Any]
    """All that the JSON file holds, these figures too."""
    ledger: Ledger
    """What became of the windows: those that did not decode are not in the figures, and are named here."""
    mirrored: str | None
    """What became of the results' artifact at Weights & Biases; None where there is none."""
    page: Path | None = None
    """The page for people; None where none was asked for."""


def evaluate(
    run: str | Path,
    *,
    split: str = "test",
    windows: WindowSet = "full",
    checkpoint: str | None = None,
    data: str | Path | None = None,
    batch_size: int | None = None,
    analyses: Analyses | None = None,
    out: str | Path | None = None,
    wandb: str | None = None,
    html: bool = False,
    progress: bool = True,
    storage: Storage | None = None,
) -> Evaluation:
    """Evaluate a checkpoint on a split.

    Args:
        run: Run folder of `train.py`, a checkpoint, also one that was moved, or wandb:ENTITY/PROJECT/NAME:ALIAS.
        split: Split of the shards.
        windows: "full" takes all windows, "partial" those that carry at least one label.
        checkpoint: Of a run: "best" (None), "last", or "epoch_NNN" of those that trainer.keep kept.
        data: Folder of packed shards; the one that the run was trained on by default.
        batch_size: Clips per batch; the run's by default.
        analyses: What is looked at besides the figures of training; the defaults of `Analyses`.
        out: Folder for the results; RUN/evaluation, or CHECKPOINT-evaluation by default.
        wandb: Whether the results are mirrored: auto, online, offline or disabled; the run's by default.
        html: Write a page for people too, NAME.html, and its pictures in NAME/ (report.py).
        progress: Show a progress bar on stderr.
        storage: Reads the shards; as in the training by default.

    Raises:
        ShardError: There is no such checkpoint, or there are no shards.
        ConfigError: The shards have other categories than the model, no window of its style, or none that is labelled;
            an option is unknown, or asks for what model or data do not have.
        EnvironmentProblem: Weights & Biases does not give an artifact.
    """
    analyses = analyses or Analyses()
    _check(windows=windows, batch_size=batch_size, bootstrap=analyses.bootstrap, seed=analyses.seed, wandb=wandb)
    source = find_source(run, checkpoint=checkpoint, out=None if out is None else Path(out))
    model, manifest = load_checkpoint(source.folder)
    _check_analyses(analyses, manifest)
    path = join(data or manifest.config.data.path, split)
    storage = storage or manifest.config.data.make_storage()
    dataset = _open_data(path, manifest, storage, is_trained_on=data is None)
    accelerator = make_accelerator(manifest.config.trainer, patience=PATIENCE)
    loader = dataset.loader(
        batch_size=batch_size or manifest.config.trainer.batch_size,
        size=manifest.size,
        resize=manifest.config.data.resize,
        num_workers=manifest.config.data.num_workers,
        max_skipped=manifest.config.data.max_skipped,
    )
    found = _Found(
        source=source, manifest=manifest, dataset=dataset, path=path, split=split, is_partial=windows == "partial"
    )
    found.predict(accelerator.prepare(model), loader, analyses, accelerator, progress=progress)
    report, table = (source.results / f"{found.name(data)}.{ending}" for ending in ("json", "parquet"))
    page = source.results / f"{found.name(data)}.html"
    content: dict[str, Any] = {}
    mirrored = None
    if accelerator.is_main_process:
        found.write_predictions(table)  # first: of many classes, all that is looked at besides takes minutes
        content = found.describe(analyses) | {"predictions": table.name}
        write_text(report, json.dumps(content, allow_nan=False) + "\n")
        if html:
            found.write_page(page, content)
        else:
            remove_page(page)
        if source.run is not None:
            mirrored = mirror_results(source.run, [report, table], manifest, content["metrics"], mode=wandb)
    content, mirrored = broadcast_object_list([content, mirrored])
    return Evaluation(
        split=split,
        report=report,
        predictions=table,
        epoch=manifest.epoch,
        metrics=content["metrics"],
        classes=content["classes"],
        levels={name: level["classes"] for name, level in content.get("levels", {}).items()},
        content=content,
        ledger=found.ledger,
        mirrored=mirrored,
        page=page if html else None,
    )


def render(evaluation: Evaluation) -> str:
    """The figures as tables and lines for people; with a hierarchy a table for each level."""
    parts = [*render_levels(evaluation.content), *render_analyses(evaluation.content)]
    if unlabelled := evaluation.content["unlabelled"]:
        parts.append(f"{unlabelled:,} windows are not labelled: they are in no figure")
    if evaluation.ledger.skipped:
        parts.append(f"{evaluation.ledger}\n{evaluation.ledger.reasons()}")
    return "\n\n".join(parts)


@dataclass(slots=True, kw_only=True)
class _Found:
    """What a model said about a set, and what it takes to describe that."""

    source: Source
    """The checkpoint."""
    manifest: Manifest
    """What it is."""
    dataset: WindowDataset
    """The windows."""
    path: str
    """Path or URL of the split."""
    split: str
    """Its name."""
    is_partial: bool
    """Whether only windows with a label count."""
    predictions: Predictions = field(init=False)
    """Of all windows of the split."""
    ledger: Ledger = field(init=False)
    """What became of them."""
    shuffled: Predictions | None = field(default=None, init=False)
    """With the frames of every clip in another order."""
    permutation: tuple[int, ...] = field(default=(), init=False)
    """That order."""

    def predict(
        self, model: nn.Module, loader: Loader, analyses: Analyses, accelerator: Accelerator, *, progress: bool
    ) -> None:
        """Go over the set, once or with shuffled frames twice."""
        manifest, hidden = self.manifest, not (progress and accelerator.is_main_process)

        def run(batches: Iterable[Batch], what: str) -> Predictions:
            bar = tqdm(
                batches, desc=f"{what} {self.split}", total=len(loader), unit="batch", disable=hidden, leave=False
            )
            said = predict(model, bar, task=manifest.task, accelerator=accelerator, hierarchy=manifest.hierarchy)
            return _check_finite(said)

        self.predictions = run(loader, "evaluate")
        self.ledger = total_ledger(loader.ledger)
        if analyses.shuffled_frames:
            self.permutation = draw_permutation(manifest.sliding_style.samples_per_window, seed=analyses.seed)
            self.shuffled = run(ShuffleFrames(permutation=self.permutation)(loader), "shuffled frames of")
            if total_ledger(loader.ledger).as_dict() != self.ledger.as_dict():
                raise WildStreamError(
                    f"other windows failed to decode with shuffled frames ({total_ledger(loader.ledger)}) than before "
                    f"({self.ledger}), so the two cannot be compared. Look at the storage, and evaluate again."
                )

    @property
    def chosen(self) -> npt.NDArray[np.bool_] | None:
        """Which windows are evaluated, (num_windows,), labelled or not; None: all. ConfigError where none is."""
        labelled = self.predictions.labelled
        if not labelled.any():
            raise ConfigError(
                f"no window of {redact(self.path)} is labelled, so there is nothing to compare with. `wildstream "
                "predict` says what happens in videos without labels."
            )
        if not self.is_partial:
            return None
        carries: npt.NDArray[np.bool_] = self.predictions.targets.any(axis=1) & labelled
        if not carries.any():
            raise ConfigError(f"windows='partial': no window of {redact(self.path)} carries a label. Take 'full'.")
        return carries

    @property
    def counted(self) -> Predictions:
        """The predictions that figures are of: those of evaluated windows that are labelled."""
        labelled, chosen = self.predictions.labelled, self.chosen
        windows = labelled if chosen is None else chosen & labelled
        return self.predictions if windows.all() else self.predictions.only(windows, self.manifest.hierarchy)

    def name(self, data: str | Path | None) -> str:
        """What the results are called; `data` is what was given in place of the training's own."""
        other = None if data is None else f"{Path(str(data)).name}-{self.dataset.index.fingerprint[:8]}"
        return self.source.result_name(self.split, partial=self.is_partial, data=other)

    def describe(self, analyses: Analyses) -> dict[str, Any]:
        """What the report says, but for the name of the predictions' file."""
        manifest, chosen, fingerprint = self.manifest, self.chosen, self.dataset.index.fingerprint
        content = describe(self.predictions, manifest, analyses, windows=chosen)
        metrics = content["metrics"]
        shuffled = self.shuffled and describe_shuffled(
            self.shuffled, metrics, manifest, self.permutation, windows=chosen, seed=analyses.seed
        )
        training = compare_with_training(
            metrics, manifest, self.source.folder, split=self.split, fingerprint=fingerprint, partial=self.is_partial
        )
        return {
            **content,
            **self.identity,
            "data": redact(self.path),
            "fingerprint": fingerprint,
            "ledger": self.ledger.as_dict() | {"reasons": dict(self.ledger.skipped)},
            "shuffled_frames": shuffled,
            "training": training,
        }

    def write_predictions(self, table: Path) -> None:
        """Write the predictions of the windows that are evaluated, labelled or not."""
        chosen = self.chosen
        kept = self.predictions if chosen is None else self.predictions.only(chosen, self.manifest.hierarchy)
        table.parent.mkdir(parents=True, exist_ok=True)
        write_predictions(table, kept, self.manifest, self.dataset.index, self.identity)

    @property
    def identity(self) -> dict[str, Any]:
        """What was evaluated."""
        return {
            "checkpoint": self.source.name,
            "epoch": self.manifest.epoch,
            "split": self.split,
            "set": "partial" if self.is_partial else "full",
        }

    def write_page(self, page: Path, content: dict[str, Any]) -> None:
        """Write the page for people beside the figures."""
        from wildstream.evaluation.report import write_report  # which imports Matplotlib

        history = (self.source.run or self.source.folder) / HISTORY_NAME
        lines = history.read_text(encoding="utf-8").splitlines() if history.exists() else []
        write_report(
            page,
            content,
            self.counted,
            manifest=self.manifest,
            dataset=self.dataset,
            history=[json.loads(line) for line in lines],
        )


def _check_finite(predictions: Predictions) -> Predictions:
    """The same; WildStreamError where a model gave what is no probability."""
    wrong = np.flatnonzero(~np.isfinite(predictions.probabilities).all(axis=1))
    if len(wrong):
        first = int(wrong[0])
        raise WildStreamError(
            f"the model gives NaN or infinity for {len(wrong):,} windows, the first of them at frame "
            f"{int(predictions.starts[first])} of {predictions.keys[first]}. Take another checkpoint, or "
            "trainer.precision=no if it was trained with fp16."
        )
    return predictions


def _check(*, windows: str, batch_size: int | None, bootstrap: int, seed: int, wandb: str | None) -> None:
    """Refuse options that are none (ConfigError)."""
    if windows not in get_args(WindowSet):
        raise ConfigError(f"windows={windows!r} is not known. Take one of {', '.join(get_args(WindowSet))}.")
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size={batch_size} must be at least 1.")
    for name, number in (("bootstrap", bootstrap), ("seed", seed)):
        if number < 0:
            raise ConfigError(f"{name}={number} must be at least 0.")
    if wandb not in (None, *get_args(WandbMode)):
        raise ConfigError(f"wandb={wandb!r} is not known. Take one of {', '.join(get_args(WandbMode))}.")


def _check_analyses(analyses: Analyses, manifest: Manifest) -> None:
    """Refuse, before anything is decoded, what a model cannot be asked (ConfigError)."""
    hierarchy = manifest.hierarchy
    names = hierarchy.levels[0].classes if hierarchy is not None else manifest.categories
    choose_groups(analyses.groups, names, hierarchy)
    if analyses.shuffled_frames:
        check_shuffling(manifest)


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
    if manifest.class_map is not None and index.categories == list(manifest.class_map):
        index = index.with_classes(manifest.class_map)
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

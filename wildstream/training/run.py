"""A checked configuration → a finished run folder: everything is set up here, and handed to the trainer.

runs/<name>/
  config.yaml         the options, complete
  history.jsonl       a line per epoch
  best/ last/         checkpoints
  kept/epoch_NNN/     the checkpoints of the best epochs, with trainer.keep
  wandb/ wandb-id     what Weights & Biases keeps, where it is not disabled, and its name of the run
  tensorboard/        with trainer.tensorboard
  mlflow-id           MLflow's name of the run, with trainer.mlflow
"""

from __future__ import annotations

import math
import os
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    broadcast_object_list,
    gather_object,
    set_seed,
)
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from wildstream.config.compose import check_config
from wildstream.config.train import TrainConfig
from wildstream.config.trainer import TrainerConfig
from wildstream.errors import ConfigError
from wildstream.launch import check_launch
from wildstream.models.classifier import VideoClassifier
from wildstream.models.hierarchy import OTHER, Hierarchy
from wildstream.models.hierarchy_file import read_hierarchy
from wildstream.models.unfreezing import Unfreezing, parameter_groups
from wildstream.shards.class_map import ClassMap
from wildstream.shards.formats import Task
from wildstream.stream.dataset import WindowDataset
from wildstream.stream.loader import Loader
from wildstream.training.augmentation import make_augment
from wildstream.training.checkpoints import (
    MANIFEST_NAME,
    Manifest,
    build_model,
    current_commit,
    read_manifest,
    used_versions,
)
from wildstream.training.data import open_splits
from wildstream.training.finetuning import start_from
from wildstream.training.interruption import Interruption
from wildstream.training.kept import KEPT_NAME, restore_checkpoints
from wildstream.training.losses import Criterion, LevelsCriterion, class_weights
from wildstream.training.optimization import make_optimizer, make_schedule
from wildstream.training.predict import Predictions, figures_of
from wildstream.training.progress import check_same_run
from wildstream.training.trackers import check_trackers, log_artifacts, start_trackers
from wildstream.training.trainer import HISTORY_NAME, Trainer

if TYPE_CHECKING:
    import numpy.typing as npt

CONFIG_NAME = "config.yaml"


def train(config: TrainConfig, *, interruption: Interruption | None = None) -> Path:
    """Train as configured.

    Args:
        config: All options.
        interruption: Listens to signals already; by default one that listens from here on.

    Returns:
        The run folder.

    Raises:
        ConfigError: The options do not fit the data.
        ShardError: The shards are missing or damaged.
        LaunchError: The launcher promised more processes than there are.
        Interrupted: SIGTERM or SIGUSR1 came; the run can go on with trainer.resume=auto.
    """
    if interruption is None:
        with Interruption() as listening:
            return train(config, interruption=listening)
    options = config.trainer
    training, validation, class_map = open_splits(config.data, config.model.backbone)
    check_trackers(config)
    run = options.out or Path("runs") / default_run_name(config)
    accelerator = make_accelerator(options)
    run = Path(broadcast_object_list([str(run)])[0])
    goes_on = _find_run(run, config, accelerator)
    check_labelled(training, validation)
    labels = training.labels()
    hierarchy = _find_hierarchy(config, training.categories, labels, run if goes_on else None)
    _check_monitor(options.monitor, training, hierarchy)
    set_seed(options.seed, deterministic=options.deterministic)
    features = training.index.info.features
    # A checkpoint to start from has weights of its own.
    described = config.model.model_copy(update={"weights": None}) if config.model.checkpoint else config.model
    model = build_model(described, num_classes=len(training.categories), features=features, hierarchy=hierarchy)
    own_size = model.spec.size if isinstance(model, VideoClassifier) else features.size if features else (1, 1)
    size = config.data.size or own_size
    augment = make_augment(config.augment, size)
    train_loader = _make_loader(training, config, size=size, shuffle=True)
    criterion = _make_criterion(options, training.index.info.task, labels, hierarchy)
    manifest = _describe(config, training, validation, size=size, class_map=class_map, hierarchy=hierarchy)
    if config.model.checkpoint and not goes_on:
        told = start_from(config.model.checkpoint, model, config, manifest)
        if accelerator.is_main_process:
            tqdm.write(told)
    if options.sync_bn:
        if accelerator.device.type == "cpu":
            raise ConfigError("trainer.sync_bn=true needs GPUs, here is none. Take trainer.sync_bn=false.")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    groups = parameter_groups(
        model,
        lr=options.lr,
        weight_decay=options.weight_decay,
        backbone_lr=options.backbone_lr,
        layer_decay=options.layer_decay,
    )
    optimizer = make_optimizer(groups, options)
    schedule = make_schedule(optimizer, options, steps_per_epoch=-(-len(train_loader) // options.accumulate))
    # Copied before Accelerate puts its own forward into the model: the copy would run the original's weights.
    average = _average(model.to(accelerator.device), options.ema)
    model, optimizer = accelerator.prepare(model, optimizer)
    if accelerator.is_main_process and not goes_on:
        _start_run(run, config)
    if accelerator.is_main_process:
        start_trackers(accelerator, run, config, goes_on=goes_on)
    accelerator.wait_for_everyone()
    trainer = Trainer(
        config=options,
        accelerator=accelerator,
        model=model,
        criterion=criterion,
        optimizer=optimizer,
        schedule=schedule,
        train_loader=train_loader,
        val_loader=_make_loader(validation, config, size=size, shuffle=False),
        task=training.index.info.task,
        manifest=manifest,
        run=run,
        unfreezing=Unfreezing(**config.model.unfreezing.model_dump()) if config.model.unfreezing else None,
        average=average,
        augment=augment,
        interruption=interruption,
    )
    try:
        if goes_on:
            trainer.resume()
        trainer.train()
        if accelerator.is_main_process:
            log_artifacts(accelerator, run, epochs=trainer.progress.epoch)
    finally:
        accelerator.end_training()
    return run


def check_labelled(*splits: WindowDataset) -> None:
    """Tell how many windows are not labelled, where some are; refuse a split in which none is (ConfigError)."""
    for dataset in splits:
        labelled, split = dataset.labelled(), dataset.index.info.split
        if not labelled.any():
            raise ConfigError(
                f"{split}: none of the {len(labelled):,} windows is labelled. Label some of its frames, or take "
                "another split."
            )
        if not labelled.all() and int(os.environ.get("RANK", "0")) == 0:
            tqdm.write(
                f"{split}: {int((~labelled).sum()):,} of {len(labelled):,} windows are not labelled; losses and "
                "figures leave them out"
            )


def _average(model: nn.Module, decay: float | None) -> AveragedModel | None:
    """The moving average of a model's parameters and buffers."""
    if decay is None:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def make_accelerator(options: TrainerConfig, *, patience: timedelta | None = None) -> Accelerator:
    """Accelerate's view of devices and processes; ConfigError or LaunchError where it is not what was asked for.

    Args:
        options: How it is trained.
        patience: How long processes wait for each other before they give up; the usual time by default.
    """
    # An image network may have layers behind its last tokens, which learn nothing here.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    compiled = "inductor" if options.compile else None
    try:
        accelerator = Accelerator(
            mixed_precision=options.precision,
            dynamo_backend=compiled,
            kwargs_handlers=[unused, *([InitProcessGroupKwargs(timeout=patience)] if patience else [])],
        )
    except ValueError as error:  # no such precision on this device, or another one in use in this process
        raise ConfigError(f"Accelerate does not start with trainer.precision={options.precision}: {error}") from error
    check_launch(accelerator.num_processes)
    if options.precision == "fp16" and accelerator.device.type == "cpu":  # Accelerate would train in float32 in silence
        raise ConfigError("trainer.precision=fp16 needs a GPU, here is none. Take trainer.precision=bf16 or no.")
    return accelerator


def default_run_name(config: TrainConfig) -> str:
    """<date>-<backbone>-<style>, safe as a folder name."""
    style = config.data.style if isinstance(config.data.style, str) else "custom"
    return f"{datetime.now():%Y%m%d-%H%M%S}-{config.model.backbone.replace('/', '_')}-{style}"


def _make_loader(dataset: WindowDataset, config: TrainConfig, *, size: int | tuple[int, int], shuffle: bool) -> Loader:
    """The loader of one split."""
    data = config.data
    return dataset.loader(
        batch_size=config.trainer.batch_size,
        size=size,
        resize=config.data.resize,
        shuffle=shuffle,
        sampler=data.make_sampler() if shuffle else None,
        temporal_sampler=config.augment.make_temporal_sampler() if shuffle else "uniform",
        seed=config.trainer.seed,
        max_skipped=data.max_skipped,
        num_workers=data.num_workers,
        lanes=data.lanes,
        pool_segments=data.pool_segments,
        segment_frames=data.segment_frames,
    )


def _find_hierarchy(
    config: TrainConfig, categories: list[str], labels: npt.NDArray[np.bool_], left: Path | None
) -> Hierarchy | None:
    """The levels of classes, rare ones merged by the training set's labels (N, K); of a run that was left, its own."""
    options = config.model.hierarchy
    if options is None:
        return None
    if left is not None:  # the table may have changed since, or be gone
        return read_manifest(left / "last" / MANIFEST_NAME).hierarchy
    try:
        whole = read_hierarchy(options.file, categories=categories, levels=options.levels)
        merged = whole.weigh(options.loss_weights).merge_rare(labels, min_samples=options.min_samples)
    except ConfigError as error:
        raise ConfigError(f"model.hierarchy: {error}") from error
    for before, after in zip(whole.levels, merged.levels, strict=True):
        rare = [name for name in before.classes if name not in after.classes]
        if rare and after.classes == (OTHER,):
            raise ConfigError(
                f"model.hierarchy.min_samples={options.min_samples} leaves no {before.name}: the most frequent has "
                f"{whole.count_samples(labels)[before.name].max()} windows. Take less."
            )
        if rare and int(os.environ.get("RANK", "0")) == 0:
            tqdm.write(f"{before.name}: {len(rare)} of {len(before.classes)} are {OTHER}: {', '.join(rare)}")
    return merged


def _make_criterion(
    options: TrainerConfig, task: Task, labels: npt.NDArray[np.bool_], hierarchy: Hierarchy | None
) -> Criterion | LevelsCriterion:
    """What is minimised; classes are weighted by the labels (N, K) of the training set."""

    def make(counts: npt.NDArray[np.int64]) -> Criterion:
        return Criterion(
            loss=options.loss,
            task=task,
            label_smoothing=options.label_smoothing,
            focal_gamma=options.focal_gamma,
            weights=class_weights(counts, options.class_weights),
        )

    if hierarchy is None:
        return make(labels.sum(axis=0))
    of_levels = hierarchy.count_samples(labels).items()
    return LevelsCriterion(hierarchy=hierarchy, criteria={name: make(counts) for name, counts in of_levels})


def _describe(
    config: TrainConfig,
    training: WindowDataset,
    validation: WindowDataset,
    *,
    size: int | tuple[int, int],
    class_map: ClassMap | None,
    hierarchy: Hierarchy | None,
) -> Manifest:
    """What is known of the checkpoints before the first epoch."""
    return Manifest(
        config=config,
        categories=training.categories,
        class_map=class_map,
        hierarchy=hierarchy,
        task=training.index.info.task,
        style=training.style.as_dict(),
        size=(size, size) if isinstance(size, int) else size,
        fingerprint=training.index.fingerprint,
        val_fingerprint=validation.index.fingerprint,
        features=training.index.info.features,
        epoch=0,
        metrics={},
        commit=current_commit(),
        versions=used_versions(),
    )


def _check_monitor(monitor: str, training: WindowDataset, hierarchy: Hierarchy | None) -> None:
    """Refuse to watch a figure that the shards do not have (ConfigError)."""
    info = training.index.info
    sizes = hierarchy.sizes if hierarchy else (len(info.categories),)
    nothing = Predictions(
        keys=[],
        starts=np.zeros(0, np.int64),
        probabilities=np.zeros((0, sum(sizes)), np.float32),
        targets=np.zeros((0, sum(sizes)), np.bool_),
        loss=math.nan,
        level_losses=(math.nan,) * len(sizes),
    )
    known = figures_of(nothing, task=info.task, hierarchy=hierarchy)
    if monitor not in known:
        takes = ", ".join(sorted(name for name in known if not name.endswith("mAP_chance")))
        lacking = " without model.hierarchy" if "/" in monitor and hierarchy is None else ""
        raise ConfigError(
            f"trainer.monitor={monitor} does not go with {info.task} of {len(info.categories)} classes{lacking}. Take "
            f"one of {takes}."
        )


def _find_run(run: Path, config: TrainConfig, accelerator: Accelerator) -> bool:
    """Whether there is a run to go on with; one that may not go on, and a file, are refused (ConfigError)."""
    if run.exists() and not run.is_dir():
        raise ConfigError(f"trainer.out={str(run)!r} is not a folder. Choose another name.")
    begun = (run / CONFIG_NAME).exists()
    if begun and config.trainer.resume is None:
        raise ConfigError(
            f"trainer.out={str(run)!r} holds a run already. Go on with it by trainer.resume=auto, choose another "
            "folder, or remove it."
        )
    if begun:
        written = yaml.safe_load((run / CONFIG_NAME).read_text(encoding="utf-8"))
        options = check_config(written).model_dump(mode="json")  # what an older program had no options for is as usual
        check_same_run(options, config.model_dump(mode="json"), out=run)
    accelerator.wait_for_everyone()  # nobody looks for the run after it was begun
    if accelerator.is_main_process:
        restore_checkpoints(run)
    accelerator.wait_for_everyone()
    goes_on = begun and (run / "last").exists()
    if len(set(gather_object([goes_on]))) > 1:
        raise ConfigError(
            f"trainer.out={str(run)!r} holds a run for some of the {accelerator.num_processes} processes alone. Take a "
            "folder that all nodes share."
        )
    return goes_on


def _start_run(run: Path, config: TrainConfig) -> None:
    """Make the run folder and note the options; what a run left that was killed before its first checkpoint goes."""
    run.mkdir(parents=True, exist_ok=True)
    (run / HISTORY_NAME).unlink(missing_ok=True)
    for name in ("best", KEPT_NAME):
        shutil.rmtree(run / name, ignore_errors=True)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    (run / CONFIG_NAME).write_text(text, encoding="utf-8")

"""A checked configuration → a finished run folder: everything is set up here, and handed to the trainer.

runs/<name>/
  config.yaml         the options, complete
  history.jsonl       a line per epoch
  best/ last/         checkpoints
  wandb/ wandb-id     what Weights & Biases keeps, where it is not disabled, and its name of the run
"""

from __future__ import annotations

import netrc
import os
import secrets
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list, set_seed
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wildstream.config.data import DataConfig
from wildstream.config.train import TrainConfig
from wildstream.config.trainer import TrainerConfig
from wildstream.errors import ConfigError, EnvironmentProblem
from wildstream.launch import check_launch
from wildstream.models.classifier import VideoClassifier
from wildstream.models.unfreezing import Unfreezing, parameter_groups
from wildstream.shards.index import DatasetInfo, open_index
from wildstream.storage.urls import join
from wildstream.stream.dataset import WindowDataset, check_contents
from wildstream.stream.loader import Loader
from wildstream.training.checkpoints import (
    Manifest,
    build_model,
    current_commit,
    restore_checkpoint,
    used_versions,
)
from wildstream.training.interruption import Interruption
from wildstream.training.losses import Criterion, class_weights
from wildstream.training.metrics import compute_metrics
from wildstream.training.optimization import make_optimizer, make_schedule
from wildstream.training.progress import check_same_run
from wildstream.training.trainer import Trainer

CONFIG_NAME = "config.yaml"
WANDB_ID_NAME = "wandb-id"


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
    training, validation = _open_splits(config.data, config.model.backbone)
    _check_monitor(options.monitor, training.index.info)
    tracker = choose_tracker(options.wandb)
    run = options.out or Path("runs") / default_run_name(config)
    accelerator = make_accelerator(options, log_with=None if tracker == "disabled" else "wandb")
    run = Path(broadcast_object_list([str(run)])[0])
    goes_on = _find_run(run, config, accelerator)
    set_seed(options.seed, deterministic=options.deterministic)
    features = training.index.info.features
    model = build_model(config.model, num_classes=len(training.categories), features=features)
    own_size = model.spec.size if isinstance(model, VideoClassifier) else features.size if features else (1, 1)
    size = config.data.size or own_size
    train_loader = _make_loader(training, config, size=size, shuffle=True)
    counts = training.labels().sum(axis=0)
    criterion = Criterion(
        loss=options.loss,
        task=training.index.info.task,
        label_smoothing=options.label_smoothing,
        focal_gamma=options.focal_gamma,
        weights=class_weights(counts, options.class_weights),
    )
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
        _start_tracker(accelerator, tracker, run, config)
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
        manifest=_describe(config, training, size=size),
        run=run,
        unfreezing=Unfreezing(**config.model.unfreezing.model_dump()) if config.model.unfreezing else None,
        average=average,
        interruption=interruption,
    )
    try:
        if goes_on:
            trainer.resume()
        trainer.train()
    finally:
        accelerator.end_training()
    return run


def _average(model: nn.Module, decay: float | None) -> AveragedModel | None:
    """The moving average of a model's parameters and buffers."""
    if decay is None:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def make_accelerator(options: TrainerConfig, *, log_with: str | None = None) -> Accelerator:
    """Accelerate's view of devices and processes; ConfigError or LaunchError where it is not what was asked for."""
    # An image network may have layers behind its last tokens, which learn nothing here.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    compiled = "inductor" if options.compile else None
    try:
        accelerator = Accelerator(
            mixed_precision=options.precision, dynamo_backend=compiled, log_with=log_with, kwargs_handlers=[unused]
        )
    except ValueError as error:  # no such precision on this device, or another one in use in this process
        raise ConfigError(f"Accelerate does not start with trainer.precision={options.precision}: {error}") from error
    check_launch(accelerator.num_processes)
    if options.precision == "fp16" and accelerator.device.type == "cpu":  # Accelerate would train in float32 in silence
        raise ConfigError("trainer.precision=fp16 needs a GPU, here is none. Take trainer.precision=bf16 or no.")
    return accelerator


def choose_tracker(mode: str) -> str:
    """Weights & Biases' mode; "auto" is online where the user is logged in, else offline."""
    if mode != "auto":
        return mode
    if os.environ.get("WANDB_MODE") in ("online", "offline", "disabled"):
        return os.environ["WANDB_MODE"]
    return "online" if _is_logged_in() else "offline"


def default_run_name(config: TrainConfig) -> str:
    """<date>-<backbone>-<style>, safe as a folder name."""
    style = config.data.style if isinstance(config.data.style, str) else "custom"
    return f"{datetime.now():%Y%m%d-%H%M%S}-{config.model.backbone.replace('/', '_')}-{style}"


def _is_logged_in() -> bool:
    """Whether Weights & Biases finds a key for the server in use; nothing is sent."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return host in netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):  # no such file, or not one that wandb could read
        return False


def _open_splits(data: DataConfig, backbone: str) -> tuple[WindowDataset, WindowDataset]:
    """The windows to train and to validate on; they must have the same categories and task."""
    training, validation = (_open_split(data, split, backbone) for split in (data.train_split, data.val_split))
    for what in ("categories", "task"):
        first, second = (getattr(dataset.index.info, what) for dataset in (training, validation))
        if first != second:
            raise ConfigError(
                f"{data.path}: the {what} of {data.train_split} are {first}, those of {data.val_split} {second}. "
                "Pack both splits from one source."
            )
    return training, validation


def _open_split(data: DataConfig, split: str, backbone: str) -> WindowDataset:
    """The windows of one split; there must be some."""
    index = open_index(join(data.path, split), data.make_storage())
    check_contents(index, data.sliding_style, precomputed=data.precomputed, feature_model=backbone)
    dataset = WindowDataset(index=index, style=data.sliding_style)
    if not len(dataset):
        longest = int(dataset.index.num_frames.max(initial=0))
        raise ConfigError(
            f"{join(data.path, split)} has no window of data.style={data.style}: its longest video has {longest} "
            "frames. Take a style with a smaller window_size or temporal_sample_interval."
        )
    return dataset


def _make_loader(dataset: WindowDataset, config: TrainConfig, *, size: int | tuple[int, int], shuffle: bool) -> Loader:
    """The loader of one split."""
    data = config.data
    return dataset.loader(
        batch_size=config.trainer.batch_size,
        size=size,
        resize=config.data.resize,
        shuffle=shuffle,
        sampler=data.make_sampler() if shuffle else None,
        seed=config.trainer.seed,
        max_skipped=data.max_skipped,
        num_workers=data.num_workers,
        lanes=data.lanes,
        pool_segments=data.pool_segments,
        segment_frames=data.segment_frames,
    )


def _describe(config: TrainConfig, training: WindowDataset, *, size: int | tuple[int, int]) -> Manifest:
    """What is known of the checkpoints before the first epoch."""
    return Manifest(
        config=config,
        categories=training.categories,
        task=training.index.info.task,
        style=training.style.as_dict(),
        size=(size, size) if isinstance(size, int) else size,
        fingerprint=training.index.fingerprint,
        features=training.index.info.features,
        epoch=0,
        metrics={},
        commit=current_commit(),
        versions=used_versions(),
    )


def _check_monitor(monitor: str, info: DatasetInfo) -> None:
    """Refuse to watch a figure that the shards do not have (ConfigError)."""
    shape = (0, len(info.categories))
    known = {"loss"} | compute_metrics(np.zeros(shape, np.float32), np.zeros(shape, np.bool_), task=info.task).keys()
    if monitor not in known:
        raise ConfigError(
            f"trainer.monitor={monitor} does not go with {info.task} of {len(info.categories)} classes. Take one of "
            f"{', '.join(sorted(known - {'mAP_chance'}))}."
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
        options = yaml.safe_load((run / CONFIG_NAME).read_text(encoding="utf-8"))
        check_same_run(options, config.model_dump(mode="json"), out=run)
    accelerator.wait_for_everyone()  # nobody looks for the run after it was begun
    if accelerator.is_main_process:
        restore_checkpoint(run / "last")
    accelerator.wait_for_everyone()
    return begun and (run / "last").exists()


def _start_run(run: Path, config: TrainConfig) -> None:
    """Make the run folder and note the options."""
    run.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    (run / CONFIG_NAME).write_text(text, encoding="utf-8")


def _start_tracker(accelerator: Accelerator, mode: str, run: Path, config: TrainConfig) -> None:
    """Start Weights & Biases, if it is wanted."""
    if mode == "disabled":
        return
    import wandb  # a second that only those pay who want it

    known = run / WANDB_ID_NAME
    if not known.exists():
        known.write_text(secrets.token_hex(4), encoding="utf-8")
    identity = {"id": known.read_text(encoding="utf-8").strip(), "resume": "allow"}  # one run there, however often left
    settings = {"silent": True, "console": "off"}
    options = {"name": run.name, "dir": str(run), "mode": mode, "settings": settings, **identity}
    options_of_run = config.model_dump(mode="json")
    try:
        accelerator.init_trackers(config.trainer.project, config=options_of_run, init_kwargs={"wandb": options})
    except wandb.Error as error:
        raise EnvironmentProblem(
            f"trainer.wandb={mode}: Weights & Biases does not start: {error} Take trainer.wandb=offline or disabled."
        ) from error

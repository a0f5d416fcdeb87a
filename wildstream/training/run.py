"""A checked configuration → a finished run folder: everything is set up here, and handed to the trainer.

runs/<name>/
  config.yaml         the options, complete
  history.jsonl       a line per epoch
  best/ last/         checkpoints
  wandb/              what Weights & Biases keeps, where it is not disabled
"""

from __future__ import annotations

import netrc
import os
from datetime import datetime
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from torch.optim.lr_scheduler import OneCycleLR

from wildstream.config import DataConfig, TrainConfig
from wildstream.errors import ConfigError, LaunchError
from wildstream.shards.index import open_index
from wildstream.stream.dataset import WindowDataset
from wildstream.stream.loader import Loader
from wildstream.training.checkpoints import Manifest, build_model, current_commit, used_versions
from wildstream.training.trainer import Trainer

CONFIG_NAME = "config.yaml"


def train(config: TrainConfig) -> Path:
    """Train as configured.

    Returns:
        The run folder.

    Raises:
        ConfigError: The options do not fit the data.
        ShardError: The shards are missing or damaged.
        LaunchError: The launcher promised more processes than there are.
    """
    options = config.trainer
    datasets = {split: _open_split(config.data, split) for split in (config.data.train_split, config.data.val_split)}
    training, validation = (datasets[split] for split in (config.data.train_split, config.data.val_split))
    if training.categories != validation.categories:
        raise ConfigError(f"train has the categories {training.categories}, val has {validation.categories}.")
    tracker = choose_tracker(options.wandb)
    run = options.out or Path("runs") / default_run_name(config)
    accelerator = Accelerator(
        mixed_precision=options.precision, log_with=None if tracker == "disabled" else "wandb", project_dir=str(run)
    )
    check_launch(accelerator)
    run = Path(broadcast_object_list([str(run)])[0])
    if (run / CONFIG_NAME).exists():
        raise ConfigError(f"trainer.out={str(run)!r} holds a run already. Choose another folder, or remove it.")
    set_seed(options.seed)
    model = build_model(config.model, num_classes=len(training.categories))
    size = config.data.size or model.spec.size
    loaders = [
        _make_loader(dataset, config, size=size, shuffle=dataset is training) for dataset in (training, validation)
    ]
    manifest = Manifest(
        config=config,
        categories=training.categories,
        task=training.index.info.task,
        style=training.style.as_dict(),
        size=(size, size) if isinstance(size, int) else size,
        fingerprint=training.index.fingerprint,
        epoch=0,
        metrics={},
        commit=current_commit(),
        versions=used_versions(),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=options.weight_decay)
    schedule = OneCycleLR(optimizer, max_lr=options.lr, total_steps=options.epochs * len(loaders[0]))
    model, optimizer = accelerator.prepare(model, optimizer)
    if accelerator.is_main_process:
        _start_run(run, config)
        _start_tracker(accelerator, tracker, run, config)
    accelerator.wait_for_everyone()
    trainer = Trainer(
        config=options,
        accelerator=accelerator,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        train_loader=loaders[0],
        val_loader=loaders[1],
        task=training.index.info.task,
        manifest=manifest,
        run=run,
    )
    try:
        trainer.train()
    finally:
        accelerator.end_training()
    return run


def check_launch(accelerator: Accelerator) -> None:
    """Refuse to run where a launcher started several processes that do not know of each other."""
    promised = int(os.environ.get("WORLD_SIZE", "1"))
    if promised != accelerator.num_processes:
        raise LaunchError(
            f"the launcher started {promised} processes (WORLD_SIZE), but Accelerate runs {accelerator.num_processes}: "
            "each would train by itself. Without GPUs, launch with ACCELERATE_USE_CPU=true."
        )


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
    """Whether Weights & Biases finds a key; nothing is sent."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        hosts = netrc.netrc().hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return any("wandb" in host for host in hosts)


def _open_split(data: DataConfig, split: str) -> WindowDataset:
    """The windows of one split; there must be some."""
    dataset = WindowDataset(index=open_index(data.path / split), style=data.sliding_style)
    if not len(dataset):
        longest = int(dataset.index.num_frames.max(initial=0))
        raise ConfigError(
            f"{data.path / split} has no window of data.style={data.style}: its longest video has {longest} frames. "
            "Take a style with a smaller window_size or temporal_sample_interval."
        )
    return dataset


def _make_loader(dataset: WindowDataset, config: TrainConfig, *, size: int | tuple[int, int], shuffle: bool) -> Loader:
    """The loader of one split."""
    data = config.data
    return dataset.loader(
        batch_size=config.trainer.batch_size,
        size=size,
        shuffle=shuffle,
        seed=config.trainer.seed,
        num_workers=data.num_workers,
        lanes=data.lanes,
        pool_segments=data.pool_segments,
        segment_frames=data.segment_frames,
    )


def _start_run(run: Path, config: TrainConfig) -> None:
    """Make the run folder and note the options."""
    run.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    (run / CONFIG_NAME).write_text(text, encoding="utf-8")


def _start_tracker(accelerator: Accelerator, mode: str, run: Path, config: TrainConfig) -> None:
    """Start Weights & Biases, if it is wanted."""
    if mode == "disabled":
        return
    options = {"name": run.name, "dir": str(run), "mode": mode, "settings": {"silent": True, "console": "off"}}
    accelerator.init_trackers(
        config.trainer.project, config=config.model_dump(mode="json"), init_kwargs={"wandb": options}
    )

"""Options → optimizer and learning-rate schedule, of timm and torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import timm.optim
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from wildstream.errors import ConfigError

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from wildstream.config.trainer import TrainerConfig


def make_optimizer(groups: list[dict[str, Any]], config: TrainerConfig) -> Optimizer:
    """An optimizer of timm by name; ConfigError where it cannot be made.

    Args:
        groups: Parameters, with a learning rate and weight decay of their own where these differ.
        config: Name, learning rate, weight decay and momentum.
    """
    try:
        return timm.optim.create_optimizer_v2(
            groups, opt=config.optimizer, lr=config.lr, weight_decay=config.weight_decay, momentum=config.momentum
        )
    except (TypeError, ValueError, AssertionError, ImportError) as error:
        raise ConfigError(
            f"trainer.optimizer={config.optimizer} cannot be made of these options: {error}. Take adamw."
        ) from error


def make_schedule(optimizer: Optimizer, config: TrainerConfig, *, steps_per_epoch: int) -> LRScheduler:
    """What sets the learning rate: one step of it for each of the optimizer's, or for each epoch with plateau.

    Args:
        optimizer: Its learning rates are the highest ones.
        config: Which schedule, how long it warms up, how many epochs there are.
        steps_per_epoch: Steps of the optimizer in an epoch.
    """
    total = config.epochs * steps_per_epoch
    if config.schedule == "onecycle":
        return OneCycleLR(optimizer, max_lr=[group["lr"] for group in optimizer.param_groups], total_steps=total)
    if config.schedule == "plateau":
        mode: Literal["min", "max"] = "min" if config.monitor.endswith("loss") else "max"
        return ReduceLROnPlateau(optimizer, mode=mode, factor=0.1, patience=config.plateau_patience)
    warmup = round(config.warmup_epochs * steps_per_epoch)
    return LambdaLR(optimizer, lambda step: rate(config.schedule, step, warmup=warmup, total=total))


def rate(schedule: str, step: int, *, warmup: int, total: int) -> float:
    """Share of the highest learning rate at a step, counted from 0.

    Over the first `warmup` steps it rises by equal amounts, (step + 1) / warmup. Then, x being the share of the other
    steps that is over: constant 1; linear 1 - x; cosine (1 + cos(pi x)) / 2.
    """
    if step < warmup:
        return (step + 1) / warmup
    over = min(1.0, (step - warmup) / max(1, total - warmup))
    if schedule == "linear":
        return 1 - over
    return (1 + math.cos(math.pi * over)) / 2 if schedule == "cosine" else 1.0

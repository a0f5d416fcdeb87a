"""Which epochs' checkpoints are kept besides the best and the last: those of the best epochs.

RUN/kept/epoch_004/     like best/; what is kept says itself, by its manifest, how good it is
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from wildstream.training.checkpoints import MANIFEST_NAME, Manifest, read_manifest, save_checkpoint

if TYPE_CHECKING:
    from torch import nn

KEPT_NAME = "kept"


def keep(run: Path, model: nn.Module, manifest: Manifest, *, count: int, monitor: str) -> None:
    """Keep this epoch's checkpoint if it is among the `count` best, and delete the one that no longer is.

    Args:
        run: Folder of the run.
        model: The weights of the epoch.
        manifest: Its epoch and figures.
        count: Checkpoints to keep; the rest is deleted.
        monitor: Figure that decides: losses should be low, others high; of equal epochs the earlier one is better.
    """
    others = [one for one in _kept(run) if one.epoch != manifest.epoch]
    ranked = sorted([manifest, *others], key=lambda one: (-score(one.metrics, monitor), one.epoch))
    for one in ranked[count:]:
        shutil.rmtree(_folder(run, one.epoch), ignore_errors=True)
    if manifest in ranked[:count]:
        save_checkpoint(_folder(run, manifest.epoch), model, manifest)


def forget_after(run: Path, epoch: int) -> None:
    """Delete what was kept of epochs that are going to be run again: the process was killed before their end."""
    for one in _kept(run):
        if one.epoch > epoch:
            shutil.rmtree(_folder(run, one.epoch))


def score(figures: Mapping[str, float | None], monitor: str) -> float:
    """How good an epoch is: the monitored figure, or its negative where it is a loss; -inf where it is not defined."""
    value = figures[monitor]
    if value is None or not math.isfinite(value):
        return -math.inf
    return -value if monitor.endswith("loss") else value


def _folder(run: Path, epoch: int) -> Path:
    """Where the checkpoint of an epoch is kept."""
    return run / KEPT_NAME / f"epoch_{epoch:03d}"


def _kept(run: Path) -> list[Manifest]:
    """The manifests of what is kept."""
    return [read_manifest(path) for path in sorted((run / KEPT_NAME).glob(f"epoch_*/{MANIFEST_NAME}"))]

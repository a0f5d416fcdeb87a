"""The checkpoints of a run, by name; besides the best and the last those of the best epochs are kept.

RUN/best/ RUN/last/     see run.py
RUN/kept/epoch_004/     like best/; what is kept says itself, by its manifest, how good it is
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from wildstream.errors import ConfigError, ShardError
from wildstream.training.checkpoints import (
    MANIFEST_NAME,
    Manifest,
    read_manifest,
    restore_checkpoint,
    save_checkpoint,
)

if TYPE_CHECKING:
    from torch import nn

KEPT_NAME = "kept"
CHECKPOINTS = "best, last, epoch_NNN"
"""What a run's checkpoints are called, for people."""
_CHECKPOINT = re.compile(r"best|last|epoch_\d+")


def is_name(text: str) -> bool:
    """Whether a checkpoint of a run can be called so."""
    return _CHECKPOINT.fullmatch(text) is not None


def check_name(checkpoint: str) -> str:
    """The name of a run's checkpoint; ConfigError where it is none."""
    if not is_name(checkpoint):
        raise ConfigError(f"checkpoint={checkpoint!r} is not known. Take one of {CHECKPOINTS}.")
    return checkpoint


def find_checkpoint(given: str | Path, checkpoint: str | None = None) -> Path:
    """The folder of a checkpoint.

    Args:
        given: A run, or a checkpoint itself.
        checkpoint: Of a run, which: best (None), last, or epoch_NNN of those that trainer.keep kept.

    Raises:
        ConfigError: `checkpoint` is none, or names one of something that is one itself.
        ShardError: There is no such checkpoint.
    """
    folder = Path(given).expanduser()
    name = check_name(checkpoint or "best")
    if (folder / MANIFEST_NAME).is_file():
        refuse_name(checkpoint, given)
        return folder
    found = folder / (KEPT_NAME if name.startswith("epoch_") else "") / name
    if not found.is_dir() and (folder / "last").is_dir():
        kept = sorted(path.name for path in (folder / KEPT_NAME).glob("epoch_*"))
        raise ShardError(
            f"{folder} has no checkpoint {name}; it has {', '.join(['best', 'last', *kept])}. Take one of them; "
            "trainer.keep says of how many epochs checkpoints are kept."
        )
    if not found.is_dir():
        raise ShardError(
            f"{folder} is neither a checkpoint nor a finished run: it has no {MANIFEST_NAME} and no folder "
            f"{found.relative_to(folder)}/. Give the run folder that train.py printed, or a checkpoint."
        )
    return found


def refuse_name(checkpoint: str | None, given: str | Path) -> None:
    """Refuse the name of a run's checkpoint where there is no run (ConfigError)."""
    if checkpoint is not None:
        raise ConfigError(f"checkpoint={checkpoint!r} is for a run, and {given} is a single model. Leave it out.")


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


def restore_checkpoints(run: Path) -> None:
    """Put checkpoints back that were being replaced when the process was killed."""
    for name in ("last", "best"):
        restore_checkpoint(run / name)
    for old in (run / KEPT_NAME).glob(".epoch_*.old"):
        restore_checkpoint(run / KEPT_NAME / old.name.removeprefix(".").removesuffix(".old"))


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

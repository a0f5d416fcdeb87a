"""How far a training is: what the loop counts, and what it needs to go on exactly there, on any number of ranks.

What is random in a step follows from (seed, epoch, batch, rank), set anew before each batch is drawn; so no state of a
random generator has to be kept.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
from accelerate.utils import set_seed

from wildstream.errors import ConfigError
from wildstream.stream.ledger import Ledger


class Learnt(NamedTuple):
    """What one batch was, of all ranks together."""

    loss: float
    """Sum of the losses of the clips that count: those that decoded and are labelled."""
    clips: int
    """Their number."""
    windows: int
    """Number of those that decoded."""
    due: bool
    """Whether it is time for a checkpoint."""
    told: bool
    """Whether a signal told to stop."""


@dataclass(slots=True)
class Progress:
    """Where a training is, and the sums of the epoch that it is in; the same on all ranks."""

    epoch: int = 0
    """Epochs that are over."""
    batches: int = 0
    """Batches of each rank in this epoch that are over."""
    loss: float = 0.0
    """Sum of the losses of this epoch's clips so far."""
    clips: int = 0
    """Their number: of clips that are unlabelled there is no loss."""
    windows: int = 0
    """Clips of this epoch so far that were delivered, unlabelled ones too."""
    seconds: float = 0.0
    """Time in this epoch's steps."""
    waiting: float = 0.0
    """Of it, waiting for data."""
    best: float = -math.inf
    """Best value of the monitored figure; the negative loss where that is monitored."""
    stale: int = 0
    """Epochs since then."""
    ledger: Ledger = field(default_factory=lambda: Ledger(0))
    """Of the parts of this epoch before the training was left, all ranks."""

    def add(self, learnt: Learnt) -> None:
        """Count one batch of each rank."""
        self.batches += 1
        self.loss, self.clips = self.loss + learnt.loss, self.clips + learnt.clips
        self.windows += learnt.windows

    def next_epoch(self) -> None:
        """Begin the next epoch."""
        self.epoch, self.batches, self.loss, self.clips, self.windows = self.epoch + 1, 0, 0.0, 0, 0
        self.seconds, self.waiting, self.ledger = 0.0, 0.0, Ledger(0)

    def as_dict(self) -> dict[str, Any]:
        """All of it, as containers of numbers and strings."""
        facts = {one.name: getattr(self, one.name) for one in fields(self)}
        return facts | {"ledger": asdict(self.ledger) | {"skipped": dict(self.ledger.skipped)}}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Progress:
        """The inverse of `as_dict`."""
        ledger = Ledger(**{**facts["ledger"], "skipped": Counter(facts["ledger"]["skipped"])})
        return cls(**{"windows": facts["clips"], **facts, "ledger": ledger})  # older ones knew of no unlabelled clips


def seed_batch(seed: int, epoch: int, batch: int, rank: int) -> None:
    """Set all random generators (Python, NumPy, torch on all devices) for one batch of one rank."""
    set_seed(int(np.random.SeedSequence([seed, epoch, batch, rank]).generate_state(1)[0]))


TRACKING = {"wandb", "tensorboard", "mlflow", "project"}
FREE = {
    "data": {"path", "storage_options", "cache_dir", "cache_bytes", "num_workers"},
    "trainer": {"batch_size", "accumulate", "out", "resume", "checkpoint_minutes", "progress"} | TRACKING,
}
"""Options that may differ when a run goes on: what they decide is checked otherwise, or does not matter."""


def check_same_run(old: Mapping[str, Any], new: Mapping[str, Any], *, out: object) -> None:
    """Refuse to go on with other options than a run was begun with (ConfigError).

    Args:
        old: Options of the run, by group and name.
        new: Those that are given now.
        out: Folder of the run.
    """
    differ = [
        f"{group}.{name}={old[group].get(name)} (now {value})"
        for group, options in new.items()
        for name, value in options.items()
        if name not in FREE.get(group, ()) and old[group].get(name) != value
    ]
    if differ:
        raise ConfigError(
            f"trainer.out={str(out)!r} holds a run with {', '.join(differ)}. Leave that as it was, or choose another "
            "folder."
        )

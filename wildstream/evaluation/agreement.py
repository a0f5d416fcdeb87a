"""Do training and testing agree? The validation figures that training wrote down, beside those computed now."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from wildstream.errors import ShardError
from wildstream.training.checkpoints import Manifest, load_training_state

TOLERANCE = 1e-3
"""Largest difference that counts as rounding: another batch size, number of processes or device adds up otherwise."""


def compare_with_training(
    metrics: dict[str, float | None], manifest: Manifest, folder: Path, *, split: str, fingerprint: str, partial: bool
) -> dict[str, Any]:
    """What training said of the checkpoint, and whether it is the same as now.

    Args:
        metrics: Figures of now.
        manifest: Of the checkpoint.
        folder: The checkpoint.
        split: That they are of.
        fingerprint: Of the index that they are of.
        partial: Whether they are of a part of the windows.

    Returns:
        epoch, split and metrics of training; agrees, None where they cannot be compared, for the reason in `reason`;
        largest_difference of any figure, and `figure`, its name. A figure that is defined in one alone is infinitely
        far, told as largest_difference None.
    """
    said = {"epoch": manifest.epoch, "split": manifest.config.data.val_split, "metrics": manifest.metrics}
    nothing = {"agrees": None, "largest_difference": None, "figure": None}
    if reason := _not_comparable(manifest, split=split, fingerprint=fingerprint, partial=partial):
        return {**said, **nothing, "reason": reason}
    differences = {name: _difference(metrics.get(name), value) for name, value in manifest.metrics.items()}
    figure = max(differences, key=lambda name: differences[name])
    largest = differences[figure]
    agrees = largest <= TOLERANCE
    if not agrees and _is_amid_an_epoch(folder):
        return {
            **said,
            **nothing,
            "reason": "the checkpoint is of the middle of an epoch, its figures of the end before",
        }
    known = largest if math.isfinite(largest) else None
    return {**said, "agrees": agrees, "largest_difference": known, "figure": figure, "reason": None}


def _not_comparable(manifest: Manifest, *, split: str, fingerprint: str, partial: bool) -> str | None:
    """Why figures are of something else than training's; None where they are of the same."""
    trained = manifest.config.data.val_split
    if split != trained:
        return f"training was validated on {trained}, this is {split}"
    if partial:
        return "training was validated on all windows, these are a part"
    if not manifest.metrics:
        return "training had no validation yet"
    if manifest.val_fingerprint != fingerprint:
        return "these are other videos or labels than training was validated on"
    return None


def _difference(now: float | None, then: float | None) -> float:
    """How far a figure is from another: of losses, which have no bound, in proportion to what they were."""
    if now is None or then is None:
        return 0.0 if now is then else math.inf
    return abs(now - then) / max(1.0, abs(then))


def _is_amid_an_epoch(folder: Path) -> bool:
    """Whether training was left in the middle of an epoch here, so that weights and figures are of different times."""
    try:
        state, _ = load_training_state(folder)
    except ShardError:
        return False
    return bool(state["loader"]["position"])

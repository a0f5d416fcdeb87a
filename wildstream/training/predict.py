"""A model over a whole set → predictions with their addresses, each window exactly once, whatever the ranks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn

from wildstream.samples import Batch
from wildstream.stream.ledger import Ledger, add_up
from wildstream.training.losses import clip_losses, probabilities

if TYPE_CHECKING:
    import numpy.typing as npt
    from accelerate import Accelerator

    from wildstream.shards.formats import Task


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """What a model says about the windows of a set, in order of (key, start)."""

    keys: list[str]
    """Video of each window."""
    starts: npt.NDArray[np.int64]
    """(num_windows,) source frame of each window's first kept frame."""
    probabilities: npt.NDArray[np.float32]
    """(num_windows, num_classes)."""
    targets: npt.NDArray[np.bool_]
    """(num_windows, num_classes)."""
    loss: float
    """Mean over all windows."""


def total_ledger(ledger: Ledger) -> Ledger:
    """What became of the windows that each rank counted, over all ranks; LedgerError where it does not add up."""
    ledger = add_up(gather_object([ledger]))
    ledger.check()
    return ledger


def predict(model: nn.Module, batches: Iterable[Batch], *, task: Task, accelerator: Accelerator) -> Predictions:
    """Run a model over batches without learning; padding is left out.

    Args:
        model: As prepared by the accelerator.
        batches: Of this rank, from an unshuffled loader; the ranks' parts follow each other.
        task: What the labels mean.
        accelerator: Tells device and precision, and gathers what the ranks found.

    Returns:
        The predictions of all ranks, on every rank.
    """
    model.eval()
    keys: list[str] = []
    columns: list[tuple[npt.NDArray[np.float32], ...]] = []
    with torch.inference_mode():
        for batch in batches:
            moved = batch.to(accelerator.device)
            with accelerator.autocast():
                scores = model(moved.inputs)
            losses = clip_losses(scores, moved.labels, task=task)
            values = (probabilities(scores, task=task), moved.labels, batch.starts, losses)
            columns.append(tuple(value[batch.mask.to(value.device)].cpu().numpy() for value in values))
            keys += [key for key, real in zip(batch.keys, batch.mask.tolist(), strict=True) if real]
    if accelerator.num_processes > 1:
        # gather_object joins lists of the ranks in order of rank.
        keys, columns = gather_object(keys), gather_object(columns)
    parts = [np.concatenate(column) for column in zip(*columns, strict=True)]
    return Predictions(
        keys=keys,
        probabilities=parts[0],
        targets=parts[1].astype(np.bool_),
        starts=parts[2].astype(np.int64),
        loss=float(parts[3].mean()) if len(parts[3]) else float("nan"),
    )

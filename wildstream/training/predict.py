"""A model over a whole set → predictions with their addresses, each window exactly once, whatever the ranks.

Where classes have a hierarchy, a window has probabilities, targets and losses of every level, side by side.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from wildstream.models.hierarchy import Hierarchy
from wildstream.samples import Batch
from wildstream.stream.ledger import Ledger, add_up
from wildstream.training.losses import clip_losses, probabilities
from wildstream.training.metrics import compute_metrics

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
    """(num_windows, num_classes); of a hierarchy the classes of all levels, side by side."""
    targets: npt.NDArray[np.bool_]
    """The same."""
    loss: float
    """Mean over all labelled windows; of a hierarchy the sum over levels of weight × loss of the level."""
    level_losses: tuple[float, ...] = ()
    """Of a hierarchy, the mean over all labelled windows of each level's loss."""
    labelled: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    """(num_windows,) False where nobody said what happens: targets and losses mean nothing there, and are in no figure.
    True everywhere by default."""
    window_losses: npt.NDArray[np.float32] | None = None
    """(num_windows, num_levels) loss of each window; one level without a hierarchy. None where only means are known."""

    def __post_init__(self) -> None:
        """Take all windows for labelled, where nothing is said of them."""
        if not len(self.labelled):
            object.__setattr__(self, "labelled", np.ones(len(self.keys), np.bool_))

    @property
    def videos(self) -> tuple[list[str], npt.NDArray[np.int64]]:
        """The videos' keys in order, and for each window, (num_windows,), the number of its own."""
        names, numbers = np.unique(np.asarray(self.keys, dtype=object), return_inverse=True)
        return names.tolist(), numbers.reshape(-1).astype(np.int64)

    def only(self, windows: npt.NDArray[np.bool_], hierarchy: Hierarchy | None = None) -> Predictions:
        """Those of some windows, (num_windows,) bool, with the means of their losses."""
        losses = None if self.window_losses is None else self.window_losses[windows]
        labelled = self.labelled[windows]
        loss, level_losses = (math.nan, ()) if losses is None else mean_losses(losses[labelled], hierarchy)
        return replace(
            self,
            keys=[key for key, taken in zip(self.keys, windows.tolist(), strict=True) if taken],
            starts=self.starts[windows],
            probabilities=self.probabilities[windows],
            targets=self.targets[windows],
            labelled=labelled,
            loss=loss,
            level_losses=level_losses,
            window_losses=losses,
        )

    def by_level(self, hierarchy: Hierarchy) -> dict[str, Predictions]:
        """What is said of each level, by itself."""
        borders = np.cumsum(hierarchy.sizes)[:-1]
        parts = (np.split(both, borders, axis=1) for both in (self.probabilities, self.targets))
        return {
            level.name: replace(
                self,
                probabilities=found,
                targets=truth,
                loss=loss,
                level_losses=(),
                window_losses=None if self.window_losses is None else self.window_losses[:, [number]],
            )
            for number, (level, found, truth, loss) in enumerate(
                zip(hierarchy.levels, *parts, self.level_losses, strict=True)
            )
        }


def figures_of(predictions: Predictions, *, task: Task, hierarchy: Hierarchy | None = None) -> dict[str, float]:
    """The loss and what `compute_metrics` tells of the labelled windows; NaN where a figure is not defined.

    Of a hierarchy: the loss of all levels together and the figures of the first level by their usual names, such as
    mAP, then those of every level behind the level's name, such as genus/loss and genus/mAP.
    """
    if hierarchy is None:
        known = predictions.labelled
        metrics = compute_metrics(predictions.probabilities[known], predictions.targets[known], task=task)
        return {"loss": predictions.loss} | metrics
    of_levels = {name: figures_of(part, task=task) for name, part in predictions.by_level(hierarchy).items()}
    first = of_levels[hierarchy.levels[0].name] | {"loss": predictions.loss}
    return first | {f"{name}/{figure}": value for name, all_ in of_levels.items() for figure, value in all_.items()}


def total_ledger(ledger: Ledger) -> Ledger:
    """What became of the windows that each rank counted, over all ranks; LedgerError where it does not add up."""
    ledger = add_up(gather_object([ledger]))
    ledger.check()
    return ledger


def predict(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    task: Task,
    accelerator: Accelerator,
    hierarchy: Hierarchy | None = None,
) -> Predictions:
    """Run a model over batches without learning; padding is left out, what is not labelled stays.

    Args:
        model: As prepared by the accelerator.
        batches: Of this rank, from an unshuffled loader; the ranks' parts follow each other.
        task: What the labels mean.
        accelerator: Tells device and precision, and gathers what the ranks found.
        hierarchy: The levels that the model gives scores of; None: of the labels' classes alone.

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
            values = (*_of_levels(scores, moved.labels, task, hierarchy), batch.starts, batch.labelled)
            columns.append(tuple(value[batch.mask.to(value.device)].cpu().numpy() for value in values))
            keys += [key for key, real in zip(batch.keys, batch.mask.tolist(), strict=True) if real]
    if accelerator.num_processes > 1:
        # gather_object joins lists of the ranks in order of rank.
        keys, columns = gather_object(keys), gather_object(columns)
    parts = [np.concatenate(column) for column in zip(*columns, strict=True)]
    labelled = parts[4].astype(np.bool_)
    loss, level_losses = mean_losses(parts[2][labelled], hierarchy)
    return Predictions(
        keys=keys,
        probabilities=parts[0],
        targets=parts[1].astype(np.bool_),
        starts=parts[3].astype(np.int64),
        labelled=labelled,
        loss=loss,
        level_losses=level_losses,
        window_losses=parts[2],
    )


def mean_losses(losses: npt.NDArray[np.float32], hierarchy: Hierarchy | None) -> tuple[float, tuple[float, ...]]:
    """The loss of a set, and of a hierarchy each level's, by those of its windows, (num_windows, num_levels)."""
    means = [float(column.mean()) if len(column) else math.nan for column in losses.T]
    weights = [level.weight for level in hierarchy.levels] if hierarchy else [1.0]
    total = sum(weight * mean for weight, mean in zip(weights, means, strict=True))
    return total, tuple(means) if hierarchy else ()


def _of_levels(
    scores: Tensor, labels: Tensor, task: Task, hierarchy: Hierarchy | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities and labels of all levels, side by side, (B, sum of sizes), and the levels' plain losses."""
    by_level = hierarchy.split(scores) if hierarchy else {"": scores}
    truths = hierarchy.level_labels(labels) if hierarchy else {"": labels}
    losses = [clip_losses(part, truths[name], task=task) for name, part in by_level.items()]
    found = [probabilities(part, task=task) for part in by_level.values()]
    return torch.cat(found, dim=1), torch.cat(list(truths.values()), dim=1), torch.stack(losses, dim=1)

"""Scores and targets → the loss of each clip, in float32 whatever the model computes in.

`clip_losses` is the plain loss that validation and evaluation report, so that runs compare; a `Criterion` is what
training minimises, on several levels of classes a `LevelsCriterion`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, log_softmax, logsigmoid
from torchvision.ops import sigmoid_focal_loss

from wildstream.errors import ConfigError

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.config.trainer import ClassWeights, LossName
    from wildstream.models.hierarchy import Hierarchy
    from wildstream.shards.formats import Task

BETA = 0.999
"""Of the effective number of samples (Cui et al. 2019)."""
ASYMMETRIC_NEGATIVE, ASYMMETRIC_POSITIVE, ASYMMETRIC_MARGIN = 4, 1, 0.05
"""Focusing of negatives and positives, and the shift of negatives' probabilities (Ridnik et al. 2021; as in timm)."""


def clip_losses(scores: Tensor, labels: Tensor, *, task: Task) -> Tensor:
    """The plain loss of each clip.

    Args:
        scores: (B, K) float, before sigmoid or softmax.
        labels: (B, K) bool.
        task: multi_label: binary cross entropy, mean over classes; single_label: cross entropy.

    Returns:
        (B,) float32.
    """
    targets = labels.float()
    if task == "multi_label":
        return binary_cross_entropy_with_logits(scores.float(), targets, reduction="none").mean(dim=1)
    return cross_entropy(scores.float(), targets, reduction="none")


def probabilities(scores: Tensor, *, task: Task) -> Tensor:
    """Scores (B, K) as float32 probabilities: of each class by itself, or of one among all."""
    return torch.sigmoid(scores.float()) if task == "multi_label" else torch.softmax(scores.float(), dim=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Criterion:
    """What training minimises.

    With p = sigmoid(score) of a class, or softmax where the name says ce, and t its target:

        bce           -[t log p + (1 - t) log(1 - p)], mean over classes
        ce            -sum over classes of t log p
        focal         the same times (1 - p_t)^gamma, p_t the probability of what is true (Lin et al. 2017); of bce for
                      multi_label, of ce for single_label
        asymmetric    -[t (1 - p) log p + (1 - t) q^4 log(1 - q)], q = max(p - 0.05, 0), mean over classes (Ridnik et
                      al. 2021)

    A target between 0 and 1, of mixed clips, costs that share of what 1 costs and the rest of what 0 costs (Zhang et
    al. 2018).
    """

    loss: LossName
    """Which of them; auto: bce for multi_label, ce for single_label."""
    task: Task
    """What the labels mean."""
    label_smoothing: float = 0.0
    """Share s of each target that is spread: t (1 - s) + s / 2 of a class by itself, s / K of one among K."""
    focal_gamma: float = 2.0
    """Focusing of the focal loss."""
    weights: Tensor | None = None
    """(K,) weights of the classes, of the terms of clips where the class is; None: 1."""

    def __post_init__(self) -> None:
        """Refuse a loss that is not for the task (ConfigError)."""
        wrong = {"multi_label": ("ce",), "single_label": ("asymmetric",)}[self.task]
        if self.loss in wrong:
            raise ConfigError(f"trainer.loss={self.loss} is not for the task {self.task} of these shards. Take auto.")

    def __call__(self, scores: Tensor, labels: Tensor) -> Tensor:
        """(B, K) scores and (B, K) labels, bool or float in [0, 1], to (B,) float32 losses."""
        scores, truth = scores.float(), labels.float()
        weights = torch.ones_like(scores[0]) if self.weights is None else self.weights.to(scores)
        together = self.task == "single_label" and self.loss in ("auto", "ce", "focal")
        return self._together(scores, truth, weights) if together else self._each(scores, truth, weights).mean(dim=1)

    def _together(self, scores: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
        """One among all classes, (B,)."""
        if self.loss != "focal":
            return cross_entropy(scores, truth, weight=weights, label_smoothing=self.label_smoothing, reduction="none")
        log_p = log_softmax(scores, dim=1)
        spread = (weights * log_p).mean(dim=1, keepdim=True)
        losses = -(1 - self.label_smoothing) * weights * log_p - self.label_smoothing * spread  # of each class, if true
        return (truth * losses * (1 - log_p.exp()) ** self.focal_gamma).sum(dim=1)

    def _each(self, scores: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
        """Each class by itself, (B, K)."""
        there, not_there = (self._answer(scores, truth.new_tensor(answer)) for answer in (1.0, 0.0))
        return truth * weights * there + (1 - truth) * not_there

    def _answer(self, scores: Tensor, truth: Tensor) -> Tensor:
        """What all scores cost, (B, K), if the truth of each class is 1, or if it is 0."""
        targets = (truth * (1 - self.label_smoothing) + self.label_smoothing / 2).expand_as(scores)
        if self.loss == "focal":
            losses: Tensor = sigmoid_focal_loss(scores, targets, alpha=-1, gamma=self.focal_gamma)
        elif self.loss == "asymmetric":
            shifted = (torch.sigmoid(-scores) + ASYMMETRIC_MARGIN).clamp(max=1)  # 1 - q
            negatives = (1 - targets) * shifted.clamp(min=1e-8).log() * (1 - shifted) ** ASYMMETRIC_NEGATIVE
            losses = -targets * logsigmoid(scores) * torch.sigmoid(-scores) ** ASYMMETRIC_POSITIVE - negatives
        else:
            losses = binary_cross_entropy_with_logits(scores, targets, reduction="none")
        return losses


@dataclass(frozen=True, kw_only=True, eq=False)
class LevelsCriterion:
    """What training minimises on several levels: the sum over levels of weight × loss of the level."""

    hierarchy: Hierarchy
    """The levels and the weights of their losses, which sum to the number of levels."""
    criteria: dict[str, Criterion]
    """What is minimised of each level, by name."""

    def __call__(self, scores: Tensor, labels: Tensor) -> Tensor:
        """(B, sum of sizes) scores and labels of all levels, as of `join_labels` or mixed, to (B,) float32 losses."""
        parts, truths = self.hierarchy.split(scores), self.hierarchy.split(labels)
        losses = [
            level.weight * self.criteria[level.name](parts[level.name], truths[level.name])
            for level in self.hierarchy.levels
        ]
        return torch.stack(losses).sum(dim=0)


def class_weights(counts: npt.NDArray[np.int64], kind: ClassWeights) -> Tensor | None:
    """Weights of the classes.

    Args:
        counts: (K,) windows of each class in the training split.
        kind: none; inverse: 1 / count; effective: (1 - beta) / (1 - beta^count), one over the effective number of
            samples (Cui et al. 2019), beta = 0.999.

    Returns:
        (K,) float32 whose mean is 1 over the classes that occur; 1 for those that do not. None for none.
    """
    if kind == "none":
        return None
    occurs = counts > 0
    weights = np.ones(len(counts))
    if occurs.any():
        some = counts[occurs].astype(np.float64)
        raw = 1 / some if kind == "inverse" else (1 - BETA) / (1 - BETA**some)
        weights[occurs] = raw / raw.mean()
    return torch.from_numpy(weights.astype(np.float32))

"""Scores and targets → the loss of each clip, in float32 whatever the model computes in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

if TYPE_CHECKING:
    from wildstream.shards.formats import Task


def clip_losses(scores: Tensor, labels: Tensor, *, task: Task) -> Tensor:
    """The loss of each clip.

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

"""Which part of a backbone learns, epoch by epoch: nothing at first, then more and more of it, from the end.

    Unfreezing(start_epoch=2, duration=4)

    epoch       0    1    2    3    4    5    6 …
    share       0    0    ¼    ½    ¾    1    1          of the backbone's parameter tensors, the last ones first

The optimizer must know what learns later: give it `parameter_groups` before the first `apply`. So must
DistributedDataParallel: wrap the model before the first `apply`, with find_unused_parameters=True. Call `apply` at the
start of each epoch, after a resume too: it needs no memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from wildstream.errors import ConfigError
from wildstream.models.backbones import Backbone
from wildstream.models.classifier import VideoClassifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfreezing:
    """A schedule."""

    start_epoch: int = 0
    """The first epoch, counted from 0, in which something of the backbone learns."""
    duration: int = 1
    """Epochs from then on until as much learns as ever will."""
    fraction: float = 1.0
    """Share of the backbone's parameter tensors that learns then."""

    def __post_init__(self) -> None:
        """Refuse what is out of range (ConfigError)."""
        if self.start_epoch < 0:
            raise ConfigError(f"freeze.start_epoch={self.start_epoch} must be at least 0.")
        if self.duration < 1:
            raise ConfigError(f"freeze.duration={self.duration} must be at least 1 epoch.")
        if not 0 <= self.fraction <= 1:
            raise ConfigError(f"freeze.fraction={self.fraction} must be from 0 to 1, a share of the backbone.")

    def trainable_share(self, epoch: int) -> float:
        """Share of the backbone's parameter tensors that learns in an epoch, counted from 0."""
        begun = min(max(epoch - self.start_epoch + 1, 0), self.duration)
        return self.fraction * begun / self.duration

    def apply(self, model: nn.Module, epoch: int) -> int:
        """Set what learns in an epoch; the number of the backbone's parameter tensors that do.

        Args:
            model: A `VideoClassifier`, without what wraps it; its head learns always. The share of the backbone is
                rounded up to whole tensors.
            epoch: Counted from 0.

        Raises:
            ConfigError: The model has no backbone.
        """
        backbone = backbone_of(model)
        parameters = list(backbone.parameters())
        learning = math.ceil(round(self.trainable_share(epoch) * len(parameters), 6))
        for place, parameter in enumerate(parameters):
            parameter.requires_grad_(place >= len(parameters) - learning)
        backbone.train(backbone.training)  # batch norms take or lose their leave to learn
        return learning


def freeze(model: nn.Module) -> None:
    """Let nothing of the backbone learn; ConfigError where the model has none."""
    backbone = backbone_of(model)
    backbone.requires_grad_(False)
    backbone.train(backbone.training)


def backbone_of(model: nn.Module) -> Backbone:
    """The backbone of a model (ConfigError where it has none)."""
    if not isinstance(model, VideoClassifier):
        raise ConfigError(
            f"a {type(model).__name__} has no backbone that could be frozen. Leave freeze and backbone_lr out."
        )
    return model.encoder


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    backbone_lr: float | None = None,
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Groups for an optimizer of what learns in a model: params, lr, weight_decay, and the group's `part`.

    Biases and parameters of one dimension are not decayed, nor what a network of timm names in no_weight_decay().

    Args:
        model: A `VideoClassifier` or `FeatureClassifier`; before the first `Unfreezing.apply`.
        lr: Learning rate of the head.
        weight_decay: Of all that is decayed.
        backbone_lr: Learning rate of the backbone; `lr` by default.
        layer_decay: Each layer of the backbone learns by so much less than the one behind it, by timm's
            `param_groups_layer_decay` (Clark et al. 2020; Bao et al. 2021); None: all alike. Networks of timm alone
            tell their layers.

    Raises:
        ConfigError: A number is out of range, the model has no backbone, or one that does not tell its layers.
    """
    for name, rate in (("lr", lr), ("backbone_lr", backbone_lr)):
        if rate is not None and not rate > 0:
            raise ConfigError(f"{name}={rate} must be above 0. To let the backbone learn nothing, freeze it.")
    if not weight_decay >= 0:
        raise ConfigError(f"weight_decay={weight_decay} must be at least 0.")
    if not isinstance(model, VideoClassifier) and backbone_lr is None and layer_decay is None:
        return _label("head", _head_groups(model.parameters(), weight_decay), lr)
    network = backbone_of(model).network
    inside = {id(parameter) for parameter in network.parameters()}
    head = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    return [
        *_label("backbone", _backbone_groups(network, weight_decay, layer_decay), backbone_lr or lr),
        *_label("head", _head_groups(head, weight_decay), lr),
    ]


def _head_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """What learns, in a group that is decayed and one that is not."""
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in learning if parameter.ndim <= 1], "weight_decay": 0.0},
        {"params": [parameter for parameter in learning if parameter.ndim > 1], "weight_decay": weight_decay},
    ]
    return [group for group in groups if group["params"]]


def _backbone_groups(network: nn.Module, weight_decay: float, layer_decay: float | None) -> list[dict[str, Any]]:
    """Groups by timm of a network's parameters, with `lr_scale` where layers decay."""
    spared = network.no_weight_decay() if hasattr(network, "no_weight_decay") else ()  # type: ignore[operator]
    if layer_decay is None:
        return list(param_groups_weight_decay(network, weight_decay, no_weight_decay_list=spared))
    if not 0 < layer_decay <= 1:
        raise ConfigError(f"layer_decay={layer_decay} must be above 0 and at most 1, such as 0.75.")
    if not hasattr(network, "group_matcher"):
        raise ConfigError(
            f"layer_decay={layer_decay}: a {type(network).__name__} does not tell its layers; networks of timm do. "
            "Leave layer_decay out, or take backbone_lr."
        )
    return list(param_groups_layer_decay(network, weight_decay, no_weight_decay_list=spared, layer_decay=layer_decay))


def _label(part: str, groups: Iterable[dict[str, Any]], lr: float) -> list[dict[str, Any]]:
    """Groups with their learning rate and the part of the model that they are of."""
    return [{**group, "lr": lr * group.get("lr_scale", 1.0), "part": part} for group in groups]

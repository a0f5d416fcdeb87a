"""The model: uint8 frames → class scores, and the builder that puts it together.

frames ──normalise──▶ backbone ──▶ tokens ──pooling──▶ features ──classifier──▶ scores ──aggregator──▶ one score a class
(B, T, [P,] C, H, W)              over patches, and over frames where the backbone takes single frames
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wildstream.errors import ConfigError
from wildstream.models.backbones import Backbone, Weights, make_backbone
from wildstream.models.heads import AGGREGATORS, CLASSIFIERS, POOLINGS, Broadcast, choose
from wildstream.models.hierarchy import Hierarchy, make_classifier
from wildstream.models.lora import LoraOptions, apply_lora

if TYPE_CHECKING:
    from typing import Self

# B batch, T frames, P patches, C channels, H, W pixels, D features, K classes


class VideoClassifier(nn.Module):
    """A backbone and its head: uint8 frames in, a score (logit) per class out."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: Backbone, pooling: nn.Module, classifier: nn.Module, aggregator: nn.Module, *, chunk: int
    ) -> None:
        """Put the parts together; `chunk` samples go through the backbone at a time."""
        super().__init__()
        self.spec = backbone.spec
        self.backbone = Broadcast(
            nn.Sequential(backbone, pooling), sample_ndim=4 if self.spec.takes == "clip" else 3, chunk=chunk
        )
        self.classifier = classifier
        self.aggregator = aggregator
        # Statistics are of values in [0, 1], frames come in [0, 255].
        for name, values in (("mean", self.spec.mean), ("std", self.spec.std)):
            self.register_buffer(name, 255 * torch.tensor(values).view(-1, 1, 1), persistent=False)

    @property
    def encoder(self) -> Backbone:
        """The backbone without the pooling; everything else is the head."""
        encoder: Backbone = self.backbone.module[0]  # type: ignore[index]
        return encoder

    def forward(self, frames: Tensor) -> Tensor:
        """Scores of a batch of clips.

        Args:
            frames: (B, T, C, H, W) or (B, T, P, C, H, W), uint8 or float in [0, 255], on the model's device.

        Returns:
            (B, K) float scores, before sigmoid or softmax.
        """
        if frames.ndim not in (5, 6) or frames.shape[-3] != len(self.spec.mean):
            raise ConfigError(
                f"frames must be (B, T, C, H, W) or (B, T, P, C, H, W) with {len(self.spec.mean)} channels, "
                f"got {tuple(frames.shape)}."
            )
        samples = frames.unsqueeze(2) if frames.ndim == 5 else frames  # B, T, P, C, H, W
        samples = (samples.to(self.mean.dtype) - self.mean) / self.std
        if self.spec.takes == "clip":
            samples = samples.transpose(1, 2)  # B, P, T, C, H, W
        features = self.backbone(samples).flatten(1, -2)  # B, P, D or B, T × P, D
        scores: Tensor = self.aggregator(self.classifier(features), features)
        return scores


class FeatureClassifier(nn.Module):
    """The head of a `VideoClassifier` alone, on features that were extracted before."""

    def __init__(self, pooling: nn.Module, classifier: nn.Module, aggregator: nn.Module, *, members: int) -> None:
        """Put the parts together; a window's tokens are those of its `members`, one after the other."""
        super().__init__()
        self.pooling = Broadcast(pooling, sample_ndim=2, chunk=1 << 20)
        self.classifier = classifier
        self.aggregator = aggregator
        self.members = members

    def forward(self, features: Tensor) -> Tensor:
        """(B, members × tokens, dim) of any precision to (B, K) float scores, before sigmoid or softmax."""
        if features.ndim != 3 or features.shape[1] % self.members:
            raise ConfigError(
                f"features must be (B, {self.members} × tokens, dim), got {tuple(features.shape)}. Take those that the "
                "model was made for."
            )
        pooled = self.pooling(features.float().unflatten(1, (self.members, -1)))  # of B, members, tokens, D
        scores: Tensor = self.aggregator(self.classifier(pooled), pooled)
        return scores


class ModelBuilder:
    """Build a model step by step.

    model = ModelBuilder().set_backbone("r3d_18").set_classifier("mlp", output_dim=3).build()
    """

    def __init__(self) -> None:
        """Start with mean pooling, a linear classifier and a mean aggregator, and without a backbone."""
        self._backbone: tuple[str, Weights] | None = None
        self._chunk = 1024
        self._pooling = "mean"
        self._classifier: tuple[str, int] | None = None
        self._aggregator = "mean"
        self._hierarchy: Hierarchy | None = None
        self._lora: LoraOptions | None = None
        self._frozen = False

    def set_backbone(self, name: str, *, weights: Weights = None, chunk: int = 1024) -> Self:
        """Choose the backbone.

        Args:
            name: A video network of torchvision or transformers, tiny3d, or an image model of timm.
            weights: "DEFAULT" for pretrained weights, the path of a state dict, or None for random ones.
            chunk: Samples (clips or frames) that go through the backbone at a time.
        """
        self._backbone, self._chunk = (name, weights), chunk
        return self

    def set_pooling(self, name: str) -> Self:
        """Choose how tokens become one feature vector: "mean", "max", "attention" or "cls"."""
        choose("pooling", name, POOLINGS)
        self._pooling = name
        return self

    def set_classifier(self, name: str, *, output_dim: int) -> Self:
        """Choose what gives scores: "linear", "mlp" or "extensible", for `output_dim` classes."""
        choose("classifier", name, CLASSIFIERS)
        if output_dim < 1:
            raise ConfigError(f"output_dim={output_dim} must be at least 1.")
        self._classifier = (name, output_dim)
        return self

    def set_aggregator(self, name: str) -> Self:
        """Choose how the scores of patches (and of frames, for image backbones) become one.

        "mean", "max", "attention" (weighted by how telling their features are) or "lse" (a smooth maximum).
        """
        choose("aggregator", name, AGGREGATORS)
        self._aggregator = name
        return self

    def set_hierarchy(self, hierarchy: Hierarchy | None) -> Self:
        """Give scores of all levels of a hierarchy, side by side; its categories are the classifier's classes."""
        self._hierarchy = hierarchy
        return self

    def set_lora(self, options: LoraOptions | None) -> Self:
        """Let small additions to the backbone learn in its place (see `apply_lora`)."""
        self._lora = options
        return self

    def set_frozen(self, frozen: bool = True) -> Self:
        """Choose whether the backbone learns nothing, now and later; `unfreezing` has schedules."""
        self._frozen = frozen
        return self

    def build(self) -> VideoClassifier:
        """Put the model together.

        Raises:
            ConfigError: No backbone or classifier was chosen, or there is none of that name.
            WeightsError: Pretrained weights cannot be had.
        """
        if self._backbone is None or self._classifier is None:
            missing = "set_backbone(name)" if self._backbone is None else "set_classifier(name, output_dim=...)"
            raise ConfigError(f"the model is not complete: call {missing} before build().")
        (name, weights), (classifier, output_dim) = self._backbone, self._classifier
        backbone = make_backbone(name, weights=weights)
        if self._pooling == "cls" and not backbone.spec.class_token:
            raise ConfigError(f"pooling='cls': {name} has no class token. Take pooling=mean, max or attention.")
        if self._frozen and self._lora:
            raise ConfigError("frozen=true and lora contradict each other: LoRA freezes the backbone by itself.")
        backbone.requires_grad_(not self._frozen)
        if self._lora is not None:
            apply_lora(backbone, self._lora)
        dim = backbone.spec.dim
        return VideoClassifier(
            backbone,
            POOLINGS[self._pooling](dim),
            make_classifier(classifier, dim, output_dim, self._hierarchy),
            AGGREGATORS[self._aggregator](dim),
            chunk=self._chunk,
        )

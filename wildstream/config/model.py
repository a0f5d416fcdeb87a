"""Options of what is trained."""

from __future__ import annotations

from typing import Annotated

from wildstream.config.options import Positive, Strict, one_of
from wildstream.models.heads import AGGREGATORS, CLASSIFIERS, POOLINGS


def known_backbone(name: str) -> str:
    """Refuse a backbone that does not exist."""
    from wildstream.models.backbones import check_backbone  # timm and torchvision take seconds to import

    check_backbone(name)
    return name


class ModelConfig(Strict):
    """What is trained."""

    backbone: str
    """A video network of torchvision (r3d_18, mc3_18, r2plus1d_18, s3d), tiny3d, or an image model of timm; with
    data.precomputed the one that the features are of, by the name that they have."""
    weights: str | None = None
    """Pretrained weights: DEFAULT, the path of a state dict, or null for random ones."""
    pooling: Annotated[str, one_of("pooling", POOLINGS)] = "mean"
    """How tokens become one feature vector: mean, max."""
    classifier: Annotated[str, one_of("classifier", CLASSIFIERS)] = "mlp"
    """What gives scores: linear, mlp."""
    aggregator: Annotated[str, one_of("aggregator", AGGREGATORS)] = "mean"
    """How the scores of patches and single frames become one: mean, max."""
    chunk: Positive = 1024
    """Clips or frames that go through the backbone at a time."""

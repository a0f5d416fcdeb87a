"""torchvision's video networks: clips → a token per place in time and space.

What each takes is written in torchvision's weights enums (`transforms`, `meta`), pretrained or not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torchvision.models.video as video_models
from torch import Tensor, nn

from wildstream.errors import WeightsError
from wildstream.models.backbones.spec import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    KINETICS_MEAN,
    KINETICS_STD,
    Backbone,
    BackboneSpec,
    Weights,
)
from wildstream.models.backbones.weights import fetch, load_state

# N samples, T frames, C channels, H, W pixels, D features; t, h, w what the network leaves of T, H, W


def _resnet_tokens(network: nn.Module, clips: Tensor) -> Tensor:
    """Tokens of a VideoResNet, (N, t*h*w, D)."""
    features = clips.transpose(1, 2)  # N, C, T, H, W
    for layer in ("stem", "layer1", "layer2", "layer3", "layer4"):
        features = getattr(network, layer)(features)
    return features.flatten(2).transpose(1, 2)


def _s3d_tokens(network: nn.Module, clips: Tensor) -> Tensor:
    """Tokens of S3D, (N, t*h*w, D)."""
    features: Tensor = network.features(clips.transpose(1, 2))  # type: ignore[operator]
    return features.flatten(2).transpose(1, 2)


def _swin_tokens(network: nn.Module, clips: Tensor) -> Tensor:
    """Tokens of a SwinTransformer3d, (N, t*h*w, D)."""
    features = clips.transpose(1, 2)
    for layer in ("patch_embed", "pos_drop", "features", "norm"):
        features = getattr(network, layer)(features)  # N, t, h, w, D
    return features.flatten(1, 3)


def _mvit_tokens(network: nn.Module, clips: Tensor) -> Tensor:
    """Tokens of an MViT, (N, 1 + t*h*w, D); the class token is the first."""
    tokens: Tensor = network.conv_proj(clips.transpose(1, 2)).flatten(2).transpose(1, 2)  # type: ignore[operator]
    places: nn.Module = network.pos_encoding  # type: ignore[assignment]
    tokens = places(tokens)
    shape = (places.temporal_size, *places.spatial_size)  # type: ignore[misc]
    for block in network.blocks:  # type: ignore[union-attr]
        tokens, shape = block(tokens, shape)
    normed: Tensor = network.norm(tokens)  # type: ignore[operator]
    return normed


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoNetwork:
    """One of torchvision's video networks."""

    weights: str
    """Its weights enum."""
    tokens: Callable[[nn.Module, Tensor], Tensor]
    """Its tokens."""
    dim: int
    """Length of a token."""
    head: tuple[str, ...]
    """The layers behind the tokens, which are cut off."""
    size: tuple[int, int] = (224, 224)
    """Height and width in pixels that it was trained on."""
    mean: tuple[float, ...] = KINETICS_MEAN
    """Per channel."""
    std: tuple[float, ...] = KINETICS_STD
    """Per channel."""
    num_frames: int | None = None
    """Frames that a clip must have; None: any number."""
    min_frames: int = 1
    """Frames of which something is left at its end."""

    @property
    def is_fixed(self) -> bool:
        """Whether it takes clips of one size alone, since its positions are numbered; such a one has a class token."""
        return self.num_frames is not None


def _resnet(weights: str) -> VideoNetwork:
    return VideoNetwork(weights=weights, tokens=_resnet_tokens, dim=512, head=("avgpool", "fc"), size=(112, 112))


def _swin(weights: str, dim: int) -> VideoNetwork:
    return VideoNetwork(
        weights=weights,
        tokens=_swin_tokens,
        dim=dim,
        head=("avgpool", "head"),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def _mvit(weights: str) -> VideoNetwork:
    return VideoNetwork(
        weights=weights,
        tokens=_mvit_tokens,
        dim=768,
        head=("head",),
        mean=(0.45, 0.45, 0.45),
        std=(0.225, 0.225, 0.225),
        num_frames=16,
    )


VIDEO_NETWORKS = {
    "r3d_18": _resnet("R3D_18_Weights"),
    "mc3_18": _resnet("MC3_18_Weights"),
    "r2plus1d_18": _resnet("R2Plus1D_18_Weights"),
    "s3d": VideoNetwork(
        weights="S3D_Weights", tokens=_s3d_tokens, dim=1024, head=("avgpool", "classifier"), min_frames=5
    ),
    "swin3d_t": _swin("Swin3D_T_Weights", 768),
    "swin3d_s": _swin("Swin3D_S_Weights", 768),
    "swin3d_b": _swin("Swin3D_B_Weights", 1024),
    "mvit_v1_b": _mvit("MViT_V1_B_Weights"),
    "mvit_v2_s": _mvit("MViT_V2_S_Weights"),
}


def make_video_network(name: str, weights: Weights) -> Backbone:
    """A video network of torchvision, without its classification layer; random unless `weights` is "DEFAULT"."""
    facts = VIDEO_NETWORKS[name]
    network: nn.Module = getattr(video_models, name)(weights=None)
    if weights == "DEFAULT":
        _load_default(name, network)
    for layer in facts.head:
        setattr(network, layer, nn.Identity())
    spec = BackboneSpec(
        name=name,
        takes="clip",
        dim=facts.dim,
        size=facts.size,
        mean=facts.mean,
        std=facts.std,
        fixed_size=facts.is_fixed,
        num_frames=facts.num_frames,
        min_frames=facts.min_frames,
        class_token=facts.is_fixed,
    )
    return Backbone(spec, network, facts.tokens)


def _load_default(name: str, network: nn.Module) -> None:
    """Load torchvision's pretrained weights; as tensors alone, which torchvision by itself does not insist on."""
    chosen = getattr(video_models, VIDEO_NETWORKS[name].weights).DEFAULT
    state = fetch(name, chosen.url, lambda: chosen.get_state_dict(progress=False, check_hash=True, weights_only=True))
    missing, _ = load_state(network, state)
    if missing:
        raise WeightsError(f"weights='DEFAULT': {chosen.url} lacks {missing[0]!r} of {name}. Take weights=null.")

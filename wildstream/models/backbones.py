"""Backbones: frames or clips → tokens, behind one contract, each with its own size and normalisation.

takes "clip"    (N, T, C, H, W) → (N, tokens, dim)      torchvision's video networks
takes "frame"   (N, C, H, W)    → (N, tokens, dim)      any image network of timm
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import timm
import torch
import torchvision.models.video as video_models
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from wildstream.errors import ConfigError, WeightsError
from wildstream.models.tiny3d import WIDTHS, Tiny3D

Weights = str | Path | None
""""DEFAULT" for the library's pretrained weights, the path of a state dict (.safetensors or torch.save), or None for
random weights."""

# N samples, T frames, C channels, H, W pixels, D features; t, h, w what the network leaves of T, H, W


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSpec:
    """What a backbone takes and gives."""

    name: str
    """Name in the configuration."""
    takes: Literal["clip", "frame"]
    """One sample: a clip (T, C, H, W), or a frame (C, H, W)."""
    dim: int
    """Length of a token."""
    size: tuple[int, int]
    """Height and width in pixels that it was made for; others work too where the network allows."""
    mean: tuple[float, ...]
    """Per channel, of values in [0, 1]."""
    std: tuple[float, ...]
    """Per channel, of values in [0, 1]."""


class Backbone(nn.Module):
    """A network and what it takes and gives."""

    def __init__(self, spec: BackboneSpec, network: nn.Module, tokens: Callable[[nn.Module, Tensor], Tensor]) -> None:
        """Hold a network; `tokens(network, samples)` gives (N, tokens, dim)."""
        super().__init__()
        self.spec = spec
        self.network = network
        self._tokens = tokens

    def forward(self, samples: Tensor) -> Tensor:
        """Normalised float samples, (N, T, C, H, W) or (N, C, H, W), to (N, tokens, dim)."""
        return self._tokens(self.network, samples)


@dataclass(frozen=True, slots=True)
class _VideoNetwork:
    """One of torchvision's video networks."""

    weights: str
    dim: int
    size: tuple[int, int]
    head: str
    """The classification layer, which is cut off."""


# torchvision.models.video: weights enum, channels before pooling, training size
VIDEO_NETWORKS = {
    "r3d_18": _VideoNetwork("R3D_18_Weights", 512, (112, 112), "fc"),
    "mc3_18": _VideoNetwork("MC3_18_Weights", 512, (112, 112), "fc"),
    "r2plus1d_18": _VideoNetwork("R2Plus1D_18_Weights", 512, (112, 112), "fc"),
    "s3d": _VideoNetwork("S3D_Weights", 1024, (224, 224), "classifier"),
}
# Kinetics-400 statistics, the same for all of these (torchvision.transforms._presets.VideoClassification)
KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)


def make_backbone(name: str, *, weights: Weights = None) -> Backbone:
    """Make a backbone by name: one of VIDEO_NETWORKS, tiny3d, or any image model of timm.

    Raises:
        ConfigError: There is no backbone of that name, or the weights are not of it.
        WeightsError: The pretrained weights are neither on this machine nor within reach.
    """
    check_backbone(name)
    if name == "tiny3d":
        backbone = _make_tiny3d(weights)
    elif name in VIDEO_NETWORKS:
        backbone = _make_video_network(name, weights)
    else:
        backbone = _make_image_network(name, weights)
    if weights not in (None, "DEFAULT"):
        _load_weights(backbone.network, Path(str(weights)).expanduser())
    return backbone


def check_backbone(name: str) -> None:
    """Refuse a name that is no backbone's (ConfigError), with the ones that look like it."""
    base, _, tag = name.partition(".")
    own = [*VIDEO_NETWORKS, "tiny3d"]
    if name in own or (timm.is_model(name) and (not tag or name in timm.list_pretrained(f"{base}.*"))):
        return
    if timm.is_model(name):
        near = timm.list_pretrained(f"{base}.*")
    else:
        pool = own + timm.list_models()
        near = list(dict.fromkeys(get_close_matches(name.lower(), pool, cutoff=0.7) + timm.list_models(f"*{base}*")))
    raise ConfigError(
        f"backbone={name!r} is not known. Take one of {', '.join(own)}, or an image model of timm"
        + (f". Did you mean {', '.join(near[:5])}?" if near else " (timm.list_models() names them).")
    )


def _make_video_network(name: str, weights: Weights) -> Backbone:
    """A video network of torchvision, without its classification layer."""
    facts = VIDEO_NETWORKS[name]
    chosen = getattr(video_models, facts.weights).DEFAULT if weights == "DEFAULT" else None
    network = _fetch(name, weights, lambda: getattr(video_models, name)(weights=chosen))
    for layer in ("avgpool", facts.head):
        setattr(network, layer, nn.Identity())
    spec = BackboneSpec(name=name, takes="clip", dim=facts.dim, size=facts.size, mean=KINETICS_MEAN, std=KINETICS_STD)
    return Backbone(spec, network, _s3d_tokens if name == "s3d" else _resnet_tokens)


def _make_tiny3d(weights: Weights) -> Backbone:
    """The project's own small network."""
    if weights == "DEFAULT":
        raise WeightsError("tiny3d has no pretrained weights. Take weights=null, or the path of a state dict.")
    spec = BackboneSpec(
        name="tiny3d", takes="clip", dim=WIDTHS[-1], size=(64, 64), mean=KINETICS_MEAN, std=KINETICS_STD
    )
    return Backbone(spec, Tiny3D(), lambda network, clips: network(clips))


def _resnet_tokens(network: nn.Module, clips: Tensor) -> Tensor:
    """Tokens of torchvision's VideoResNet: a token per place in time and space, (N, t*h*w, D)."""
    features = clips.transpose(1, 2)  # N, C, T, H, W
    for layer in ("stem", "layer1", "layer2", "layer3", "layer4"):
        features = getattr(network, layer)(features)
    return features.flatten(2).transpose(1, 2)


def _s3d_tokens(network: nn.Module, clips: Tensor) -> Tensor:
    """Tokens of torchvision's S3D, (N, t*h*w, D)."""
    features: Tensor = network.features(clips.transpose(1, 2))  # type: ignore[operator]
    return features.flatten(2).transpose(1, 2)


def _make_image_network(name: str, weights: Weights) -> Backbone:
    """An image network of timm, without its classification layer."""
    network = _fetch(name, weights, lambda: timm.create_model(name, pretrained=weights == "DEFAULT", num_classes=0))
    data = timm.data.resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    spec = BackboneSpec(
        name=name,
        takes="frame",
        dim=int(network.num_features),  # type: ignore[arg-type]
        size=tuple(data["input_size"][1:]),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
    )
    return Backbone(spec, network, _timm_tokens)


def _timm_tokens(network: nn.Module, frames: Tensor) -> Tensor:
    """Tokens of a timm model, (N, tokens, D); a convolutional one gives a token per place."""
    features: Tensor = network.forward_features(frames)  # type: ignore[operator]
    if features.ndim == 4:
        # Swin and its kin give (N, h, w, D), convolutional networks (N, D, h, w).
        channels_last = features.shape[-1] == network.num_features and getattr(network, "output_fmt", "") == "NHWC"
        return features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)
    return features if features.ndim == 3 else features.unsqueeze(1)


def _fetch(name: str, weights: Weights, make: Callable[[], nn.Module]) -> nn.Module:
    """Make a network, which may fetch weights; explain where that fails."""
    if weights != "DEFAULT":
        return make()
    try:
        return make()
    except (OSError, RuntimeError) as error:  # hub and URL errors are OSErrors; some arrive wrapped in RuntimeError
        said = (str(error).splitlines() or [""])[0]
        raise WeightsError(
            f"weights='DEFAULT': the pretrained weights of {name} cannot be had: {type(error).__name__}: {said:.200} "
            "On a machine without a network, copy the file here and give its path as weights, or take weights=null."
        ) from error


_NO_STATE = (OSError, EOFError, RuntimeError, ValueError, AttributeError, TypeError, UnpicklingError, SafetensorError)
"""What torch, pickle and safetensors raise at a file that holds something else."""


def _load_weights(network: nn.Module, path: Path) -> None:
    """Load a state dict from a file; tensors only, no code is ever run."""
    if not path.is_file():
        raise WeightsError(f"weights={str(path)!r} is not a file. Give DEFAULT, the path of a state dict, or null.")
    try:
        state = _read_state(path)
        missing, unexpected = network.load_state_dict(state, strict=False)
    except _NO_STATE as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"weights={str(path)!r} is not a state dict of this backbone: {said} Save one with "
            "torch.save(network.state_dict(), path), or as .safetensors."
        ) from error
    if missing:
        raise ConfigError(
            f"weights={str(path)!r} lacks {len(missing)} parameters of this backbone, such as {missing[0]!r}, "
            f"and has {len(unexpected)} of something else. Take weights of the same network."
        )


def _read_state(path: Path) -> dict[str, Any]:
    """The tensors in a .safetensors file, or in one of torch.save."""
    if path.suffix == ".safetensors":
        return dict(load_file(path))
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state

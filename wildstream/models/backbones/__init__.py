"""Backbones: frames or clips → tokens, behind one contract, each with its own size and normalisation.

takes "clip"    (N, T, C, H, W) → (N, tokens, dim)      torchvision's and transformers' video networks, tiny3d
takes "frame"   (N, C, H, W)    → (N, tokens, dim)      any image network of timm

A backbone is called by one name everywhere: the one that it was asked for by. Short names are not spelled out, so
features that were extracted by "dino" are those of model.backbone=dino, and not of timm's name for the same network.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import timm

from wildstream.errors import ConfigError, WeightsError
from wildstream.models.backbones.spec import (
    KINETICS_MEAN,
    KINETICS_STD,
    Backbone,
    BackboneSpec,
    Weights,
    check_frames,
)
from wildstream.models.backbones.timm_images import SHORT_NAMES, make_image_network
from wildstream.models.backbones.torchvision_video import VIDEO_NETWORKS, make_video_network
from wildstream.models.backbones.transformers_video import TRANSFORMERS, make_transformers_network
from wildstream.models.backbones.weights import load_weights
from wildstream.models.tiny3d import WIDTHS, Tiny3D

__all__ = [
    "SHORT_NAMES",
    "TRANSFORMERS",
    "VIDEO_NETWORKS",
    "Backbone",
    "BackboneSpec",
    "Weights",
    "check_backbone",
    "check_clips",
    "make_backbone",
]


def make_backbone(name: str, *, weights: Weights = None) -> Backbone:
    """Make a backbone by name: one of VIDEO_NETWORKS, TRANSFORMERS or SHORT_NAMES, tiny3d, or any image model of timm.

    Raises:
        ConfigError: There is no backbone of that name, the weights are not of it, or its package is not installed.
        WeightsError: The pretrained weights are neither on this machine nor within reach.
    """
    check_backbone(name)
    if name == "tiny3d":
        backbone = _make_tiny3d(weights)
    elif name in VIDEO_NETWORKS:
        backbone = make_video_network(name, weights)
    elif name in TRANSFORMERS:
        backbone = make_transformers_network(name, weights)
    else:
        backbone = make_image_network(name, weights)
    if weights not in (None, "DEFAULT"):
        load_weights(backbone.network, Path(str(weights)).expanduser())
    return backbone


def check_backbone(name: str) -> None:
    """Refuse a name that is no backbone's (ConfigError), with the ones that look like it."""
    base, _, tag = name.partition(".")
    own = [*VIDEO_NETWORKS, "tiny3d", *TRANSFORMERS, *SHORT_NAMES]
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


def check_clips(name: str, num_frames: int) -> None:
    """Refuse clips of another number of frames than a backbone takes (ConfigError), before it is made."""
    if name in VIDEO_NETWORKS:
        facts = VIDEO_NETWORKS[name]
        check_frames(name, num_frames, needed=facts.num_frames, at_least=facts.min_frames)
    elif name in TRANSFORMERS:
        known = TRANSFORMERS[name]
        check_frames(name, num_frames, needed=known.num_frames, at_least=known.min_frames)


def _make_tiny3d(weights: Weights) -> Backbone:
    """The project's own small network."""
    if weights == "DEFAULT":
        raise WeightsError("tiny3d has no pretrained weights. Take weights=null, or the path of a state dict.")
    spec = BackboneSpec(
        name="tiny3d", takes="clip", dim=WIDTHS[-1], size=(64, 64), mean=KINETICS_MEAN, std=KINETICS_STD
    )
    return Backbone(spec, Tiny3D(), lambda network, clips: network(clips))

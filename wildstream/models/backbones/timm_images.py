"""timm's image networks: single frames → tokens; by timm's own names, and by short ones for the usual choices."""

from __future__ import annotations

from dataclasses import dataclass

import timm
from torch import Tensor, nn

from wildstream.models.backbones.spec import Backbone, BackboneSpec, Weights
from wildstream.models.backbones.weights import fetch


@dataclass(frozen=True, slots=True)
class ShortName:
    """What a short name stands for."""

    network: str
    """timm's name, with the tag of the pretrained weights."""
    size: tuple[int, int] = (224, 224)
    """Height and width in pixels that it is used at."""


SHORT_NAMES = {
    # timm trains and names DINOv2 at 518, five times the work of the 224 that its authors compare backbones at.
    "dino": ShortName("vit_base_patch14_dinov2.lvd142m"),
    "dino_large": ShortName("vit_large_patch14_dinov2.lvd142m"),
    "dinov3": ShortName("vit_base_patch16_dinov3.lvd1689m"),
    "clip": ShortName("vit_base_patch16_clip_224.openai"),
    "siglip": ShortName("vit_base_patch16_siglip_224.v2_webli"),
    "swinv2": ShortName("swinv2_base_window8_256.ms_in1k", (256, 256)),
    "convnext": ShortName("convnext_base.fb_in22k"),
}


def make_image_network(name: str, weights: Weights) -> Backbone:
    """An image network of timm, without its classification layer; random unless `weights` is "DEFAULT".

    Networks that can take frames of other sizes than they were trained on are made so that they do.
    """
    short = SHORT_NAMES.get(name)
    full = short.network if short else name
    network = (
        _create(full, pretrained=False)
        if weights != "DEFAULT"
        else fetch(name, _source(full), lambda: _create(full, pretrained=True))
    )
    # SigLIP's attention pooling lies behind the tokens.
    if getattr(network, "attn_pool", None) is not None:
        network.attn_pool = None  # type: ignore[assignment]
    data = timm.data.resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    height, width = _patch(network)
    spec = BackboneSpec(
        name=name,
        takes="frame",
        dim=int(network.num_features),  # type: ignore[arg-type]
        size=short.size if short else tuple(data["input_size"][1:]),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        fixed_size=bool(getattr(getattr(network, "patch_embed", None), "strict_img_size", False)),
        multiple=height if height == width else 1,
        class_token=getattr(network, "cls_token", None) is not None,
    )
    return Backbone(spec, network, _tokens)


def _create(name: str, *, pretrained: bool) -> nn.Module:
    """The network, for frames of any size where its kind allows."""
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, dynamic_img_size=True)
    except TypeError as error:  # convolutional networks take any size anyway and know no such option
        if "dynamic_img_size" not in str(error):
            raise
        return timm.create_model(name, pretrained=pretrained, num_classes=0)


def _patch(network: nn.Module) -> tuple[int, int]:
    """Height and width of the patches that frames are cut into; 1 where they are not, or are filled up."""
    patches = getattr(network, "patch_embed", None)
    if patches is None or getattr(patches, "dynamic_img_pad", False) or not hasattr(patches, "patch_size"):
        return 1, 1
    height, width = patches.patch_size
    return int(height), int(width)


def _source(name: str) -> str:
    """Where timm has the weights from."""
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.hf_hub_id:
        return f"{config.hf_hub_filename or 'model.safetensors'} of https://huggingface.co/{config.hf_hub_id}"
    return str(config.url) if config is not None and config.url else f"timm's of {name}"


def _tokens(network: nn.Module, frames: Tensor) -> Tensor:
    """Tokens of a timm model, (N, tokens, D); a convolutional one gives a token per place."""
    features: Tensor = network.forward_features(frames)  # type: ignore[operator]
    if features.ndim == 4:
        # Swin and its kin give (N, h, w, D), convolutional networks (N, D, h, w).
        channels_last = features.shape[-1] == network.num_features and getattr(network, "output_fmt", "") == "NHWC"
        return features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)
    return features if features.ndim == 3 else features.unsqueeze(1)

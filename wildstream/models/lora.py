"""LoRA: a frozen backbone learns by small additions to its linear layers (Hu et al. 2021), through the package peft.

W x + (alpha / r) B A x        A of (r, in), B of (out, r), which starts at 0; W stays as it is
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from wildstream.errors import ConfigError
from wildstream.models.backbones.spec import Backbone

ATTENTION = ("attn", "attention")
"""What the names of attention's modules contain, in timm, torchvision and transformers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraOptions:
    """How LoRA is applied."""

    r: int = 8
    """Rank of the additions."""
    alpha: float = 16
    """The additions count alpha / r."""
    dropout: float = 0.0
    """Share of the additions' inputs that is dropped in training."""
    targets: tuple[str, ...] | None = None
    """Linear layers by name, or by the end of it, such as qkv; None: those of attention."""

    def __post_init__(self) -> None:
        """Refuse what is out of range (ConfigError)."""
        if self.r < 1:
            raise ConfigError(f"lora.r={self.r} must be at least 1.")
        if not self.alpha > 0:
            raise ConfigError(f"lora.alpha={self.alpha} must be above 0.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora.dropout={self.dropout} must be at least 0 and below 1.")
        if self.targets is not None and not self.targets:
            raise ConfigError("lora.targets=[] names no layers. Name some, or leave it out.")


def apply_lora(backbone: Backbone, options: LoraOptions) -> list[str]:
    """Freeze a backbone but for additions to some linear layers, in place; the names of those layers.

    One black sample goes through first: some networks read a layer's weights past the layer (torchvision's Swin, timm's
    SwinV2), where an addition would never be called.

    Raises:
        ConfigError: peft is not installed, or there is no such layer, or one that is never called.
    """
    peft = _import_peft()
    layers = [name for name, module in backbone.network.named_modules() if isinstance(module, nn.Linear)]
    if options.targets is None:
        wanted = [name for name in layers if any(part in name.lower() for part in ATTENTION)]
        targets = sorted(_called(backbone, wanted))
        if not targets:
            raise ConfigError(
                f"lora: {backbone.spec.name} has no linear layers of attention that could be added to. Name others in "
                "lora.targets, or let the network itself learn."
            )
    else:
        targets = sorted({name for target in options.targets for name in _matching(target, layers, backbone)})
        if bypassed := sorted(set(targets) - _called(backbone, targets)):
            raise ConfigError(
                f"lora.targets={list(options.targets)}: {backbone.spec.name} uses the weights of {bypassed[0]!r} "
                "without calling the layer, so that it cannot be added to. Name other layers."
            )
    config = peft.LoraConfig(
        r=options.r, lora_alpha=options.alpha, lora_dropout=options.dropout, target_modules=targets
    )
    backbone.requires_grad_(False)
    peft.inject_adapter_in_model(config, backbone.network)
    return targets


def merge_lora(module: nn.Module) -> None:
    """Add all additions below a module to the layers themselves, in place: W + (alpha / r) B A; without any, nothing.

    What the module gives stays the same but for rounding; the additions are no longer computed.
    """
    for layer in module.modules():
        if hasattr(layer, "lora_A"):
            layer.merge()  # type: ignore[operator]


def _import_peft() -> Any:  # noqa: ANN401
    """The package peft; ConfigError where it is missing."""
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            f"lora needs the package peft, which is not installed ({error}). Install it: pip install 'wildstream[peft]'"
        ) from error
    return peft


def _matching(target: str, layers: list[str], backbone: Backbone) -> list[str]:
    """Layers of a name, or whose name ends so."""
    found = [name for name in layers if name == target or name.endswith(f".{target}")]
    if not found:
        ends = sorted({name.rsplit(".", 1)[-1] for name in layers})
        raise ConfigError(
            f"lora.targets: {backbone.spec.name} has no linear layer called {target!r}. "
            + (f"Its linear layers end in {', '.join(ends)}." if ends else "It has no linear layers at all.")
        )
    return found


@torch.inference_mode()
def _called(backbone: Backbone, names: Iterable[str]) -> set[str]:
    """Those of the modules that are called when a sample goes through."""
    called: set[str] = set()
    spec, was_training = backbone.spec, backbone.training
    frames = (spec.num_frames or max(2, spec.min_frames),) if spec.takes == "clip" else ()
    like = next(backbone.parameters())
    with ExitStack() as stack:
        for name in names:
            hook = backbone.network.get_submodule(name).register_forward_hook(lambda *_, name=name: called.add(name))
            stack.callback(hook.remove)
        backbone.eval()
        backbone(torch.zeros(1, *frames, len(spec.mean), *spec.size, dtype=like.dtype, device=like.device))
        backbone.train(was_training)
    return called

"""What every backbone is: a network, what it takes, and the tokens that it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wildstream.errors import ConfigError

Weights = str | Path | None
""""DEFAULT" for the library's pretrained weights, the path of a state dict (.safetensors or torch.save), or None for
random weights."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# torchvision.transforms._presets.VideoClassification
KINETICS_MEAN, KINETICS_STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)

# N samples, T frames, C channels, H, W pixels, D features


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSpec:
    """What a backbone takes and gives."""

    name: str
    """The name that it was asked for by; short names are not spelled out."""
    takes: Literal["clip", "frame"]
    """One sample: a clip (T, C, H, W), or a frame (C, H, W)."""
    dim: int
    """Length of a token."""
    size: tuple[int, int]
    """Height and width in pixels that it is meant for."""
    mean: tuple[float, ...]
    """Per channel, of values in [0, 1]."""
    std: tuple[float, ...]
    """Per channel, of values in [0, 1]."""
    fixed_size: bool = False
    """Whether frames of another size are refused."""
    multiple: int = 1
    """Height and width must be multiples of this."""
    num_frames: int | None = None
    """Frames that a clip must have; None: any number from `min_frames` on."""
    min_frames: int = 1
    """Frames that a clip must have at least."""
    class_token: bool = False
    """Whether the first token stands for the whole sample."""

    def check_frames(self, num_frames: int) -> None:
        """Refuse clips of another number of frames (ConfigError); a backbone of single frames takes any number."""
        check_frames(self.name, num_frames, needed=self.num_frames, at_least=self.min_frames)

    def check_size(self, height: int, width: int) -> None:
        """Refuse frames of a size that the network cannot take (ConfigError)."""
        if self.fixed_size and (height, width) != self.size:
            raise ConfigError(
                f"size={[height, width]}: {self.name} takes frames of {list(self.size)} alone. Take that size."
            )
        if height % self.multiple or width % self.multiple:
            fitting = [max(self.multiple, round(side / self.multiple) * self.multiple) for side in (height, width)]
            raise ConfigError(
                f"size={[height, width]}: {self.name} takes heights and widths that are multiples of {self.multiple}. "
                f"Take {fitting}."
            )


def check_frames(name: str, num_frames: int, *, needed: int | None, at_least: int = 1) -> None:
    """Refuse clips of another number of frames than a backbone needs (ConfigError)."""
    if needed is not None and num_frames != needed:
        raise ConfigError(
            f"backbone={name!r} takes clips of {needed} frames, these have {num_frames}. Take a sliding style with "
            f"samples_per_window={needed}, or another backbone."
        )
    if num_frames < at_least:
        raise ConfigError(
            f"backbone={name!r} takes clips of at least {at_least} frames, these have {num_frames}. Take a sliding "
            "style with more samples_per_window, or another backbone."
        )


class Backbone(nn.Module):
    """A network and what it takes and gives.

    What is frozen (`requires_grad_(False)`) also keeps its statistics: a batch norm none of whose parameters learns
    stays in evaluation mode, and so does the whole network where nothing of it learns, dropout included. Its features
    are then those that `extract` would write.
    """

    def __init__(self, spec: BackboneSpec, network: nn.Module, tokens: Callable[[nn.Module, Tensor], Tensor]) -> None:
        """Hold a network; `tokens(network, samples)` gives (N, tokens, dim)."""
        super().__init__()
        self.spec = spec
        self.network = network
        self._tokens = tokens

    def forward(self, samples: Tensor) -> Tensor:
        """Normalised float samples, (N, T, C, H, W) or (N, C, H, W), to (N, tokens, dim).

        Raises:
            ConfigError: They have another number of frames, or another size, than the network takes.
        """
        if self.spec.takes == "clip":
            self.spec.check_frames(samples.shape[1])
        self.spec.check_size(*samples.shape[-2:])
        return self._tokens(self.network, samples)

    def train(self, mode: bool = True) -> Self:
        """Set training mode, but for what is frozen."""
        super().train(mode)
        if not mode:
            return self
        if not any(parameter.requires_grad for parameter in self.network.parameters()):
            self.network.eval()
        for module in self.network.modules():
            own = list(module.parameters(recurse=False))
            if isinstance(module, _BatchNorm) and own and not any(parameter.requires_grad for parameter in own):
                module.eval()
        return self

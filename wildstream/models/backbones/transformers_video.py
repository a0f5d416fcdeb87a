"""Video networks of the package transformers, an extra: clips → tokens.

Names and facts are here whether the package is installed or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from wildstream.errors import ConfigError
from wildstream.models.backbones.spec import IMAGENET_MEAN, IMAGENET_STD, Backbone, BackboneSpec, Weights
from wildstream.models.backbones.weights import fetch


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformersNetwork:
    """One of transformers' video networks, as the configuration of its pretrained weights has it."""

    model: str
    """Class of the network, and before "Model" the name of its configuration's."""
    repository: str
    """Its pretrained weights on huggingface.co."""
    file: str
    """The file of the weights there."""
    dim: int
    """Length of a token."""
    size: tuple[int, int] = (224, 224)
    """Height and width in pixels that it was trained on."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Per channel, from the repository's preprocessor."""
    std: tuple[float, ...] = IMAGENET_STD
    """Per channel, from the repository's preprocessor."""
    fixed_size: bool = False
    """Whether frames of another size are refused."""
    num_frames: int | None = None
    """Frames that a clip must have; None: any number."""
    min_frames: int = 1
    """Frames that a clip must have at least."""
    class_token: bool = False
    """Whether the first token stands for the whole clip."""


TRANSFORMERS = {
    "videomae": TransformersNetwork(
        model="VideoMAEModel",
        repository="MCG-NJU/videomae-base-finetuned-kinetics",
        file="model.safetensors",
        dim=768,
        fixed_size=True,
        num_frames=16,
    ),
    "timesformer": TransformersNetwork(
        model="TimesformerModel",
        repository="facebook/timesformer-base-finetuned-k400",
        file="pytorch_model.bin",
        dim=768,
        mean=(0.45, 0.45, 0.45),
        std=(0.225, 0.225, 0.225),
        fixed_size=True,
        num_frames=8,
        class_token=True,
    ),
    "vjepa2": TransformersNetwork(
        model="VJEPA2Model",
        repository="facebook/vjepa2-vitl-fpc64-256",
        file="model.safetensors",
        dim=1024,
        size=(256, 256),
        min_frames=2,
    ),
}
PATCH = 16
"""Height and width in pixels of the patches of all of them."""


def make_transformers_network(name: str, weights: Weights) -> Backbone:
    """A video network of transformers; random unless `weights` is "DEFAULT".

    Raises:
        ConfigError: The package transformers is not installed.
        WeightsError: The pretrained weights are neither on this machine nor within reach.
    """
    facts = TRANSFORMERS[name]
    library = _import_library(name)
    kind = getattr(library, facts.model)
    if weights == "DEFAULT":
        source = f"{facts.file} of https://huggingface.co/{facts.repository}"
        network: nn.Module = fetch(name, source, lambda: kind.from_pretrained(facts.repository))
    else:
        network = kind(getattr(library, facts.model.replace("Model", "Config"))())
    if name == "vjepa2":
        network.predictor = nn.Identity()  # it guesses hidden tokens, which is how the encoder was trained
    spec = BackboneSpec(
        name=name,
        takes="clip",
        dim=facts.dim,
        size=facts.size,
        mean=facts.mean,
        std=facts.std,
        fixed_size=facts.fixed_size,
        multiple=PATCH,
        num_frames=facts.num_frames,
        min_frames=facts.min_frames,
        class_token=facts.class_token,
    )
    return Backbone(spec, network, _encode if name == "vjepa2" else _forward)


def _import_library(name: str) -> Any:  # noqa: ANN401
    """The package transformers; ConfigError where it is missing."""
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"backbone={name!r} is a network of the package transformers, which is not installed ({error}). "
            "Install it: pip install 'wildstream[transformers]'"
        ) from error
    return transformers


def _forward(network: nn.Module, clips: Tensor) -> Tensor:
    """Tokens of VideoMAE and TimeSformer, (N, tokens, D)."""
    tokens: Tensor = network(pixel_values=clips).last_hidden_state
    return tokens


def _encode(network: nn.Module, clips: Tensor) -> Tensor:
    """Tokens of V-JEPA 2's encoder, (N, t*h*w, D)."""
    tokens: Tensor = network.encoder(pixel_values_videos=clips).last_hidden_state  # type: ignore[operator]
    return tokens

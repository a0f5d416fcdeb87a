"""Options of what is changed at random in training, and in training alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict
from difflib import get_close_matches
from inspect import Parameter, isclass, signature
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from wildstream.config.options import Number, Strict
from wildstream.errors import ConfigError
from wildstream.stream.temporal import Pick, TemporalSampler, check_speed, get_temporal_sampler

if TYPE_CHECKING:
    from torch import Tensor

    Transform = Callable[[Tensor], Tensor]

TRANSFORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "crop": ("RandomResizedCrop", {"scale": (0.5, 1.0)}),
    "flip": ("RandomHorizontalFlip", {}),
    "vertical_flip": ("RandomVerticalFlip", {}),
    "rotation": ("RandomRotation", {"degrees": 15, "interpolation": "bilinear"}),
    "affine": (
        "RandomAffine",
        {"degrees": 10, "translate": (0.1, 0.1), "scale": (0.9, 1.1), "interpolation": "bilinear"},
    ),
    "perspective": ("RandomPerspective", {"distortion_scale": 0.3}),
    "color": ("ColorJitter", {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.05}),
    "grayscale": ("RandomGrayscale", {"p": 0.2}),
    "blur": ("GaussianBlur", {"kernel_size": 13, "sigma": (0.1, 2.0)}),
    "erasing": ("RandomErasing", {"value": 114}),  # ImageNet's mean grey, which models see as 0
    "rand_augment": ("RandAugment", {"interpolation": "bilinear"}),
    "trivial_augment": ("TrivialAugmentWide", {"interpolation": "bilinear"}),
    "auto_augment": ("AutoAugment", {"interpolation": "bilinear"}),
}
"""Short names: the class of torchvision.transforms.v2, and its parameters where they are not torchvision's own."""

_MODULE = "torchvision.transforms.v2."
_UNFIT = {
    "MixUp": "it needs labels. Take augment.mixup",
    "CutMix": "it needs labels. Take augment.cutmix",
    "GaussianNoise": "it changes each frame of a clip in another way. Leave it out",
    "AugMix": "it changes each frame of a clip in another way. Take rand_augment or trivial_augment",
}
_EXAMPLE = "[flip, {name: crop, scale: [0.5, 1.0]}]"


def make_transforms(entries: object, size: tuple[int, int]) -> list[Transform]:
    """Transforms as `augment.transforms` lists them.

    Args:
        entries: A list of short names, {name: short name, **parameters} or {_target_: a class of
            torchvision.transforms.v2, **parameters}. A parameter `transforms` is such a list itself.
        size: Height and width of the frames: the parameter `size`, where there is one and it is not given.

    Returns:
        Callables from (frames, C, H, W) to the same, random by torch's global generators.

    Raises:
        ConfigError: A name or parameter is not known, or a value is not fit.
    """
    if not isinstance(entries, (list, tuple)):
        raise ConfigError(f"must be a list, such as {_EXAMPLE}")
    return [_make_transform(entry, size) for entry in entries]


def _make_transform(entry: object, size: tuple[int, int]) -> Transform:
    """One entry of the list."""
    from torchvision.transforms import v2  # seconds to import

    name, kind, parameters = _read_entry(entry)
    named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    accepted = {key: parameter for key, parameter in signature(kind).parameters.items() if parameter.kind in named}
    for parameter in parameters:
        if parameter not in accepted:
            near = get_close_matches(str(parameter), accepted, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"It has {', '.join(accepted) or 'none'}."
            raise ConfigError(f"{name} has no parameter {parameter!r}. {hint}")
    if "size" in accepted:
        parameters.setdefault("size", size)
    if missing := [key for key in accepted if accepted[key].default is Parameter.empty and key not in parameters]:
        raise ConfigError(f"{name} needs {', '.join(missing)}. Add it as {missing[0]}: …")
    if "transforms" in parameters:
        parameters["transforms"] = make_transforms(parameters["transforms"], size)
    try:
        for parameter, choices in (("interpolation", v2.InterpolationMode), ("policy", v2.AutoAugmentPolicy)):
            if isinstance(parameters.get(parameter), str):  # YAML has no enumerations
                parameters[parameter] = choices(parameters[parameter])
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # torchvision warns of a range whose ends are exchanged
            transform: Transform = kind(**parameters)
    except (TypeError, ValueError, Warning) as error:
        raise ConfigError(f"{name} does not take these parameters: {error}") from error
    return transform


def _read_entry(entry: object) -> tuple[str, type[Any], dict[str, Any]]:
    """How one entry calls a transform, the transform's class, and the parameters to make it with."""
    from torchvision.transforms import v2

    classes = {name: kind for name, kind in vars(v2).items() if isclass(kind) and issubclass(kind, v2.Transform)}
    given = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(given, dict) or ("name" in given) == ("_target_" in given):
        raise ConfigError(f"{entry!r} must be a short name, or have either name or _target_. Write {_EXAMPLE}")
    rest = {key: value for key, value in given.items() if key not in ("name", "_target_")}
    if "name" in given:
        name = given["name"]
        if not isinstance(name, str) or name not in TRANSFORMS:
            own = [f"{{_target_: {_MODULE}{name}}}"] if str(name) in classes else []
            near = own or get_close_matches(str(name), TRANSFORMS, n=1)
            hint = f"Did you mean {near[0]}? " if near else ""
            raise ConfigError(
                f"{name!r} is not known. {hint}Take one of {', '.join(TRANSFORMS)}, or {{_target_: {_MODULE}…}}"
            )
        target, defaults = TRANSFORMS[name]
        return name, classes[target], {**defaults, **rest}
    name, target = str(given["_target_"]), str(given["_target_"]).removeprefix(_MODULE)
    if not name.startswith(_MODULE) or target not in classes:
        near = [_MODULE + close for close in get_close_matches(target.rpartition(".")[2], classes, n=1)]
        raise ConfigError(
            f"_target_: {name} is not a transform of {_MODULE.rstrip('.')}, and options must not run anything else. "
            + (f"Did you mean {near[0]}?" if near else f"Take one such as {_MODULE}ColorJitter")
        )
    if target in _UNFIT:
        raise ConfigError(f"_target_: {name} is not for clips: {_UNFIT[target]}")
    return target, classes[target], rest


def _check_transforms(entries: object) -> object:
    """Refuse a list of transforms that cannot be made."""
    make_transforms(entries, (64, 64))
    return entries


Alpha = Annotated[Number, Field(ge=0.01)]  # below that, float32 draws no sensible shares


def _by_name(sampler: object) -> object:
    """The options that the name of a temporal sampler stands for."""
    return asdict(get_temporal_sampler(sampler)) if isinstance(sampler, str) else sampler


class TemporalSamplerConfig(Strict):
    """Which frames of its window a clip has, picked at random before decoding."""

    pick: Pick = "uniform"
    """uniform: every W//S-th frame of the window; chunk_random: a random one of each W//S frames; jitter: uniform, all
    shifted by one random number of frames below W//S. W is the style's window_size, S its samples_per_window."""
    speed: Annotated[tuple[Number, ...], AfterValidator(check_speed)] = (1.0, 1.0)
    """Lowest and highest speed, within (0, 1], such as [0.5, 1]: 1 spans the window, 0.5 the half around its middle."""
    reverse: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """Probability that a clip is played backwards."""


class AugmentConfig(Strict):
    """What is changed at random in training: each clip in its own way, all its frames and patches alike."""

    transforms: Annotated[tuple[Any, ...], BeforeValidator(_check_transforms)] = ()
    """Short names (crop, flip, vertical_flip, rotation, affine, perspective, color, grayscale, blur, erasing,
    rand_augment, trivial_augment, auto_augment), with parameters as {name: crop, scale: [0.5, 1.0]}, or any transform
    of torchvision as {_target_: torchvision.transforms.v2.ColorJitter, hue: 0.1}; in this order."""
    mixup: Alpha | None = None
    """Mixes clips and their labels by shares from Beta(alpha, alpha), such as 0.8; null: not."""
    cutmix: Alpha | None = None
    """Puts a box of another clip into each, of a share from Beta(alpha, alpha), such as 1.0, and mixes the labels; with
    mixup as well, each clip has one of the two by chance; null: not."""
    mix_probability: Annotated[Number, Field(ge=0, le=1)] = 1.0
    """How probable it is that a clip is mixed, by mixup or cutmix."""
    temporal_sampler: Annotated[TemporalSamplerConfig | None, BeforeValidator(_by_name)] = None
    """Which frames of its window a clip has: uniform, chunk_random, jitter, speed (from 0.5 to 1) or reverse (half of
    the clips), or several joined: {pick: jitter, speed: [0.5, 1], reverse: 0.5}; null: uniform, as validation is."""

    def make_temporal_sampler(self) -> TemporalSampler:
        """The temporal sampler of training clips."""
        return TemporalSampler(**self.temporal_sampler.model_dump()) if self.temporal_sampler else TemporalSampler()

    @model_validator(mode="after")
    def _check_mixing(self) -> AugmentConfig:
        if self.mix_probability != 1 and self.mixup is None and self.cutmix is None:
            raise ValueError(
                f"augment.mix_probability={self.mix_probability} goes with augment.mixup or augment.cutmix. Give one "
                "of them, such as augment.mixup=0.8, or leave it out."
            )
        return self

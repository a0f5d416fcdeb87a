"""Options of what is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from wildstream.config.options import Number, Positive, Strict, make_absolute, one_of
from wildstream.errors import ConfigError
from wildstream.models.heads import AGGREGATORS, CLASSIFIERS, POOLINGS


def known_backbone(name: str, num_frames: int) -> None:
    """Refuse a backbone that does not exist, or takes clips of another number of frames (ConfigError)."""
    from wildstream.models.backbones import check_backbone, check_clips  # timm and torchvision take seconds to import

    check_backbone(name)
    check_clips(name, num_frames)


class LoraConfig(Strict):
    """Small additions that learn in place of the backbone, by the package peft: pip install 'wildstream[peft]'."""

    r: Positive = 8
    """Rank of the additions."""
    alpha: Annotated[Number, Field(gt=0)] = 16.0
    """The additions count alpha / r."""
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Share of the additions' inputs that is dropped in training."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Linear layers of the backbone that are added to, by the end of their names, such as qkv; null: attention's."""


class UnfreezingConfig(Strict):
    """The backbone learns little by little: nothing before start_epoch, then more and more of it, from the end."""

    start_epoch: Annotated[int, Field(ge=0, strict=True)] = 0
    """The first epoch, counted from 0, in which something of the backbone learns."""
    duration: Positive = 1
    """Epochs from then on until as much learns as ever will."""
    fraction: Annotated[Number, Field(ge=0, le=1)] = 1.0
    """Share of the backbone's parameter tensors that learns then."""


class HierarchyConfig(Strict):
    """Classes that belong to classes: a classifier per level."""

    file: Annotated[Path, AfterValidator(make_absolute)]
    """A table with a header that names the levels from narrow to wide, such as species;genus;family, and a line for
    each category of the data; separated by tabs, semicolons or commas. Checkpoints keep what it says."""
    levels: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Columns of the table to take, in order, such as [species, family]; the first names the categories; null: all."""
    min_samples: Annotated[int, Field(ge=0, strict=True)] = 0
    """Classes of a level with fewer windows in the training split become one, called other; 0: none."""
    loss_weights: dict[str, Annotated[Number, Field(ge=0)]] | None = None
    """How much the loss of each level counts, such as {species: 2, genus: 1}, scaled to sum to the number of levels;
    what is minimised is the sum over levels of weight times loss; null: 1 each."""


def _check_group(value: object) -> object:
    """Say what to write where a table is given in place of the options."""
    if isinstance(value, str):
        raise ConfigError(f"hierarchy={value!r} is a group of options. Write model.hierarchy.file={value}")
    return value


class ModelConfig(Strict):
    """What is trained."""

    backbone: str
    """A video network of torchvision (r3d_18, mc3_18, r2plus1d_18, s3d, swin3d_t, swin3d_s, swin3d_b, mvit_v1_b,
    mvit_v2_s) or of transformers (videomae, timesformer, vjepa2; pip install 'wildstream[transformers]'), tiny3d, or an
    image model of timm, also as dino, dino_large, dinov3, clip, siglip, swinv2, convnext; with data.precomputed the one
    that the features are of, by the same name as there."""
    weights: str | None = None
    """Pretrained weights: DEFAULT, the path of a state dict, or null for random ones."""
    frozen: bool = False
    """Whether the backbone stays as it is and the head alone learns."""
    unfreezing: UnfreezingConfig | None = None
    """Lets the backbone learn little by little: {start_epoch: 2, duration: 4, fraction: 0.5}, or some of these; null:
    all of it from the start."""
    lora: LoraConfig | None = None
    """Lets small additions learn in place of the backbone: {r: 8, alpha: 16, dropout: 0, targets: [qkv]}, or some of
    these; null: none. Needs pip install 'wildstream[peft]'."""
    pooling: Annotated[str, one_of("pooling", POOLINGS)] = "mean"
    """How tokens become one feature vector: mean, max, attention, cls (the class token alone)."""
    classifier: Annotated[str, one_of("classifier", CLASSIFIERS)] = "mlp"
    """What gives scores: linear, mlp, extensible (linear, and can be given more classes later)."""
    hierarchy: Annotated[HierarchyConfig | None, BeforeValidator(_check_group)] = None
    """Gives scores on several levels, such as species, genus and family: {file: species.csv}, with levels, min_samples
    and loss_weights where they are wanted; null: of the categories alone."""
    checkpoint: Annotated[Path, AfterValidator(make_absolute)] | None = None
    """Checkpoint of another run to start from, RUN/best: its weights, in place of model.weights. The data may have more
    classes with classifier=extensible, which keeps the rows of those that the checkpoint knows; null: none."""
    aggregator: Annotated[str, one_of("aggregator", AGGREGATORS)] = "mean"
    """How the scores of patches and single frames become one: mean, max, attention, lse (a smooth maximum)."""
    chunk: Positive = 1024
    """Clips or frames that go through the backbone at a time."""

    @model_validator(mode="after")
    def _check_frozen(self) -> ModelConfig:
        given = [name for name in ("frozen", "unfreezing", "lora") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(
                f"model.{' and model.'.join(given)} contradict each other: each says what of the backbone learns. "
                "Leave all but one of them out."
            )
        return self

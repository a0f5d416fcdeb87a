"""Strict configuration: YAML and command-line overrides → checked options.

Hydra composes `configs/train.yaml` with its groups and the overrides (`trainer.lr=1e-4`); pydantic checks the result. An
unknown, misspelt or contradictory option fails here, before anything is read or written, with its path and the remedy.
Each option is defined, documented, given its default and checked in this file alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from wildstream.errors import ConfigError
from wildstream.locations import CONFIGS
from wildstream.models.heads import AGGREGATORS, CLASSIFIERS, POOLINGS, choose
from wildstream.stream.plan import LANES, POOL_SEGMENTS, SEGMENT_FRAMES
from wildstream.stream.transforms import parse_size
from wildstream.stream.windows import SlidingStyle, get_style


class Strict(BaseModel):
    """A group of options; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _check_style(style: object) -> object:
    """Refuse a style that does not exist or contradicts itself."""
    if not isinstance(style, dict):
        get_style(str(style))
        return style
    if unknown := sorted(set(style) - {field.name for field in fields(SlidingStyle)}):
        raise ConfigError(f"{', '.join(map(str, unknown))} is no parameter of a sliding style")
    return SlidingStyle(**style).as_dict()


def _check_size(size: object) -> object:
    """Refuse a size that is none."""
    return None if size is None else parse_size(list(size) if isinstance(size, tuple) else size)


def _one_of(what: str, table: dict[str, Any]) -> AfterValidator:
    """A check that a name is in a table."""

    def check(name: str) -> str:
        choose(what, name, table)
        return name

    return AfterValidator(check)


Positive = Annotated[int, Field(ge=1)]


class DataConfig(Strict):
    """What is streamed."""

    path: Path
    """Folder of packed shards, with a folder per split."""
    style: Annotated[str | dict[str, Any], BeforeValidator(_check_style)] = "sliding_window"
    """How windows slide: a name from configs/sliding, or its parameters."""
    size: Annotated[int | tuple[int, int] | None, BeforeValidator(_check_size)] = None
    """Frames or patches are resized to a square of so many pixels, or to [height, width]; null: the backbone's own."""
    train_split: str = "train"
    """Split to train on."""
    val_split: str = "val"
    """Split to validate on after each epoch."""
    num_workers: Positive | None = None
    """Threads per process that decode; null: one per core."""
    lanes: Positive = LANES
    """Pieces that a shuffled epoch is cut into; the number of processes must divide it."""
    pool_segments: Positive = POOL_SEGMENTS
    """Open segments per lane: the reach of the shuffle, and its memory."""
    segment_frames: Positive = SEGMENT_FRAMES
    """Kept frames that one segment spans, at most."""

    @property
    def sliding_style(self) -> SlidingStyle:
        """The style that `style` names or spells out."""
        return get_style(self.style) if isinstance(self.style, str) else SlidingStyle(**self.style)


class ModelConfig(Strict):
    """What is trained."""

    backbone: str
    """A video network of torchvision (r3d_18, mc3_18, r2plus1d_18, s3d), tiny3d, or an image model of timm."""
    weights: str | None = None
    """Pretrained weights: DEFAULT, the path of a state dict, or null for random ones."""
    pooling: Annotated[str, _one_of("pooling", POOLINGS)] = "mean"
    """How tokens become one feature vector: mean, max."""
    classifier: Annotated[str, _one_of("classifier", CLASSIFIERS)] = "mlp"
    """What gives scores: linear, mlp."""
    aggregator: Annotated[str, _one_of("aggregator", AGGREGATORS)] = "mean"
    """How the scores of patches and single frames become one: mean, max."""
    chunk: Positive = 1024
    """Clips or frames that go through the backbone at a time."""


class TrainerConfig(Strict):
    """How it is trained."""

    epochs: Positive = 10
    """Passes over all windows."""
    batch_size: Positive = 8
    """Clips per batch and process."""
    lr: Annotated[float, Field(gt=0)] = 3e-4
    """Highest learning rate, of AdamW under a one-cycle schedule."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """AdamW's weight decay."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradients are scaled down to this norm; null: never."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision; no: float32."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides weights, order and dropout."""
    monitor: Literal["mAP", "f1_macro", "f1_micro", "loss"] = "mAP"
    """Validation figure that the best checkpoint is chosen by."""
    out: Path | None = None
    """Run folder; null: runs/<date>-<backbone>-<style>."""
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """Weights & Biases; auto: online where logged in, else offline."""
    project: str = "wildstream"
    """Project name in Weights & Biases."""
    progress: bool = True
    """Show progress bars."""


class TrainConfig(Strict):
    """All options of a training run."""

    data: DataConfig
    model: ModelConfig
    trainer: TrainerConfig = TrainerConfig()

    @model_validator(mode="after")
    def _check_splits(self) -> TrainConfig:
        if self.data.train_split == self.data.val_split:
            raise ValueError(
                f"data.train_split and data.val_split are both {self.data.train_split!r}: a model must not be "
                "validated on what it was trained on. Take another split."
            )
        return self


def compose_config(overrides: Sequence[str], *, name: str = "train") -> TrainConfig:
    """Compose configs/<name>.yaml with overrides such as "trainer.epochs=3", and check it.

    Raises:
        ConfigError: An option is unknown, missing, malformed, out of range or contradicts another.
    """
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(CONFIGS.resolve()), version_base="1.3"):
            composed = compose(config_name=name, overrides=[_forced(override) for override in overrides])
        if missing := sorted(OmegaConf.missing_keys(composed)):
            raise ConfigError(f"{missing[0]} is missing. Give it on the command line: {missing[0]}=...")
        options = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain_hydra(error, overrides)) from error
    return check_config(options)


def _forced(override: str) -> str:
    """An override of an option in Hydra's form "set, whether the YAML names it or not"; unknown ones fail later."""
    return f"++{override}" if "." in override.split("=", 1)[0] and override[0] not in "+~" else override


def check_config(options: object) -> TrainConfig:
    """Check options that come as nested dictionaries; ConfigError names every one that does not hold."""
    try:
        return TrainConfig.model_validate(options)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(problem) for problem in error.errors())) from error


def option_lines() -> list[str]:
    """Every option with its default and documentation, a line or two each, for --help."""
    lines = []
    for path, field in _options(TrainConfig):
        default = "(required)" if field.is_required() else f"= {_shown(field.default)}"
        lines += [f"  {path} {default}", f"      {' '.join((field.description or '').split())}"]
    return lines


def _options(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Paths and fields of all options below a group."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _options(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _shown(value: object) -> str:
    """A default as it would be written in YAML."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _explain(problem: Any) -> str:
    """One of pydantic's findings as option, value, rule, remedy."""
    path = ".".join(str(part) for part in problem["loc"] if isinstance(part, str) and "[" not in part)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"{path} is not an option.{_suggest(path)}"
    if problem["type"] == "missing":
        return f"{path} is missing. Give it on the command line: {path}=..."
    if not path:
        return str(message)
    return f"{path}={problem['input']!r}: {message.rstrip('.')}."


def _explain_hydra(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's complaint about an override, in terms of the options that exist."""
    known = {path for path, _ in _options(TrainConfig)}
    for override in overrides:
        path = override.lstrip("+~").split("=", 1)[0]
        if "=" not in override:
            return f"{override!r} is not an override. Write option=value, such as trainer.epochs=3."
        if path not in known and "." in path:
            return f"{path} is not an option.{_suggest(path)}"
    return f"the configuration cannot be composed: {' '.join(str(error).split())}"


def _suggest(path: str) -> str:
    """The options that look like a misspelt one."""
    known = [known for known, _ in _options(TrainConfig)]
    near = get_close_matches(path, known, n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(near)}?" if near else " `train.py --help` lists all options."

"""Strict configuration: YAML and command-line overrides → checked options.

Hydra composes `configs/train.yaml` with its groups and the overrides (`trainer.lr=1e-4`); pydantic checks the result.
An unknown, misspelt or contradictory option fails here, before anything is read or written, with its name and the
remedy. Each option is defined, documented, given its default and checked in this file alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from wildstream.errors import ConfigError
from wildstream.locations import CONFIGS
from wildstream.models.heads import AGGREGATORS, CLASSIFIERS, POOLINGS, choose
from wildstream.sizes import parse_bytes
from wildstream.storage import urls
from wildstream.storage.access import CACHE_BYTES, Storage
from wildstream.stream.plan import LANES, POOL_SEGMENTS, SEGMENT_FRAMES
from wildstream.stream.samplers import Balanced, Random, Sampler
from wildstream.stream.transforms import ResizeBy, parse_size
from wildstream.stream.windows import SlidingStyle, get_style


class Strict(BaseModel):
    """A group of options; unknown ones are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, hide_input_in_errors=True
    )


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


def _check_backbone(name: str) -> str:
    """Refuse a backbone that does not exist."""
    from wildstream.models.backbones import check_backbone  # timm and torchvision take seconds to import

    check_backbone(name)
    return name


def _expand(path: Path) -> Path:
    """A path with ~ as the home folder."""
    return path.expanduser()


def _expand_any(path: Path | None) -> Path | None:
    """The same for a path that may be missing; absolute."""
    return None if path is None else _expand(path).absolute()


def _check_location(location: object) -> str:
    """A URL as it is, without login; a path absolute, with ~ as the home folder."""
    if not isinstance(location, (str, Path)):
        raise ConfigError("must be a path or a URL")
    if not urls.is_remote(location):
        return str(urls.local_path(location).expanduser().absolute())
    if urls.has_login(str(location)):
        raise ConfigError(
            f"{urls.redact(str(location))} holds a login, which would be kept with the run. {_KEYS_GO_TO}"
        )
    return urls.normal(location)


def _check_storage_options(options: object) -> object:
    """Refuse what is secret: the configuration is kept with each run and shown by W&B."""
    if not isinstance(options, dict):
        raise ConfigError("must be options by name, such as {region: eu-west-1}")
    secret = [str(name) for name, value in options.items() if urls.is_secret(str(name)) or urls.has_login(str(value))]
    if secret:
        raise ConfigError(f"{', '.join(sorted(secret))} would be kept with the run. {_KEYS_GO_TO}")
    return options


def _check_bytes(size: object) -> object:
    """A size in bytes, also written as 100GiB."""
    return parse_bytes(size) if isinstance(size, str) else size


_KEYS_GO_TO = "Give keys, tokens and passwords by the environment (AWS_…, GOOGLE_…, AZURE_…) or a profile."


_PATHS = ("data.path", "data.cache_dir", "model.weights", "trainer.out")
"""Options whose value is taken as it is written."""

Positive = Annotated[int, Field(ge=1, strict=True)]
Number = Annotated[float, Field(strict=True)]


class DataConfig(Strict):
    """What is streamed."""

    path: Annotated[str, BeforeValidator(_check_location)]
    """Path or URL (s3://, gs://, az://, https://) of packed shards, with a folder per split; a path is kept absolute,
    so that a run can be used from anywhere."""
    precomputed: bool = False
    """Whether the path holds features that `wildstream extract` made with model.backbone, to train a head on."""
    storage_options: Annotated[dict[str, str | int | float | bool], BeforeValidator(_check_storage_options)] = {}
    """Options of object stores that are not secret, such as endpoint, region, skip_signature, read_timeout."""
    cache_dir: Annotated[Path | None, AfterValidator(_expand_any)] = None
    """Folder that keeps what was read from object storage; null keeps nothing."""
    cache_bytes: Annotated[Positive, BeforeValidator(_check_bytes)] = CACHE_BYTES
    """What that folder may hold: bytes, or a size such as 100GiB."""
    style: Annotated[str | dict[str, Any], BeforeValidator(_check_style)] = "sliding_window"
    """How windows slide: a name from configs/sliding, or its parameters."""
    size: Annotated[int | tuple[int, int] | None, BeforeValidator(_check_size)] = None
    """Frames or patches are resized to a square of so many pixels, or to [height, width]; null: the backbone's own."""
    resize: ResizeBy = "swscale"
    """Who resizes: swscale, before frames become RGB, is quicker; torchvision is antialiased bilinear, afterwards."""
    train_split: str = "train"
    """Split to train on."""
    val_split: str = "val"
    """Split to validate on after each epoch."""
    num_workers: Positive | None = None
    """Threads per process that decode; null: one per core."""
    sampler: Literal["shuffle", "balanced", "random"] = "shuffle"
    """Which windows a training epoch has: shuffle: each once; balanced: as many of every class and of none; random."""
    per_class: Positive | None = None
    """Windows of each class, for sampler=balanced; null: as many as make the epoch as long as with shuffle."""
    num_windows: Positive | None = None
    """Windows of an epoch, for sampler=random; null: as many as there are."""
    replacement: bool = False
    """Whether a window can come twice in an epoch, for sampler=random."""
    max_skipped: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Share of an epoch's windows that may fail to decode; they are masked, counted and named."""
    lanes: Positive = LANES
    """Pieces that a shuffled epoch is cut into; the number of processes must divide it."""
    pool_segments: Positive = POOL_SEGMENTS
    """Open segments per lane: the reach of the shuffle, and its memory."""
    segment_frames: Positive = SEGMENT_FRAMES
    """Kept frames that one segment spans, at most."""

    @model_validator(mode="after")
    def _check_sampler(self) -> DataConfig:
        for option, sampler in (("per_class", "balanced"), ("num_windows", "random"), ("replacement", "random")):
            if getattr(self, option) and self.sampler != sampler:
                raise ValueError(
                    f"data.{option}={getattr(self, option)} goes with data.sampler={sampler}, not {self.sampler}. "
                    "Leave one of them out."
                )
        return self

    def make_storage(self) -> Storage:
        """What reads the shards."""
        return Storage(options=self.storage_options, cache_dir=self.cache_dir, cache_bytes=self.cache_bytes)

    def make_sampler(self) -> Sampler | None:
        """The sampler of training epochs; None where each window comes once."""
        if self.sampler == "balanced":
            return Balanced(per_class=self.per_class)
        if self.sampler == "random":
            return Random(num_windows=self.num_windows, replacement=self.replacement)
        return None

    @property
    def sliding_style(self) -> SlidingStyle:
        """The style that `style` names or spells out."""
        return get_style(self.style) if isinstance(self.style, str) else SlidingStyle(**self.style)


class ModelConfig(Strict):
    """What is trained."""

    backbone: Annotated[str, AfterValidator(_check_backbone)]
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
    lr: Annotated[Number, Field(gt=0)] = 3e-4
    """Highest learning rate, of AdamW under a one-cycle schedule."""
    weight_decay: Annotated[Number, Field(ge=0)] = 0.05
    """AdamW's weight decay."""
    clip_norm: Annotated[Number, Field(gt=0)] | None = 1.0
    """Gradients are scaled down to this norm; null: never."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision; no: float32."""
    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)] = 0
    """Decides weights, order and dropout."""
    monitor: Literal["mAP", "f1_macro", "f1_micro", "loss"] = "mAP"
    """Validation figure that the best checkpoint is chosen by."""
    out: Annotated[Path, AfterValidator(_expand)] | None = None
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
    checked = [_check_override(override) for override in overrides]
    try:
        composed = _compose(name, checked)
        if missing := sorted(OmegaConf.missing_keys(composed)):
            raise ConfigError(f"{missing[0]} is missing. Give it on the command line: {missing[0]}=...")
        options = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"the configuration cannot be composed: {' '.join(str(error).split())}") from error
    return check_config(options)


def _compose(name: str, overrides: list[str]) -> DictConfig:
    """configs/<name>.yaml with its groups and overrides, as Hydra puts them together."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(CONFIGS.resolve()), version_base="1.3"):
        return compose(config_name=name, overrides=overrides)


def _check_override(override: str) -> str:
    """An override in Hydra's form "set, whether the YAML names it or not"; ConfigError where it is none."""
    path, equals, value = override.lstrip("+").partition("=")
    if not equals or not path or path[0] in "-~":
        raise ConfigError(f"{override!r} is not an override. Write option=value, such as trainer.epochs=3.")
    if path in group_names():
        if value not in group_names()[path]:
            raise ConfigError(
                f"{override}: there is no configs/{path}/{value}.yaml. Take one of {', '.join(group_names()[path])}."
            )
        return f"{path}={value}"
    if path not in dict(_options(TrainConfig)) and not path.startswith(("data.style.", "data.storage_options.")):
        raise ConfigError(f"{path} is not an option.{_suggest(path)}")
    if path in _PATHS and value != "null" and value[:1] not in ("'", '"'):
        value = "'" + value.replace("'", "\\'") + "'"  # Hydra's grammar knows no ~, = or comma in a bare value
    forced = f"++{path}={value}"
    try:
        OverridesParser.create().parse_override(forced)
    except HydraException as error:
        raise ConfigError(f"{override} cannot be read. Quote the value: \"{path}='...'\".") from error
    return forced


def group_names() -> dict[str, list[str]]:
    """The groups of configs/ that `train.py` can swap, and the files in each."""
    return {name: sorted(file.stem for file in (CONFIGS / name).glob("*.yaml")) for name in TrainConfig.model_fields}


def check_config(options: object) -> TrainConfig:
    """Check options that come as nested dictionaries; ConfigError names every one that does not hold."""
    try:
        return TrainConfig.model_validate(options)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(problem) for problem in error.errors())) from error


def option_lines() -> list[str]:
    """Every option with its default and documentation, a line or two each, for --help."""
    composed = _compose("train", [])
    lines = []
    for path, field in _options(TrainConfig):
        value = OmegaConf.select(composed, path, default=None if field.is_required() else field.default)
        default = "(required)" if value is None and field.is_required() else f"= {_shown(value)}"
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


def _without_secrets(value: object) -> object:
    """A value as it may be shown in a message."""
    if isinstance(value, dict):
        return {name: "***" if urls.is_secret(str(name)) else _without_secrets(inner) for name, inner in value.items()}
    return urls.redact(value) if isinstance(value, str) else value


def _explain(problem: ErrorDetails) -> str:
    """One of pydantic's findings as option, value, rule, remedy."""
    path = ".".join(str(part) for part in problem["loc"] if isinstance(part, str) and "[" not in part)
    message = problem["msg"].removeprefix("Value error, ")
    message += "" if message.endswith((".", "?")) else "."
    if problem["type"] == "extra_forbidden":
        return f"{path} is not an option.{_suggest(path)}"
    if problem["type"] == "missing":
        return f"{path} is missing. Give it on the command line: {path}=..."
    if not path:
        return message
    group, _, name = path.rpartition(".")
    if message.startswith(f"{name}="):
        return f"{group}.{message}"
    if any(urls.is_secret(str(part)) for part in problem["loc"]):
        return f"{path}: {message}"
    if message.startswith("Input should be "):
        return f"{path}={_without_secrets(problem['input'])!r} must be {message.removeprefix('Input should be ')}"
    return f"{path}={_without_secrets(problem['input'])!r}: {message}"


def _suggest(path: str) -> str:
    """The options that look like a misspelt one, written in full or without its group."""
    known = [known for known, _ in _options(TrainConfig)]
    same_name = [option for option in known if option.endswith(f".{path.rsplit('.')[-1]}")]
    names = {option.rsplit(".")[-1]: option for option in known}
    close = get_close_matches(path, known, n=3, cutoff=0.75) or [
        names[name] for name in get_close_matches(path.rsplit(".")[-1], names, n=3, cutoff=0.7)
    ]
    near = same_name or close
    return f" Did you mean {' or '.join(near)}?" if near else " `train.py --help` lists all options."

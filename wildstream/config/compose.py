"""YAML and command-line overrides → checked options.

Hydra composes `configs/train.yaml` with its groups and the overrides (`trainer.lr=1e-4`); pydantic checks the result.
An unknown, misspelt or contradictory option fails here, before anything is read or written, with its name and the
remedy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from wildstream.config.train import TrainConfig
from wildstream.errors import ConfigError
from wildstream.locations import CONFIGS
from wildstream.storage import urls

EXAMPLES = CONFIGS / "examples"
_OWN = "file_of_options"
"""Name that Hydra knows the user's own file by."""
_PATHS = ("data.path", "data.cache_dir", "model.weights", "model.checkpoint", "model.hierarchy.file", "trainer.out")
"""Options whose value is taken as it is written."""
_OPEN = ("data.style.", "data.class_map.rename.", "data.storage_options.", "model.hierarchy.loss_weights.")
"""Options below which names are not known beforehand."""


def compose_config(overrides: Sequence[str], *, file: str | Path | None = None) -> TrainConfig:
    """Compose configs/train.yaml with a file of options and overrides such as "trainer.epochs=3", and check it.

    Args:
        overrides: Groups and options; they win over the file.
        file: YAML with options by group, and `group: name` where a file of configs/ is meant; or the name of one of
            configs/examples.

    Raises:
        ConfigError: An option is unknown, missing, malformed, out of range or contradicts another.
    """
    checked = [_check_override(override) for override in overrides]
    own = {} if file is None else _read_options(file)
    for group in (override.partition("=")[0] for override in checked):
        if isinstance(own.get(group), dict):  # which of them is to win?
            first = next(iter(own[group]), "...")
            raise ConfigError(
                f"{group} is swapped on the command line, and {file} gives options of it. Override those, such as "
                f"{group}.{first}=..., or leave them out of the file."
            )
    try:
        composed = _compose(checked, own)
        if missing := sorted(OmegaConf.missing_keys(composed)):
            raise ConfigError(f"{missing[0]} is missing. Give it on the command line: {missing[0]}=...")
        options = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"the configuration cannot be composed: {' '.join(str(error).split())}") from error
    return check_config(options)


def _compose(overrides: list[str], own: dict[str, Any]) -> DictConfig:
    """configs/train.yaml with its groups, a file's groups and options, and overrides, as Hydra puts them together."""
    swapped = [{f"override {group}": name} for group, name in own.items() if isinstance(name, str)]
    options = {group: values for group, values in own.items() if isinstance(values, dict)}
    ConfigStore.instance().store(name=_OWN, node={"defaults": ["train", "_self_", *swapped], **options})
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(CONFIGS.resolve()), version_base="1.3"):
        return compose(config_name=_OWN, overrides=overrides)


def _read_options(file: str | Path) -> dict[str, Any]:
    """The groups of a file, each a name or options; ConfigError with the file, and the line where one is at fault."""
    path = EXAMPLES / f"{file}.yaml" if str(file) in example_names() else Path(file)
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{file}: there is no such file of options. Give the path of a YAML file, or one of "
            f"{', '.join(example_names())}."
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(options, dict):
        raise ConfigError(f"{path} must hold options by group, such as trainer: {{epochs: 3}}.")
    for group, values in options.items():
        if group not in group_names():
            raise ConfigError(f"{path}: {group!r} is not a group of options. Take {', '.join(group_names())}.")
        if isinstance(values, str):
            _check_override(f"{group}={values}")
        elif not isinstance(values, dict):
            raise ConfigError(
                f"{path}: {group} must be options, or the name of a file in configs/{group}: "
                f"{', '.join(group_names()[group])}."
            )
    return options


def example_names() -> list[str]:
    """Names of the complete examples in configs/examples."""
    return sorted(path.stem for path in EXAMPLES.glob("*.yaml"))


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
    if path not in dict(_options(TrainConfig)) and not path.startswith(_OPEN):
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
    composed = _compose([], {})
    lines = []
    for path, field in _options(TrainConfig):
        value = OmegaConf.select(composed, path, default=None if field.is_required() else field.default)
        group = path.rpartition(".")[0]
        required = "(required)" if group in TrainConfig.model_fields else f"(required with {group})"
        default = required if value is None and field.is_required() else f"= {_shown(value)}"
        lines += [
            f"  {path} {default}{_choices(field.annotation)}",
            f"      {' '.join((field.description or '').split())}",
        ]
    return lines


def _options(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Paths and fields of all options below a group."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _options(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field
            for part in get_args(kind):  # a group that may be null
                if isinstance(part, type) and issubclass(part, BaseModel):
                    yield from _options(part, f"{prefix}{name}.")


def _choices(kind: object) -> str:
    """The values that an option may have, where they are few."""
    kinds = [kind, *get_args(kind)]
    names = [_shown(name) for kind in kinds if get_origin(kind) is Literal for name in get_args(kind)]
    return f"   ({', '.join(names)})" if names else ""


def _shown(value: object) -> str:
    """A default as it would be written in YAML."""
    if isinstance(value, tuple):
        return str(list(value))
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
    if not path or message.startswith(f"{path}."):
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
    near = (
        same_name or _closest(path, known, 0.75) or [names[name] for name in _closest(path.rsplit(".")[-1], names, 0.7)]
    )
    return f" Did you mean {' or '.join(near)}?" if near else " `train.py --help` lists all options."


def _closest(word: str, known: Iterable[str], cutoff: float) -> list[str]:
    """What a word may be a misspelling of: the closest one, and others about as close."""
    ratios = {one: SequenceMatcher(None, word, one).ratio() for one in known}
    best = max(ratios.values())
    return [one for one, ratio in ratios.items() if ratio >= max(cutoff, best - 0.03)]

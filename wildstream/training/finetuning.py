"""A checkpoint's weights → the start of another training, on the same classes or on more.

Everything but the classifier must fit. A classifier of the same classes is taken as it is; one that was given more of
them (`ExtensibleLinear`) keeps the rows of those that the checkpoint knows, by name, and starts the others at random.
With a hierarchy that goes level by level: the first level is matched with the first, the others by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from wildstream.errors import ConfigError
from wildstream.models.heads import ExtensibleLinear
from wildstream.models.hierarchy import OTHER, Hierarchy
from wildstream.training.checkpoints import MANIFEST_NAME, Manifest, read_checkpoint

if TYPE_CHECKING:
    from wildstream.config.train import TrainConfig

CLASSIFIER = "classifier."
"""What the names of the classifier's tensors begin with."""
NAMED = 10
"""Classes that a message names, at most."""


@dataclass(frozen=True, slots=True)
class _Head:
    """A classifier of one level."""

    level: str
    """Name of the level; empty without a hierarchy."""
    prefix: str
    """What the names of its tensors begin with."""
    classes: tuple[str, ...]
    """In order of its rows."""


def start_from(folder: Path, model: nn.Module, config: TrainConfig, manifest: Manifest) -> str:
    """Give a model the weights of a checkpoint.

    Args:
        folder: The checkpoint, RUN/best or RUN/last.
        model: A new one, as `build_model` makes it.
        config: The options that it was made by.
        manifest: What is known of the new training: categories and hierarchy.

    Returns:
        What became of the classes, a line for each level, for people.

    Raises:
        ConfigError: The folder is no checkpoint, or its weights do not fit.
        ShardError: The checkpoint is damaged.
    """
    where = f"model.checkpoint={str(folder)!r}"
    if not (folder / MANIFEST_NAME).exists():
        what = "is a run. Give one of its checkpoints" if (folder / "last").is_dir() else "is no checkpoint. Give one"
        raise ConfigError(f"{where} {what}, such as RUN/best.")
    state, known = read_checkpoint(folder)
    _check_options(where, known.config, config)
    _load_body(where, model, state)
    old, new = (_heads(one.categories, one.hierarchy) for one in (known, manifest))
    lines = []
    for number, head in enumerate(new):
        other = old[0] if number == 0 else next((one for one in old[1:] if one.level == head.level), None)
        of_level = f"{head.level}: " if head.level else ""
        if other is None:
            lines.append(f"{of_level}all {len(head.classes)} classes are new")
            continue
        rows = {name.removeprefix(other.prefix): it for name, it in state.items() if name.startswith(other.prefix)}
        module = model.get_submodule(head.prefix.rstrip("."))
        _load_head(f"{where}: {of_level}", module, rows, old=other.classes, new=head.classes)
        added = [name for name in head.classes if name not in other.classes]
        kept = len(head.classes) - len(added)
        lines.append(f"{of_level}{kept} classes are known" + (f", new: {_listed(added)}" if added else ""))
    return "\n".join(f"from {folder}: {line}" for line in lines)


def _heads(categories: Sequence[str], hierarchy: Hierarchy | None) -> list[_Head]:
    """The classifiers of a model."""
    if hierarchy is None:
        return [_Head("", CLASSIFIER, tuple(categories))]
    return [
        _Head(level.name, f"{CLASSIFIER}levels.{number}.", level.classes)
        for number, level in enumerate(hierarchy.levels)
    ]


def _check_options(where: str, old: TrainConfig, new: TrainConfig) -> None:
    """Refuse weights of another kind of model, naming the option."""
    pairs = {
        "data.precomputed": (old.data.precomputed, new.data.precomputed),
        "model.backbone": (old.model.backbone, new.model.backbone),
        "model.lora": (old.model.lora, new.model.lora),
    }
    if differ := [f"{name}={first} (here {second})" for name, (first, second) in pairs.items() if first != second]:
        raise ConfigError(f"{where} was trained with {', '.join(differ)}. Make them alike.")


def _load_body(where: str, model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Take over everything but the classifier."""
    body = {name: tensor for name, tensor in state.items() if not name.startswith(CLASSIFIER)}
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(CLASSIFIER)}
    shapes = [{name: tuple(tensor.shape) for name, tensor in one.items()} for one in (body, own)]
    if differ := sorted(name for name, _ in shapes[0].items() ^ shapes[1].items()):
        raise ConfigError(
            f"{where} does not fit in {_listed(list(dict.fromkeys(differ)))}. Take the same model.pooling and "
            "model.aggregator."
        )
    model.load_state_dict(body, strict=False)


def _load_head(
    where: str, module: nn.Module, state: Mapping[str, Tensor], *, old: tuple[str, ...], new: tuple[str, ...]
) -> None:
    """Take over the classifier of one level."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if old == new and shapes == {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}:
        module.load_state_dict(state)
        return
    if not isinstance(module, ExtensibleLinear) or set(state) != {"weight", "bias"}:
        if old == new:
            raise ConfigError(
                f"{where}its classifier is of another kind. Take the model.classifier that it was trained with."
            )
        raise ConfigError(
            f"{where}{_difference(old, new)}. Rows are kept with model.classifier=extensible alone, of checkpoints "
            "with linear or extensible; otherwise take data of the same classes, in the same order."
        )
    lost = [name for name in old if name not in new and name != OTHER]  # other is no class of the data
    if lost:
        raise ConfigError(
            f"{where}{_listed(lost)} would be lost, which the checkpoint knows. Classes are only added: name them in "
            "categories.json too, and mind model.hierarchy.min_samples."
        )
    rows = [number for number, name in enumerate(old) if name in new]
    module.load_rows(
        {name: tensor[rows] for name, tensor in state.items()}, old=[old[number] for number in rows], new=new
    )


def _difference(old: Sequence[str], new: Sequence[str]) -> str:
    """How classes differ, for a message."""
    added, lost = ([name for name in one if name not in other] for one, other in ((new, old), (old, new)))
    parts = [f"the checkpoint does not know {_listed(added)}"] * bool(added) + [f"{_listed(lost)} are lost"] * bool(
        lost
    )
    return " and ".join(parts) or "the classes come in another order"


def _listed(names: Sequence[str]) -> str:
    """Names for a message, the first few of many."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more

"""Classes that belong to classes: a head per level over the same features, and the labels of every level.

    level       species                 genus            family
                parus major     ┐
                parus ater      ┴────── parus     ┐
                poecile montanus ────── poecile   ┴───── paridae
                corvus corax     ────── corvus    ────── corvidae

The first level is that of the labels' categories. A model gives the scores of all levels side by side,
(B, species + genera + families). The loss is the sum over levels of weight × loss of the level's scores and labels, by
`split(scores)` and `level_labels(labels)`. The weights sum to the number of levels: where all are 1, each level learns
as it would alone, and the sum of n levels' losses is about n times as large as one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from wildstream.errors import ConfigError
from wildstream.models.heads import CLASSIFIERS, choose

if TYPE_CHECKING:
    import numpy.typing as npt


OTHER = "other"
"""The class of a level that holds those with too few samples."""
COUNTED_AT_ONCE = 1 << 16
"""Windows whose labels are counted at a time: bounds the memory."""

# B windows, K categories, K_level classes of a level


@dataclass(frozen=True, slots=True)
class Level:
    """One level: its classes, and which of them each category belongs to."""

    name: str
    """What it is called, such as genus."""
    classes: tuple[str, ...]
    """Names of its classes, in order of their scores."""
    of_category: tuple[int, ...]
    """For each category the number of its class here."""
    weight: float = 1.0
    """Of its loss; those of all levels sum to their number."""

    def __post_init__(self) -> None:
        """Refuse numbers of classes that there are not (ConfigError): a manifest may be damaged."""
        if sorted(set(self.of_category)) != list(range(len(self.classes))):
            raise ConfigError(
                f"of_category={list(self.of_category)} must name each of the {len(self.classes)} classes of "
                f"{self.name!r} by its number, from 0."
            )


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The levels of a set of categories."""

    categories: tuple[str, ...]
    """The labels' classes, in order of class number."""
    levels: tuple[Level, ...]
    """From the categories' own to the widest."""

    def __post_init__(self) -> None:
        """Refuse levels of other categories (ConfigError)."""
        for level in self.levels:
            if len(level.of_category) != len(self.categories):
                raise ConfigError(
                    f"of_category of {level.name!r} has {len(level.of_category)} numbers, there are "
                    f"{len(self.categories)} categories."
                )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Classes of each level."""
        return tuple(len(level.classes) for level in self.levels)

    def split(self, scores: Tensor) -> dict[str, Tensor]:
        """Scores (..., sum of sizes), or anything alike, by level: (..., K_level)."""
        if scores.shape[-1] != sum(self.sizes):
            raise ConfigError(
                f"scores must be (..., {sum(self.sizes)}) for levels of {self.sizes}, got {scores.shape}."
            )
        return dict(zip((level.name for level in self.levels), scores.split(self.sizes, dim=-1), strict=True))

    def level_labels(self, labels: Tensor) -> dict[str, Tensor]:
        """Labels of the categories, (B, K) bool or 0/1, as labels of each level, (B, K_level), of the same type.

        A class of a level is there where one of its categories is.
        """
        return {level.name: _gather_labels(labels, level) for level in self.levels}

    def join_labels(self, labels: Tensor) -> Tensor:
        """The same side by side, (B, sum of sizes), as scores are; `split` takes them apart.

        Labels are mixed, as mixup does, after this: of the categories' shares nobody can tell those of a level, because
        categories of one class may be in both clips.
        """
        return torch.cat(list(self.level_labels(labels).values()), dim=1)

    def count_samples(self, labels: npt.NDArray[np.generic]) -> dict[str, npt.NDArray[np.int64]]:
        """Windows of each class of each level, (K_level,), by labels (N, K) of 0/1."""
        if labels.ndim != 2 or labels.shape[1] != len(self.categories):
            raise ConfigError(f"labels must be (N, {len(self.categories)}), got {labels.shape}.")
        counts = {level.name: np.zeros(len(level.classes), np.int64) for level in self.levels}
        for first in range(0, len(labels), COUNTED_AT_ONCE):
            part = torch.from_numpy(np.asarray(labels[first : first + COUNTED_AT_ONCE], dtype=bool))
            for name, truth in self.level_labels(part).items():
                counts[name] += truth.sum(dim=0).numpy()
        return counts

    def weigh(self, weights: Mapping[str, float] | None) -> Hierarchy:
        """The same with losses weighted by `level_weights`; raises as that does."""
        normal = level_weights(self, weights)
        return replace(self, levels=tuple(replace(level, weight=normal[level.name]) for level in self.levels))

    def merge_rare(self, labels: npt.NDArray[np.generic], *, min_samples: int) -> Hierarchy:
        """The same with the classes of each level that have fewer than `min_samples` samples as one class, "other".

        Args:
            labels: (N, K) of 0/1, of the windows to train on, such as `WindowDataset.labels()`.
            min_samples: Samples that a class must have to stay; with 0 or 1, those that never happen stay or go.
        """
        counts = self.count_samples(labels)
        return replace(self, levels=tuple(_merge(level, counts[level.name] < min_samples) for level in self.levels))


def make_hierarchy(categories: Sequence[str], levels: Sequence[str], parents: Mapping[str, Sequence[str]]) -> Hierarchy:
    """Make a hierarchy.

    Args:
        categories: The labels' classes, in order of class number.
        levels: Names of the levels, from the categories' own to the widest: ("species", "genus", "family").
        parents: For each category its classes on the levels above its own: {"parus ater": ("parus", "paridae")}.

    Raises:
        ConfigError: Names are missing, unknown or there twice, or a class lies in two classes of the level above.
    """
    if len(set(levels)) != len(levels) or not levels:
        raise ConfigError(f"levels={list(levels)} must be different names, one at least.")
    if len(set(categories)) != len(categories):
        raise ConfigError(f"categories={list(categories)} must be different names.")
    if wrong := sorted(set(categories) ^ set(parents)):
        raise ConfigError(
            f"the hierarchy and the categories differ in {', '.join(wrong)}. Give each category's parents."
        )
    rows = [(name, *parents[name]) for name in categories]
    for row in rows:
        if len(row) != len(levels):
            raise ConfigError(
                f"{row[0]!r} has the parents {list(row[1:])}, but the levels above its own are {list(levels[1:])}. "
                "Give one for each."
            )
    columns = [tuple(column) for column in zip(*rows, strict=True)]
    for (low, high), names in zip(pairwise(columns), levels[1:], strict=True):
        _check_tree(low, high, names)
    return Hierarchy(tuple(categories), tuple(map(_make_level, levels, columns)))


def level_weights(hierarchy: Hierarchy, weights: Mapping[str, float] | None = None) -> dict[str, float]:
    """Weights of the levels' losses, in proportion to `weights` and summing to the number of levels; by default 1 each.

    Raises:
        ConfigError: A level is missing or unknown, or a weight is negative or not finite, or all are 0.
    """
    names = [level.name for level in hierarchy.levels]
    given = dict.fromkeys(names, 1.0) if weights is None else dict(weights)
    if set(given) != set(names):
        raise ConfigError(f"loss_weights={given} must name the levels {', '.join(names)}.")
    total = sum(given.values())
    if any(not weight >= 0 for weight in given.values()) or not 0 < total < float("inf"):
        raise ConfigError(f"loss_weights={given} must be finite and at least 0, one of them above it.")
    return {name: given[name] * len(names) / total for name in names}


def make_classifier(kind: str, dim: int, output_dim: int, hierarchy: Hierarchy | None = None) -> nn.Module:
    """What gives scores of features of length `dim`.

    Args:
        kind: One of CLASSIFIERS.
        dim: Length of a feature vector.
        output_dim: Classes; the number of the hierarchy's categories, where there is one.
        hierarchy: Gives scores of all its levels, side by side.
    """
    if hierarchy is None:
        return choose("classifier", kind, CLASSIFIERS)(dim, output_dim)
    if output_dim != len(hierarchy.categories):
        raise ConfigError(
            f"output_dim={output_dim} must be {len(hierarchy.categories)}, the number of the hierarchy's categories."
        )
    return HierarchicalClassifier(hierarchy, kind, dim)


class HierarchicalClassifier(nn.Module):
    """A classifier per level over the same features."""

    def __init__(self, hierarchy: Hierarchy, kind: str, dim: int) -> None:
        """Make one of CLASSIFIERS for each level, for features of length `dim`."""
        super().__init__()
        self.hierarchy = hierarchy
        make = choose("classifier", kind, CLASSIFIERS)
        self.levels = nn.ModuleList(make(dim, size) for size in hierarchy.sizes)

    def forward(self, features: Tensor) -> Tensor:
        """(..., dim) to (..., sum of sizes): the scores of all levels, in order; `hierarchy.split` takes them apart."""
        return torch.cat([level(features) for level in self.levels], dim=-1)


def _make_level(name: str, of_category: tuple[str, ...]) -> Level:
    """A level of the class names of each category; classes come in order of the first category that has them."""
    classes = tuple(dict.fromkeys(of_category))
    return Level(name, classes, tuple(classes.index(own) for own in of_category))


def _check_tree(low: tuple[str, ...], high: tuple[str, ...], level: str) -> None:
    """Refuse a class that lies in two classes of the level above."""
    parent: dict[str, str] = {}
    for child, own in zip(low, high, strict=True):
        if parent.setdefault(child, own) != own:
            raise ConfigError(f"{child!r} lies in {level} {parent[child]!r} and {own!r}. Give each class one parent.")


def _gather_labels(labels: Tensor, level: Level) -> Tensor:
    """(B, K) of a type to (B, K_level) of the same."""
    number = torch.tensor(level.of_category, dtype=torch.int64, device=labels.device)
    empty = torch.zeros(len(labels), len(level.classes), device=labels.device)
    return empty.scatter_reduce(1, number.expand(len(labels), -1), labels.float(), "amax").to(labels.dtype)


def _merge(level: Level, is_rare: npt.NDArray[np.bool_]) -> Level:
    """A level whose rare classes, (K_level,) bool, are one, the last."""
    rare = {name for name, few in zip(level.classes, is_rare.tolist(), strict=True) if few}
    if not rare:
        return level
    kept = tuple(name for name in level.classes if name not in rare and name != OTHER)
    classes = (*kept, OTHER)
    names = [level.classes[number] for number in level.of_category]
    of_category = tuple(classes.index(name if name in kept else OTHER) for name in names)
    return replace(level, classes=classes, of_category=of_category)

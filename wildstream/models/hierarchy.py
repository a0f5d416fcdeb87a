"""Classes that belong to classes: a head per level over the same features, and the labels of every level.

    level       species                 genus            family
                parus major     ┐
                parus ater      ┴────── parus     ┐
                poecile montanus ────── poecile   ┴───── paridae
                corvus corax     ────── corvus    ────── corvidae

The first level is that of the labels' categories. A model gives the scores of all levels side by side,
(B, species + genera + families). The loss is the sum over levels of weight × loss of the level's scores and labels, by
`split(scores)`, `level_labels(labels)` and `level_weights`, whose sum is the number of levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The levels of a set of categories."""

    categories: tuple[str, ...]
    """The labels' classes, in order of class number."""
    levels: tuple[Level, ...]
    """From the categories' own to the widest."""

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
        """Labels of the categories, (B, K) bool, as labels of each level, (B, K_level) bool.

        A class of a level is there where one of its categories is.
        """
        return {level.name: _gather_labels(labels, level) for level in self.levels}

    def merge_rare(self, labels: npt.NDArray[np.generic], *, min_samples: int) -> Hierarchy:
        """The same with the classes of each level that have fewer than `min_samples` samples as one class, "other".

        Args:
            labels: (N, K) of 0/1, of the windows to train on, such as `WindowDataset.labels()`.
            min_samples: Samples that a class must have to stay; with 0 or 1, those that never happen stay or go.
        """
        truth = torch.from_numpy(np.asarray(labels, dtype=bool))
        if truth.ndim != 2 or truth.shape[1] != len(self.categories):
            raise ConfigError(f"labels must be (N, {len(self.categories)}), got {tuple(truth.shape)}.")
        return Hierarchy(
            self.categories,
            tuple(_merge(level, _gather_labels(truth, level).sum(dim=0) < min_samples) for level in self.levels),
        )


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
    """(B, K) bool to (B, K_level) bool."""
    members = torch.zeros(len(level.of_category), len(level.classes), device=labels.device)
    members[torch.arange(len(members)), torch.tensor(level.of_category, dtype=torch.int64)] = 1
    return labels.float() @ members > 0.5


def _merge(level: Level, is_rare: Tensor) -> Level:
    """A level whose rare classes, (K_level,) bool, are one, the last."""
    rare = {name for name, few in zip(level.classes, is_rare.tolist(), strict=True) if few}
    if not rare:
        return level
    kept = tuple(name for name in level.classes if name not in rare and name != OTHER)
    classes = (*kept, OTHER)
    names = [level.classes[number] for number in level.of_category]
    return Level(level.name, classes, tuple(classes.index(n if n in kept else OTHER) for n in names))

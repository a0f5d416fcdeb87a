"""Figures of groups of classes, each the mean over the group's classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from wildstream.errors import ConfigError
from wildstream.training.metrics import class_figures, decide

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wildstream.models.hierarchy import Hierarchy
    from wildstream.shards.formats import Task
    from wildstream.training.predict import Predictions

Groups = dict[str, list[str]]
"""Class names of each group."""


def read_groups(text: str) -> Groups:
    """Groups as written on the command line: a YAML file, or '{motion: [run, jump], still: [sleep]}' itself.

    Raises:
        ConfigError: It cannot be read, or holds no lists of names.
    """
    written = text
    if not text.lstrip().startswith("{"):
        try:
            written = Path(text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"groups={text!r} cannot be read: {error}. Give a YAML file, or '{{motion: [run, jump]}}'."
            ) from error
    try:
        found = yaml.safe_load(written)
    except yaml.YAMLError as error:
        raise ConfigError(f"groups={text!r} is no YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(found, dict) or not all(isinstance(names, list) for names in found.values()):
        raise ConfigError(f"groups={text!r} must be lists of class names by name, as '{{motion: [run, jump]}}'.")
    return {str(group): [str(name) for name in names] for group, names in found.items()}


def choose_groups(
    given: Mapping[str, Sequence[str]] | None, names: Sequence[str], hierarchy: Hierarchy | None
) -> Groups:
    """The groups that figures are given of.

    Args:
        given: Class names of each group; None: the classes of the hierarchy's upper levels, as genus/parus, each with
            those classes of the first level all of whose categories belong to it.
        names: The classes; of a hierarchy the first level's.
        hierarchy: The levels, where there are any.

    Raises:
        ConfigError: A group has no class, one twice, or one that there is not.
    """
    if given is None:
        return _of_levels(hierarchy) if hierarchy is not None else {}
    for group, members in given.items():
        if isinstance(members, str) or not members:
            raise ConfigError(f"groups: {group!r} is {members!r}, but must be a list of classes, one at least.")
        if unknown := [name for name in members if name not in names]:
            raise ConfigError(
                f"groups: {group!r} names {', '.join(map(repr, unknown))}, which the model does not know. Take some of "
                f"{', '.join(names)}."
            )
        if len(set(members)) != len(members):
            raise ConfigError(f"groups: {group!r} names a class twice, of {', '.join(members)}. Name each once.")
    return {group: list(members) for group, members in given.items()}


def group_figures(
    predictions: Predictions, names: Sequence[str], groups: Groups, *, task: Task
) -> dict[str, dict[str, Any]]:
    """For each group its classes, the windows where one of them happens, and means over them.

    The means are mAP, mAP_chance, precision, recall and f1_macro, over those classes of which the figure is defined;
    mAP_chance over those that occur. For single_label also top1, the share of the group's windows that are rightly
    predicted, among all classes. NaN where nothing is defined.
    """
    figures = class_figures(predictions.probabilities, predictions.targets, task=task)
    rates = predictions.targets.mean(axis=0)
    hits = (decide(predictions.probabilities, task) & predictions.targets).sum(axis=1) > 0
    described = {}
    for group, members in groups.items():
        numbers = [names.index(name) for name in members]
        here = predictions.targets[:, numbers].any(axis=1)
        occurring = rates[numbers][rates[numbers] > 0]
        described[group] = {
            "classes": members,
            "windows": int(here.sum()),
            "mAP": _mean(figures["average_precision"][numbers]),
            "mAP_chance": _mean(occurring),
            "precision": _mean(figures["precision"][numbers]),
            "recall": _mean(figures["recall"][numbers]),
            "f1_macro": _mean(figures["f1"][numbers]),
            **({"top1": _mean(hits[here].astype(np.float64))} if task == "single_label" else {}),
        }
    return described


def _mean(values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """The mean of those that are defined."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _of_levels(hierarchy: Hierarchy) -> Groups:
    """The classes of the first level that belong to each class of the others."""
    first, *upper = hierarchy.levels
    groups = {}
    for level in upper:
        parents: dict[int, set[int]] = {}
        for own, parent in zip(first.of_category, level.of_category, strict=True):
            parents.setdefault(own, set()).add(parent)
        for number, name in enumerate(level.classes):
            members = [one for own, one in enumerate(first.classes) if parents[own] == {number}]
            if members:
                groups[f"{level.name}/{name}"] = members
    return groups

"""Which windows an epoch has: each once, or what a sampler draws, from their labels alone.

A sampler gives running numbers of windows, in order and possibly repeated; the plan decides in which order they come.
Only segments that have drawn windows are decoded.

A sampler with `only_labelled` draws among the windows that are labelled; it is told of no others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

import numpy as np

from wildstream.errors import ConfigError

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.stream.windows import WindowLabels

    Ints = npt.NDArray[np.int64]
    Labels = Callable[[], npt.NDArray[np.bool_]]


@runtime_checkable
class Sampler(Protocol):
    """Draws the windows of an epoch."""

    def size(self, num_windows: int, labels: Labels) -> int:
        """How many windows an epoch has: the same for every epoch."""

    def draw(self, num_windows: int, labels: Labels, random: np.random.Generator) -> Ints:
        """Running numbers of the windows of an epoch, not decreasing.

        Args:
            num_windows: Windows that there are.
            labels: Gives their labels, (num_windows, num_classes), for samplers that need them.
            random: Differs from epoch to epoch.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Balanced:
    """As many windows of each class, and as many without any (WildFins' balanced sampling).

    "No label" is a class of its own; windows of which nobody said anything are in none. From every class that has
    windows, `per_class` are drawn: without repetition where there are enough, with it otherwise. A window of several
    classes can be drawn for each of them.
    """

    per_class: int | None = None
    """Windows per class; by default as many as make the epoch about as long as one in which every window comes once."""
    only_labelled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse an empty draw (ConfigError)."""
        if self.per_class is not None and self.per_class < 1:
            raise ConfigError(f"per_class={self.per_class} must be at least 1.")

    def size(self, num_windows: int, labels: Labels) -> int:
        """See Sampler."""
        members = _members(labels())
        return len(members) * self._per_class(num_windows, len(members))

    def draw(self, num_windows: int, labels: Labels, random: np.random.Generator) -> Ints:
        """See Sampler."""
        members = _members(labels())
        count = self._per_class(num_windows, len(members))
        drawn = [random.choice(windows, count, replace=len(windows) < count) for windows in members]
        return np.sort(np.concatenate([np.zeros(0, np.int64), *drawn]))

    def _per_class(self, num_windows: int, num_classes: int) -> int:
        """Windows to draw from each class."""
        return self.per_class or -(-num_windows // max(1, num_classes))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weighted:
    """Windows at random, in proportion to weights, with repetition."""

    weights: npt.NDArray[np.float64] = field(repr=False)
    """(num_windows,) not negative, not all 0; in order of (key, start)."""
    num_windows: int | None = None
    """Windows of an epoch; as many as there are by default."""

    def __post_init__(self) -> None:
        """Refuse weights that are none (ConfigError)."""
        weights = np.asarray(self.weights, np.float64)
        if weights.ndim != 1 or not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
            raise ConfigError("weights must be one finite number per window, none negative and not all 0.")
        _check_size(self.num_windows)

    def size(self, num_windows: int, labels: Labels) -> int:
        """See Sampler."""
        if len(self.weights) != num_windows:
            raise ConfigError(f"weights has {len(self.weights)} numbers, but there are {num_windows} windows.")
        return self.num_windows or num_windows

    def draw(self, num_windows: int, labels: Labels, random: np.random.Generator) -> Ints:
        """See Sampler."""
        cumulative = np.cumsum(self.weights, dtype=np.float64)
        places = random.random(self.size(num_windows, labels)) * cumulative[-1]
        return np.sort(np.minimum(np.searchsorted(cumulative, places, side="right"), np.flatnonzero(self.weights)[-1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Random:
    """Windows at random, all alike."""

    num_windows: int | None = None
    """Windows of an epoch; as many as there are by default."""
    replacement: bool = False
    """Whether a window can come twice."""

    def __post_init__(self) -> None:
        """Refuse an empty draw (ConfigError)."""
        _check_size(self.num_windows)

    def size(self, num_windows: int, labels: Labels) -> int:
        """See Sampler."""
        wanted = num_windows if self.num_windows is None else self.num_windows
        if not self.replacement and wanted > num_windows:
            raise ConfigError(
                f"num_windows={wanted} is more than the {num_windows} windows that there are. Set replacement=True."
            )
        return wanted if num_windows else 0

    def draw(self, num_windows: int, labels: Labels, random: np.random.Generator) -> Ints:
        """See Sampler."""
        wanted = self.size(num_windows, labels)
        if self.replacement:
            return np.sort(random.integers(0, max(1, num_windows), wanted))
        return np.sort(random.permutation(num_windows)[:wanted])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mixed:
    """Windows of several sources, in shares that are exact in every epoch.

    Of n windows a source of share s has n · s, rounded down, and those with the largest remainders one more. Within a
    source they are drawn at random; where it has too few, each comes as often as any other, or once more.
    """

    origins: Sequence[str] = field(repr=False)
    """(num_videos,) the source of each video, as `Index.origins` has it."""
    counts: Ints = field(repr=False)
    """(num_videos,) windows of each video. `WindowDataset.mixed` fills in both."""
    mix: Mapping[str, float] | None = None
    """Weight of each source, positive; None: as many windows as it has."""
    num_windows: int | None = None
    """Windows of an epoch; as many as there are by default."""

    def __post_init__(self) -> None:
        """Refuse weights that are none, or of other sources than there are (ConfigError)."""
        _check_size(self.num_windows)
        there = self._windows_of()
        if "" in self.origins:
            raise ConfigError(
                "sampler=mixed wants to know the source of each video, which an index of `wildstream merge` tells. "
                "Merge the sources, or take another sampler."
            )
        for name, weight in (self.mix or {}).items():
            if name not in there:
                near = get_close_matches(name, there, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(there):.300}."
                raise ConfigError(f"mix: there is no source {name!r}; {hint}")
            if not (np.isfinite(weight) and weight > 0):
                raise ConfigError(f"mix: {name}={weight} must be more than 0.")
            if not there[name]:
                raise ConfigError(f"mix: {name} has no window of this style; its videos are too short.")
        if self.mix and (lacking := [name for name in there if name not in self.mix]):
            raise ConfigError(f"mix has no weight for {', '.join(lacking)}. Give each source one.")

    def size(self, num_windows: int, labels: Labels) -> int:
        """See Sampler."""
        if num_windows != self.counts.sum():
            raise ConfigError(f"the mix is of {self.counts.sum()} windows, but there are {num_windows}.")
        return (self.num_windows or num_windows) if num_windows else 0

    def draw(self, num_windows: int, labels: Labels, random: np.random.Generator) -> Ints:
        """See Sampler."""
        there = self._windows_of()
        weights = np.array([(self.mix or there)[name] for name in there], np.float64)
        numbers = {name: number for number, name in enumerate(there)}
        source = np.repeat(np.array([numbers[name] for name in self.origins], np.int32), self.counts)
        drawn = [np.zeros(0, np.int64)]
        for number, count in enumerate(_apportion(self.size(num_windows, labels), weights)):
            windows = np.flatnonzero(source == number)
            times, rest = divmod(count, max(1, len(windows)))
            drawn += [windows] * times
            drawn.append(random.permutation(windows)[:rest])
        return np.sort(np.concatenate(drawn))

    def _windows_of(self) -> dict[str, int]:
        """Windows of each source, in order of name."""
        found = dict.fromkeys(sorted(set(self.origins)), 0)
        for name, count in zip(self.origins, self.counts.tolist(), strict=True):
            found[name] += count
        return found


SAMPLERS: dict[str, Callable[[], Sampler]] = {"balanced": Balanced, "random": Random}
"""Samplers that can be chosen by name alone."""


def get_sampler(sampler: Sampler | str | None) -> Sampler | None:
    """A sampler by its name, or the sampler itself; ConfigError where there is none of that name."""
    if not isinstance(sampler, str):
        return sampler
    if sampler not in SAMPLERS:
        raise ConfigError(f"sampler={sampler!r} is not known. Take one of {', '.join(SAMPLERS)}, or None.")
    return SAMPLERS[sampler]()


@dataclass(frozen=True, slots=True, eq=False)
class Drawable:
    """The windows that a sampler may draw: all, or those that are labelled, which it then knows by other numbers."""

    sampler: Sampler
    """Draws them."""
    windows: WindowLabels
    """All windows."""

    def size(self) -> int:
        """How many windows an epoch has."""
        if (chosen := self._chosen()) is None:
            return self.sampler.size(self.windows.num_windows, lambda: self.windows.labels)
        return self.sampler.size(len(chosen), lambda: self.windows.labels[chosen])

    def draw(self, random: np.random.Generator) -> Ints:
        """Running numbers of the windows of an epoch, not decreasing."""
        if (chosen := self._chosen()) is None:
            return self.sampler.draw(self.windows.num_windows, lambda: self.windows.labels, random)
        drawn: Ints = chosen[self.sampler.draw(len(chosen), lambda: self.windows.labels[chosen], random)]
        return drawn

    def _chosen(self) -> Ints | None:
        """Running numbers of the windows that may be drawn, increasing; None: all."""
        if not getattr(self.sampler, "only_labelled", False) or self.windows.labelled.all():
            return None
        return np.flatnonzero(self.windows.labelled)


def describe(sampler: object) -> str:
    """A sampler as text that differs where its windows would."""
    if (weights := getattr(sampler, "weights", None)) is not None:
        return f"{sampler} {hashlib.sha256(np.ascontiguousarray(weights).tobytes()).hexdigest()[:16]}"
    if (origins := getattr(sampler, "origins", None)) is not None:
        return f"{sampler} {hashlib.sha256(json.dumps(list(origins)).encode()).hexdigest()[:16]}"
    return str(sampler)


def _apportion(total: int, weights: npt.NDArray[np.float64]) -> list[int]:
    """Whole numbers in proportion to weights, whose sum is the total: by largest remainder (Hamilton's method)."""
    wanted = total * weights / weights.sum()
    counts = np.floor(wanted).astype(np.int64)
    counts[np.argsort(counts - wanted, kind="stable")[: total - int(counts.sum())]] += 1
    found: list[int] = counts.tolist()
    return found


def _members(labels: npt.NDArray[np.bool_]) -> list[Ints]:
    """The windows of every class that has some, and last those without any label."""
    columns = [*labels.T, ~labels.any(axis=1)]
    return [np.flatnonzero(column) for column in columns if column.any()]


def _check_size(num_windows: int | None) -> None:
    """Refuse an epoch without windows."""
    if num_windows is not None and num_windows < 1:
        raise ConfigError(f"num_windows={num_windows} must be at least 1.")

"""Classes as the shards have them → classes as they are wanted; applied to the index, nothing is packed anew.

    in the shards     becomes            by
    walk              moving    ┐        rename: {walk: moving, run: moving}
    run               moving    ┘        two with one name are united
    unclear           -                  drop: [unclear]
    yawn              other              min_samples: 20, of which it has fewer in the training split

A map is a dict from every category to its new name, or to None where it is left out; classes keep their order, a united
one has the place of its first, and "other" is the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

from wildstream.errors import ConfigError

if TYPE_CHECKING:
    import numpy.typing as npt

    Events = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]]

OTHER = "other"
"""What rare classes become."""
ClassMap = dict[str, str | None]


def make_class_map(categories: Sequence[str], *, rename: Mapping[str, str], drop: Sequence[str]) -> ClassMap:
    """The map that these options ask for.

    Args:
        categories: Of the shards.
        rename: New names by old ones.
        drop: Classes to leave out, by their old names.

    Raises:
        ConfigError: A class does not exist, is both renamed and left out, or gets an empty name; or none is left.
    """
    for option, names in (("rename", rename), ("drop", drop)):
        for name in names:
            if name not in categories:
                near = get_close_matches(name, categories, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(categories):.300}."
                raise ConfigError(f"{option}: the shards have no class {name!r}; {hint}")
    if both := sorted(set(rename) & set(drop)):
        raise ConfigError(f"{both[0]!r} is in rename and in drop. Leave it out of one of them.")
    if blank := sorted(old for old, new in rename.items() if new != new.strip() or not new):
        raise ConfigError(f"rename: {blank[0]!r} becomes {rename[blank[0]]!r}, which is empty or has blanks around it.")
    found = {name: None if name in drop else rename.get(name, name) for name in categories}
    if not any(new is not None for new in found.values()):
        raise ConfigError("drop names every class. Leave one at least.")
    return found


def merge_rare(class_map: ClassMap, samples: Mapping[str, int], *, min_samples: int) -> ClassMap:
    """The map in which classes with fewer than `min_samples` samples are one, "other".

    Args:
        class_map: Its new names may be united ones.
        samples: Samples by new name.
        min_samples: Samples that a class must have to stay.

    Raises:
        ConfigError: None has so many.
    """
    rare = {name for name, count in samples.items() if count < min_samples}
    if rare >= set(samples) - {OTHER}:
        raise ConfigError(
            f"min_samples={min_samples} leaves no class: the most frequent has {max(samples.values()):,} windows. "
            "Take less."
        )
    return {old: OTHER if new in rare else new for old, new in class_map.items()}


def new_categories(class_map: ClassMap) -> list[str]:
    """The names of the classes that there are then, in order of class number."""
    names = list(dict.fromkeys(name for name in class_map.values() if name is not None))
    return [name for name in names if name != OTHER] + [name for name in names if name == OTHER]


def map_events(
    events: Events, ends: npt.NDArray[np.int64], numbers: npt.NDArray[np.int32]
) -> tuple[Events, npt.NDArray[np.int64]]:
    """The events of all videos with other classes; those of one class that overlap or touch are one.

    Args:
        events: (num_events,) classes, first frames, and last frames + 1, video by video.
        ends: (num_videos,) number of events up to the end of each video.
        numbers: (num_categories,) new class number of each, -1 where it is left out.

    Returns:
        The same of the new events, within a video by class and time.
    """
    classes, first, stop = events
    video = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
    mapped = numbers[classes]
    keep = mapped >= 0
    video, mapped, first, stop = video[keep], mapped[keep], first[keep], stop[keep]
    order = np.lexsort((first, mapped, video))
    video, mapped, first, stop = video[order], mapped[order], first[order], stop[order]
    # How far the events of the same video and class reach so far: groups lie one after the other on one long line.
    group = np.cumsum((np.diff(video, prepend=-1) != 0) | (np.diff(mapped, prepend=-1) != 0))
    line = group * (int(stop.max(initial=0)) + 2)
    reach = np.maximum.accumulate(line + stop)
    begins = np.ones(len(first), np.bool_)
    begins[1:] = (line + first)[1:] > reach[:-1]
    starts = np.flatnonzero(begins)
    last = np.append(starts[1:], len(first)) - 1
    united = mapped[starts].astype(np.int32), first[starts], (reach - line)[last[: len(starts)]].astype(np.int32)
    counts = np.bincount(video[starts], minlength=len(ends))
    return united, np.cumsum(counts, dtype=np.int64)


def frames_with_class(events: Events, ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(num_videos,) frames that are of a class, where there is one at a time; arguments as of `map_events`."""
    _, first, stop = events
    video = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
    return np.bincount(video, stop - first, len(ends)).astype(np.int64)

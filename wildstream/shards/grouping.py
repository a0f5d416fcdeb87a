"""Which videos belong together, and so into one split: of one file always, by folder, table or pattern where asked.

a/1 ─┐ same source file          a/1 ─┐
a/2 ─┘                           a/2 ─┤  one group
b/7 ─┐ same bytes as a/2         b/7 ─┘
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from wildstream.errors import ConfigError, LabelError
from wildstream.shards.event_table import table_lines
from wildstream.shards.index import Index
from wildstream.storage import urls

SOURCE = "source"
FOLDER = "folder"
REGEX = "regex:"


def source_names(index: Index) -> list[str]:
    """(num_videos,) what tells the file that each video was made of from others.

    That is its path in the source folder with the time of its last change, for many folders have a 0001.mp4. Of shards
    that others made it is the place in their shard.
    """
    columns = (index.column(name) for name in ("source", "shard", "ctime"))
    return [
        f"{urls.join(index.folder, shard)}{name.removeprefix(shard)}"
        if name.startswith(f"{shard}/")
        else f"{name} {at}"
        for name, shard, at in zip(*columns, strict=True)
    ]


def group_names(keys: Sequence[str], group_by: str) -> list[str]:
    """The group of each key as the option says; with "source" each is one of its own.

    Args:
        keys: (num_videos,) names of the videos.
        group_by: "source"; "folder", the first folder of the key; "regex:PATTERN", what its one pair of parentheses
            matches in the key; or the path of a table with the columns key and group.

    Raises:
        ConfigError: A key has no group, or the table is malformed or names videos that are not there.
    """
    if group_by == SOURCE:
        return list(keys)
    if group_by == FOLDER:
        if flat := [key for key in keys if "/" not in key]:
            raise ConfigError(
                f"group_by=folder: the key {flat[0]!r} has no folder ({len(flat):,} of {len(keys):,}). Take a pattern "
                "(regex:PATTERN) or a table of key and group."
            )
        return [key.partition("/")[0] for key in keys]
    if group_by.startswith(REGEX):
        return _matches(keys, group_by.removeprefix(REGEX))
    groups = read_key_table(Path(group_by), "group", keys)
    return [groups[key] for key in keys]


def unite(*labels: Sequence[str]) -> list[int]:
    """Groups of what shares a label, directly or by others.

    Args:
        labels: Each (num_videos,); two videos with an equal label in any of them are of one group.

    Returns:
        (num_videos,) the least number of a video of the same group.
    """
    parents = list(range(len(labels[0])))

    def find(video: int) -> int:
        while parents[video] != video:
            parents[video] = parents[parents[video]]
            video = parents[video]
        return video

    for column in labels:
        first: dict[str, int] = {}
        for video, label in enumerate(column):
            one, other = find(video), find(first.setdefault(label, video))
            parents[max(one, other)] = min(one, other)
    return [find(video) for video in range(len(parents))]


def read_key_table(path: Path, column: str, keys: Sequence[str]) -> dict[str, str]:
    """Read a .csv or .tsv with a header, the column `key` and another one, a line for each video.

    Args:
        path: The table; columns come in any order, others are ignored.
        column: The other column, such as "group".
        keys: The videos that there are.

    Raises:
        ConfigError: The table is malformed, names a key twice or one that is not there, or lacks one; the message has
            the line.
    """
    known = set(keys)
    found: dict[str, str] = {}
    try:
        for origin, (key, value) in table_lines(path, ("key", column)):
            if key not in known:
                raise ConfigError(f"{origin}: there is no video {key!r:.80}. Write the key as the index has it.")
            if key in found:
                raise ConfigError(f"{origin}: {key!r:.80} stands in an earlier line too. Leave one of them.")
            if value != value.strip() or not value:
                raise ConfigError(f"{origin}: {column} {value!r:.40} is empty or has blanks around it.")
            found[key] = value
    except LabelError as error:
        raise ConfigError(f"{error}. Write a header key,{column} and a line for each video.") from error
    if missing := sorted(known - set(found)):
        raise ConfigError(
            f"{path.name} has no line for {missing[0]!r} ({len(missing):,} of {len(known):,} videos). Add them."
        )
    return found


def _matches(keys: Sequence[str], pattern: str) -> list[str]:
    """What the one group of a pattern matches in each key."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"group_by=regex:{pattern} is no pattern: {error}.") from None
    if compiled.groups != 1:
        raise ConfigError(
            f"group_by=regex:{pattern} has {compiled.groups} pairs of parentheses, it must have one: around what "
            "videos of one group share, as in regex:^(mouse\\d+)_"
        )
    found = [compiled.search(key) for key in keys]
    if lacking := [key for key, match in zip(keys, found, strict=True) if match is None or match[1] is None]:
        raise ConfigError(
            f"group_by=regex:{pattern} does not match {lacking[0]!r} ({len(lacking):,} of {len(keys):,} keys)."
        )
    return [match[1] for match in found if match is not None]

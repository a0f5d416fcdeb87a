"""Tables that list clips with their class: Kinetics' CSVs, those of SlowFast and MMAction, anybody's path and label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from wildstream.errors import FormatError, LabelError
from wildstream.facts import VideoFacts
from wildstream.shards.event_table import table_header
from wildstream.shards.formats.class_folders import is_official
from wildstream.shards.formats.clip_lists import LIST_EXTENSIONS, TABLES, ListReader, describe_list
from wildstream.shards.formats.listed import Clip, Finder, ListedSources
from wildstream.shards.formats.scanning import (
    LOOKED_AT,
    WHOLE,
    Listing,
    Refusal,
    Scan,
    Source,
    Task,
    find_categories,
    list_videos,
)
from wildstream.shards.labels import LabelTrack


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipTable:
    """Tables of clips: which file, which class, and, where it is told, which split, from when until when.

    train.csv                         .csv or .tsv: a header with the columns path (or video, filename, …) and label
                                      (or class, action, …), perhaps split, start and stop (seconds); or Kinetics'
                                      own, with youtube_id, time_start, time_end
    train.txt                         or .csv without a header: "path label" a line, as SlowFast and MMAction write
    [anywhere/]clip_001.mp4           found by the path, the name or the id that the table has for it
    categories.json                   optional; else the table gives the names. Numbers are places in it

    A table without the column split is one split, by its name: train, val or test in any of their spellings, else all.
    Clips with start and stop are cut out and re-encoded; of one video there can be many.
    """

    path: str = ""
    """Column of the files; by default the one that is called as usual."""
    label: str = ""
    """Column of the classes; the same."""
    cut: bool = True
    """Whether start and stop are cut out; no: the files are cut already."""

    name: ClassVar[str] = "table"
    task: ClassVar[Task] = "single_label"
    counts_frames: ClassVar[bool] = False

    def recognise(self, listing: Listing) -> str:
        """See Format."""
        if not listing.videos:
            return ""
        reader = ListReader(Finder(listing.videos), find_categories(listing.root), self.path, self.label, self.cut)
        for path in _lists(listing.having(*LIST_EXTENSIONS))[:LOOKED_AT]:
            if told := describe_list(path, reader):
                return f"{listing.told(path)} {told}"
        return ""

    def scan(self, root: Path) -> Scan:
        """See Format."""
        listing = list_videos(root)
        videos = listing.videos
        reader = ListReader(Finder(videos), find_categories(root), self.path, self.label, self.cut)
        return gather(listing, videos, _lists(listing.having(*LIST_EXTENSIONS)), reader)

    def read(self, source: Source, *, facts: VideoFacts, categories: list[str]) -> LabelTrack:
        """See Format."""
        label = categories.index(source.part)
        return LabelTrack.from_class(label, num_frames=facts.num_frames, num_classes=len(categories))


def gather(listing: Listing, videos: Sequence[Path], files: Sequence[Path], reader: ListReader) -> Scan:
    """The sources that lists of clips name.

    Raises:
        FormatError: None of the files lists clips.
    """
    gathered = ListedSources(listing, videos)
    clips: list[Clip] = []
    for path in files:
        told = listing.told(path)
        try:
            found = reader.read(path, told)
        except LabelError as error:
            raise FormatError(f"{told}: {error}. Correct it, or move it elsewhere") from error
        if found is None:
            reason = "lists no clips: it has no path and class, by whatever usual names"
            gathered.scan.unused.append(Refusal(split=WHOLE, path=told, reason=reason))
        else:
            clips += found
    if not clips:
        for asked in (reader.path, reader.label):
            if asked:
                raise FormatError(
                    f"no table below {listing.root} has the column {asked!r} that --format-option asks for; "
                    f"{first_header(files)}"
                )
        raise FormatError(
            f"no {', '.join(f'.{extension}' for extension in LIST_EXTENSIONS)} below {listing.root} lists clips; its "
            "header must name the columns path and label, or others by --format-option path=NAME and label=NAME"
        )
    return gathered.add(clips, categories=reader.names, lacking="is in none of the lists")


def first_header(files: Sequence[Path]) -> str:
    """What columns the first table among files has, for a message."""
    for path in files:
        if path.suffix.lower() in TABLES:
            try:
                return f"{path.name} has {', '.join(table_header(path)):.200}"
            except LabelError as error:
                return str(error)
    return "there is no .csv or .tsv"


def _lists(files: Sequence[Path]) -> list[Path]:
    """The files that may list clips."""
    return [path for path in files if path.name != "categories.json" and not is_official(path)]

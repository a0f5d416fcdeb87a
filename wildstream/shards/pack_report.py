"""What a packing tells: how many videos of each split, and which were refused, shortened, damaged, copies or unused."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from wildstream.shards.formats import Refusal
from wildstream.shards.index_schema import write_text
from wildstream.shards.ingest import name_damage
from wildstream.shards.places import metadata_of
from wildstream.shards.transcode import TranscodeEffect
from wildstream.storage import urls
from wildstream.storage.access import Storage

REPORT_NAME = "pack-report.json"


@dataclass(slots=True)
class PackReport:
    """What was packed and what was not."""

    format: str = ""
    """Layout of the source."""
    recognised_by: str = ""
    """What said so, where it was not told."""
    categories: list[str] = field(default_factory=list)
    """Names of the classes, in order of class number."""
    packed: dict[str, int] = field(default_factory=dict)
    """Videos in the shards, by split."""
    reused: dict[str, int] = field(default_factory=dict)
    """Those of them that an earlier call had packed, by split."""
    refused: list[Refusal] = field(default_factory=list)
    """Videos that are left out, and why."""
    shortened: list[Refusal] = field(default_factory=list)
    """Videos whose end is missing: fewer frames decode than their container promises."""
    damaged: list[Refusal] = field(default_factory=list)
    """Videos that are packed although some frames do not decode, and which."""
    unused: list[Refusal] = field(default_factory=list)
    """Labels that belong to no video, and what a list of videos leaves out on purpose."""
    leaks: list[Refusal] = field(default_factory=list)
    """Videos that are in another split too."""
    transcoded: dict[str, TranscodeEffect] = field(default_factory=dict)
    """What re-encoding changed, by split, as it was measured when the shards were packed."""

    def kinds(self) -> dict[str, list[Refusal]]:
        """What is told beside the packed videos, by the word that it is told with."""
        return {
            "shorter": self.shortened,
            "damaged": self.damaged,
            "leak": self.leaks,
            "refused": self.refused,
            "unused": self.unused,
        }

    def table(self) -> list[tuple[str, ...]]:
        """How many there are of each kind, by split and in total, with a head."""
        kinds = self.kinds()
        splits = sorted({*self.packed, *(entry.split for entries in kinds.values() for entry in entries)})
        rows = [
            [self.packed.get(split, 0), *(sum(entry.split == split for entry in entries) for entries in kinds.values())]
            for split in splits
        ]
        totals = [sum(column) for column in zip(*rows, strict=True)]
        named = [*zip(splits, rows, strict=True), ("all splits", totals)]
        return [("split", "packed", *kinds), *((name, *(f"{count:,}" for count in row)) for name, row in named)]


def refusals_of(table: pa.Table) -> list[Refusal]:
    """The videos that were refused when a shard was packed."""
    return [Refusal(**entry) for entry in json.loads(metadata_of(table)["refused"])]


def effect_of(table: pa.Table) -> TranscodeEffect:
    """What re-encoding changed when a shard was packed."""
    return TranscodeEffect(**json.loads(metadata_of(table)["transcoded"]))


def tellings_of(table: pa.Table) -> list[dict[str, Any]]:
    """The columns of the index that tell of damage, by row."""
    rows: list[dict[str, Any]] = table.select(["source", "num_frames", "claimed_frames", "lost"]).to_pylist()
    return rows


def damaged_of(rows: list[dict[str, Any]], split: str) -> list[Refusal]:
    """The videos among rows of the index of which some frames do not decode."""
    return [
        Refusal(split=split, path=row["source"], reason=name_damage(row["lost"], row["num_frames"]))
        for row in rows
        if row["lost"]
    ]


def shortened_of(rows: list[dict[str, Any]], split: str) -> list[Refusal]:
    """The videos among rows of the index of which the end does not decode."""
    reason = "its container promises {claimed_frames:,} frames, the first {num_frames:,} are packed"
    short = [row for row in rows if row["claimed_frames"] > row["num_frames"]]
    return [Refusal(split=split, path=row["source"], reason=reason.format_map(row)) for row in short]


def write_report(location: str, report: PackReport, storage: Storage) -> None:
    """Write pack-report.json."""
    content = asdict(report)
    for split, effect in report.transcoded.items():
        content["transcoded"][split] |= {"speed_before": effect.speed_before, "speed_after": effect.speed_after}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    if urls.is_remote(location):
        storage.objects.write(location, text.encode())
    else:
        write_text(urls.local_path(location), text)

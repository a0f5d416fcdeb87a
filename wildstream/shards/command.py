"""The commands that make shards: `wildstream pack` and `index`; tools/ has them as scripts."""

from __future__ import annotations

import argparse
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from wildstream.commands import REFUSED, SHOWN, parse_count, parse_size_option
from wildstream.errors import ConfigError

if TYPE_CHECKING:
    from wildstream.shards.encoders import Transcode

FORMAT_NAMES = (
    "auto",
    "frames",
    "videos",
    "events",
    "boris",
    "elan",
    "deepethogram",
    "wlasl",
    "table",
    "folders",
    "frame-folders",
    "image-folders",
)
"""Those of wildstream.shards.formats, which would take a second to import."""


def add_pack_options(parser: argparse.ArgumentParser) -> None:
    """The options of `wildstream pack`, which tools/pack_shards.py has too."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder of videos and labels")
    parser.add_argument(
        "out",
        metavar="OUT",
        help="folder, or URL such as s3://bucket/shards; each split gets a folder in it",
    )
    parser.add_argument(
        "--format",
        default="auto",
        choices=FORMAT_NAMES,
        metavar="NAME",
        help="layout of the source; by default found by looking, and told. frames: a .tsv or .txt beside each video, a "
        "row of 0/1 (-1: not labelled) per frame, and categories.json. videos: class folders, a .txt with one class "
        "number beside each video. events: a .csv or .tsv with the columns start, stop (in seconds) and class beside "
        "each video. boris: projects of BORIS (.boris), or its exports of aggregated or tabular events (.csv, .tsv). "
        "elan: .eaf files. deepethogram: a project. wlasl: its JSON and videos. table: a .csv, .txt or .json of paths "
        "and labels, such as those of Kinetics. folders: a folder of clips per class, UCF-101 and HMDB-51 with their "
        "official splits. frame-folders: a folder of images per clip. image-folders: a folder of images per class",
    )
    parser.add_argument(
        "--format-option",
        action="append",
        type=_parse_format_option,
        metavar="NAME=VALUE",
        help="option of the layout; may be repeated. events, boris: radius (seconds around points in time). elan: "
        "tiers (once for each). wlasl: subset (asl100, asl300, asl1000, asl2000), crop (to the signer: yes), cut (no: "
        "the videos are cut already). table: path, label (columns), cut. folders: fold (1 to 3). "
        "frame-folders: fps, prefix, path, label. image-folders: path, label",
    )
    parser.add_argument("--split", action="append", metavar="NAME", help="pack this split alone; may be repeated")
    parser.add_argument(
        "--shard-bytes",
        type=parse_size_option,
        default=512 << 20,
        metavar="SIZE",
        help="size of a shard (default: 512MiB)",
    )
    _add_checking_options(parser, "packed")
    parser.add_argument(
        "--transcode",
        type=_parse_transcode,
        metavar="OPTIONS",
        help="re-encode each video, say short_side=256,gop=32,codec=h264,crf=20. short_side: pixels of the shorter "
        "side, never more than it has (default: as it is). gop: frames from one key frame to the next (default: 32). "
        "codec: h264 (default), hevc or av1. crf: 0 (best) to 51, av1 63 (default: 20). Sound is left out",
    )
    parser.set_defaults(run=run_pack)


def run_pack(options: argparse.Namespace) -> int:
    """Pack, and say what was packed and what was not."""
    from wildstream.shards.formats import AUTO, recognise_format
    from wildstream.shards.pack import pack
    from wildstream.shards.pack_report import REPORT_NAME
    from wildstream.storage.urls import join, redact
    from wildstream.tables import table

    format, format_options = options.format, _join_format_options(options.format_option or [])
    if format == AUTO:
        format, reason = recognise_format(options.source, format_options)
        print(f"format: {format} ({reason})")
    report = pack(
        options.source,
        options.out,
        format=format,
        format_options=format_options,
        splits=options.split,
        shard_bytes=options.shard_bytes,
        workers=options.workers,
        on_error=options.on_error,
        transcode=options.transcode,
    )
    for split, count in report.packed.items():
        reused = f" ({report.reused[split]} of them were there)" if report.reused.get(split) else ""
        number = "1 video" if count == 1 else f"{count:,} videos"
        print(f"{split}: {number}{reused}   {redact(join(options.out, split))}")
        if near := _near_split(split):
            print(f"  is {near} meant by {split!r}?")
        if split in report.transcoded:
            print(f"  re-encoded: {report.transcoded[split]}")
    named = f"{', '.join(report.categories[:SHOWN])}{', …' if len(report.categories) > SHOWN else ''}"
    print(f"classes: {len(report.categories):,} ({named})")
    kinds = report.kinds()
    for word, entries in kinds.items():
        for entry in entries[:SHOWN]:
            print(f"{word:7}  {entry.path}: {entry.reason}")
        if len(entries) > SHOWN:
            print(f"{word:7}  … and {len(entries) - SHOWN:,} more, see {redact(join(options.out, REPORT_NAME))}")
    if any(kinds.values()):
        print(table(report.table()))
    if not any(report.packed.values()):
        print(f"nothing was packed; is {format} the layout of {options.source}?", file=sys.stderr)
        return 1
    if not report.refused:
        return 0
    number = "1 video was" if len(report.refused) == 1 else f"{len(report.refused)} videos were"
    print(f"{number} refused; see {redact(join(options.out, REPORT_NAME))}", file=sys.stderr)
    return REFUSED


def _near_split(split: str) -> str:
    """The usual name of a split that this one may be misspelt from; empty where it is none."""
    usual = ("train", "val", "test")
    near = get_close_matches(split.lower(), usual, n=1, cutoff=0.7)
    return near[0] if near and split not in usual else ""


def add_index_options(parser: argparse.ArgumentParser) -> None:
    """The options of `wildstream index`, which tools/index_shards.py has too."""
    parser.add_argument(
        "shards",
        metavar="SHARDS",
        help="path or URL of a folder of *.tar, or a pattern such as 's3://bucket/train/{000000..000041}.tar'. A "
        "sample is a video with labels.npy (frames × classes, of 0 and 1) or cls (one class number), or see --labels",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="local folder for the index, which then names each shard by its absolute path or URL (default: beside the "
        "shards)",
    )
    parser.add_argument(
        "--categories",
        type=Path,
        metavar="FILE",
        help="JSON list of class names (default: as `wildstream pack` wrote them into the samples, else 0, 1, …)",
    )
    parser.add_argument(
        "--task",
        choices=("multi_label", "single_label"),
        help="what the labels mean: multi_label reads labels.npy, single_label cls (default: what the samples have)",
    )
    parser.add_argument(
        "--labels",
        metavar="PLACE",
        help="what names the class of each video: txt, or json:FIELD for a field of its json, such as json:caption in "
        "what video2dataset writes (default: labels.npy or cls)",
    )
    parser.add_argument("--split", metavar="NAME", help="name of the split (default: that of the folder)")
    _add_checking_options(parser, "indexed")
    parser.set_defaults(run=run_index)


def run_index(options: argparse.Namespace) -> int:
    """Index shards that others made, and say what was indexed and what was not."""
    from wildstream.shards.adopt import REPORT_NAME, index_shards
    from wildstream.shards.label_files import read_categories
    from wildstream.storage.urls import join, redact

    report = index_shards(
        options.shards,
        out=options.out,
        categories=None if options.categories is None else read_categories(options.categories),
        task=options.task,
        labels=options.labels,
        split=options.split,
        workers=options.workers,
        on_error=options.on_error,
    )
    print(f"{report.split}: {report.indexed} videos   {redact(report.folder)}")
    for word, entries in (("shorter", report.shortened), ("damaged", report.damaged), ("refused", report.refused)):
        for entry in entries:
            print(f"{word}  {entry.path}: {entry.reason}")
    if not report.indexed:
        print("nothing could be indexed; no index was written", file=sys.stderr)
    if not report.refused:
        return 0
    print(f"{len(report.refused)} were refused; see {redact(join(report.folder, REPORT_NAME))}", file=sys.stderr)
    return REFUSED


def _add_checking_options(parser: argparse.ArgumentParser, done: str) -> None:
    """How videos are checked that are to be packed or indexed."""
    parser.add_argument(
        "--workers", type=parse_count, metavar="N", help="threads that check videos (default: one per core)"
    )
    parser.add_argument(
        "--on-error",
        choices=("skip", "fail"),
        default="skip",
        help=f"what to do about a video that cannot be {done}: leave it out and name it (default), or stop; stop "
        f"also at one of which some frames do not decode, which is otherwise {done} and named",
    )


def _parse_format_option(text: str) -> tuple[str, str]:
    """NAME=VALUE as a pair."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE. Write, say, subset=asl100.")
    return name, value


def _join_format_options(pairs: list[tuple[str, str]]) -> dict[str, object]:
    """Options by name; one that can have several values has them all."""
    found: dict[str, object] = {}
    for name, value in pairs:
        if name == "tiers":
            found[name] = (*found.get(name, ()), value)  # type: ignore[misc]
        elif name in found:
            raise ConfigError(f"--format-option {name} is there twice. Give it once.")
        else:
            found[name] = value
    return found


def _parse_transcode(text: str) -> Transcode:
    """Options of re-encoding, such as short_side=256,gop=32,codec=h264,crf=20."""
    from wildstream.shards.encoders import Transcode

    try:
        return Transcode.parse(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error

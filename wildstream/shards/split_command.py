"""The commands that arrange packed videos anew, without copying them: `wildstream split`, `leaks` and `merge`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from wildstream.commands import REFUSED, SHOWN, parse_count

if TYPE_CHECKING:
    from wildstream.shards.leaks import LeakReport
    from wildstream.shards.splits import SplitReport


def add_split_options(parser: argparse.ArgumentParser) -> None:
    """The options of `wildstream split`."""
    parser.add_argument(
        "shards",
        nargs="+",
        metavar="SHARDS",
        help="path or URL of a packed split, as shards/all; several must have equal categories",
    )
    parser.add_argument(
        "out",
        metavar="OUT",
        help="local folder of its own for the splits; what an earlier call wrote there is replaced",
    )
    parser.add_argument(
        "--ratio",
        type=_parse_ratio,
        metavar="SHARES",
        help="shares of the splits, which add up to 1 or 100 (default: train=0.8,val=0.1,test=0.1). Of videos with "
        "several labels they are shares of the frames, else of the videos; and so of each class",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="other seeds give other splits (default: 0)")
    parser.add_argument(
        "--group-by",
        default="source",
        metavar="WHAT",
        help="what is never divided between splits. source: videos of one source file, or with the same bytes "
        "(default; the others imply it). folder: the first folder of the key. regex:PATTERN: what its one pair of "
        "parentheses matches in the key, as regex:^(mouse\\d+)_. FILE.csv: a table with the columns key and group",
    )
    parser.add_argument(
        "--by", type=Path, metavar="FILE.csv", help="table with the columns key and split, which says what goes where"
    )
    parser.add_argument("--no-stratify", action="store_true", help="divide videos without regard to their classes")
    _add_leak_options(parser)
    parser.set_defaults(run=run_split)


def run_split(options: argparse.Namespace) -> int:
    """Split, and say what went where, what is lacking, and what leaks."""
    from wildstream.shards.split_set import SPLIT_REPORT
    from wildstream.shards.splits import split

    report = split(
        options.shards,
        options.out,
        ratio=options.ratio,
        seed=options.seed,
        group_by=options.group_by,
        by=options.by,
        stratified=not options.no_stratify,
        frames=not options.no_frames,
        near=options.near,
        workers=options.workers,
    )
    print(describe_split(report))
    for name, lacking in report.lacking.items():
        more = f" and {len(lacking) - SHOWN:,} more" if len(lacking) > SHOWN else ""
        print(f"{name} has no {', '.join(lacking[:SHOWN])}{more}", file=sys.stderr)
    return _tell_leaks(report.leaks, Path(report.folder) / SPLIT_REPORT)


def describe_split(report: SplitReport) -> str:
    """Tables of what each split has, and of the shares of each class; of many classes the most uneven ones."""
    from wildstream.tables import table

    names, shares = list(report.splits), list(report.splits.values())
    total = [sum(values) for values in zip(*((one.videos, one.frames, one.groups) for one in shares), strict=True)]
    rows: list[tuple[str, ...]] = [("split", "videos", "frames", "groups", "of the videos", "of the frames")]
    for name, one in zip(names, shares, strict=True):
        rows.append((name, f"{one.videos:,}", f"{one.frames:,}", f"{one.groups:,}", _percent(one.videos, total[0])))
        rows[-1] += (_percent(one.frames, total[1]),)
    rows.append(("all", *(f"{value:,}" for value in total), "", ""))
    classes: list[tuple[str, ...]] = [(f"{report.unit} of", "all", *names)]
    amounts = {name: [one.classes[name] for one in shares] for name in shares[0].classes}
    overall = [one.videos if report.unit == "videos" else one.frames for one in shares]
    uneven = sorted(amounts, key=lambda name: -_distance(amounts[name], overall))[:SHOWN]
    for name in (name for name in amounts if name in uneven):
        whole = sum(amounts[name])
        classes.append((name, f"{whole:,}", *(_percent(amount, whole) for amount in amounts[name])))
    left = len(amounts) - len(uneven)
    label = f"any, and {left:,} more classes" if left else "any"
    classes.append((label, f"{sum(overall):,}", *(_percent(amount, sum(overall)) for amount in overall)))
    return f"{report.folder}\n\n{table(rows)}\n\n{table(classes)}\n"


def add_leaks_options(parser: argparse.ArgumentParser) -> None:
    """The options of `wildstream leaks`."""
    parser.add_argument(
        "shards", nargs="+", metavar="SHARDS", help="paths or URLs of packed splits, or of a folder above some"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all leaks to a JSON file too")
    _add_leak_options(parser)
    parser.set_defaults(run=run_leaks)


def run_leaks(options: argparse.Namespace) -> int:
    """Say what splits know of each other."""
    from wildstream.shards.index import open_index
    from wildstream.shards.index_schema import write_text
    from wildstream.shards.leaks import find_leaks
    from wildstream.shards.split_set import find_splits
    from wildstream.storage.access import Storage

    storage = Storage()
    found = [find_splits(path, storage) for path in options.shards]
    named = [(name, location) for splits in found for name, location in splits.items()]
    names = [name for name, _ in named]
    locations = {name if names.count(name) == 1 else location: location for name, location in named}
    indexes = {name: open_index(location, storage) for name, location in locations.items()}
    report = find_leaks(indexes, frames=not options.no_frames, near=options.near, workers=options.workers)
    if options.out is not None:
        write_text(options.out, json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n")
    return _tell_leaks(report, options.out)


def add_merge_options(parser: argparse.ArgumentParser) -> None:
    """The options of `wildstream merge`."""
    parser.add_argument("out", metavar="OUT", help="local folder of its own for the index, or for one of each split")
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="NAME=SHARDS",
        help="a name, and the path or URL of a packed split or of a folder of splits. Keys become NAME/key. From "
        "folders of splits OUT gets each split that any of them has",
    )
    parser.add_argument(
        "--negatives",
        action="store_true",
        help="take classes that a source does not have for absent in its videos, where videos have several labels",
    )
    parser.set_defaults(run=run_merge)


def run_merge(options: argparse.Namespace) -> int:
    """Merge, and say what came from where."""
    from wildstream.shards.merge import merge
    from wildstream.storage.urls import join

    report = merge(options.out, _named(options.sources), negatives=options.negatives)
    for split, videos in report.splits.items():
        told = " + ".join(f"{count:,} {name}" for name, count in videos.items())
        print(f"{split or 'merged'}: {sum(videos.values()):,} videos = {told}   {join(options.out, split).rstrip('/')}")
    print(f"{len(report.categories)} categories: {', '.join(report.categories):.300}")
    return 0


def _named(sources: Sequence[str]) -> Mapping[str, str]:
    """Sources by name, from NAME=SHARDS."""
    from wildstream.errors import ConfigError
    from wildstream.storage.urls import redact

    named: dict[str, str] = {}
    for source in sources:
        name, separator, path = source.partition("=")
        if not (name and separator and path):
            raise ConfigError(f"{redact(source)!r} must be NAME=SHARDS, such as lab=shards/lab.")
        if name in named:
            raise ConfigError(f"the name {name!r} stands for {redact(named[name])} and {redact(path)}. Take two names.")
        named[name] = path
    return named


def _add_leak_options(parser: argparse.ArgumentParser) -> None:
    """How leaks are looked for."""
    from wildstream.shards.perceptual import NEAR

    parser.add_argument("--no-frames", action="store_true", help="decode nothing: look for no near-duplicates")
    parser.add_argument(
        "--near",
        type=int,
        default=NEAR,
        metavar="BITS",
        help="near-duplicates are videos whose first frames differ in so many of 64 bits at most (default: "
        "%(default)s): copies, and clips of one camera that does not move",
    )
    parser.add_argument(
        "--workers", type=parse_count, metavar="N", help="threads that decode first frames (default: one per core)"
    )


def _tell_leaks(report: LeakReport, path: Path | None) -> int:
    """Print leaks; the exit status."""
    for kind in ("checksum", "source", "frames"):
        leaks = [leak for leak in report.leaks if leak.kind == kind]
        for leak in leaks[:SHOWN]:
            print(leak)
        if len(leaks) > SHOWN:
            where = f", see {path}" if path is not None else "; --out FILE writes all"
            print(f"{kind:<8}  … and {len(leaks) - SHOWN:,} more{where}")
    for entries, why in (
        (report.flat, "begin with flat pictures"),
        (report.unreadable, "do not decode at their start"),
    ):
        if entries:
            print(f"not compared: {len(entries):,} videos that {why}, such as {next(iter(entries))}")
    frames = f", first frames of {report.compared:,} videos compared" if report.compared else ""
    print(f"{len(report.leaks):,} leaks{frames}" if report.leaks else f"no leaks{frames}")
    return REFUSED if report.leaks else 0


def _parse_ratio(text: str) -> dict[str, float]:
    """Shares such as train=0.8,val=0.1,test=0.1."""
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            shares[name.strip()] = float(value)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{part!r} must be NAME=SHARE, as in train=0.8,val=0.2.") from None
    if len(shares) < len(text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} names a split twice.")
    return shares


def _percent(part: int, whole: int) -> str:
    """A part of a whole."""
    return f"{part / whole:.1%}" if whole else "–"


def _distance(amounts: Sequence[int], overall: Sequence[int]) -> float:
    """How far the shares of a class are from those of everything: 0 to 2."""
    whole, everything = sum(amounts), sum(overall)
    if not whole:
        return 0.0
    return sum(abs(one / whole - other / everything) for one, other in zip(amounts, overall, strict=True))

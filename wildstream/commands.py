"""The commands that make shards: `wildstream pack`, `index`, `extract` and `import`; tools/ has them as scripts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wildstream.errors import ConfigError, Interrupted, WildStreamError
from wildstream.sizes import parse_bytes

if TYPE_CHECKING:
    from wildstream.shards.transcode import Transcode
    from wildstream.stream.windows import SlidingStyle

EXIT_CODES = """exit status:
  0  all is well
  1  failed; a message says why
  2  unknown or malformed options
  3  some videos were refused, the rest is done; pack-report.json, index-report.json or events.json says why"""

REFUSED = 3
INTERRUPTED = 75
"""Exit status of a training that was told to stop and can go on: EX_TEMPFAIL of sysexits.h, "try again later"."""
SHOWN = 20  # lines of a kind that are printed; all are in the report


def run_safely(command: Callable[[], int]) -> int:
    """The exit status of a command; what the user can do something about becomes a message on stderr and 1 (or 75)."""
    try:
        return command()
    except Interrupted as error:
        print(error, file=sys.stderr)
        return INTERRUPTED
    except WildStreamError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"{type(error).__name__}: {error.filename}: {error.strerror}", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    return 1


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
        required=True,
        choices=("frames", "videos", "events"),
        help="layout of the source. frames: a .tsv or .txt beside each video, a row of 0/1 per frame, and "
        "categories.json. videos: class folders, a .txt with one class number beside each video. events: a .csv or "
        ".tsv with the columns start, stop (in seconds) and class beside each video",
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
        type=parse_transcode,
        metavar="OPTIONS",
        help="re-encode each video, say short_side=256,gop=32,codec=h264,crf=20. short_side: pixels of the shorter "
        "side, never more than it has (default: as it is). gop: frames from one key frame to the next (default: 32). "
        "codec: h264 (default), hevc or av1. crf: 0 (best) to 51, av1 63 (default: 20). Sound is left out",
    )
    parser.set_defaults(run=run_pack)


def run_pack(options: argparse.Namespace) -> int:
    """Pack, and say what was packed and what was not."""
    from wildstream.shards.pack import REPORT_NAME, pack
    from wildstream.storage.urls import join, redact

    report = pack(
        options.source,
        options.out,
        format=options.format,
        splits=options.split,
        shard_bytes=options.shard_bytes,
        workers=options.workers,
        on_error=options.on_error,
        transcode=options.transcode,
    )
    for split, count in report.packed.items():
        reused = f" ({report.reused[split]} of them were there)" if report.reused.get(split) else ""
        print(f"{split}: {count} videos{reused}   {redact(join(options.out, split))}")
        if split in report.transcoded:
            print(f"  re-encoded: {report.transcoded[split]}")
    for shortened in report.shortened:
        print(f"shorter  {shortened.path}: {shortened.reason}")
    for damaged in report.damaged:
        print(f"damaged  {damaged.path}: {damaged.reason}")
    for word, refusals in (("refused", report.refused), ("unused ", report.unused)):
        for refusal in refusals[:SHOWN]:
            print(f"{word}  {refusal.path}: {refusal.reason}")
        if len(refusals) > SHOWN:
            print(f"{word}  … and {len(refusals) - SHOWN:,} more, see {redact(join(options.out, REPORT_NAME))}")
    if not any(report.packed.values()):
        print("nothing was packed; is this the layout that --format says?", file=sys.stderr)
        return 1
    if not report.refused:
        return 0
    number = "1 video was" if len(report.refused) == 1 else f"{len(report.refused)} videos were"
    print(f"{number} refused; see {redact(join(options.out, REPORT_NAME))}", file=sys.stderr)
    return REFUSED


def add_index_options(parser: argparse.ArgumentParser) -> None:
    """The options of `wildstream index`, which tools/index_shards.py has too."""
    parser.add_argument(
        "shards",
        metavar="SHARDS",
        help="path or URL of a folder of *.tar, or a pattern such as 's3://bucket/train/{000000..000041}.tar'. A "
        "sample is a video with labels.npy (frames × classes, of 0 and 1) or cls (one class number)",
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
    parser.add_argument("--split", metavar="NAME", help="name of the split (default: that of the folder)")
    _add_checking_options(parser, "indexed")
    parser.set_defaults(run=run_index)


def run_index(options: argparse.Namespace) -> int:
    """Index shards that others made, and say what was indexed and what was not."""
    from wildstream.shards.adopt import REPORT_NAME, index_shards
    from wildstream.shards.labels import read_categories
    from wildstream.storage.urls import join, redact

    report = index_shards(
        options.shards,
        out=options.out,
        categories=None if options.categories is None else read_categories(options.categories),
        task=options.task,
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


def parse_size_option(text: str) -> int:
    """A size such as 512MiB, 2GB or 1048576, in bytes."""
    try:
        return parse_bytes(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parse_checkpoint(text: str) -> str:
    """The name of a run's checkpoint."""
    from wildstream.training.kept import check_name

    try:
        return check_name(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parse_count(text: str) -> int:
    """A number of at least 1."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1.")
    return int(text)


def parse_transcode(text: str) -> Transcode:
    """Options of re-encoding, such as short_side=256,gop=32,codec=h264,crf=20."""
    from wildstream.shards.transcode import Transcode

    try:
        return Transcode.parse(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_extract_options(parser: argparse.ArgumentParser) -> None:
    """The options of `wildstream extract`, which tools/extract_features.py has too."""
    parser.add_argument("shards", metavar="SHARDS", help="path or URL of one packed split, as shards/train")
    parser.add_argument("out", metavar="OUT", help="folder or URL; the split gets a folder in it, as features/train")
    parser.add_argument(
        "--backbone",
        required=True,
        metavar="NAME",
        help="as model.backbone of train.py: say r3d_18, dino, clip, any image model of timm; test_vit for a first try",
    )
    parser.add_argument(
        "--weights", metavar="DEFAULT|FILE", help="pretrained weights, or a state dict (default: random weights)"
    )
    parser.add_argument(
        "--style", default="sliding_window", metavar="NAME", help="sliding style (default: %(default)s)"
    )
    parser.add_argument(
        "--tokens",
        choices=("all", "cls", "pooled"),
        default="pooled",
        help="every token of a frame or clip, the first alone, or their mean (default)",
    )
    parser.add_argument(
        "--dtype", choices=("fp16", "bf16", "fp32"), default="fp16", help="precision of the features (default: fp16)"
    )
    parser.add_argument("--size", type=parse_count, metavar="PIXELS", help="of frames (default: the backbone's own)")
    parser.add_argument(
        "--batch-size", type=parse_count, default=64, metavar="N", help="frames or clips at a time (default: 64)"
    )
    parser.add_argument(
        "--shard-bytes", type=parse_size_option, default=512 << 20, metavar="SIZE", help="of a shard (default: 512MiB)"
    )
    parser.add_argument("--workers", type=parse_count, metavar="N", help="threads that decode (default: one per core)")
    parser.add_argument("--device", help="where the backbone runs (default: a GPU, where there is one)")
    parser.set_defaults(run=run_extract)


def run_extract(options: argparse.Namespace) -> int:
    """Extract, and say what was extracted."""
    from wildstream.features.extract import extract
    from wildstream.storage.urls import join, redact

    if options.weights is None:
        print(f"note: {options.backbone} has random weights; --weights DEFAULT takes pretrained ones", file=sys.stderr)
    report = extract(
        options.shards,
        options.out,
        backbone=options.backbone,
        weights=options.weights,
        style=options.style,
        tokens=options.tokens,
        dtype=options.dtype,
        size=options.size,
        batch_size=options.batch_size,
        shard_bytes=options.shard_bytes,
        num_workers=options.workers,
        device=options.device,
    )
    info, there = report.info, f" ({report.reused} videos were there)" if report.reused else ""
    rows, dim = info.shape
    print(f"{report.split}: {report.ledger}{there}   {redact(join(options.out, report.split))}")
    print(
        f"  of each window {rows} × {dim} {info.dtype}, {info.window_bytes:,} bytes; {info.tokens} of {info.backbone}"
    )
    if report.ledger.skipped:
        print(report.ledger.reasons())
    return 0


def add_import_options(parser: argparse.ArgumentParser) -> None:
    """The options of `wildstream import`, which tools/import_features.py has too."""
    parser.add_argument(
        "root",
        type=Path,
        metavar="ROOT",
        help="folder of one split: [VIDEO/]MODEL_features/VIDEO_00000000.npy, a sample each, and "
        "[VIDEO/]labels/VIDEO.tsv, whose row i is of sample i: 0 or 1 for each class, or a class number",
    )
    parser.add_argument("out", metavar="OUT", help="folder or URL; the split gets a folder in it, as features/train")
    parser.add_argument(
        "--style",
        type=parse_style,
        required=True,
        metavar="NAME|PARAMETERS",
        help="sliding style that the windows were cut with: a name, or as '{window_size: 16, step_size: 8}'. Where the "
        "folder is `frames`, windows are cut with it now. Folders named as another style are left out",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="model whose features are taken, as in MODEL_features (default: the only one). Needed where the folder is "
        "`inputs` or `frames`, which does not tell it. train.py takes it as model.backbone",
    )
    parser.add_argument("--subset", action="append", metavar="VIDEO", help="take this video alone; may be repeated")
    parser.add_argument("--split", metavar="NAME", help="name of the split (default: that of the folder)")
    parser.add_argument(
        "--categories",
        type=Path,
        metavar="FILE",
        help="JSON list of class names (default: categories.json in ROOT or the folder above)",
    )
    parser.add_argument(
        "--task",
        choices=("multi_label", "single_label"),
        help="what the labels mean: any classes in a row, or one (default: single_label for class numbers)",
    )
    parser.add_argument(
        "--shard-bytes", type=parse_size_option, default=512 << 20, metavar="SIZE", help="of a shard (default: 512MiB)"
    )
    parser.set_defaults(run=run_import)


def run_import(options: argparse.Namespace) -> int:
    """Import, and say what was imported."""
    from wildstream.features.wildfins import import_features
    from wildstream.shards.labels import read_categories
    from wildstream.storage.urls import redact

    report = import_features(
        options.root,
        options.out,
        style=options.style,
        model=options.model,
        subset=options.subset,
        split=options.split,
        categories=None if options.categories is None else read_categories(options.categories),
        task=options.task,
        shard_bytes=options.shard_bytes,
    )
    info, there = report.info, f" ({report.reused} of them were there)" if report.reused else ""
    rows, dim = info.shape
    samples = "frames" if report.are_frames else "windows"
    print(f"{redact(report.folder)}: {sum(report.windows.values()):,} windows of {len(report.windows)} videos{there}")
    print(f"  of each window {rows} × {dim} {info.dtype}, {info.window_bytes:,} bytes; {samples} of {info.backbone}")
    print("  videos are told apart by the names of the files alone; no window crosses from one to another")
    for key, count in report.not_finite.items():
        print(f"not finite  {key}: {count:,} of {report.windows[key]:,} windows have NaN or infinity, and are imported")
    return 0


def parse_style(text: str) -> str | SlidingStyle:
    """The name of a sliding style, or its parameters as YAML."""
    import yaml

    from wildstream.stream.windows import SlidingStyle, get_style

    try:
        parameters = yaml.safe_load(text)
        if isinstance(parameters, dict):
            return SlidingStyle(**parameters)
        get_style(text)
    except (ConfigError, TypeError, yaml.YAMLError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def run_alone(
    description: str | None,
    add_options: Callable[[argparse.ArgumentParser], None],
    arguments: Sequence[str] | None = None,
) -> int:
    """Run one command as a script of its own; the exit status."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_options(parser)
    options = parser.parse_args(arguments)
    return run_safely(lambda: int(options.run(options)))

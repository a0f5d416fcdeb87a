"""The command line: `wildstream pack | verify | inspect | evaluate | doctor | demo`. Training is for train.py."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from wildstream.errors import ConfigError, WildStreamError

if TYPE_CHECKING:
    from wildstream.shards.transcode import Transcode

EXIT_CODES = """exit status:
  0  all is well
  1  failed; a message says why
  2  unknown or malformed options
  3  packed, but some videos were refused; pack-report.json names each with its reason"""

REFUSED = 3
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    options = _parser().parse_args(arguments)
    return run_safely(lambda: int(options.run(options)))


def run_safely(command: Callable[[], int]) -> int:
    """The exit status of a command; what the user can do something about becomes a message on stderr and 1."""
    try:
        return command()
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
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the shards; each split gets a folder in it")
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
        "--shard-bytes", type=parse_bytes, default=512 << 20, metavar="SIZE", help="size of a shard (default: 512MiB)"
    )
    parser.add_argument(
        "--workers", type=parse_count, metavar="N", help="threads that check videos (default: one per core)"
    )
    parser.add_argument(
        "--on-error",
        choices=("skip", "fail"),
        default="skip",
        help="what to do about a video that cannot be packed: leave it out and name it (default), or stop; stop "
        "also at one of which some frames do not decode, which is otherwise packed and named",
    )
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
        print(f"{split}: {count} videos{reused}   {options.out / split}")
        if split in report.transcoded:
            print(f"  re-encoded: {report.transcoded[split]}")
    for shortened in report.shortened:
        print(f"shorter  {shortened.path}: {shortened.reason}")
    for damaged in report.damaged:
        print(f"damaged  {damaged.path}: {damaged.reason}")
    for refusal in (*report.refused, *report.unused):
        print(f"{'refused' if refusal in report.refused else 'unused '}  {refusal.path}: {refusal.reason}")
    if not any(report.packed.values()):
        print("nothing was packed; is this the layout that --format says?", file=sys.stderr)
    if not report.refused:
        return 0
    print(f"{len(report.refused)} videos were refused; see {options.out / REPORT_NAME}", file=sys.stderr)
    return REFUSED


def parse_bytes(text: str) -> int:
    """A size such as 512MiB, 2GB or 1048576, in bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?I?)B?", text.strip().upper())
    size = int(float(match[1]) * UNITS[match[2]]) if match and match[2] in UNITS else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size. Write 512MiB, 2GB or 1048576.")
    return size


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


def _parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="wildstream",
        description="Stream labelled video into training. Train with: accelerate launch train.py data.path=SHARDS",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"wildstream {version('wildstream')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, summary, description, add_options in (
        (
            "pack",
            "videos and labels → tar shards and their index",
            "Pack labelled videos into WebDataset shards. A second call packs only what is new.",
            add_pack_options,
        ),
        (
            "evaluate",
            "how good a trained model is on a split",
            "Evaluate a run of train.py. Prints a table and writes RUN/evaluation/SPLIT.json.",
            _add_evaluate_options,
        ),
        (
            "verify",
            "whether packed shards still are what their index says",
            "Compare every video with its checksum, and what decodes with the index. Names what differs.",
            _add_verify_options,
        ),
        (
            "inspect",
            "what packed shards hold, and how well they are shuffled",
            "Describe packed shards from their index alone; no video is opened.",
            _add_inspect_options,
        ),
        (
            "doctor",
            "what this machine has and lacks",
            "Say what this machine has and lacks, and the remedies. 1 where training is not possible.",
            _add_doctor_options,
        ),
        (
            "demo",
            "make videos, pack, train and evaluate, in a few minutes",
            "Make a small labelled video set and take it down the whole river.",
            _add_demo_options,
        ),
    ):
        add_options(
            commands.add_parser(
                name,
                help=summary,
                description=description,
                epilog=EXIT_CODES,
                formatter_class=argparse.RawDescriptionHelpFormatter,
                allow_abbrev=False,
            )
        )
    return parser


def _add_evaluate_options(parser: argparse.ArgumentParser) -> None:
    """The options of `wildstream evaluate`."""
    parser.add_argument("evaluated", type=Path, metavar="RUN", help="run folder of train.py")
    parser.add_argument("--split", default="test", metavar="NAME", help="split of the shards (default: test)")
    parser.add_argument(
        "--checkpoint",
        choices=("best", "last"),
        default="best",
        help="after the epoch with the best validation (default), or after the last one",
    )
    parser.add_argument(
        "--data", type=Path, metavar="SHARDS", help="folder of the shards (default: where they were in training)"
    )
    parser.add_argument(
        "--batch-size", type=parse_count, metavar="N", help="clips per batch (default: that of the training)"
    )
    parser.set_defaults(run=_run_evaluate)


def _add_verify_options(parser: argparse.ArgumentParser) -> None:
    """The options of `wildstream verify`."""
    parser.add_argument("verified", type=Path, metavar="SHARDS", help="folder of one packed split, as shards/train")
    parser.add_argument("--workers", type=parse_count, metavar="N", help="threads (default: one per core)")
    parser.set_defaults(run=_run_verify)


def _add_inspect_options(parser: argparse.ArgumentParser) -> None:
    """The options of `wildstream inspect`."""
    parser.add_argument("inspected", type=Path, metavar="SHARDS", help="folder of one packed split, as shards/train")
    parser.add_argument(
        "--style", default="sliding_window", metavar="NAME", help="sliding style (default: %(default)s)"
    )
    parser.add_argument(
        "--shuffle", action="store_true", help="compare the planned order with other shuffles of the same memory"
    )
    parser.add_argument(
        "--batch-size", type=parse_count, default=32, metavar="N", help="clips per batch (default: %(default)s)"
    )
    parser.add_argument(
        "--size", type=parse_count, metavar="PIXELS", help="frames are resized to a square (default: left as they are)"
    )
    parser.set_defaults(run=_run_inspect)


def _add_doctor_options(parser: argparse.ArgumentParser) -> None:
    """The options of `wildstream doctor`: none."""
    parser.set_defaults(run=_run_doctor)


def _add_demo_options(parser: argparse.ArgumentParser) -> None:
    """The options of `wildstream demo`."""
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), metavar="FOLDER", help="folder for everything (default: demo)"
    )
    parser.set_defaults(run=_run_demo)


def _run_evaluate(options: argparse.Namespace) -> int:
    """Evaluate, and print the table."""
    from wildstream.evaluation import evaluate, render

    evaluation = evaluate(
        options.evaluated,
        split=options.split,
        checkpoint=options.checkpoint,
        data=options.data,
        batch_size=options.batch_size,
    )
    print(render(evaluation))
    print(f"\nreport: {evaluation.report}")
    return 0


def _run_verify(options: argparse.Namespace) -> int:
    """Print the faults of a packed split; 1 where there are any."""
    from wildstream.shards.verify import verify

    faults = verify(options.verified, workers=options.workers)
    for fault in faults:
        print(f"{fault.shard}  {fault.key}: {fault.reason}")
    print(
        f"{options.verified}: " + (f"{len(faults)} faulty videos" if faults else "all videos are what the index says")
    )
    return 1 if faults else 0


def _run_inspect(options: argparse.Namespace) -> int:
    """Print what the index says, and how well an epoch would be shuffled."""
    from wildstream.inspection import describe_dataset, describe_shuffles
    from wildstream.stream.dataset import DatasetBuilder

    dataset = DatasetBuilder(path=options.inspected, style=options.style).build()
    print(describe_dataset(dataset))
    if options.shuffle:
        loader = dataset.loader(batch_size=options.batch_size, size=options.size, shuffle=True, rank=0, world_size=1)
        print(f"\n{loader}\n\n{describe_shuffles(loader)}")
    return 0


def _run_doctor(options: argparse.Namespace) -> int:
    """Print what was found; 1 where training is not possible."""
    from wildstream.doctor import diagnose, is_able, render

    findings = diagnose()
    print(render(findings))
    return 0 if is_able(findings) else 1


def _run_demo(options: argparse.Namespace) -> int:
    """Run the demo."""
    from wildstream.demo import run_demo

    run_demo(options.out, say=print)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The command line: `wildstream COMMAND`, each of those that `_parser` names."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from wildstream.commands import EXIT_CODES, parse_count, run_safely
from wildstream.evaluation.command import add_evaluate_options
from wildstream.features.command import add_extract_options, add_import_options
from wildstream.prediction.command import add_predict_options
from wildstream.shards.command import add_index_options, add_pack_options
from wildstream.shards.split_command import add_leaks_options, add_merge_options, add_split_options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    options = _parser().parse_args(arguments)
    return run_safely(lambda: int(options.run(options)))


class _CommandParser(argparse.ArgumentParser):
    """Names a misspelt option before what is missing: mostly it is the reason why something is."""

    _given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # noqa: ANN401
        """As argparse's own, but that what is left over is no option."""
        self._given = sys.argv[1:] if args is None else list(args)
        found, rest = super().parse_known_args(args, namespace)
        if any(argument.startswith("--") for argument in rest):
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest

    def error(self, message: str) -> NoReturn:
        """As argparse's own; status 2."""
        known = list(self._option_string_actions)
        given = [argument.partition("=")[0] for argument in self._given if argument.startswith("--")]
        if unknown := [option for option in given if option not in (*known, "--")]:
            near = get_close_matches(unknown[0], known)
            message = f"{unknown[0]} is not an option" + (f"; did you mean {' or '.join(near)}?" if near else "")
        super().error(message)


def _parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="wildstream",
        description="Stream labelled video into training. Train with: accelerate launch train.py data.path=SHARDS",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"wildstream {version('wildstream')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_CommandParser)
    for name, summary, description, add_options in (
        (
            "pack",
            "videos and labels → tar shards and their index",
            "Pack labelled videos into WebDataset shards. A second call packs only what is new.",
            add_pack_options,
        ),
        (
            "index",
            "tar shards that others made → their index, where they lie",
            "Index WebDataset shards that others made, local or remote, without copying them.",
            add_index_options,
        ),
        (
            "split",
            "packed videos → train, val and test, without copying them",
            "Split packed videos anew: by shares of videos and of each class, never dividing what belongs together, or "
            "by a table. Writes OUT/train, OUT/val, … as indexes of the same shards, and OUT/split-report.json.",
            add_split_options,
        ),
        (
            "leaks",
            "what packed splits know of each other: same files, same bytes, alike pictures",
            "Name the videos of a split that are of the same source file, or have the same bytes, as one of another "
            "split, or begin with nearly the same picture.",
            add_leaks_options,
        ),
        (
            "merge",
            "several packed sources → one index of them all, without copying them",
            "Join packed sources in one index that names their shards where they lie. Classes are united by name.",
            add_merge_options,
        ),
        (
            "extract",
            "packed videos → the features of their windows, through a backbone",
            "Extract features, to train heads on without decoding. A second call extracts only what is missing. For "
            "several processes: accelerate launch tools/extract_features.py ...",
            add_extract_options,
        ),
        (
            "import",
            "features that WildFins saved → feature shards",
            "Import features that WildFins saved as .npy files, bit by bit. A second call imports only what is new.",
            add_import_options,
        ),
        (
            "evaluate",
            "how good a trained model is on a split",
            "Evaluate a checkpoint of train.py. Prints tables, and writes figures and predictions to RUN/evaluation/.",
            add_evaluate_options,
        ),
        (
            "export",
            "a trained model → one .onnx or .pt2 file",
            "Write a model as a file that runs without this program: frames in, probabilities out, the names of its "
            "classes and all else in its metadata. Compared with the model before it is called done.",
            _add_export_options,
        ),
        (
            "predict",
            "videos without labels → probabilities of every frame, and events",
            "Predict videos. Writes OUT/frames.parquet (probabilities of every frame), OUT/events.csv and "
            "OUT/events.json (what happens from when until when), and OUT/boris/ (tables that BORIS takes in). A video "
            "that cannot be decoded is named and left out.",
            add_predict_options,
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
            "Describe packed shards from their index alone. No video is opened, but for --html.",
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


def _add_export_options(parser: argparse.ArgumentParser) -> None:
    """The options of `wildstream export`."""
    parser.add_argument(
        "exported",
        type=Path,
        metavar="CHECKPOINT",
        help="RUN/best, RUN/last, or a run folder of train.py, whose best is taken",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="file to write, say model.onnx or model.pt2")
    parser.add_argument(
        "--to",
        choices=("onnx", "pt2"),
        help="onnx, for ONNX Runtime and what reads ONNX, needs the extra `export`; pt2, for torch.export.load of the "
        "same PyTorch (default: what OUT ends in)",
    )
    parser.add_argument("--force", action="store_true", help="replace OUT where it is there already")
    parser.set_defaults(run=_run_export)


def _add_verify_options(parser: argparse.ArgumentParser) -> None:
    """The options of `wildstream verify`."""
    parser.add_argument("verified", metavar="SHARDS", help="path or URL of one packed split, as shards/train")
    parser.add_argument("--workers", type=parse_count, metavar="N", help="threads (default: one per core)")
    parser.set_defaults(run=_run_verify)


def _add_inspect_options(parser: argparse.ArgumentParser) -> None:
    """The options of `wildstream inspect`."""
    parser.add_argument("inspected", metavar="SHARDS", help="path or URL of one packed split, as shards/train")
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
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="write a page too, with charts and some windows of each class to look at, which are decoded",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="chooses these windows (default: 0)")
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


def _run_export(options: argparse.Namespace) -> int:
    """Export, and say what was written and how near it is to the model."""
    from wildstream.export import export_model

    report = export_model(options.exported, options.out, to=options.to, force=options.force)
    given, found = report.document.input, report.document.output
    sizes = " and ".join(map(str, report.batch_sizes))
    print(f"{report.path}: {report.num_bytes:,} bytes" + "".join(f"   with {file}" for file in report.files[:-1]))
    print(f"  takes  {given.name} {given.dtype} ({', '.join(map(str, given.shape))})")
    print(f"  gives  {found.name} {found.dtype} ({', '.join(map(str, found.shape))}), {found.activation}")
    print(f"  differs from the model by {report.difference:.1g} at most, at batches of {sizes}")
    if given.dtype == "uint8":  # frames; features are of no video
        print(f"next: wildstream predict {shlex.quote(str(report.path))} VIDEO... OUT")
    return 0


def _run_verify(options: argparse.Namespace) -> int:
    """Print the faults of a packed split; 1 where there are any."""
    from wildstream.shards.verify import verify
    from wildstream.storage.urls import redact

    faults = verify(options.verified, workers=options.workers)
    for fault in faults:
        print(f"{fault.shard}  {fault.key}: {fault.reason}")
    print(
        f"{redact(options.verified)}: "
        + (f"{len(faults)} faulty videos" if faults else "all videos are what the index says")
    )
    return 1 if faults else 0


def _run_inspect(options: argparse.Namespace) -> int:
    """Print what the index says, and how well an epoch would be shuffled."""
    from wildstream.inspection import describe_dataset, describe_shuffles
    from wildstream.stream.dataset import DatasetBuilder

    dataset = DatasetBuilder(path=options.inspected, style=options.style).build()
    print(describe_dataset(dataset))
    loader = None
    if options.shuffle:
        loader = dataset.loader(batch_size=options.batch_size, size=options.size, shuffle=True, rank=0, world_size=1)
        print(f"\n{loader}\n\n{describe_shuffles(loader)}")
    if options.html is not None:
        from wildstream.inspection_page import write_page  # which imports Matplotlib

        write_page(options.html, dataset, seed=options.seed, loader=loader)
        print(f"\npage: {options.html}")
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

"""The command `wildstream evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from wildstream.commands import parse_checkpoint, parse_count


def add_evaluate_options(parser: argparse.ArgumentParser) -> None:
    """The options of `wildstream evaluate`."""
    parser.add_argument(
        "evaluated",
        metavar="RUN|CHECKPOINT|ARTIFACT",
        help="run folder of train.py; or one of its checkpoints, also copied elsewhere; or one at Weights & Biases, "
        "wandb:ENTITY/PROJECT/NAME:ALIAS",
    )
    parser.add_argument("--split", default="test", metavar="NAME", help="split of the shards (default: test)")
    parser.add_argument(
        "--set",
        choices=("full", "partial"),
        default="full",
        help="all windows (default), or those alone that carry at least one label, of any class",
    )
    parser.add_argument(
        "--checkpoint",
        type=parse_checkpoint,
        metavar="NAME",
        help="of a run: best, after the epoch with the best validation (default); last; or epoch_NNN of kept/",
    )
    parser.add_argument(
        "--data", metavar="SHARDS", help="path or URL of the shards (default: where they were in training)"
    )
    parser.add_argument(
        "--batch-size", type=parse_count, metavar="N", help="clips per batch (default: that of the training)"
    )
    parser.add_argument(
        "--groups",
        metavar="FILE|GROUPS",
        help="means over groups of classes: a YAML file, or '{motion: [run, jump], still: [sleep]}' (default: the "
        "upper levels of a hierarchy)",
    )
    parser.add_argument(
        "--shuffled-frames",
        action="store_true",
        help="go over the set again with the frames of every clip in another order: how much does it need the motion?",
    )
    parser.add_argument(
        "--bootstrap",
        type=_parse_number,
        default=1000,
        metavar="N",
        help="resamples of the videos that intervals come from; 0 for none (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=_parse_number, default=0, metavar="N", help="of resamples and shuffled frames (default: 0)"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for the results (default: RUN/evaluation)")
    parser.add_argument(
        "--no-report", action="store_true", help="write no page and no pictures, which take some seconds"
    )
    parser.add_argument(
        "--wandb",
        choices=("auto", "online", "offline", "disabled"),
        help="whether the results go to Weights & Biases too (default: as the training's)",
    )
    parser.set_defaults(run=run_evaluate)


def run_evaluate(options: argparse.Namespace) -> int:
    """Evaluate, and print the tables."""
    from wildstream.evaluation.describe import Analyses
    from wildstream.evaluation.evaluate import evaluate, render
    from wildstream.evaluation.groups import read_groups

    evaluation = evaluate(
        options.evaluated,
        split=options.split,
        windows=options.set,
        checkpoint=options.checkpoint,
        data=options.data,
        batch_size=options.batch_size,
        analyses=Analyses(
            groups=None if options.groups is None else read_groups(options.groups),
            bootstrap=options.bootstrap,
            shuffled_frames=options.shuffled_frames,
            seed=options.seed,
        ),
        out=options.out,
        wandb=options.wandb,
        html=not options.no_report,
    )
    print(render(evaluation))
    print(f"\nreport: {evaluation.report}   predictions: {evaluation.predictions.name}")
    if evaluation.page is not None:
        print(f"page: {evaluation.page}")
    if evaluation.mirrored is not None:
        print(evaluation.mirrored)
    return 0


def _parse_number(text: str) -> int:
    """A number of at least 0."""
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 0.")
    return int(text)

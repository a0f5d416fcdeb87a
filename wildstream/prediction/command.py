"""The command `wildstream predict`: its options, and what it says."""

from __future__ import annotations

import argparse
import sys

from wildstream.commands import REFUSED, parse_checkpoint, parse_count


def add_predict_options(parser: argparse.ArgumentParser) -> None:
    """The options of `wildstream predict`."""
    parser.add_argument(
        "model",
        metavar="CHECKPOINT",
        help="run folder of train.py, a checkpoint in it, or a file of `wildstream export`",
    )
    parser.add_argument(
        "videos",
        nargs="+",
        metavar="VIDEOS",
        help="video files, folders of them, packed shards (their labels are not looked at), or URLs of any of these",
    )
    parser.add_argument("out", metavar="OUT", help="folder for the results; it must not be there yet")
    parser.add_argument(
        "--checkpoint",
        type=parse_checkpoint,
        metavar="NAME",
        help="of a run: best, after the epoch with the best validation (default); last; or epoch_NNN of kept/",
    )
    parser.add_argument(
        "--step",
        type=parse_count,
        metavar="FRAMES",
        help="kept frames from one window to the next; less is finer and slower (default: as in training)",
    )
    parser.add_argument(
        "--weighting",
        choices=("hann", "uniform"),
        default="hann",
        help="how windows that overlap are averaged: frames in their middle count more (hann, default), or all alike",
    )
    parser.add_argument(
        "--threshold",
        type=parse_threshold,
        action="append",
        metavar="[CLASS=]VALUE",
        help="probability above which a class happens, of one class or of all; may be repeated (default: as tuned on "
        "validation, which the checkpoint holds, else 0.5; of exclusive classes the most probable one happens)",
    )
    parser.add_argument(
        "--min-duration",
        type=float,
        default=0.1,
        metavar="SECONDS",
        help="leave out shorter events (default: %(default)s)",
    )
    parser.add_argument(
        "--min-gap",
        type=float,
        default=0.1,
        metavar="SECONDS",
        help="join events of a class that are less apart (default: %(default)s)",
    )
    parser.add_argument("--draw", action="store_true", help="write OUT/videos/: the videos with the labels drawn in")
    parser.add_argument(
        "--batch-size", type=parse_count, default=16, metavar="N", help="windows at a time (default: %(default)s)"
    )
    parser.add_argument("--workers", type=parse_count, metavar="N", help="threads that decode (default: one per core)")
    parser.add_argument("--device", help="where the model runs (default: a GPU, where there is one)")
    parser.set_defaults(run=run_predict)


def parse_threshold(text: str) -> tuple[str | None, float]:
    """A threshold for all classes, such as 0.5, or for one, such as feeding=0.3: the class or None, and the number."""
    name, equals, number = text.rpartition("=")
    try:
        return (name if equals else None), float(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor CLASS=NUMBER, such as 0.5.") from None


def run_predict(options: argparse.Namespace) -> int:
    """Predict, and say what happens how often; 3 where videos were left out, 1 where all were."""
    from wildstream.prediction.loaded import open_model
    from wildstream.prediction.predict import choose_thresholds, predict_videos, render

    model = open_model(options.model, checkpoint=options.checkpoint, device=options.device)
    given = options.threshold or []
    thresholds: dict[str, float] = {}
    for name, number in sorted(given, key=lambda one: one[0] is not None):  # what is said of one class counts more
        thresholds |= {name: number} if name is not None else dict.fromkeys(model.classes, number)
    if model.task == "multi_label" and model.thresholds is None and not thresholds:
        print(f"note: {model.source} holds no thresholds; 0.5 is taken", file=sys.stderr)
    report = predict_videos(
        model,
        options.videos,
        options.out,
        step=options.step,
        weighting=options.weighting,
        thresholds=choose_thresholds(model, thresholds),
        min_duration=options.min_duration,
        min_gap=options.min_gap,
        draw=options.draw,
        batch_size=options.batch_size,
        num_workers=options.workers,
    )
    for word, entries in (
        ("refused", report.refused),
        ("shorter", report.shortened),
        ("damaged", report.lacking),
        ("undrawn", report.not_drawn),
    ):
        for name, reason in entries.items():
            print(f"{word}  {name}: {reason}")
    if not report.seconds:
        print("no video could be predicted; nothing was written", file=sys.stderr)
        return 1
    print(f"{render(report)}\n\nresults: {report.folder}")
    if not report.refused:
        return 0
    number = "1 video was" if len(report.refused) == 1 else f"{len(report.refused)} videos were"
    print(f"{number} left out; see {report.folder / 'events.json'}", file=sys.stderr)
    return REFUSED

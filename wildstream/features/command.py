"""The commands that make feature shards: `wildstream extract` and `import`; tools/ has them as scripts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from wildstream.commands import parse_count, parse_size_option
from wildstream.errors import ConfigError

if TYPE_CHECKING:
    from wildstream.stream.windows import SlidingStyle


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
        type=_parse_style,
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
    from wildstream.shards.label_files import read_categories
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


def _parse_style(text: str) -> str | SlidingStyle:
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

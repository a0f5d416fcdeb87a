"""Train a model on packed shards: accelerate launch train.py data.path=shards model.backbone=r3d_18 trainer.epochs=3."""

from __future__ import annotations

import sys

from wildstream.config import compose_config, option_lines
from wildstream.errors import WildStreamError
from wildstream.training.run import train

USAGE = """usage: accelerate launch train.py [GROUP=NAME ...] [OPTION=VALUE ...]

Groups are files in configs/ (data=windows|frames, model=r3d_18|s3d|test_vit, trainer=default|debug); options are:
"""


def main(arguments: list[str]) -> int:
    """Train as the arguments say; 0, or 1 with a message on stderr."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE, *option_lines(), sep="\n")
        return 0
    try:
        run = train(compose_config(arguments))
    except WildStreamError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"run: {run}   next: wildstream evaluate {run} --split test")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Pack labelled videos into shards; the same as `wildstream pack`."""

from __future__ import annotations

import argparse
import sys

from wildstream.cli import add_pack_options, run_pack
from wildstream.errors import WildStreamError


def main() -> int:
    """Pack as the arguments say; the exit status of `wildstream pack`."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_pack_options(parser)
    try:
        return run_pack(parser.parse_args())
    except WildStreamError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

"""Pack labelled videos into shards; the same as `wildstream pack`."""

from __future__ import annotations

import argparse
import sys

from wildstream.cli import EXIT_CODES, add_pack_options, run_pack, run_safely


def main() -> int:
    """Pack as the arguments say; the exit status of `wildstream pack`."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_pack_options(parser)
    options = parser.parse_args()
    return run_safely(lambda: run_pack(options))


if __name__ == "__main__":
    sys.exit(main())

"""What the commands share: exit statuses, errors as messages, and the kinds of values that options take.

The commands themselves are in shards/, features/, evaluation/ and prediction/command.py, and in cli.py.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from wildstream.errors import ConfigError, Interrupted, WildStreamError
from wildstream.sizes import parse_bytes

EXIT_CODES = """exit status:
  0  all is well
  1  failed; a message says why
  2  unknown or malformed options
  3  some videos were refused, the rest is done; pack-report.json, index-report.json or events.json says why.
     Of split, which is done, and leaks: splits share videos, as printed; split-report.json has all of them"""

REFUSED = 3
INTERRUPTED = 75
"""Exit status of a training that was told to stop and can go on: EX_TEMPFAIL of sysexits.h, "try again later"."""
LOG_SECONDS = "30"
"""Between two signs of progress in a file, where ten a second of a terminal's bar would bury everything else."""
SHOWN = 20  # lines of a kind that are printed; all are in the report


def run_safely(command: Callable[[], int]) -> int:
    """The exit status of a command; what the user can do something about becomes a message on stderr and 1 (or 75)."""
    if not sys.stderr.isatty():  # before anything imports tqdm, which reads this then
        for name in ("TQDM_MININTERVAL", "TQDM_MAXINTERVAL"):
            os.environ.setdefault(name, LOG_SECONDS)
    try:
        return command()
    except Interrupted as error:
        print(error, file=sys.stderr)
        return INTERRUPTED
    except WildStreamError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.filename is None:
            raise
        print(f"{type(error).__name__}: {error.filename}: {error.strerror}", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    return 1


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


def parse_count(text: str) -> int:
    """A number of at least 1."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1.")
    return int(text)


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

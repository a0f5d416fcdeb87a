"""Train a model on packed shards: accelerate launch train.py data.path=shards model=r3d_18 trainer.epochs=3."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from wildstream.training.interruption import Interruption

USAGE = """usage: accelerate launch train.py [--config FILE] [GROUP=NAME ...] [OPTION=VALUE ...]

Train on packed shards. Two processes on CPUs: ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 train.py ...

--config takes a YAML file of options by group, as the config.yaml of a run, or the name of an example:
  {examples}

groups, files in configs/:
{groups}

options:
{options}

exit status:
  0   all is well
  1   failed; a message says why
  75  stopped by SIGTERM or SIGUSR1; the same command with trainer.resume=auto goes on exactly there"""


def main(arguments: list[str]) -> int:
    """Train as the arguments say; 0, or 1 or 75 with a message on stderr."""
    with Interruption() as interruption:  # first of all: what follows takes seconds to import
        from wildstream.commands import run_safely
        from wildstream.config.compose import example_names, group_names, option_lines

        if {"-h", "--help"} & set(arguments):
            groups = (f"  {group}={'|'.join(names)}" for group, names in group_names().items())
            examples = "|".join(example_names())
            print(USAGE.format(examples=examples, groups="\n".join(groups), options="\n".join(option_lines())))
            return 0
        return run_safely(lambda: _train(arguments, interruption))


def _train(arguments: list[str], interruption: Interruption) -> int:
    """Train, and say what to do next."""
    from wildstream.config.compose import compose_config
    from wildstream.storage.urls import is_remote

    file, overrides = _split_arguments(arguments)
    config = compose_config(overrides, file=file)
    from wildstream.training.run import train  # seconds, which whoever misspelt an option need not wait

    run = train(config, interruption=interruption)
    if int(os.environ.get("RANK", "0")) == 0:
        path = config.data.path
        split = "test" if is_remote(path) or Path(path, "test").is_dir() else config.data.val_split
        print(f"run: {run}   next: wildstream evaluate {run} --split {split}")
    return 0


def _split_arguments(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The file behind --config, and the overrides."""
    from wildstream.errors import ConfigError

    file, overrides, rest = None, [], iter(arguments)
    for argument in rest:
        if argument.partition("=")[0] != "--config":
            overrides.append(argument)
            continue
        given = argument.partition("=")[2] or next(rest, None)
        if given is None or file is not None:
            raise ConfigError("--config takes one file. Give --config FILE once.")
        file = given
    return file, overrides


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

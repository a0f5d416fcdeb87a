"""What a launcher started: how many processes there are, and whether they know of each other."""

from __future__ import annotations

import os

from wildstream.errors import LaunchError


def check_launch(num_processes: int) -> None:
    """Refuse to run where a launcher started several processes that do not know of each other (LaunchError)."""
    promised = int(os.environ.get("WORLD_SIZE", "1"))
    if promised != num_processes:
        raise LaunchError(
            f"the launcher started {promised} processes (WORLD_SIZE), but Accelerate runs {num_processes}: "
            "each would work by itself. Without GPUs, launch with ACCELERATE_USE_CPU=true."
        )

"""How long planning ten million windows takes, and how much memory."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from wildstream.stream.plan import Order, Share, make_plan
from wildstream.stream.windows import SlidingStyle

STYLE = SlidingStyle(window_size=16, samples_per_window=16, step_size=4)
GOP = 50
ROUNDS = 5


def run(*, short: bool) -> dict[str, object]:
    """Plan in fresh processes on one core, so that each round pays for its own memory."""
    videos = 400 if short else 4000
    rounds = [_measure(videos) for _ in range(2 if short else ROUNDS)]
    seconds = [entry["seconds"] for entry in rounds]
    return {
        "windows": rounds[0]["windows"],
        "seconds": {"median": float(np.median(seconds)), "min": min(seconds), "max": max(seconds)},
        "peak_bytes": max(entry["peak_bytes"] for entry in rounds),
        "first_segment_seconds": float(np.median([entry["first_segment_seconds"] for entry in rounds])),
    }


def _measure(videos: int) -> dict[str, float]:
    """One round, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.plan", str(videos)]
    done = subprocess.run(["taskset", "-c", "0", *command], capture_output=True, text=True, check=True)
    windows, seconds, first, peak = map(float, done.stdout.split())
    return {"windows": windows, "seconds": seconds, "first_segment_seconds": first, "peak_bytes": peak}


def main(videos: int) -> None:
    """Plan once and print windows, seconds, seconds to the first segment of one rank of eight, and peak bytes."""
    frames = np.random.default_rng(0).integers(1000, 20_000, videos)
    key_frames = np.array([(video, at) for video, end in enumerate(frames) for at in range(0, end, GOP)], np.int32)
    before = peak_bytes()
    started = time.perf_counter()
    plan = make_plan(frames, STYLE, Order(), key_frames=key_frames)
    planned = time.perf_counter()
    next(plan.segments(Share(batch_size=32, rank=0, world_size=8)))
    first = time.perf_counter()
    print(len(plan), planned - started, first - planned, peak_bytes() - before)


def peak_bytes() -> int:
    """The most memory that this program had; getrusage would count the one that started it too."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(int(sys.argv[1]))

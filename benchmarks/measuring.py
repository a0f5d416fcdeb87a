"""How things are measured: in turns, with medians and extremes, on so many cores; and what a process takes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import numpy as np
import psutil


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": float(np.median(values)), "min": float(min(values)), "max": float(max(values))}


def ratio(over: Sequence[float], under: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum of the ratios of each round."""
    return spread([a / b for a, b in zip(over, under, strict=True)])


def fastest(rates: Mapping[str, Sequence[float]], names: Iterable[str]) -> str:
    """Which of these has the highest median."""
    return max(names, key=lambda name: float(np.median(rates[name])))


@contextmanager
def on_cores(number: int) -> Iterator[None]:
    """Keep this process, and those it starts, on so many cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:number])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def tree(process: psutil.Process) -> list[psutil.Process]:
    """A process and those it started, and so on."""
    return [process, *process.children(recursive=True)]


def cpu_seconds(process: psutil.Process) -> float:
    """Processor time that a process and those it started have used; ended ones count where they were waited for."""
    total = 0.0
    for one in tree(process):
        with suppress(psutil.Error):
            times = one.cpu_times()
            total += times.user + times.system
    ended = process.cpu_times()
    return total + ended.children_user + ended.children_system


def memory_bytes(process: psutil.Process) -> int:
    """Resident memory of a process and those it started; what they share counts once (PSS)."""
    total = 0
    for one in tree(process):
        with suppress(psutil.Error):
            total += one.memory_full_info().pss
    return total


class PeakMemory:
    """Watches a process and those it starts: `with PeakMemory(pid) as peak: ...`, then `peak.bytes`."""

    def __init__(self, pid: int, *, every: float = 0.05) -> None:
        self._process = psutil.Process(pid)
        self._every = every
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.bytes = 0

    def __enter__(self) -> PeakMemory:
        self.bytes = memory_bytes(self._process)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        """Look again and again."""
        while not self._done.wait(self._every):
            self.bytes = max(self.bytes, memory_bytes(self._process))

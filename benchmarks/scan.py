"""Folders of many tiny label files: how long it takes to look, pair, find copies and plan shards, and what it holds.

The videos are a few bytes each, so that nearly all of them have the size of another and are read for copies, which is
the worst case; none is decoded, as planning decodes none. Each count runs in a process of its own, whose memory is
compared with what it had after its imports.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.plan import peak_bytes

COUNTS, SHORT_COUNTS = (25_000, 100_000), (5_000, 10_000)
CLASSES = 100
LABELS = {"videos": ("txt", "{label}"), "events": ("csv", "start,stop,class\n0,1,c{label}\n")}
"""Extension and content of a label file, by format."""


def run(*, short: bool) -> dict[str, Any]:
    """Seconds of each step and MB of memory, by format and number of label files."""
    result: dict[str, Any] = {}
    for name in LABELS:
        for count in SHORT_COUNTS if short else COUNTS:
            with tempfile.TemporaryDirectory(prefix="wildstream-scan-") as folder:
                _write(Path(folder), name, count)
                command = [sys.executable, "-m", "benchmarks.scan", folder]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
            result[f"{name}, {count:,} label files"] = json.loads(done.stdout)
    return result


def _write(root: Path, name: str, count: int) -> None:
    """A source folder in a format, of as many videos as label files."""
    extension, text = LABELS[name]
    for number in range(count):
        label = number % CLASSES
        folder = root / ("val" if number % 10 == 0 else "train") / f"c{label:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:06d}.mp4").write_bytes(number.to_bytes(4) * (1 + number % 7))
        (folder / f"{number:06d}.{extension}").write_text(text.format(label=label))


def _measure(root: Path) -> dict[str, float]:
    """The steps of one folder."""
    from wildstream.shards.assignment import assign
    from wildstream.shards.copies import leave_out_copies
    from wildstream.shards.formats import get_format, recognise_format

    before = peak_bytes()
    seconds: dict[str, float] = {}
    started = time.perf_counter()

    def note(step: str) -> None:
        nonlocal started
        seconds[step] = round(time.perf_counter() - started, 2)
        started = time.perf_counter()

    name, _ = recognise_format(root)
    note("look")
    layout = get_format(name)
    scan = layout.scan(root)
    note("pair")
    leave_out_copies(scan, root, workers=2, progress=False)
    note("copies")
    for split in {source.split for source in scan.sources}:
        sources = [source for source in scan.sources if source.split == split]
        assign(sources, root=root, layout=layout, categories=scan.categories, shard_bytes=64 << 10)
    note("shards")
    return {**seconds, "all": round(sum(seconds.values()), 2), "megabytes": round((peak_bytes() - before) / 2**20)}


if __name__ == "__main__":
    print(json.dumps(_measure(Path(sys.argv[1]))))

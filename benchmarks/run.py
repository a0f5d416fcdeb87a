"""Run benchmarks and keep what they found: python -m benchmarks.run [--short] [NAME ...].

The full form writes benchmarks/results/<name>.json with commit, versions and machine; the short one only prints.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from wildstream.training.checkpoints import current_commit, used_versions

NAMES = ("plan", "shuffle")
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run the benchmarks that are asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(NAMES)}; all by default")
    parser.add_argument("--short", action="store_true", help="smaller and quicker; prints and writes nothing")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(NAMES)):
        parser.error(f"there is no benchmark {', '.join(unknown)}; take one of {', '.join(NAMES)}")
    for name in options.names or NAMES:
        result = import_module(f"benchmarks.{name}").run(short=options.short)
        print(f"{name}: {json.dumps(result, indent=1)}")
        if not options.short:
            report = {"benchmark": name, **_circumstances(), "result": result}
            (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")


def _circumstances() -> dict[str, object]:
    """When, where and with what a benchmark ran."""
    models = [
        line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": current_commit(),
        "versions": used_versions(),
        "machine": {"cpu": models[0] if models else platform.machine(), "cores": len(os.sched_getaffinity(0))},
    }


if __name__ == "__main__":
    main()

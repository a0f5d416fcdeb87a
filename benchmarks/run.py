"""Run benchmarks and keep what they found: python -m benchmarks.run [--short] [--only TEXT] [--out FOLDER] [NAME ...].

The full form writes <name>.json with commit, versions and machine into benchmarks/results, or another folder, and draws
its chart where it has one; the short one only prints. What compares with other libraries wants them installed:
pip install '.[bench]'; without, it says what is missing and goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from wildstream.training.checkpoints import current_commit, used_versions

NAMES = ("scan", "plan", "shuffle", "windows", "decoding", "features", "training")
ON_REQUEST = ("gpu", "storage", "feature_storage")
"""Those that run only where they are named."""
RESULTS = Path(__file__).parent / "results"
HELP = (
    f"one of {', '.join(NAMES)}, all by default; or gpu, which needs an NVIDIA GPU, or storage or feature_storage, "
    "which need moto and compare with what benchmarks/storage.py names"
)
PEERS = ("av", "decord", "spdl")
"""What is compared with, beyond what the package itself stands on."""


def main() -> None:
    """Run the benchmarks that are asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=HELP)
    parser.add_argument("--short", action="store_true", help="smaller and quicker; prints and writes nothing")
    parser.add_argument("--only", metavar="TEXT", help="of windows: only the cases whose name holds this")
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=RESULTS, help="where results are written")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - {*NAMES, *ON_REQUEST}):
        parser.error(f"there is no benchmark {', '.join(unknown)}; take one of {', '.join(NAMES + ON_REQUEST)}")
    if options.only is not None and options.names != ["windows"]:
        parser.error("--only goes with the one benchmark windows")
    for name in options.names or NAMES:
        module = import_module(f"benchmarks.{name}")
        started, load = time.time(), os.getloadavg()[0]
        result = module.run(short=options.short, **({} if options.only is None else {"only": options.only}))
        print(f"{name}: {json.dumps(result, indent=1)}")
        if not options.short:
            circumstances = {**_circumstances(), "load_before": load, "seconds": round(time.time() - started)}
            report = {"benchmark": name, **circumstances, "result": result}
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
            if hasattr(module, "draw"):
                module.draw(result, options.out / f"{name}.png")


def _circumstances() -> dict[str, object]:
    """When, where and with what a benchmark ran."""
    models = [
        line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": current_commit(),
        "versions": {**used_versions(), **_peer_versions()},
        "machine": {"cpu": models[0] if models else platform.machine(), "cores": len(os.sched_getaffinity(0))},
    }


def _peer_versions() -> dict[str, str | None]:
    """Versions of what is compared with; None where it is not installed."""
    found: dict[str, str | None] = {}
    for name in PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


if __name__ == "__main__":
    main()

"""How fast features stream from object storage: WildStream against webdataset, MosaicML streaming and LitData.

Windows of 16 tokens of 768 numbers, fp16, in batches of 64, shuffled, from servers on loopback: moto's S3, the same
objects from files, and proxies before moto that add nothing, 50 ms per request, or faults in a tenth of all requests.
All share two cores; see `benchmarks.storage`, which reads videos in the same way, and `benchmarks.lanes` for how the
turns are taken and for the environment that MosaicML and LitData want. All deliver every window once a pass, which is
looked at, and the same bytes, which are compared in the pass that warms up.

    wildstream     a loader over feature shards, by planned ranges, in two threads
    webdataset     tars with a .npy per window, a curl for each, through its buffer of 2048 windows
    mosaicml       MDS with a window as bytes, by boto3, its local folder empty; all shards are asked for ahead
    litdata        what `optimize` gives with a window as bytes, by obstore, its cache empty
    obstore        WildStream's shards in large ranges, dropped: the most that server and client give

The others run in one process, or where it says so with two workers, which are started anew in each pass. Shards of all
formats hold as many windows. In full form the data are five times as large as the 64 MB that WildStream asks for
together.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.feature_data import BATCH, make_windows
from benchmarks.feature_formats import as_data, write_formats
from benchmarks.lanes import (
    CORES,
    OWN_ENVIRONMENT,
    ROUNDS,
    Lane,
    Way,
    against_fastest,
    against_itself,
    race,
    servers_note,
    started,
)
from benchmarks.measuring import on_cores
from benchmarks.object_server import BUCKET, all_servers
from benchmarks.peers.object_source import Remote

TOKENS = 16
PER_SHARD = 1200
LIBRARIES = ("webdataset", *OWN_ENVIRONMENT)
PAIRS = [
    ("wildstream_moto", "wildstream_local"),
    ("wildstream_files", "wildstream_local"),
    ("wildstream_50ms", "wildstream_proxy"),
    ("wildstream_faults", "wildstream_proxy"),
]
"""WildStream's ways that are set against each other."""


def _ways(server: str) -> dict[str, Way]:
    """All libraries, in one process and with two workers."""
    ways = {
        f"wildstream_{server}": Way("wildstream", server),
        f"obstore_{server}": Way("wildstream", server, variant="alone"),
    }
    for source in LIBRARIES:
        for workers, suffix in ((0, ""), (2, "_2_workers")):
            ways[f"{source}{suffix}_{server}"] = Way(source, server, workers)
    return ways


WAYS: dict[str, Way] = {
    "wildstream_local": Way("wildstream", "local"),
    **_ways("moto"),
    **_ways("files"),
    "wildstream_proxy": Way("wildstream", "proxy"),
    "wildstream_50ms": Way("wildstream", "latency"),
    "wildstream_faults": Way("wildstream", "faults"),
}


def run(*, short: bool) -> dict[str, Any]:
    """All ways; the short form on fewer videos in two rounds."""
    try:
        moto_version = version("moto")
    except PackageNotFoundError:
        raise SystemExit("feature_storage: the server is missing: pip install 'moto[s3,server]'") from None
    rounds, videos = (2, 24) if short else (ROUNDS, 96)
    values = make_windows(TOKENS, videos=videos)
    with on_cores(CORES), ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        names = ("wildstream", *LIBRARIES)
        sources = stack.enter_context(started(dict(zip(names, names, strict=True))))
        folder = root / BUCKET / "features"
        write_formats(folder, values, sources, PER_SHARD)
        data = as_data(folder, values)
        servers = all_servers(stack, root)
        lanes = {
            name: Lane(way, "features", data, sources[way.source], servers[way.server]) for name, way in WAYS.items()
        }
        race("features", lanes, rounds)
        versions = {source: remote.versions for source, remote in sources.items() if isinstance(remote, Remote)}
    rates = {name: lane.rates for name, lane in lanes.items() if lane.rates}
    return {
        "what": f"windows of {TOKENS} x 768 fp16 in batches of {BATCH}, shuffled",
        "clock": "from asking for the first until the last has come; index opened before, workers started within",
        "cores": CORES,
        "rounds": rounds,
        "versions": {**versions, "server": {"moto": moto_version}},
        "data": {
            "videos": videos,
            "windows": len(data.everything),
            "windows_of_a_shard": PER_SHARD,
            "bytes": values.nbytes,
        },
        "ratios": {
            **against_fastest(rates, "moto"),
            **against_fastest(rates, "files"),
            **against_itself(rates, PAIRS),
        },
        "note": servers_note(lanes),
        "features": {name: lane.report() for name, lane in lanes.items()},
    }

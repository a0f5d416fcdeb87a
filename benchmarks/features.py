"""How fast features are read from a local disk: windows per second in batches of 64, shuffled, against other ways.

    wildstream           a loader over feature shards, in global random order
    webdataset           tars with a .npy per window, shuffled by its buffer (not globally)
    mosaicml             MosaicML streaming, MDS with a window as bytes: its loader; or, as "indexed", `dataset[number]`
    litdata              LitData, what its `optimize` gives with a window as bytes, shuffled by chunks and within them
    safetensors          a file per video, opened once, a slice per window
    folders_per_window   a .npy per window in a folder per video
    folders_per_frame    a .npy per frame in a folder per video, as WildFins keeps them; windows read their 16 frames
    memory_copy          the same batches gathered from one array in memory: the ceiling

Each library has a process of its own, with no workers, or two processes where it says so; data sets are opened, and
workers started, once. All take turns (see `benchmarks.lanes`, also for the environment that MosaicML and LitData want).
All deliver every window once a pass, which is looked at, and the same bytes, which are compared in the pass that warms
up. Files are in the page cache.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.feature_data import BATCH, make_windows
from benchmarks.feature_formats import FORMATS, as_data, write_formats
from benchmarks.lanes import CORES, ROUNDS, Lane, Way, race, started
from benchmarks.measuring import on_cores, ratio, spread
from benchmarks.peers.object_source import Remote

TOKENS = {"16x768": 16, "768": 1}
PER_SHARD = 1000
WAYS: dict[str, Way] = {
    "wildstream": Way("wildstream", kept=True),
    "webdataset": Way("webdataset", workers=0, kept=True),
    "webdataset_2_workers": Way("webdataset", kept=True),
    "mosaicml": Way("mosaicml", workers=0, kept=True),
    "mosaicml_2_workers": Way("mosaicml", kept=True),
    "mosaicml_indexed": Way("mosaicml", workers=0, variant="indexed", kept=True),
    "litdata": Way("litdata", workers=0, kept=True),
    "litdata_2_workers": Way("litdata", kept=True),
    **{
        name: Way("arrays", workers=0, variant=name, kept=True)
        for name in ("safetensors", "folders_per_window", "folders_per_frame", "memory_copy")
    },
}


def run(*, short: bool) -> dict[str, Any]:
    """Figures for windows of 16 tokens and of one, fp16; the short form on few videos in two rounds."""
    with on_cores(CORES), started({name: name for name in FORMATS}) as sources:
        return {
            name: _compare(tokens, name, sources, videos=8 if short else 40, rounds=2 if short else ROUNDS)
            for name, tokens in TOKENS.items()
        }


def draw(result: dict[str, Any], path: Path) -> None:
    """The chart of what `run` gave."""
    from benchmarks.feature_chart import draw_features

    draw_features(result, path)


def _compare(
    tokens: int, shape: str, sources: dict[str, Remote | str], *, videos: int, rounds: int, per_shard: int = PER_SHARD
) -> dict[str, Any]:
    """All ways, in turns."""
    values = make_windows(tokens, videos=videos)
    ways = {name: way for name, way in WAYS.items() if tokens > 1 or way.variant != "folders_per_frame"}
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "features"
        write_formats(folder, values, sources, per_shard)
        data = as_data(folder, values)
        lanes = {name: Lane(way, "features", data, sources[way.source]) for name, way in ways.items()}
        race(shape, lanes, rounds)
        versions = {source: remote.versions for source, remote in sources.items() if isinstance(remote, Remote)}
    rates = {name: lane.rates for name, lane in lanes.items() if lane.rates}
    others = [one["others_cpu_share"] for lane in lanes.values() for one in lane.passes]
    return {
        "windows": len(data.everything),
        "bytes_of_a_window": int(values[0, 0].nbytes),
        "batch": BATCH,
        "cores": CORES,
        "rounds": rounds,
        "versions": versions,
        "others_cpu_share": spread(others),
        "windows_per_second": {name: spread(found) for name, found in rates.items()},
        "ratios": {name: ratio(rates["wildstream"], found) for name, found in rates.items() if name != "wildstream"},
        "errors": {name: lane.error for name, lane in lanes.items() if lane.error},
    }

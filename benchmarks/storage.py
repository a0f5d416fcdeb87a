"""What streaming from object storage costs: WildStream against webdataset, MosaicML streaming and LitData, on loopback.

    bytes      videos in shuffled order, not decoded
    windows    clips of 16 frames at 224x224, step 8, in batches of 8: WildStream's loader; of the others whole videos
               that are decoded once with torchcodec in two workers, resized and sliced
    faults     WildStream with a tenth of all requests failing, half answered with 503, half reset

The servers are moto's S3, in Python; the same objects from files, which costs nearly no processor time; and proxies
before moto that add nothing, 50 ms per request, or faults. All share two cores with whoever reads, so that a server
which is busy is part of what is measured: `server_cpu_share` is its processor time per second of the pass, 1.0 being
one core, and "obstore" reads the same bytes and drops them, which is the most that this server and client give.
`others_cpu_share` is what else the machine did meanwhile: where that is not near 0, the figures are disturbed.

All take turns, at least five times after one to warm up, in which the bytes are compared. A pass is from asking for the
first sample until the last has come; what opens the index comes before it and is told as `open_seconds`. Worker
processes are started anew in each pass, and the caches of those who must have one are empty. Shards of all formats hold
the same four videos, or where it says "single", one.

MosaicML streaming and LitData want older packages than WildStream; WILDSTREAM_PEERS_PYTHON names the interpreter of an
environment that has them:

    uv venv peers --python 3.11
    uv pip install --python peers/bin/python mosaicml-streaming litdata torch torchvision torchcodec webdataset av \
        obstore psutil pyarrow pydantic pyyaml
    uv pip install --python peers/bin/python --no-deps .
    WILDSTREAM_PEERS_PYTHON=$PWD/peers/bin/python python -m benchmarks.run storage
"""

from __future__ import annotations

import shutil
import zlib
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.footage import CACHE, Case, is_real, make_case
from benchmarks.lanes import (
    CORES,
    OWN_ENVIRONMENT,
    ROUNDS,
    Data,
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
from benchmarks.peers.base import read_videos
from benchmarks.peers.object_source import Remote, SourceError
from wildstream.shards.pack import pack

STEP, GOP, HEIGHT = 8, 30, 360
PER_SHARD = 4
OWN_FORMAT = ("mosaicml", "litdata")
"""Those that have a format of their own; the others read the same shards."""
PACKED = "wildstream/train"
"""The shards of a data set below its folder."""


def _bytes_ways(server: str) -> dict[str, Way]:
    """All libraries, in one process and with two workers."""
    ways = {
        f"wildstream_{server}": Way("wildstream", server),
        f"obstore_{server}": Way("wildstream", server, variant="alone"),
    }
    for source in ("webdataset", *OWN_FORMAT):
        for workers, suffix in ((0, ""), (2, "_2_workers")):
            ways[f"{source}{suffix}_{server}"] = Way(source, server, workers)
    return ways


BYTES: dict[str, Way] = {
    "wildstream_local": Way("wildstream", "local"),
    **_bytes_ways("moto"),
    **_bytes_ways("files"),
    "wildstream_proxy": Way("wildstream", "proxy"),
    "wildstream_50ms": Way("wildstream", "latency"),
    "wildstream_faults": Way("wildstream", "faults"),
}
WINDOWS: dict[str, Way] = {
    "wildstream_local": Way("wildstream", "local"),
    "wildstream_moto": Way("wildstream", "moto"),
    "wildstream_50ms": Way("wildstream", "latency"),
    "wildstream_cold_cache": Way("wildstream", "moto", cache="cold"),
    "wildstream_warm_cache": Way("wildstream", "moto", cache="warm"),
    "wildstream_single_proxy": Way("wildstream", "proxy", data="single"),
    "wildstream_single_faults": Way("wildstream", "faults", data="single"),
    "webdataset_moto": Way("webdataset", "moto"),
    "mosaicml_moto": Way("mosaicml", "moto"),
    "litdata_moto": Way("litdata", "moto"),
}
PAIRS = {
    "bytes": [
        ("wildstream_moto", "wildstream_local"),
        ("wildstream_50ms", "wildstream_proxy"),
        ("wildstream_faults", "wildstream_proxy"),
    ],
    "windows": [
        ("wildstream_moto", "wildstream_local"),
        ("wildstream_50ms", "wildstream_local"),
        ("wildstream_cold_cache", "wildstream_local"),
        ("wildstream_warm_cache", "wildstream_local"),
        ("wildstream_single_faults", "wildstream_single_proxy"),
    ],
}
"""WildStream's ways that are set against each other."""


def run(*, short: bool) -> dict[str, Any]:
    """All three parts; the short form on few short videos in two rounds."""
    try:
        moto_version = version("moto")
    except PackageNotFoundError:
        raise SystemExit("storage: the server is missing: pip install 'moto[s3,server]'") from None
    rounds = 2 if short else ROUNDS
    sizes = {"bytes": (24, 600), "windows": (8, 240)} if short else {"bytes": (48, 3000), "windows": (24, 600)}
    name = "_".join(f"{videos}x{frames}" for videos, frames in sizes.values())
    with on_cores(CORES), ExitStack() as stack:
        root = CACHE / f"storage_{name}"
        cases = {kind: _packed(root, kind, *size, PER_SHARD) for kind, size in sizes.items()}
        cases["single"] = _packed(root, "single", *sizes["windows"], 1)
        names = ("wildstream", "webdataset", *OWN_ENVIRONMENT)
        sources = stack.enter_context(started(dict(zip(names, names, strict=True))))
        _write_formats(root / BUCKET, cases, sources)
        servers = all_servers(stack, root)
        lanes = {
            part: {
                name: Lane(way, what, _data(cases, way.data or part, what), sources[way.source], servers[way.server])
                for name, way in ways.items()
            }
            for part, what, ways in (("bytes", "samples", BYTES), ("windows", "batches", WINDOWS))
        }
        for part, some in lanes.items():
            race(part, some, rounds)
        versions = {source: remote.versions for source, remote in sources.items() if isinstance(remote, Remote)}
    rates = {part: {name: lane.rates for name, lane in some.items() if lane.rates} for part, some in lanes.items()}
    ratios = {
        f"{part}: {name}": found
        for part in PAIRS
        for name, found in {
            **against_fastest(rates[part], "moto"),
            **against_fastest(rates[part], "files"),
            **against_itself(rates[part], PAIRS[part]),
        }.items()
    }
    return {
        "what": "whole videos, not decoded; and clips of 16 frames at 224x224, step 8, in batches of 8, decoded",
        "clock": "from asking for the first until the last has come; index opened before, workers started within",
        "cores": CORES,
        "rounds": rounds,
        "real_footage": is_real(make_case(step=STEP, gop=GOP, height=HEIGHT, frames=sizes["windows"][1])),
        "versions": {**versions, "server": {"moto": moto_version}},
        "data": {kind: _described(case) for kind, case in cases.items()},
        "ratios": ratios,
        "note": servers_note(lanes["bytes"]),
        **{part: {name: lane.report() for name, lane in some.items()} for part, some in lanes.items()},
    }


def _packed(root: Path, kind: str, videos: int, frames: int, per_shard: int) -> Case:
    """The footage many times, under other keys, packed into the bucket's folder where that is not yet done."""
    case = make_case(step=STEP, gop=GOP, height=HEIGHT, frames=frames)
    shards = root / BUCKET / kind / PACKED
    out = shards.parent
    if not shards.is_dir():
        source, target = case.shards.parents[1] / "source", root / "source" / kind
        given = sorted(source.glob("train/*/*.mp4"))
        for number in range(videos):
            copy = target / "train" / f"{number:03d}" / f"{number:03d}.mp4"
            copy.parent.mkdir(parents=True, exist_ok=True)
            for suffix in (".mp4", ".tsv"):
                shutil.copyfile(given[number % len(given)].with_suffix(suffix), copy.with_suffix(suffix))
        shutil.copyfile(source / "categories.json", target / "categories.json")
        sizes = [path.stat().st_size for path in given]
        most = 1 if per_shard == 1 else sum(sizes) + min(sizes) // 2
        if report := pack(target, out, format="frames", shard_bytes=most, progress=False).refused:
            raise RuntimeError(f"the footage was refused: {report}")
        shutil.rmtree(target)
    return Case(shards=shards, step=STEP, gop=GOP, height=HEIGHT)


def _write_formats(bucket: Path, cases: dict[str, Case], sources: dict[str, Remote | str]) -> None:
    """The same videos in the others' formats, where that is not yet done."""
    for source in OWN_FORMAT:
        for kind in ("bytes", "windows"):
            out, remote = bucket / kind / source, sources[source]
            if isinstance(remote, str) or out.is_dir():
                continue
            try:
                partial = out.with_name(f"{source}.partial")
                shutil.rmtree(partial, ignore_errors=True)
                remote.write(cases[kind].shards, partial, PER_SHARD)
                partial.rename(out)
            except SourceError as error:
                sources[source] = str(error)


def _data(cases: dict[str, Case], kind: str, what: str) -> Data:
    """A data set as the lanes take it."""
    case = cases[kind]
    samples = what == "samples"
    return Data(
        folder=case.shards.parents[1],
        formats={"wildstream": PACKED, "webdataset": PACKED, **{source: source for source in OWN_FORMAT}},
        everything=[(key,) for key in case.num_frames] if samples else case.addresses(),
        checksums=(lambda: {key: zlib.crc32(data) for key, data in read_videos(case).items()}) if samples else None,
        facts={"shards": str(case.shards), "step": STEP, "gop": GOP, "height": HEIGHT},
    )


def _described(case: Case) -> dict[str, Any]:
    """How large a data set is."""
    return {
        "videos": len(case.num_frames),
        "frames": sum(case.num_frames.values()),
        "windows": len(case.addresses()),
        "shards": len(case.tars),
        "bytes": sum(Path(tar).stat().st_size for tar in case.tars),
    }

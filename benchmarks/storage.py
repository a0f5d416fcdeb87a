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

import os
import shutil
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.footage import CACHE, Case, is_real, make_case
from benchmarks.measuring import on_cores, ratio, spread
from benchmarks.object_server import BUCKET, Server, environment, files, moto, proxy, upload
from benchmarks.peers.base import read_videos
from benchmarks.peers.object_source import Remote, Settings, SourceError, digest, drop_folder, new_folder
from wildstream.shards.pack import pack

ROUNDS = 5
CORES = 2
STEP, GOP, HEIGHT = 8, 30, 360
PER_SHARD = 4
LATENCY_MS = 50.0
FAULT_RATE = 0.1
PEERS_PYTHON = "WILDSTREAM_PEERS_PYTHON"
OWN_FORMAT = ("mosaicml", "litdata")
"""Those that have a format of their own, and an environment."""


@dataclass(frozen=True)
class Way:
    """One way to read one of the data sets."""

    source: str
    """Which library, as `benchmarks/peers/object_<source>.py` is named."""
    server: str
    """"local", "moto", "files", or one of the proxies "proxy", "latency" and "faults"."""
    workers: int = 2
    """Threads of WildStream, processes of the others; 0 reads in the process itself."""
    data: str = ""
    """Data set; the part's own by default."""
    cache: str = ""
    """WildStream's cache_dir: none, "cold" or "warm"."""
    alone: bool = False
    """Read by obstore alone."""


def _bytes_ways(server: str) -> dict[str, Way]:
    """All libraries, in one process and with two workers."""
    ways = {
        f"wildstream_{server}": Way("wildstream", server),
        f"obstore_{server}": Way("wildstream", server, alone=True),
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
        sources = stack.enter_context(_started(("wildstream", "webdataset", *OWN_FORMAT)))
        _write_formats(root / BUCKET, cases, sources)
        servers = _servers(stack, root)
        lanes = {
            part: {
                name: _Lane(
                    way,
                    what,
                    cases[way.data or part],
                    root / BUCKET / (way.data or part),
                    sources[way.source],
                    servers[way.server],
                )
                for name, way in ways.items()
            }
            for part, what, ways in (("bytes", "samples", BYTES), ("windows", "batches", WINDOWS))
        }
        for part, some in lanes.items():
            _race(part, some, rounds)
        versions = {source: remote.versions for source, remote in sources.items() if isinstance(remote, Remote)}
    rates = {part: {name: lane.rates for name, lane in some.items() if lane.rates} for part, some in lanes.items()}
    return {
        "what": "whole videos, not decoded; and clips of 16 frames at 224x224, step 8, in batches of 8, decoded",
        "clock": "from asking for the first until the last has come; index opened before, workers started within",
        "cores": CORES,
        "rounds": rounds,
        "real_footage": is_real(make_case(step=STEP, gop=GOP, height=HEIGHT, frames=sizes["windows"][1])),
        "versions": {**versions, "server": {"moto": moto_version}},
        "data": {kind: _described(case) for kind, case in cases.items()},
        "ratios": _ratios(rates),
        "note": _note(lanes["bytes"]),
        **{part: {name: lane.report() for name, lane in some.items()} for part, some in lanes.items()},
    }


# --- data -------------------------------------------------------------------------------------------------------------


def _packed(root: Path, kind: str, videos: int, frames: int, per_shard: int) -> Case:
    """The footage many times, under other keys, packed into the bucket's folder where that is not yet done."""
    case = make_case(step=STEP, gop=GOP, height=HEIGHT, frames=frames)
    out = root / BUCKET / kind / "wildstream"
    if not (out / "train").is_dir():
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
    return Case(shards=out / "train", step=STEP, gop=GOP, height=HEIGHT)


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


def _described(case: Case) -> dict[str, Any]:
    """How large a data set is."""
    return {
        "videos": len(case.num_frames),
        "frames": sum(case.num_frames.values()),
        "windows": len(case.addresses()),
        "shards": len(case.tars),
        "bytes": sum(Path(tar).stat().st_size for tar in case.tars),
    }


# --- processes --------------------------------------------------------------------------------------------------------


@contextmanager
def _started(names: tuple[str, ...]) -> Iterator[dict[str, Remote | str]]:
    """A process for each library; or what it lacks."""
    found: dict[str, Remote | str] = {}
    try:
        for name in names:
            python = os.environ.get(PEERS_PYTHON) if name in OWN_FORMAT else sys.executable
            if not python:
                found[name] = f"{PEERS_PYTHON} is not set; it names the Python of an environment with storage-peers"
                continue
            try:
                found[name] = Remote(name, python, environment())
            except (SourceError, OSError) as error:
                found[name] = str(error)
        for name, remote in found.items():
            if isinstance(remote, str):
                print(f"storage: {name}: {remote}", flush=True)
        yield found
    finally:
        for remote in found.values():
            if isinstance(remote, Remote):
                remote.close()


def _servers(stack: ExitStack, root: Path) -> dict[str, tuple[Server, ...]]:
    """By name, the server that is asked, and those behind it."""
    origin = stack.enter_context(moto())
    upload(root / BUCKET, origin)
    found: dict[str, tuple[Server, ...]] = {"local": (), "moto": (origin,)}
    found["files"] = (stack.enter_context(files(root)),)
    found["proxy"] = (stack.enter_context(proxy(origin)), origin)
    found["latency"] = (stack.enter_context(proxy(origin, milliseconds=LATENCY_MS)), origin)
    found["faults"] = (stack.enter_context(proxy(origin, faults=FAULT_RATE)), origin)
    return found


# --- the race ---------------------------------------------------------------------------------------------------------


def _race(part: str, lanes: dict[str, _Lane], rounds: int) -> None:
    """All ways of one part, in turns."""
    for name, lane in lanes.items():
        lane.turn(warm_up=True)
        print(f"  {part} {name}: {lane.told()}", flush=True)
    for _ in range(rounds):
        for lane in lanes.values():
            lane.turn()
    for lane in lanes.values():
        lane.end()


@dataclass
class _Lane:
    """One way and what it took; what goes wrong becomes its `error`, and it runs no more."""

    way: Way
    what: str
    case: Case
    folder: Path
    """Where the data set lies in all formats."""
    remote: Remote | str
    servers: tuple[Server, ...]
    passes: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    _epoch: int = 0
    _warm: str = ""

    @property
    def rates(self) -> list[float]:
        """Samples or windows per second of each round; none after an error."""
        return [] if self.error else [one["count"] / one["seconds"] for one in self.passes]

    def turn(self, *, warm_up: bool = False) -> None:
        """One pass; the first warms up, and what it gave is compared."""
        if isinstance(self.remote, str):
            self.error = self.remote
        if self.error or isinstance(self.remote, str):
            return
        if self.way.cache == "warm":
            self._warm = self._warm or new_folder()
        cache = new_folder() if self.way.cache == "cold" else self._warm
        facts = {"shards": str(self.case.shards), "step": STEP, "gop": GOP, "height": HEIGHT}
        before = [(server.cpu_seconds(), server.counts()) for server in self.servers]
        busy, started = _busy_seconds(), time.perf_counter()
        try:
            found = self.remote.one_pass(self.what, self._settings(cache), facts, look=warm_up)
        except SourceError as error:
            self.error = str(error)
            return
        finally:
            if self.way.cache == "cold":
                drop_folder(cache)
        used = [server.cpu_seconds() - seconds for server, (seconds, _) in zip(self.servers, before, strict=True)]
        found["server_cpu_seconds"] = sum(used)
        others = _busy_seconds() - busy - found["cpu_seconds"] - sum(used)
        found["others_cpu_share"] = max(0.0, others) / (time.perf_counter() - started)
        if self.servers:
            counts = self.servers[0].counts()
            found["counts"] = {name: count - before[0][1].get(name, 0) for name, count in counts.items()}
        self._epoch += 1
        self.error = self._wrong(found, look=warm_up)
        if not warm_up:
            self.passes.append(found)

    def end(self) -> None:
        """Delete what was kept."""
        if self._warm:
            drop_folder(self._warm)

    def told(self) -> str:
        """How the preparation went, in a few words."""
        return self.error or "all delivered once"

    def report(self) -> dict[str, Any]:
        """All that was found."""
        if not self.rates:
            return {"error": self.error}
        report = {
            "server": self.way.server,
            "workers": self.way.workers,
            "per_second": spread(self.rates),
            "seconds": spread([one["seconds"] for one in self.passes]),
            "open_seconds": spread([one["open_seconds"] for one in self.passes]),
            "first_seconds": spread([one["first_seconds"] for one in self.passes]),
            "cpu_seconds": spread([one["cpu_seconds"] for one in self.passes]),
            "others_cpu_share": spread([one["others_cpu_share"] for one in self.passes]),
        }
        if self.what == "samples":
            report["megabytes_per_second"] = spread([one["bytes"] / one["seconds"] / 1e6 for one in self.passes])
        if self.servers:
            report["server_cpu_share"] = spread([one["server_cpu_seconds"] / one["seconds"] for one in self.passes])
        for name in sorted({name for one in self.passes for name in one.get("counts", {})}):
            report[f"{name}_of_a_pass"] = spread([one["counts"].get(name, 0) for one in self.passes])
        return report

    def _settings(self, cache: str) -> Settings:
        """Where this way reads from."""
        endpoint = self.servers[0].endpoint if self.servers else ""
        own = self.way.source if self.way.source in OWN_FORMAT else "wildstream/train"
        url = f"s3://{BUCKET}/{self.folder.name}/{own}"
        if self.way.server == "local":
            url = str(self.folder / own)
        elif self.way.source == "webdataset":
            last = len(self.case.tars) - 1
            url = f"{endpoint}/{BUCKET}/{self.folder.name}/{own}/{{000000..{last:06d}}}.tar"
        elif self.way.alone:
            url = f"obstore:{url}"
        return Settings(url=url, endpoint=endpoint, workers=self.way.workers, cache=cache, epoch=self._epoch)

    def _wrong(self, found: dict[str, Any], *, look: bool) -> str:
        """What is wrong with what a pass delivered, if anything."""
        if self.way.alone:
            return ""
        everything = self.case.addresses() if self.what == "batches" else [(key,) for key in self.case.num_frames]
        if found["digest"] != digest(everything):
            return f"not everything was delivered once: {found['count']} of {len(everything)} came"
        if look and self.what == "samples":
            videos = {key: zlib.crc32(data) for key, data in read_videos(self.case).items()}
            if found["checksums"] != videos:
                return "other bytes were delivered than those of the shards"
        return ""


def _busy_seconds() -> float:
    """Processor time that everything on the machine has used."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


# --- what it comes to -------------------------------------------------------------------------------------------------


def _ratios(rates: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """WildStream's rates over the fastest peer's, and over its own elsewhere, round by round."""
    ratios: dict[str, Any] = {}
    for part, server in (("bytes", "moto"), ("bytes", "files"), ("windows", "moto")):
        found, ours = rates[part], f"wildstream_{server}"
        peers = [
            name for name in found if name.endswith(f"_{server}") and not name.startswith(("wildstream", "obstore"))
        ]
        if ours in found and peers:
            best = max(peers, key=lambda name: float(np.median(found[name])))
            ratios[f"{part}: {ours} / fastest peer"] = {"peer": best, **ratio(found[ours], found[best])}
    pairs = {
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
    for part, names in pairs.items():
        for over, under in names:
            if over in rates[part] and under in rates[part]:
                ratios[f"{part}: {over} / {under}"] = ratio(rates[part][over], rates[part][under])
    return ratios


def _note(lanes: dict[str, _Lane]) -> str:
    """Whether moto is what limits, in words."""
    ours, alone = (lanes[name] for name in ("wildstream_moto", "obstore_moto"))
    if not ours.passes or not alone.passes:
        return ""
    share, rate, most = (
        float(np.median(values))
        for values in (
            [one["server_cpu_seconds"] / one["seconds"] for one in ours.passes],
            [one["bytes"] / one["seconds"] / 1e6 for one in ours.passes],
            [one["bytes"] / one["seconds"] / 1e6 for one in alone.passes],
        )
    )
    return (
        f"moto took {share:.2f} cores while WildStream read {rate:.0f} MB/s from it; obstore alone, in fewer and "
        f"larger ranges, gets {most:.0f} MB/s. moto reads an object whole for each range. Local files and warm caches "
        "come from the page cache."
    )

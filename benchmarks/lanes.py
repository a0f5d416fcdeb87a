"""Libraries in turns: each way to read a data set has a lane, whose passes run in the library's own process.

All take turns, at least five times after one to warm up, in which the bytes are compared; that everything was delivered
exactly once is looked at in every pass. `server_cpu_share` is the servers' processor time per second of the pass, 1.0
being one core; `others_cpu_share` is what else the machine did meanwhile: where that is not near 0, the figures are
disturbed.

MosaicML streaming and LitData want older packages than WildStream; WILDSTREAM_PEERS_PYTHON names the interpreter of an
environment that has them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.measuring import fastest, ratio, spread
from benchmarks.object_server import BUCKET, Server, environment
from benchmarks.peers.object_source import Remote, Settings, SourceError, digest, drop_folder, new_folder

PEERS_PYTHON = "WILDSTREAM_PEERS_PYTHON"
OWN_ENVIRONMENT = ("mosaicml", "litdata")
"""Those that run in it."""
ROUNDS = 5
CORES = 2

Rates = dict[str, list[float]]
"""What each way delivered per second in each round."""


@dataclass(frozen=True)
class Way:
    """One way to read one of the data sets."""

    source: str
    """Which library, as `benchmarks/peers/object_<source>.py` is named."""
    server: str = "local"
    """"local", "moto", "files", or one of the proxies "proxy", "latency" and "faults"."""
    workers: int = 2
    """Threads of WildStream, processes of the others; 0 reads in the process itself."""
    data: str = ""
    """Data set; the part's own by default."""
    cache: str = ""
    """WildStream's cache_dir: none, "cold" or "warm"."""
    variant: str = ""
    """Which way, where the library has several; "alone": by obstore alone, which only counts bytes."""
    kept: bool = False
    """Whether data set and workers are there for all passes, as in the epochs of a training."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set in the formats of all libraries."""

    folder: Path
    """Where it lies, in the folder that the servers serve as their bucket."""
    formats: Mapping[str, str]
    """By library, the folder below it."""
    everything: Sequence[tuple[Any, ...]]
    """What a pass delivers: keys of videos, addresses of windows, or numbers of windows of features."""
    checksums: Callable[[], dict[str, int]] | None = None
    """Of what is delivered; None where bytes are not compared."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Of videos, what a library's process must know of the case."""
    shape: tuple[int, ...] = ()
    """Of features, tokens of a window and their length."""


@contextmanager
def started(names: Mapping[str, str]) -> Iterator[dict[str, Remote | str]]:
    """A process under each name for the library that it stands for; or what that lacks."""
    found: dict[str, Remote | str] = {}
    try:
        for name, source in names.items():
            python = os.environ.get(PEERS_PYTHON) if source in OWN_ENVIRONMENT else sys.executable
            if not python:
                found[name] = f"{PEERS_PYTHON} is not set; it names the Python of an environment with storage-peers"
                continue
            try:
                found[name] = Remote(source, python, environment())
            except (SourceError, OSError) as error:
                found[name] = str(error)
        for name, remote in found.items():
            if isinstance(remote, str):
                print(f"  {name}: {remote}", flush=True)
        yield found
    finally:
        for remote in found.values():
            if isinstance(remote, Remote):
                remote.close()


def race(part: str, lanes: dict[str, Lane], rounds: int) -> None:
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
class Lane:
    """One way and what it took; what goes wrong becomes its `error`, and it runs no more."""

    way: Way
    what: str
    """"samples", "batches" or "features"."""
    data: Data
    remote: Remote | str
    servers: tuple[Server, ...] = ()
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
        before = [(server.cpu_seconds(), server.counts()) for server in self.servers]
        busy, begun = _busy_seconds(), time.perf_counter()
        try:
            found = self.remote.one_pass(self.what, self._settings(cache), dict(self.data.facts), look=warm_up)
        except SourceError as error:
            self.error = str(error)
            return
        finally:
            if self.way.cache == "cold":
                drop_folder(cache)
        used = [server.cpu_seconds() - seconds for server, (seconds, _) in zip(self.servers, before, strict=True)]
        found["server_cpu_seconds"] = sum(used)
        others = _busy_seconds() - busy - found["cpu_seconds"] - sum(used)
        found["others_cpu_share"] = max(0.0, others) / (time.perf_counter() - begun)
        if self.servers:
            counts = self.servers[0].counts()
            found["counts"] = {name: count - before[0][1].get(name, 0) for name, count in counts.items()}
        self._epoch += 1
        self.error = self._wrong(found, look=warm_up)
        found.pop("checksums")
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
        if self.what in ("samples", "features"):
            report["megabytes_per_second"] = spread([one["bytes"] / one["seconds"] / 1e6 for one in self.passes])
        if self.servers:
            report["server_cpu_share"] = spread([one["server_cpu_seconds"] / one["seconds"] for one in self.passes])
        for name in sorted({name for one in self.passes for name in one.get("counts", {})}):
            report[f"{name}_of_a_pass"] = spread([one["counts"].get(name, 0) for one in self.passes])
        return report

    def _settings(self, cache: str) -> Settings:
        """Where this way reads from."""
        endpoint = self.servers[0].endpoint if self.servers else ""
        own = self.data.formats[self.way.source]
        url = f"s3://{BUCKET}/{self.data.folder.name}/{own}"
        if self.way.server == "local":
            url = str(self.data.folder / own)
        elif self.way.source == "webdataset":
            url = f"{endpoint}/{BUCKET}/{self.data.folder.name}/{own}"
        if self.way.source == "webdataset":
            last = len(list((self.data.folder / own).glob("*.tar"))) - 1
            url += f"/{{000000..{last:06d}}}.tar"
        return Settings(
            url=url,
            endpoint=endpoint,
            workers=self.way.workers,
            cache=cache,
            epoch=self._epoch,
            variant=self.way.variant,
            shape=self.data.shape,
            kept=self.way.kept,
        )

    def _wrong(self, found: dict[str, Any], *, look: bool) -> str:
        """What is wrong with what a pass delivered, if anything."""
        if self.way.variant == "alone":
            return ""
        everything = self.data.everything
        if found["digest"] != digest(everything):
            return f"not everything was delivered once: {found['count']} of {len(everything)} came"
        if look and self.data.checksums is not None and found["checksums"] != self.data.checksums():
            return "other bytes were delivered than those of the shards"
        return ""


def _busy_seconds() -> float:
    """Processor time that everything on the machine has used."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def against_fastest(rates: Rates, server: str) -> dict[str, Any]:
    """WildStream's rates over those of the fastest way of any other library, and of each, at this server."""
    ours, ends = f"wildstream_{server}", f"_{server}"
    peers = [name for name in rates if name.endswith(ends) and not name.startswith(("wildstream", "obstore"))]
    if ours not in rates or not peers:
        return {}
    groups = {"fastest peer": peers}
    for name in peers:
        groups.setdefault(name.split("_")[0], []).append(name)
    best = {group: fastest(rates, names) for group, names in groups.items()}
    return {f"{ours} / {group}": {"peer": peer, **ratio(rates[ours], rates[peer])} for group, peer in best.items()}


def against_itself(rates: Rates, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Rates of some ways over those of others, round by round."""
    return {
        f"{over} / {under}": ratio(rates[over], rates[under])
        for over, under in pairs
        if over in rates and under in rates
    }


def servers_note(lanes: dict[str, Lane]) -> str:
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

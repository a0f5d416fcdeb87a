"""What reads videos from object storage: in a process of its own, which talks in lines of JSON.

    {"do": "write", "shards", "out", "per_shard"}                its own format of the videos of packed shards
    {"do": "pass", "what": "samples" | "batches", ...}           one pass; see `Settings`

`python -m benchmarks.peers.object_source NAME` runs `object_NAME.py` beside this file; it may be another interpreter's
than WildStream's. Nothing here imports more than each of them has.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from benchmarks.measuring import cpu_seconds

if TYPE_CHECKING:
    from benchmarks.footage import Case
    from benchmarks.peers.base import Delivered

Sample = tuple[str, Any]
"""Key and bytes of one video."""

PATIENCE = 300.0
"""Seconds that one pass may take."""
PAGE = 4096


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How one pass is to be read."""

    url: str
    """Where the data lie in this library's format: a URL or a local folder."""
    endpoint: str = ""
    """Address of the server; empty for a local folder."""
    workers: int = 0
    """Processes or threads, as the library counts them."""
    cache: str = ""
    """Folder for what is read; empty for none, or where a library must have one, a new one that is deleted."""
    epoch: int = 0
    """Decides the order."""


class Source(ABC):
    """A library."""

    packages: tuple[str, ...] = ()
    """What is compared, for their versions."""

    @abstractmethod
    def samples(self, settings: Settings) -> Iterable[Sample]:
        """All videos in shuffled order; what is done here, and not in iterating, is opening."""

    @abstractmethod
    def batches(self, settings: Settings, case: Case) -> Iterable[Delivered]:
        """All windows in shuffled order; likewise."""

    def write(self, case: Case, out: Path, per_shard: int) -> None:
        """Write the videos of packed shards in the library's own format, so many into each shard."""
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027 - not all have something to do
        """End what a pass has left behind."""


class SourceError(Exception):
    """A library could not do what was asked; says why."""


class Remote:
    """This side of a library's process."""

    def __init__(self, name: str, interpreter: str, variables: dict[str, str]) -> None:
        """Start it; what it has installed is in `versions`."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(
            [interpreter, "-m", "benchmarks.peers.object_source", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=variables,
            cwd=Path(__file__).parents[2],
        )
        try:
            self.versions: dict[str, str] = self._answer()
        except SourceError:
            self.close()
            raise

    def write(self, shards: Path, out: Path, per_shard: int) -> None:
        """Have the library's own format written."""
        self._ask({"do": "write", "shards": str(shards), "out": str(out), "per_shard": per_shard})

    def one_pass(self, what: str, settings: Settings, case: dict[str, Any], *, look: bool) -> dict[str, Any]:
        """A pass: seconds, open_seconds, cpu_seconds, samples, bytes, digest; with `look` the videos' checksums too."""
        answer: dict[str, Any] = self._ask(
            {"do": "pass", "what": what, "settings": asdict(settings), "case": case, "look": look}
        )
        return answer

    def close(self) -> None:
        """End the process and those it started."""
        with suppress(psutil.Error):
            started = psutil.Process(self._process.pid).children(recursive=True)
            self._process.kill()
            for one in started:
                with suppress(psutil.Error):
                    one.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def _ask(self, request: dict[str, Any]) -> Any:  # noqa: ANN401 - what was asked for
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise SourceError(self._last_words()) from None
        return self._answer()

    def _answer(self) -> Any:  # noqa: ANN401
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
            self.close()
            raise SourceError(f"no answer within {PATIENCE:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise SourceError(self._last_words())
        kind, value = json.loads(line)
        if kind == "error":
            raise SourceError(value)
        return value

    def _last_words(self) -> str:
        """What the process wrote to stderr at its end."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"the process ended: {lines[-1][:300] if lines else 'it said nothing'}"


def digest(delivered: Iterable[tuple[Any, ...]]) -> str:
    """What tells one set of samples or windows from another; one that came twice counts twice."""
    return hashlib.sha256(repr(sorted(delivered)).encode()).hexdigest()[:16]


def new_folder() -> str:
    """An empty folder for a pass; see `drop_folder`."""
    return tempfile.mkdtemp(prefix="storage_benchmark_")


def drop_folder(folder: str) -> None:
    """Delete it."""
    shutil.rmtree(folder, ignore_errors=True)


def _main(name: str) -> None:
    """The other side: answer until nothing more is asked."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print goes to stderr

    def answer(kind: str, value: object) -> None:
        answers.write(json.dumps([kind, value]) + "\n")
        answers.flush()

    try:
        import torch

        torch.set_num_threads(1)  # as in DataLoader's workers
        source: Source = import_module(f"benchmarks.peers.object_{name}").SOURCE
        answer("done", {package: version(package) for package in source.packages})
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs into the report
        answer("error", f"{type(error).__name__}: {error}")
        return
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer("done", _do(source, request))
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = " ".join(str(error).split())[:400]
            answer("error", f"{type(error).__name__}: {text} ({Path(where.filename).name}:{where.lineno})")


def _do(source: Source, request: dict[str, Any]) -> object:
    """What was asked for."""
    from benchmarks.footage import Case

    if request["do"] == "write":
        shards = Path(request["shards"])
        source.write(Case(shards=shards, step=1, gop=1, height=1), Path(request["out"]), request["per_shard"])
        return None
    settings, facts = Settings(**request["settings"]), request["case"]
    case = Case(shards=Path(facts["shards"]), step=facts["step"], gop=facts["gop"], height=facts["height"])
    try:
        if request["what"] == "batches":
            return _pass(source.batches, settings, case, look=request["look"])
        return _pass(lambda settings, _: source.samples(settings), settings, case, look=request["look"])
    finally:
        source.close()


def _pass(read: Any, settings: Settings, case: Case, *, look: bool) -> dict[str, Any]:  # noqa: ANN401
    """From the request for the first to the arrival of the last; opening is measured by itself."""
    me = psutil.Process()
    case.num_frames  # noqa: B018 - is read once, before the clock
    cpu, started = cpu_seconds(me), time.perf_counter()
    stream = read(settings, case)
    opened = time.perf_counter()
    delivered: list[tuple[Any, ...]] = []
    checksums: dict[str, int] = {}
    total = touched = 0
    first = 0.0
    for item in stream:
        first = first or time.perf_counter() - opened
        if len(item) == 3:
            frames, keys, starts = item
            delivered += zip(keys, map(int, starts), strict=True)
            total += frames.numel()
            continue
        key, data = item
        content = np.frombuffer(data, np.uint8)
        touched += int(content[::PAGE].sum())  # a mapped file is read when it is touched
        delivered.append((key,))
        total += len(content)
        if look:
            checksums[key] = zlib.crc32(content.data)
    seconds = time.perf_counter() - opened
    del stream
    return {
        "seconds": seconds,
        "open_seconds": opened - started,
        "first_seconds": first,
        "cpu_seconds": cpu_seconds(me) - cpu,
        "count": len(delivered),
        "bytes": total,
        "digest": digest(delivered),
        "checksums": checksums,
    }


def workers_of(loader: Any) -> Iterator[Any]:  # noqa: ANN401 - a DataLoader of any library
    """What a DataLoader gives, its worker processes ended behind the last."""
    iterator = iter(loader)
    yield from iterator
    if hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()


if __name__ == "__main__":
    sys.modules["benchmarks.peers.object_source"] = sys.modules["__main__"]  # one module, not two
    _main(sys.argv[1])

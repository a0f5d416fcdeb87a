"""What reads videos or features from object storage: in a process of its own, which talks in lines of JSON.

    {"do": "write", "shards", "out", "per_shard"}                its own format of the videos of packed shards
    {"do": "write_features", "values", "out", "per_shard"}       its own format of the windows in a .npy file
    {"do": "pass", "what": "samples" | "batches" | "features"}   one pass; see `Settings`

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from benchmarks.measuring import cpu_seconds

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.footage import Case
    from benchmarks.peers.base import Delivered

Sample = tuple[str, Any]
"""Key and bytes of one video."""

PATIENCE = 300.0
"""Seconds that one pass may take."""
GRACE = 5.0
"""Seconds that a process has to end by itself."""


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
    variant: str = ""
    """Which way, where the library has several."""
    shape: Sequence[int] = ()
    """Of features: tokens of a window, and their length."""
    kept: bool = False
    """Whether what is opened in the first pass, and its workers, are there for all that follow."""


class Source:
    """A library."""

    packages: tuple[str, ...] = ()
    """What is compared, for their versions."""

    def __init__(self) -> None:
        self._kept: dict[str, Iterable[Any]] = {}

    def samples(self, settings: Settings) -> Iterable[Sample]:
        """All videos in shuffled order; what is done here, and not in iterating, is opening."""
        raise NotImplementedError

    def batches(self, settings: Settings, case: Case) -> Iterable[Delivered]:
        """All windows in shuffled order; likewise."""
        raise NotImplementedError

    def features(self, settings: Settings) -> Iterable[Tensor]:
        """All windows of features in batches, in shuffled order; where it is kept, it can be iterated again."""
        raise NotImplementedError

    def write(self, case: Case, out: Path, per_shard: int) -> None:
        """Write the videos of packed shards in the library's own format, so many into each shard."""
        raise NotImplementedError

    def write_features(self, values: np.ndarray[Any, Any], out: Path, per_shard: int) -> None:
        """Write windows, (videos, windows, tokens, dim), in the library's own format, so many into each shard."""
        raise NotImplementedError

    def open(self, what: str, settings: Settings, case: Case | None) -> Iterable[Any]:
        """What delivers; where it is kept, that of the pass before."""
        same = repr(replace(settings, epoch=0))
        if same in self._kept:
            return self._kept[same]
        found: Iterable[Any]
        if what == "features":
            found = self.features(settings)
        elif what == "batches":
            assert case is not None
            found = self.batches(settings, case)
        else:
            found = self.samples(settings)
        if settings.kept:
            self._kept[same] = found
        return found

    def close(self) -> None:
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

    def write_features(self, values: Path, out: Path, per_shard: int) -> None:
        """Likewise, of the windows in a .npy file."""
        self._ask({"do": "write_features", "values": str(values), "out": str(out), "per_shard": per_shard})

    def one_pass(self, what: str, settings: Settings, case: dict[str, Any], *, look: bool) -> dict[str, Any]:
        """A pass: seconds, open_seconds, cpu_seconds, count, bytes, digest; with `look` the checksums too."""
        answer: dict[str, Any] = self._ask(
            {"do": "pass", "what": what, "settings": asdict(settings), "case": case, "look": look}
        )
        return answer

    def close(self) -> None:
        """End the process and those it started."""
        started: list[psutil.Process] = []
        with suppress(psutil.Error):
            started = psutil.Process(self._process.pid).children(recursive=True)
        with suppress(OSError, subprocess.TimeoutExpired):  # let it clean up
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process.wait(timeout=GRACE)
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
    source.close()


def _do(source: Source, request: dict[str, Any]) -> object:
    """What was asked for."""
    from benchmarks.footage import Case

    if request["do"] == "write":
        shards = Path(request["shards"])
        source.write(Case(shards=shards, step=1, gop=1, height=1), Path(request["out"]), request["per_shard"])
        return None
    if request["do"] == "write_features":
        source.write_features(np.load(request["values"]), Path(request["out"]), request["per_shard"])
        return None
    settings, facts, case = Settings(**request["settings"]), request["case"], None
    if facts:
        case = Case(shards=Path(facts["shards"]), step=facts["step"], gop=facts["gop"], height=facts["height"])
        case.num_frames  # noqa: B018 - is read once, before the clock
    try:
        return _pass(lambda: source.open(request["what"], settings, case), look=request["look"])
    finally:
        if not settings.kept:
            source.close()


def _pass(open_it: Callable[[], Iterable[Any]], *, look: bool) -> dict[str, Any]:
    """From the request for the first to the arrival of the last; opening is measured by itself."""
    from benchmarks.peers.tally import Tally

    me = psutil.Process()
    tally = Tally(look=look)
    cpu, started = cpu_seconds(me), time.perf_counter()
    stream = open_it()
    opened = time.perf_counter()
    first = 0.0
    for item in stream:
        first = first or time.perf_counter() - opened
        tally.add(item)
    seconds = time.perf_counter() - opened
    del stream
    delivered = tally.delivered
    return {
        "seconds": seconds,
        "open_seconds": opened - started,
        "first_seconds": first,
        "cpu_seconds": cpu_seconds(me) - cpu,
        "count": len(delivered),
        "bytes": tally.bytes,
        "digest": digest(delivered),
        "checksums": tally.checksums,
    }


def workers_of(loader: Any) -> Iterator[Any]:  # noqa: ANN401 - a DataLoader of any library
    """What a DataLoader gives, its worker processes ended behind the last."""
    iterator = iter(loader)
    yield from iterator
    if hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()


def passes_of(loader_class: Any, dataset: Any, settings: Settings, **options: Any) -> Iterable[Any]:  # noqa: ANN401
    """What a DataLoader of this class gives; where it is kept, its workers live on from pass to pass."""
    live_on = settings.kept and settings.workers > 0
    loader = loader_class(dataset, num_workers=settings.workers, persistent_workers=live_on, **options)
    return loader if settings.kept else workers_of(loader)


if __name__ == "__main__":
    sys.modules["benchmarks.peers.object_source"] = sys.modules["__main__"]  # one module, not two
    _main(sys.argv[1])

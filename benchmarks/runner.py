"""A peer in a process of its own, which does one pass each time it is asked to.

So libraries do not disturb each other, workers are started once and before the clock runs, memory is that peer's own,
and a peer that crashes costs only its own figures.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import psutil
import torch

from benchmarks.footage import Address, Case
from benchmarks.measuring import PeakMemory, cpu_seconds, memory_bytes
from benchmarks.peers.base import Peer

PATIENCE = 240.0
"""Seconds that one request may take."""


class PeerError(Exception):
    """A peer could not do what was asked; says why."""


class Runner:
    """This side of a peer's process."""

    def __init__(self, peer: Peer, case: Case, wanted: list[Address]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, peer, case, wanted))
        self._process.start()
        other.close()
        try:
            self._idle_bytes = self._answer()
            self._connection.send("start")
            self.facts: dict[str, Any] = self._answer()
        except BaseException:
            self.close()
            raise

    def warm_up(self, number: int | None) -> dict[str, Any]:
        """A pass whose memory and contents are looked at; adds peak_bytes, addresses and the wanted clips."""
        with PeakMemory(self._process.pid or 0) as peak:
            result = self._pass(number, look=True)
        return {**result, "peak_bytes": peak.bytes - self._idle_bytes}

    def measure(self, number: int | None) -> dict[str, Any]:
        """A pass against the clock: seconds, cpu_seconds, windows."""
        return self._pass(number, look=False)

    def close(self) -> None:
        """End the process and those it started."""
        try:
            self._connection.send(None)
        except OSError:
            pass  # it has ended by itself
        else:
            self._process.join(timeout=20)
        started = psutil.Process(self._process.pid).children(recursive=True) if self._process.is_alive() else []
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        for one in started:
            if one.is_running():
                one.kill()
        self._connection.close()

    def _pass(self, number: int | None, *, look: bool) -> dict[str, Any]:
        """Ask for a pass."""
        self._connection.send((number, look))
        answer: dict[str, Any] = self._answer()
        return answer

    def _answer(self) -> Any:  # noqa: ANN401 - what was asked for
        """What the other side says; PeerError where it fails, dies or says nothing."""
        if not self._connection.poll(PATIENCE):
            self._process.kill()
            raise PeerError(f"no answer within {PATIENCE:.0f} s")
        try:
            kind, value = self._connection.recv()
        except EOFError:
            self._process.join(timeout=5)
            raise PeerError(f"the process ended with status {self._process.exitcode}") from None
        if kind == "error":
            raise PeerError(value)
        return value


def _serve(connection: Connection, peer: Peer, case: Case, wanted: list[Address]) -> None:
    """The other side: start when asked, then passes, until None."""
    torch.set_num_threads(1)  # as in DataLoader's workers: parallelism is over windows
    me = psutil.Process()
    try:
        connection.send(("done", memory_bytes(me)))
        connection.recv()
        connection.send(("done", peer.start(case, wanted)))
        while (request := connection.recv()) is not None:
            number, look = request
            connection.send(("done", _one_pass(peer, me, number, set(wanted) if look else None)))
    except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs into the report
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = (str(error).strip().splitlines() or [""])[-1][:300].replace(os.getcwd(), ".")  # noqa: PTH109
        connection.send(("error", f"{type(error).__name__}: {text} ({os.path.basename(where.filename)})"))  # noqa: PTH119
    finally:
        peer.stop()


def _one_pass(peer: Peer, me: psutil.Process, number: int | None, wanted: set[Address] | None) -> dict[str, Any]:
    """From the request for the first batch to the arrival of the last."""
    addresses: list[Address] = []
    clips: dict[Address, torch.Tensor] = {}
    cpu, started = cpu_seconds(me), time.perf_counter()
    for frames, keys, starts in peer.batches(number):
        delivered = list(zip(keys, map(int, starts), strict=True))
        addresses += delivered
        if wanted is not None:
            _check_batch(frames, delivered)
            clips |= {address: frames[row].clone() for row, address in enumerate(delivered) if address in wanted}
    seconds = time.perf_counter() - started
    result: dict[str, Any] = {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds(me) - cpu,
        "windows": len(addresses),
    }
    if wanted is not None:
        result["addresses"] = addresses
        result["clips"] = {address: clip.numpy() for address, clip in clips.items()}
    return result


def _check_batch(frames: torch.Tensor, delivered: Sequence[Address]) -> None:
    """A batch is one tensor of what was promised."""
    if frames.dtype != torch.uint8 or frames.shape[0] != len(delivered) or frames.shape[2] != 3:
        raise PeerError(f"a batch of {tuple(frames.shape)} {frames.dtype} for {len(delivered)} windows")

"""Processes that decode parts of a rank's stream, for work that threads cannot share: slow transforms in Python.

Each worker process runs the recipe on its own segments and sends, for every batch, the rows that are its own; the
parent puts the rows of all workers together. What crosses between processes are plans, tensors and messages: never a
decoder.
"""

from __future__ import annotations

import pickle
import queue
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.multiprocessing as processes

from wildstream.errors import ConfigError, WildStreamError, WorkerError
from wildstream.samples import Batch

if TYPE_CHECKING:
    from torch import Tensor

MakeParts = Callable[[int], Iterator[Batch]]
"""The number of a worker → its parts of the batches."""

BATCHES_AHEAD = 2
"""Parts that a worker has ready before they are wanted."""
PATIENCE_SECONDS = 1.0
"""How long to wait for a part before looking whether the worker still lives."""


def run_processes(make_parts: MakeParts, *, num_workers: int, batch_size: int, num_batches: int) -> Iterator[Batch]:
    """The batches of a rank, put together from the parts of worker processes.

    Args:
        make_parts: Called in each process with the worker's number; yields the worker's rows of one batch after the
            other, where it has any. It is pickled, so it must be importable.
        num_workers: Processes.
        batch_size: Clips of a batch.
        num_batches: Batches of the rank.

    Raises:
        ConfigError: `make_parts`, or a transform in it, cannot be pickled.
        WorkerError: A worker died.
    """
    try:
        pickle.dumps(make_parts)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"workers='processes' needs what can be pickled, such as a function at the top of a module: {error}. "
            "Or take workers='threads'."
        ) from error
    with _started(make_parts, num_workers) as workers:
        waiting = [worker.get() for worker in workers]
        for number in range(num_batches):
            parts = []
            for place, worker in enumerate(workers):
                part = waiting[place]
                if part is not None and int(part.positions[0]) // batch_size == number:
                    parts.append(part)
                    waiting[place] = worker.get()
            if not parts:
                raise WorkerError(f"no worker sent any row of batch {number}. Please report this.")
            yield _join(parts)


@dataclass(frozen=True, slots=True)
class _Worker:
    """A process and the queue that its parts come through."""

    number: int
    process: Any
    parts: Any

    def get(self) -> Batch | None:
        """The next part; None after the last. An error of the worker is raised here."""
        while True:
            try:
                item = self.parts.get(timeout=PATIENCE_SECONDS)
                break
            except (OSError, EOFError) as error:  # it died while its tensors were fetched
                raise self._death() from error
            except queue.Empty:
                if not self.process.is_alive() and self.parts.empty():
                    raise self._death() from None
        if isinstance(item, BaseException):
            raise item
        part: Batch | None = item
        return part

    def _death(self) -> WorkerError:
        """What to say of a worker that is gone."""
        self.process.join(PATIENCE_SECONDS)
        code = self.process.exitcode
        killed = " (killed; out of memory?)" if code == -9 else ""
        return WorkerError(f"worker {self.number} died with exit code {code}{killed}. Take fewer workers.")


@contextmanager
def _started(make_parts: MakeParts, num_workers: int) -> Iterator[list[_Worker]]:
    """Start the processes, and end them with the block."""
    context = processes.get_context("spawn")
    workers = []
    try:
        for number in range(num_workers):
            parts = context.Queue(BATCHES_AHEAD)
            process = context.Process(target=_work, args=(make_parts, number, parts), daemon=True)
            process.start()
            workers.append(_Worker(number, process, parts))
        yield workers
    finally:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join()
            worker.parts.cancel_join_thread()
            worker.parts.close()


def _work(make_parts: MakeParts, number: int, parts: Any) -> None:  # noqa: ANN401 - queues have no type of their own
    """What a worker process does: send its parts, or the error that ended it, and stay until the parent is done.

    A tensor is sent as a handle that the parent fetches from the living sender.
    """
    torch.set_num_threads(1)
    try:
        for part in make_parts(number):
            _send(parts, part)
        _send(parts, None)
    except WildStreamError as error:
        _send(parts, error)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
        _send(parts, WorkerError(f"worker {number} failed: {type(error).__name__}: {error}"))
    while _parent_lives():
        time.sleep(PATIENCE_SECONDS)


def _send(parts: Any, item: object) -> None:  # noqa: ANN401
    """Put an item into the queue; end where the parent that should take it is gone."""
    while True:
        try:
            parts.put(item, timeout=PATIENCE_SECONDS)
            return
        except queue.Full:
            if not _parent_lives():
                sys.exit(1)


def _parent_lives() -> bool:
    """Whether the process that started this one still runs."""
    parent = processes.parent_process()
    return parent is not None and parent.is_alive()


def _join(parts: list[Batch]) -> Batch:
    """One batch from the rows of several workers, in order of position, in memory of its own."""
    places = torch.cat([part.positions for part in parts]).argsort()
    keys = [key for part in parts for key in part.keys]
    problems = [part.problems.get(row) for part in parts for row in range(len(part))]

    def in_order(tensors: list[Tensor]) -> Tensor:
        return torch.cat(tensors)[places]

    frames = [part.frames for part in parts if part.frames is not None]
    return Batch(
        frames=in_order(frames) if frames else None,
        labels=in_order([part.labels for part in parts]),
        keys=[keys[place] for place in places.tolist()],
        starts=in_order([part.starts for part in parts]),
        mask=in_order([part.mask for part in parts]),
        labelled=in_order([part.labelled for part in parts]),
        positions=in_order([part.positions for part in parts]),
        problems={row: why for row, place in enumerate(places.tolist()) if (why := problems[place]) is not None},
    )

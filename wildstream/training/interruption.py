"""Signals that a scheduler sends before it takes the machine → a flag that the trainer looks at after each step."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Interruption:
    """While it is entered, SIGTERM and SIGUSR1 do not end the process but are noted.

    In a thread other than the main one, where Python takes no signals, nothing is changed.
    """

    def __init__(self) -> None:
        """Nothing has come yet."""
        self.came: str | None = None
        """Name of the signal that came, or None."""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        """Begin to listen."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.came = signal.Signals(number).name

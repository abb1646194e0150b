"""A first signal asks a run to stop where it can go on later; a second one acts at once, as if nobody had asked."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last one comes when an SSH session closes


class Interrupt:
    """Notes SIGINT, SIGTERM and SIGHUP while it is entered; only the main thread can.

    SIGHUP stays ignored where it is from the start, as `nohup` wants it.

    Args:
        active: whether there is anything to go on from later; if not, signals do what they always do.
    """

    def __init__(self, active: bool) -> None:
        self.active = active and threading.current_thread() is threading.main_thread()
        self.name = ""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        if self.active:
            without_terminal = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            asked = [number for number in SIGNALS if number != signal.SIGHUP or not without_terminal]
            self._before = {number: signal.signal(number, self._note) for number in asked}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._give_back()

    def __bool__(self) -> bool:
        return bool(self.name)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        self._give_back()

    def _give_back(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}

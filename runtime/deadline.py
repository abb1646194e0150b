"""Ends runs of ONNX Runtime that take too long, so that a graph from a stranger cannot hold a thread for ever.

One thread of the process looks at all sessions a few times a second. A run itself pays for two assignments and two
readings of the clock.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from time import monotonic, sleep
from typing import Any

LOOK_S = 0.1  # between two looks of the thread


class RunLimit:
    """Time limit of the runs that share one `RunOptions`; one thread at a time runs with them.

    ONNX Runtime looks at the flag between two nodes. A single node is never broken off.

    Args:
        options: `RunOptions` that every limited run is given.
    """

    def __init__(self, options: Any) -> None:
        self.options = options
        self._ends = inf
        self._lock = threading.Lock()
        _watch(self)

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Let whatever runs with these options end after so many seconds.

        Raises:
            TimeoutError: It was ended.
        """
        ends = monotonic() + seconds
        self._ends = ends
        try:
            yield
        except Exception as exc:
            if monotonic() >= ends:
                raise TimeoutError(f"no answer within {seconds:g} s") from exc
            raise
        finally:
            self._ends = inf
            if monotonic() >= ends:
                self._reset()

    def look(self, now: float) -> None:
        """End the run if its time is over; the watching thread calls this."""
        if now < self._ends:
            return
        with self._lock:
            # The run may have ended since; the next one must not find the flag.
            if now >= self._ends:
                self.options.terminate = True

    def _reset(self) -> None:
        with self._lock:
            self.options.terminate = False


_limits: weakref.WeakSet[RunLimit] = weakref.WeakSet()
_start = threading.Lock()
_watcher: list[threading.Thread] = []


def _watch(limit: RunLimit) -> None:
    with _start:
        _limits.add(limit)
        # A thread of the parent does not live in a forked child.
        if not _watcher or not _watcher[0].is_alive():
            _watcher[:] = [threading.Thread(target=_look, name="pgn-edge deadlines", daemon=True)]
            _watcher[0].start()


def _look() -> None:
    while True:
        sleep(LOOK_S)
        with _start:
            limits = list(_limits)
            if not limits:
                _watcher.clear()
                return
        now = monotonic()
        for limit in limits:
            limit.look(now)
        del limits

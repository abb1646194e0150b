"""Ends runs of ONNX Runtime that take too long, so that a graph from a stranger cannot hold a thread for ever.

One thread of the process looks at all limits a few times a second. A run itself pays for two assignments and two
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

LOOK_S = 0.1  # between two looks of the watching thread


class RunLimit:
    """Time limit of the runs that share one `RunOptions`; one thread at a time runs with them.

    ONNX Runtime looks at the flag in its options between two nodes. A single node is never broken off.

    Args:
        options: `RunOptions` of ONNX Runtime that every limited run is given.
    """

    def __init__(self, options: Any) -> None:
        self.options = options
        self._ends = inf
        self._lock = threading.Lock()
        _watch(self)

    @contextmanager
    def within(self, seconds: float) -> Iterator[Any]:
        """End a run with the options that this gives after so many seconds.

        Args:
            seconds: Time that the run may take, in seconds.

        Raises:
            TimeoutError: The run was ended.
        """
        ends = monotonic() + seconds
        self._ends = ends
        try:
            yield self.options
        except Exception as exc:
            if monotonic() >= ends:
                raise TimeoutError(f"no answer within {seconds:g} s") from exc
            raise
        finally:
            self._ends = inf
            if monotonic() >= ends:
                self._allow()

    def look(self) -> None:
        """End the run if its time is over; the watching thread calls this."""
        if monotonic() < self._ends:
            return
        with self._lock:
            # The run may have ended by itself meanwhile. The next run must not find the flag.
            if monotonic() >= self._ends:
                self.options.terminate = True

    def _allow(self) -> None:
        with self._lock:
            self.options.terminate = False


_limits: weakref.WeakSet[RunLimit] = weakref.WeakSet()
_registering = threading.Lock()
_watchers: list[threading.Thread] = []


def _watch(limit: RunLimit) -> None:
    with _registering:
        _limits.add(limit)
        if not _watchers:
            _watchers.append(threading.Thread(target=_look_for_ever, name="deadlines of pgn-edge", daemon=True))
            _watchers[0].start()


def _look_for_ever() -> None:
    while _look_once():
        sleep(LOOK_S)


def _look_once() -> bool:
    """Look at every limit; without any, the thread ends."""
    with _registering:
        limits = list(_limits)
        if not limits:
            _watchers.clear()
    for limit in limits:
        limit.look()
    return bool(limits)

"""Points in time on a GPU, and work that is recorded once and launched often."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from ctypes import byref, c_float

import numpy as np

from pgn_edge.errors import EngineError
from pgn_edge.runtime.cuda.context import Context
from pgn_edge.runtime.cuda.driver import INVALID_HANDLE

EXTERNAL = 1  # CU_EVENT_RECORD_EXTERNAL: a node of the graph, which records at each launch


class Event:
    """A point in the stream whose time the GPU notes, from `Cuda.event`; valid until it or the GPU is closed."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._handle = context.hold("cuEventDestroy_v2", "cuEventCreate", 0)

    def record(self) -> None:
        """Queue it; recorded in a capture, it takes the time of each launch of the graph.

        Raises:
            EngineError: the GPU is closed, or has failed.
        """
        context = self._context
        context.use()
        flags = EXTERNAL if context.capturing else 0
        context.driver.call("cuEventRecordWithFlags", self._handle, context.stream, flags)

    def close(self) -> None:
        """Give it back; calling twice does no harm. A graph that records it must have been closed before.

        Raises:
            EngineError: queued work has failed.
        """
        if self._handle and not self._context.closed:
            self._context.release("cuEventDestroy_v2", self._handle)
        self._handle = 0

    def elapsed_ms(self, since: Event) -> float:
        """Wait for both events, and give the time from `since` to this one.

        Raises:
            EngineError: one was never recorded, or work before it has failed.
        """
        context = self._context
        context.use()
        for event in (since, self):
            context.driver.call("cuEventSynchronize", event._handle)
        elapsed = c_float()
        instead = {INVALID_HANDLE: self._never}
        context.driver.call("cuEventElapsedTime", byref(elapsed), since._handle, self._handle, instead=instead)
        return elapsed.value

    def _never(self) -> EngineError:
        return EngineError(
            self._context.subject,
            expected="two events that the GPU has come by",
            got="one that was never recorded, or is in a graph that was never launched",
            do="record or launch both, then ask",
        )


class Graph:
    """Recorded work, from `Cuda.capture`.

    Args:
        context: of the GPU.
        handle: of the recorded graph; destroyed here.
        arrays: of the host, which the work reads or writes: kept until the graph is closed.
    """

    def __init__(self, context: Context, handle: int, arrays: Sequence[np.ndarray]) -> None:
        self._context = context
        try:
            self._handle = context.hold("cuGraphExecDestroy", "cuGraphInstantiateWithFlags", handle, 0, keep=arrays)
        finally:
            with suppress(EngineError):  # what made the first call fail says more
                context.driver.call("cuGraphDestroy", handle)

    def launch(self) -> None:
        """Queue all of it once more; arrays that it uses must not have been closed.

        Raises:
            EngineError: it or the GPU is closed, or has failed.
        """
        context = self._context
        context.use()
        if not self._handle:
            raise EngineError(
                context.subject, expected="an open graph", got="one that is closed", do="capture it again"
            )
        context.driver.call("cuGraphLaunch", self._handle, context.stream)

    def close(self) -> None:
        """Wait for what is queued, and give it back; calling twice does no harm.

        Raises:
            EngineError: queued work has failed.
        """
        if not self._handle or self._context.closed:
            return
        self._context.release("cuGraphExecDestroy", self._handle)
        self._handle = 0

"""One NVIDIA GPU: memory, copies, waiting and capture."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from ctypes import byref, c_byte, c_size_t, memset
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from pgn_edge.errors import EngineError
from pgn_edge.runtime.cuda.arrays import DeviceArray, check_alike, check_copy, checked
from pgn_edge.runtime.cuda.context import Context
from pgn_edge.runtime.cuda.driver import NO_ROOM, OUT_OF_MEMORY
from pgn_edge.runtime.cuda.graphs import Event, Graph

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate while this one captures


class Cuda:
    """One NVIDIA GPU: its primary context, one stream on which everything is queued in order, and the memory given out.

    One thread at a time may use it, and any thread may: each method makes the context current in the thread that calls.
    What it gives out lives until `close`, or until it is closed itself; dropping the last reference frees nothing.
    `device` is its index, `name` the GPU's, `driver_version` the newest CUDA that the driver supports, and `stream` the
    handle that other libraries take.

    Args:
        device: index of the GPU, as CUDA counts them.
        library: the driver's, by name or by path; None for its own name on this system.

    Raises:
        EngineError: no driver, no such GPU, or no memory for a context.
    """

    def __init__(self, device: int = 0, library: str | None = None) -> None:
        self._context = Context(device, library)
        self._queued: dict[int, np.ndarray] = {}  # host arrays that queued copies still read or write
        self.device = device
        self.name = self._context.name
        self.driver_version = self._context.driver_version
        self.stream = self._context.stream

    def use(self) -> None:
        """Make the context current in this thread, for libraries that are called next.

        Raises:
            EngineError: the GPU is closed, or has failed.
        """
        self._context.use()

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
        """An array on the GPU, with whatever its memory holds.

        Args:
            shape: sizes, each at least 1; () for one number.
            dtype: numpy type.

        Raises:
            EngineError: a size is not positive, or there is not enough memory.
        """
        kind, nbytes = checked(self._context.subject, shape, dtype)
        self.use()
        instead = {OUT_OF_MEMORY: lambda: self._no_room(nbytes)}
        address = self._context.hold("cuMemFree_v2", "cuMemAlloc_v2", min(nbytes, sys.maxsize), instead=instead)
        return DeviceArray(self._context, shape, kind, address)

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """A zeroed array in page-locked memory of the host, which copies need to run beside other work.

        Its memory goes with `close` or `release`: to touch it, or a view of it, after that ends the process.

        Args:
            shape: sizes, each at least 1; () for one number.
            dtype: numpy type.

        Raises:
            EngineError: a size is not positive, or no more memory can be locked.
        """
        kind, nbytes = checked(self._context.subject, shape, dtype)
        self.use()
        instead = {OUT_OF_MEMORY: lambda: self._no_more_locked(nbytes)}
        address = self._context.hold("cuMemFreeHost", "cuMemHostAlloc", min(nbytes, sys.maxsize), 0, instead=instead)
        memset(address, 0, nbytes)
        return np.ndarray(shape, kind, memoryview((c_byte * nbytes).from_address(address)))

    def release(self, array: np.ndarray) -> None:
        """Wait for what is queued, and give a pinned array's memory back; nothing happens where the GPU is closed.

        Args:
            array: from `pinned`, not to be touched again.

        Raises:
            EngineError: it is none, or was given back before, or queued work has failed.
        """
        if self._context.closed:
            return
        if not self._context.holds("cuMemFreeHost", array.ctypes.data):
            raise EngineError(
                self._context.subject,
                expected="an array from Cuda.pinned",
                got="another, or one given back before",
                do="give back each pinned array once",
            )
        self._context.release("cuMemFreeHost", array.ctypes.data)

    def upload(self, target: DeviceArray, source: np.ndarray) -> None:
        """Queue a copy to the GPU.

        Args:
            target: where to.
            source: C-contiguous, of the target's shape and type; it must not change before `synchronize`. Captured, it
                is read anew at each launch.

        Raises:
            EngineError: the arrays do not fit together, or one is closed.
        """
        check_copy(source, target, written=False)
        self.use()
        self._queued[id(source)] = source
        self._context.driver.call(
            "cuMemcpyHtoDAsync_v2", target.address, source.ctypes.data, target.nbytes, self.stream
        )

    def download(self, target: np.ndarray, source: DeviceArray) -> None:
        """Queue a copy from the GPU.

        Args:
            target: C-contiguous and writable, of the source's shape and type; to be read after `synchronize`. Captured,
                it is written anew at each launch.
            source: where from.

        Raises:
            EngineError: the arrays do not fit together, or one is closed.
        """
        check_copy(target, source, written=True)
        self.use()
        self._queued[id(target)] = target
        self._context.driver.call(
            "cuMemcpyDtoHAsync_v2", target.ctypes.data, source.address, source.nbytes, self.stream
        )

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        """Queue a copy from one array on the GPU to another, of the same shape and type, that shares no memory with it.

        Raises:
            EngineError: the arrays do not fit together, or one is closed.
        """
        check_alike(target, source)
        self.use()
        self._context.driver.call("cuMemcpyDtoDAsync_v2", target.address, source.address, source.nbytes, self.stream)

    def synchronize(self) -> None:
        """Wait until everything that was queued is done.

        Raises:
            EngineError: some of it has failed, or the GPU is closed.
        """
        self.use()
        self._context.driver.call("cuStreamSynchronize", self.stream)
        self._queued.clear()

    def event(self) -> Event:
        """A new point in time, not yet recorded.

        Raises:
            EngineError: the GPU is closed, or has failed.
        """
        self.use()
        return Event(self._context)

    def capture(self, work: Callable[[], None]) -> Graph:
        """Record what `work` queues on the stream, without running it.

        Args:
            work: queues in this thread, and neither waits nor asks for memory. What it uses must stay open as long as
                the graph is launched.

        Returns:
            The recorded work; each launch reads what the arrays hold by then.

        Raises:
            EngineError: `work` did what cannot be captured; what `work` raises goes on. The stream is as before.
        """
        context, before, recorded = self._context, self._queued, dict[int, np.ndarray]()
        self.use()
        if context.capturing:
            raise EngineError(context.subject, expected="one capture at a time", got="one inside another", do="end one")
        context.capturing, self._queued = True, recorded
        try:
            context.driver.call("cuStreamBeginCapture_v2", self.stream, THREAD_LOCAL)
            work()
        except BaseException:
            with suppress(EngineError):  # the error that is on its way came first
                context.driver.call("cuGraphDestroy", self._end_capture())
            raise
        finally:
            context.capturing, self._queued = False, before
        return Graph(context, self._end_capture(), tuple(recorded.values()))

    def memory(self) -> tuple[int, int]:
        """Bytes of the GPU's memory: free, and in all.

        Raises:
            EngineError: the GPU is closed, or has failed.
        """
        free, total = c_size_t(), c_size_t()
        self.use()
        self._context.driver.call("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value, total.value

    def close(self) -> None:
        """Wait for what is queued, and give everything back; calling twice does no harm.

        Everything that was given out becomes invalid, also where this raises.

        Raises:
            EngineError: queued work had failed and no call has said so yet, or a capture is under way.
        """
        if self._context.capturing:
            raise EngineError(self._context.subject, expected="no capture", got="one under way", do="close it later")
        failure = self._context.release_all()
        self._queued.clear()
        if failure is not None:
            raise failure

    def __enter__(self) -> Cuda:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except EngineError:
            if error is None:  # else the error that is on its way says more
                raise

    def _end_capture(self) -> int:
        graph = c_size_t()
        self.use()
        self._context.driver.call("cuStreamEndCapture", self.stream, byref(graph))
        return graph.value

    def _no_room(self, nbytes: int) -> EngineError:
        found = "less than that"
        with suppress(EngineError):  # that memory is short says more
            found = "{} free of {}".format(*map(_mib, self.memory()))
        return EngineError(self._context.subject, expected=f"room for {_mib(nbytes)}", got=found, do=NO_ROOM)

    def _no_more_locked(self, nbytes: int) -> EngineError:
        return EngineError(
            self._context.subject,
            expected=f"{_mib(nbytes)} of page-locked memory on the host",
            got="less than that",
            do="close other programs, or take a smaller batch",
        )


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB"

"""Arrays in the memory of a GPU."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pgn_edge.errors import EngineError
from pgn_edge.runtime.cuda.context import Context

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


class DeviceArray:
    """A C-contiguous array on a GPU, from `Cuda.empty` or `rows`.

    Args:
        context: of the GPU.
        shape: sizes.
        dtype: numpy type.
        address: of its first byte, on the GPU.
        owner: the array whose memory this one shares; None where the memory is its own.
    """

    def __init__(
        self, context: Context, shape: tuple[int, ...], dtype: np.dtype, address: int, owner: DeviceArray | None = None
    ) -> None:
        self.shape, self.dtype, self.nbytes = shape, dtype, math.prod(shape) * dtype.itemsize
        self._context, self._address, self._owner = context, address, owner
        self._closed = False

    @property
    def address(self) -> int:
        """Of its first byte, on the GPU.

        Raises:
            EngineError: its memory was given back.
        """
        if self._context.closed or (self._owner or self)._closed:
            raise EngineError(
                str(self), expected="an open array", got="one that is closed", do="make a new one with Cuda.empty"
            )
        return self._address

    def rows(self, start: int, stop: int) -> DeviceArray:
        """Entries `start` to `stop` of the first axis, without a copy; closed with the array that owns the memory.

        Raises:
            EngineError: there are no such rows, or the array is closed.
        """
        if not (self.shape and 0 <= start < stop <= self.shape[0]):
            raise EngineError(
                str(self),
                expected=f"rows within 0 to {self.shape[0]}" if self.shape else "an array with rows",
                got=f"{start} to {stop}",
                do="ask for at least one row, and for those that there are",
            )
        offset = start * (self.nbytes // self.shape[0])
        shape = (stop - start, *self.shape[1:])
        return DeviceArray(self._context, shape, self.dtype, self.address + offset, self._owner or self)

    def close(self) -> None:
        """Wait for what is queued, and give the memory back; calling twice does no harm.

        Raises:
            EngineError: the memory belongs to another array, or queued work has failed.
        """
        if self._owner is not None:
            raise EngineError(str(self), expected="an array with memory of its own", got="rows", do="close the whole")
        if self._closed or self._context.closed:
            return
        self._context.release("cuMemFree_v2", self._address)
        self._closed = True

    def __str__(self) -> str:
        return f"{self.dtype} array {self.shape} on {self._context.subject}"


def checked(subject: str, shape: tuple[int, ...], dtype: DTypeLike) -> tuple[np.dtype, int]:
    """The type and the size in bytes of an array that memory can be asked for.

    Args:
        subject: for the message.
        shape: sizes, each at least 1.
        dtype: any numpy type but objects.

    Raises:
        EngineError: a size is not positive, or the type holds objects of Python.
    """
    kind = np.dtype(dtype)
    if kind.hasobject or not kind.itemsize or any(size < 1 for size in shape):
        raise EngineError(
            subject,
            expected="a shape of sizes from 1 up, and a type of plain numbers",
            got=f"{kind} {shape}",
            do="ask for an array that holds something",
        )
    return kind, math.prod(shape) * kind.itemsize


def check_alike(device: DeviceArray, other: DeviceArray | np.ndarray) -> None:
    """Refuse a copy between arrays that are not alike.

    Raises:
        EngineError: another shape or type.
    """
    if other.shape != device.shape or other.dtype != device.dtype:
        raise EngineError(
            str(device),
            expected=f"a {device.dtype} array {device.shape} at the other end of a copy",
            got=f"{other.dtype} {other.shape}",
            do="copy between arrays of one shape and type",
        )


def check_copy(host: np.ndarray, device: DeviceArray, written: bool) -> None:
    """Refuse a copy between arrays that are not alike, or that cannot be copied as one block.

    Args:
        host: array of the host.
        device: array of the GPU.
        written: whether the copy writes `host`.

    Raises:
        EngineError: another shape or type, not C-contiguous, or read-only where it is written.
    """
    check_alike(device, host)
    if not host.flags.c_contiguous or (written and not host.flags.writeable):
        raise EngineError(
            str(device),
            expected="a C-contiguous array on the host" + (" that can be written" if written else ""),
            got="one that is read-only" if host.flags.c_contiguous else "one with gaps or another order",
            do="make it with Cuda.pinned, or use numpy.ascontiguousarray",
        )

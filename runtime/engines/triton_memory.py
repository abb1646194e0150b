"""Memory that this process and a server on the same machine share, so that tensors do not travel over a socket."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from pgn_edge.errors import EngineError
from pgn_edge.runtime.engines.triton_wire import Wire


class SharedRegion:
    """A region that the server has registered: inputs and outputs of one request after the other.

    A server that was given up on may still write into it, so it is left after every attempt without an answer, and the
    next attempt takes a new one.

    Args:
        wire: to the server.
        name: that no other region has, see `new_name`.
        size_bytes: more than 0.
        timeout_s: of the registration.

    Raises:
        NoAnswerError: no answer to the registration.
        EngineError: the server refuses it, or the machine has no memory to share.
    """

    def __init__(self, wire: Wire, name: str, size_bytes: int, timeout_s: float) -> None:
        from tritonclient.utils import shared_memory

        self._library: Any = shared_memory
        self.name = name
        self.size_bytes = size_bytes
        try:
            self._handle = shared_memory.create_shared_memory_region(self.name, self.name, size_bytes, create_only=True)
        except shared_memory.SharedMemoryException as exc:
            raise EngineError(
                wire.name, expected=f"{size_bytes} bytes of shared memory", got=str(exc), do="turn shared_memory off"
            ) from exc
        try:
            wire.call("register_system_shared_memory", timeout_s, self.name, self.name, size_bytes)
        except BaseException:
            self.destroy()
            raise

    def write(self, array: np.ndarray, offset: int) -> None:
        """Copy an array to `offset` bytes from the start."""
        self._library.set_shared_memory_region(self._handle, [array], offset)

    def read(self, dtype: np.dtype, shape: tuple[int, ...], offset: int) -> np.ndarray:
        """A copy of the array at `offset` bytes from the start."""
        view: np.ndarray = self._library.get_contents_as_numpy(self._handle, dtype, shape, offset)
        return view.copy()

    def destroy(self) -> None:
        """Give the memory back; the server may hold it until it is told to forget the name."""
        with suppress(OSError, BufferError, KeyError):
            self._library.destroy_shared_memory_region(self._handle)


def new_name() -> str:
    """A name for a region."""
    return f"pgn_edge_{os.getpid()}_{secrets.token_hex(8)}"


def offsets(arrays: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Where each of some arrays begins when they stand one behind the other, and how long they are together.

    Args:
        arrays: bytes of each.
    """
    places, end = {}, 0
    for name, size in arrays.items():
        places[name] = end
        end += -(-size // 64) * 64  # as numpy and the server's own kernels like them
    return places, end

"""The shared memory that a grabber writes frames of one size to, as its owner sees it."""

from __future__ import annotations

import os
import sys
from multiprocessing.shared_memory import SharedMemory

import numpy as np

from pgn_edge.errors import DataError
from pgn_edge.runtime.live.grabber import CHANNELS, slot_images

LARGEST_SIDE = 16384


class FrameMemory:
    """Some slots, each for one frame. Its name is gone as soon as both sides hold it; the memory, with its last user.

    Args:
        size_hw: of the frames, pixels.
        slots: how many.

    Raises:
        DataError: a size that no camera has, or not enough shared memory.
    """

    def __init__(self, size_hw: tuple[int, int], slots: int) -> None:
        if not all(1 <= side <= LARGEST_SIDE for side in size_hw):
            got = f"{size_hw[1]} x {size_hw[0]}"
            raise DataError("camera", expected=f"frames up to {LARGEST_SIDE} a side", got=got, do="set its resolution")
        self._size_hw, self.slots = size_hw, slots
        size_bytes = size_hw[0] * size_hw[1] * CHANNELS * slots
        self._named = False
        try:
            self._memory = SharedMemory(create=True, size=size_bytes)
            self._named = True
            _reserve(self._memory.name, size_bytes)
        except OSError as exc:
            self.unlink()
            raise DataError(
                "shared memory",
                expected=f"{size_bytes / 1e6:.0f} MB for {slots} frames of {size_hw[1]} x {size_hw[0]}",
                got=exc.strerror or str(exc),
                do="make /dev/shm larger (docker run --shm-size), or set a smaller resolution or queue",
            ) from exc

    @property
    def name(self) -> str:
        """What the grabber attaches to, until `unlink`."""
        return self._memory.name

    def read(self, slot: int) -> np.ndarray:
        """A copy of the frame in a slot, (h, w, 3) uint8 BGR."""
        image: np.ndarray = slot_images(self._memory, self._size_hw, self.slots)[slot]
        return image.copy()

    def unlink(self) -> None:
        """Take the name away: nothing is left behind from here on, however either side ends."""
        if self._named:
            self._named = False
            self._memory.unlink()


def _reserve(name: str, size_bytes: int) -> None:
    # Without it a full /dev/shm is noticed by the grabber, as a signal in the midst of a frame.
    if not sys.platform.startswith("linux"):
        return
    memory_fd = os.open(f"/dev/shm/{name.lstrip('/')}", os.O_RDWR)  # noqa: S108
    try:
        os.posix_fallocate(memory_fd, 0, size_bytes)
    finally:
        os.close(memory_fd)

"""Frames between the thread that hears the grabber and the one that uses them, under one of three policies."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pgn_edge.errors import PgnEdgeError
from pgn_edge.runtime.live.memory import FrameMemory
from pgn_edge.runtime.live.options import Counters

LOOK_S = 0.05  # between two looks whether there is any hope


@dataclass(frozen=True, eq=False)
class Pending:
    """A frame that lies in shared memory.

    Args:
        memory: where.
        slot: its place there.
        sequence: number of the frame since the source was opened.
        captured_s: monotonic clock when it came from the camera, seconds.
        give_back: called once the slot may be written again.
        media: Media time in seconds, and damaged frames before this one, of a file; None of a camera.
    """

    memory: FrameMemory
    slot: int
    sequence: int
    captured_s: float
    give_back: Callable[[int], None]
    media: tuple[float, int] | None = None


@dataclass(frozen=True, eq=False)
class Taken:
    """A frame that was handed over.

    Args:
        image_bgr: (h, w, 3) uint8 BGR, the caller's own.
        index: 0, 1, 2, ...
        sequence: as it was pending.
        dropped: frames between the one handed over before and this one.
        captured_s: as it was pending.
        media: as it was pending.
    """

    image_bgr: np.ndarray
    index: int
    sequence: int
    dropped: int
    captured_s: float
    media: tuple[float, int] | None


class FrameBuffer:
    """Pending frames and all counters; every method may be called from any thread."""

    def __init__(self) -> None:
        # Its lock is reentrant: a signal handler that closes the source may run inside any of these methods.
        self._changed = threading.Condition()
        self._pending: deque[Pending] = deque()
        self._limit: int | None = 1
        self._counts: Counter[str] = Counter()
        self._newest: tuple[int, float] | None = None
        self._last_taken = -1
        self._done = False
        self._error: PgnEdgeError | None = None
        self.taken_s = 0.0  # when the app last took one, monotonic

    @property
    def next_sequence(self) -> int:
        """Number of the frame that would come next."""
        return 0 if self._newest is None else self._newest[0] + 1

    @property
    def waiting(self) -> int:
        """How many frames are pending."""
        return len(self._pending)

    def limit(self, frames: int | None) -> None:
        """Hold no more pending frames than this; None for as many as the grabber has slots."""
        with self._changed:
            self._limit = frames

    def add(self, counter: str, number: int = 1) -> None:
        """Count something, by a field's name of `Counters`."""
        with self._changed:
            self._counts[counter] += number

    def put(self, frame: Pending) -> None:
        """Take a frame from the grabber, and drop the oldest where that is one too many."""
        with self._changed:
            self._counts["dropped"] += frame.sequence - self.next_sequence
            self._newest = (frame.sequence, frame.captured_s)
            if self._done:
                return
            self._pending.append(frame)
            while self._limit is not None and len(self._pending) > self._limit:
                oldest = self._pending.popleft()
                oldest.give_back(oldest.slot)
                self._counts["dropped"] += 1
            self._changed.notify_all()

    def take(self) -> Taken | None:
        """Wait for a frame and copy it; None once the source has ended and nothing is pending.

        Raises:
            PgnEdgeError: what the source ended with.
        """
        with self._changed:
            while not self._pending and not self._done:
                self._changed.wait()
            if not self._pending:
                if self._error is not None:
                    raise self._error
                return None
            frame = self._pending.popleft()
            self.taken_s = time.monotonic()
            index, dropped = self._counts["frames"], frame.sequence - self._last_taken - 1
            self._counts["frames"] += 1
            self._last_taken = frame.sequence
        image_bgr = frame.memory.read(frame.slot)
        self.taken_s = time.monotonic()
        frame.give_back(frame.slot)
        return Taken(image_bgr, index, frame.sequence, dropped, frame.captured_s, frame.media)

    def wait_for_first(self, until_s: float, is_hopeless: Callable[[], bool]) -> bool:
        """Wait until a frame has come or the source has ended; False where neither happened in time.

        Args:
            until_s: Time on the monotonic clock when the wait ends.
            is_hopeless: Function that says that no frame will come soon, so that the wait ends at once.

        Raises:
            PgnEdgeError: The source ended with an error.
        """
        with self._changed:
            while self._newest is None and not self._done:
                left_s = until_s - time.monotonic()
                if left_s <= 0 or is_hopeless():
                    return False
                self._changed.wait(min(left_s, LOOK_S))
            if self._newest is None and self._error is not None:
                raise self._error
        return True

    def finish(self, error: PgnEdgeError | None = None) -> None:
        """No frame comes any more; those that are pending can still be taken, and then the error is raised."""
        with self._changed:
            if not self._done:
                self._done, self._error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """End at once, and forget what is pending."""
        with self._changed:
            self._counts["dropped"] += len(self._pending)
            self._pending.clear()
            self._done, self._error = True, None
            self._changed.notify_all()

    def counters(self) -> Counters:
        """All counters at this moment."""
        with self._changed:
            names = ("frames", "dropped", "thinned", "reconnects", "stalls", "errors")
            age_ms = None if self._newest is None else (time.monotonic() - self._newest[1]) * 1e3
            return Counters(**{name: self._counts[name] for name in names}, age_ms=age_ms)

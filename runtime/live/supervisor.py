"""Keeps a grabber running: hears it, notices that it stalls, fails or dies, and starts another."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pgn_edge.errors import DataError, PgnEdgeError
from pgn_edge.redact import redact
from pgn_edge.runtime.live.address import Address
from pgn_edge.runtime.live.buffer import FrameBuffer, Pending
from pgn_edge.runtime.live.child import Grabber
from pgn_edge.runtime.live.memory import FrameMemory
from pgn_edge.runtime.live.options import LiveOptions

SHORTEST_BACKOFF_S = 0.1
# With what opening takes, a camera that is back is seen again within 5 s.
LONGEST_BACKOFF_S = 3.0
TICK_S = 0.1
# Beside those that are pending: one that is written and one that is copied.
SPARE_SLOTS = 2


@dataclass
class Stream:
    """What the grabber said about the stream when it opened.

    Args:
        fps: as the stream states it, which may be anything; 0 before.
        count: frames of a stream that ends; 0 of one that does not.
        ended_after: frames that were read of one that has ended.
        damaged: Number of frames that did not decode, with readable ones after them.
    """

    fps: float = 0.0
    count: int = 0
    ended_after: int | None = None
    damaged: int = 0


@dataclass(frozen=True)
class Loss:
    """Why a connection is over.

    Args:
        counter: what it counts as, `stalls` or `errors`.
        reason: for a message.
    """

    counter: str
    reason: str


class Supervisor:
    """Reads one live source until it ends or is stopped.

    Args:
        address: of the camera.
        options: how to read it.
        buffer: where frames, counters and the end go.
    """

    def __init__(self, address: Address, options: LiveOptions, buffer: FrameBuffer) -> None:
        self.stream = Stream()
        self._address, self._options, self._buffer = address, options, buffer
        self._stopped = threading.Event()
        self._grabber_pid: int | None = None

    @property
    def grabber_pid(self) -> int | None:
        """Process that reads the camera at present."""
        return self._grabber_pid

    def stop(self) -> None:
        """Let `run` return soon."""
        self._stopped.set()

    def run(self) -> None:
        """Connect again and again; every end, an error too, goes to the buffer."""
        try:
            self._run()
            self._buffer.finish()
        except PgnEdgeError as exc:
            self._buffer.finish(exc)
        except BaseException:
            # A thread has nobody above it: whoever waits for a frame must not wait for ever.
            self._buffer.finish(self._error("a reader that runs", "one that failed", "report it with its traceback"))
            raise

    def _run(self) -> None:
        give_up_s = time.monotonic() + self._options.connect_s
        failures = attempts = 0
        reason = ""
        while not self._stopped.is_set():
            attempts += 1
            before = self._buffer.next_sequence
            loss = self._connect(_backoff_s(failures), give_up_s if before == 0 else None)
            if loss is None:
                return
            self._buffer.add(loss.counter)
            came = self._buffer.next_sequence > before
            failures = 1 if came else failures + 1
            if loss.counter == "errors" or not reason:
                reason = loss.reason  # rather than that the last attempt was cut off
            if self._buffer.next_sequence == 0 and time.monotonic() >= give_up_s - TICK_S:
                raise self._error(
                    f"a first frame within {self._options.connect_s:g} s",
                    f"{reason} ({attempts} attempt{'s' if attempts > 1 else ''})",
                    "check that the camera is on, and its address, user and password",
                )

    def _connect(self, delay_s: float, give_up_s: float | None) -> Loss | None:
        try:
            # It loads OpenCV while the pause lasts.
            grabber = Grabber()
        except OSError as exc:
            self._stopped.wait(delay_s)
            return Loss("errors", f"no grabber process: {exc}")
        with grabber:
            self._grabber_pid = grabber.pid
            if give_up_s is not None:
                delay_s = min(delay_s, max(give_up_s - time.monotonic() - TICK_S, 0))
            if self._stopped.wait(delay_s):
                return None
            deadline_s = give_up_s or time.monotonic() + self._options.connect_s
            connection = Connection(grabber, self._address, self._options, self._buffer, self.stream)
            try:
                return connection.run(self._stopped, deadline_s)
            finally:
                connection.close()
                self._grabber_pid = None

    def _error(self, expected: str, got: str, do: str) -> DataError:
        return DataError(self._address.label, expected=expected, got=got, do=do)


class Connection:
    """One grabber from its order to its end.

    Args:
        grabber: that has no order yet.
        address: of the camera.
        options: how to read it.
        buffer: where frames and counters go.
        stream: filled in once the camera has opened.
    """

    def __init__(
        self, grabber: Grabber, address: Address, options: LiveOptions, buffer: FrameBuffer, stream: Stream
    ) -> None:
        self._grabber, self._address, self._options, self._buffer = grabber, address, options, buffer
        self._stream = stream
        self._memory: FrameMemory | None = None
        self._first_sequence = buffer.next_sequence
        self._thinned = 0
        self._last_sign_s: float | None = None
        self._handlers: dict[str, Callable[..., Loss | None]] = {
            "opened": self._opened,
            "size": self._size,
            "attached": self._attached,
            "frame": self._frame,
            "alive": self._alive,
            "failed": self._failed,
        }

    def run(self, stopped: threading.Event, deadline_s: float) -> Loss | None:
        """Hear the grabber out.

        Args:
            stopped: ends it from another thread.
            deadline_s: of the first frame, on the monotonic clock.

        Returns:
            None once it is stopped, or the stream has come to its end.

        Raises:
            DataError: there is no memory for its frames.
        """
        order = {"kind": self._address.kind, "address": self._address.text, "may_end": self._address.may_end}
        self._grabber.send({**order, "policy": self._options.policy, "max_fps": self._options.max_fps})
        while not stopped.is_set():
            ahead_s = self._limit_s(deadline_s) - time.monotonic()
            try:
                event = self._grabber.events.get(timeout=min(max(ahead_s, 0), TICK_S))
            except queue.Empty:
                if ahead_s <= TICK_S and time.monotonic() >= self._limit_s(deadline_s):
                    return self._stall()
                continue
            if event is None:
                return Loss("errors", f"the grabber died: {redact(self._grabber.last_words())}")
            if event[0] == "ended":
                self._ended(*event[1:])
                return None
            loss = self._handlers[event[0]](*event[1:])
            if loss is not None:
                return loss
        return None

    def close(self) -> None:
        """Let go of the memory: its name is gone, and itself too once the frames in it are taken."""
        if self._memory is not None:
            self._memory.unlink()
            self._memory = None

    def _limit_s(self, deadline_s: float) -> float:
        if self._last_sign_s is None:
            return deadline_s
        if self._memory is not None and self._buffer.waiting >= self._memory.slots:
            return time.monotonic() + self._options.stall_s  # it waits for the app
        return max(self._last_sign_s, self._buffer.taken_s) + self._options.stall_s

    def _ended(self, frames: int, damaged: int) -> None:
        if not frames and not self._first_sequence:
            raise DataError(
                self._address.label,
                expected="a video that OpenCV decodes",
                got="no frame",
                do="check that the file is whole, or convert it to H.264 in .mp4",
            )
        self._stream.ended_after, self._stream.damaged = frames, damaged

    def _stall(self) -> Loss:
        reason = "no frame in time" if self._stream.fps or self._stream.count else "no answer in time"
        return Loss("stalls", reason)

    def _opened(self, fps: float, count: int) -> None:
        self._stream.fps, self._stream.count = fps, count
        policy = self._options.policy or ("wait" if count else "latest")
        self._depth = 1 if policy == "latest" else self._options.queue
        self._buffer.limit(None if policy == "wait" else self._depth)

    def _size(self, height: int, width: int) -> None:
        self.close()
        self._memory = FrameMemory((height, width), self._depth + SPARE_SLOTS)
        self._grabber.send({"memory": self._memory.name, "slots": self._memory.slots})

    def _attached(self) -> None:
        assert self._memory is not None
        self._memory.unlink()

    def _frame(self, slot: int, sequence: int, captured_ns: int, thinned: int, media: tuple[float, int] | None) -> None:
        assert self._memory is not None
        if self._last_sign_s is None and self._first_sequence:
            self._buffer.add("reconnects")
        give_back = partial(_give_back, self._grabber, self._memory.name)
        number, captured_s = self._first_sequence + sequence, captured_ns / 1e9
        self._buffer.put(Pending(self._memory, slot, number, captured_s, give_back, media))
        self._alive(thinned)

    def _alive(self, thinned: int) -> None:
        self._last_sign_s = time.monotonic()
        self._buffer.add("thinned", thinned - self._thinned)
        self._thinned = thinned

    def _failed(self, reason: str) -> Loss:
        words = self._grabber.last_words()
        return Loss("errors", redact(f"{reason}: {words}" if words else reason))


def _give_back(grabber: Grabber, memory: str, slot: int) -> None:
    grabber.send({"free": slot, "memory": memory})


def _backoff_s(failures: int) -> float:
    if failures == 0:
        return 0.0
    longest_s = min(SHORTEST_BACKOFF_S * 2.0 ** min(failures - 1, 16), LONGEST_BACKOFF_S)
    # With jitter, so that cameras behind one switch do not all come back in the same moment.
    return longest_s * random.uniform(0.5, 1.0)  # noqa: S311

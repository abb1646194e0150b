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
from pgn_edge.runtime.events import Report, silent
from pgn_edge.runtime.live.address import Address
from pgn_edge.runtime.live.buffer import FrameBuffer, Pending
from pgn_edge.runtime.live.child import Grabber
from pgn_edge.runtime.live.loss import Loss, Pause, first_frame_error, missing_device
from pgn_edge.runtime.live.memory import FrameMemory
from pgn_edge.runtime.live.options import LiveOptions

SHORTEST_BACKOFF_S = 0.1
# With what opening takes, a camera that is back is seen again within 5 s.
LONGEST_BACKOFF_S = 3.0
# A camera that stays away costs a new process for each attempt.
RARE_AFTER, RARE_BACKOFF_S = 30, 10.0
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


class Supervisor:
    """Reads one live source until it ends or is stopped.

    Args:
        address: of the camera.
        options: how to read it.
        buffer: where frames, counters and the end go.
        report: Function that is told when the camera is lost, refused and back, and why.
    """

    def __init__(self, address: Address, options: LiveOptions, buffer: FrameBuffer, report: Report = silent) -> None:
        self.stream = Stream()
        self._address, self._options, self._buffer = address, options, buffer
        self._stopped = threading.Event()
        self._grabber_pid: int | None = None
        self._report = report
        self._loss: Loss | None = None  # of the camera that is away at present
        self._attempts = 0

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

    @property
    def is_hopeless(self) -> bool:
        """Whether another attempt soon would end as the last one did: it was refused, or there is no such device."""
        return self._loss is not None and (self._loss.is_refusal or self._loss.is_missing)

    def why(self) -> DataError:
        """Give the error of a source that has given no frame yet."""
        return first_frame_error(self._address, self._options, self._loss, self._attempts)

    def _run(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            before = self._buffer.next_sequence
            loss = self._connect(self._pause_s(failures))
            if loss is None:
                return
            self._buffer.add(loss.counter)
            failures = 1 if self._buffer.next_sequence > before else failures + 1
            # A cause that is known says more than that a later attempt was cut off.
            if self._loss is None or loss.counter == "errors" or failures == 1:
                self._loss = loss
                self._report("refused" if loss.is_refusal else "lost", f"{loss.reason}; {self._next(loss)}")

    def _next(self, loss: Loss) -> str:
        if loss.is_refusal:
            return f"the next attempt is in {self._options.refused_s:g} s"
        return "it is tried again and again"

    def _pause_s(self, failures: int) -> float:
        if self._loss is not None and self._loss.is_refusal and failures:
            return self._options.refused_s
        return _backoff_s(failures)

    def _connect(self, delay_s: float) -> Loss | None:
        started_s = time.monotonic()
        # While the last part of the pause lasts, a new grabber loads OpenCV.
        if self._stopped.wait(max(delay_s - LONGEST_BACKOFF_S, 0)):
            return None
        self._attempts += 1
        missing = missing_device(self._address)
        if missing:
            self._stopped.wait(max(started_s + delay_s - time.monotonic(), 0))
            return Loss("errors", missing, is_missing=True)
        try:
            grabber = Grabber()
        except OSError as exc:
            self._stopped.wait(delay_s)
            return Loss("errors", f"no grabber process: {exc}")
        with grabber:
            self._grabber_pid = grabber.pid
            if self._stopped.wait(max(started_s + delay_s - time.monotonic(), 0)):
                return None
            connection = Connection(grabber, self._address, self._options, self._buffer, self.stream)
            connection.back = self._back
            try:
                return connection.run(self._stopped, time.monotonic() + self._options.connect_s)
            finally:
                connection.close()
                self._grabber_pid = None

    def _back(self) -> None:
        if self._loss is not None:
            self._loss = None
            self._report("back", "")

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
        self._pause = Pause(options, address)
        self.back: Callable[[], None] = lambda: None
        self._handlers: dict[str, Callable[..., Loss | None]] = {
            "opened": self._opened,
            "size": self._size,
            "attached": self._attached,
            "frame": self._frame,
            "alive": self._alive,
            "failed": self._failed,
            "refused": self._refused,
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
        wanted = {name: getattr(self._options, name) for name in ("policy", "max_fps", "rtsp_transport")}
        self._grabber.send({**order, **wanted})
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
        longest_s = self._pause.longest_s
        if self._memory is not None and self._buffer.waiting >= self._memory.slots:
            return time.monotonic() + longest_s  # it waits for the app
        return max(self._last_sign_s, self._buffer.taken_s) + longest_s

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
        if self._last_sign_s is not None:
            return Loss("stalls", f"no frame for {self._pause.longest_s:.1f} s, stall_s")
        what = "no frame" if self._stream.fps or self._stream.count else "no answer"
        return Loss("stalls", f"{what} in time, within {self._options.connect_s:g} s, connect_s")

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
        if self._last_sign_s is None:
            self.back()
            if self._first_sequence:
                self._buffer.add("reconnects")
        give_back = partial(_give_back, self._grabber, self._memory.name)
        number, captured_s = self._first_sequence + sequence, captured_ns / 1e9
        self._buffer.put(Pending(self._memory, slot, number, captured_s, give_back, media))
        self._alive(thinned)

    def _alive(self, thinned: int) -> None:
        self._last_sign_s = time.monotonic()
        self._pause.sign(self._last_sign_s)
        self._buffer.add("thinned", thinned - self._thinned)
        self._thinned = thinned

    def _refused(self, status: str) -> Loss:
        return Loss("errors", f"it refused user and password: {redact(status)}", is_refusal=True)

    def _failed(self, reason: str) -> Loss:
        words = self._grabber.last_words()
        status = self._grabber.refusal()
        if status:
            return self._refused(status)
        return Loss("errors", redact(f"{reason}: {words}" if words else reason))


def _give_back(grabber: Grabber, memory: str, slot: int) -> None:
    grabber.send({"free": slot, "memory": memory})


def _backoff_s(failures: int) -> float:
    if failures == 0:
        return 0.0
    longest_s = min(SHORTEST_BACKOFF_S * 2.0 ** min(failures - 1, 16), LONGEST_BACKOFF_S)
    if failures > RARE_AFTER:
        longest_s = RARE_BACKOFF_S
    # With jitter, so that cameras behind one switch do not all come back in the same moment.
    return longest_s * random.uniform(0.5, 1.0)  # noqa: S311

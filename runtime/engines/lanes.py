"""Threads that each keep one connection, and answers that are waited for no longer than until their deadline."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Generic, Protocol, TypeVar

from pgn_edge.errors import EngineError
from pgn_edge.runtime.retry import Deadline, NoAnswerError

GRACE_S = 0.02  # beyond the deadline, for the thread to say itself why there is no answer
CLOSE_S = 1.0


class LaneSession(Protocol):
    """What a lane keeps; its thread alone uses it."""

    def tidy(self) -> None:
        """Do what can wait until nobody waits for an answer."""

    def close(self) -> None:
        """Give it all back."""


Answer = TypeVar("Answer")
Session = TypeVar("Session", bound=LaneSession)


class Pending(Generic[Answer]):
    """An answer that is under way.

    Args:
        name: of the engine, for messages.
        deadline: of the request.
    """

    def __init__(self, name: str, deadline: Deadline) -> None:
        self._name, self._deadline = name, deadline
        self._future: Future[Answer] = Future()

    def done(self) -> bool:
        """Whether `result` returns, or raises, at once."""
        return self._future.done() or self._deadline.left_s == 0

    def result(self) -> Answer:
        """The answer; waits for it until the deadline, and never longer.

        Raises:
            NoAnswerError: none by then.
            EngineError: a wrong one.
        """
        try:
            return self._future.result(self._deadline.left_s + GRACE_S)
        except (TimeoutError, FutureTimeout) as exc:  # two classes before Python 3.11
            raise NoAnswerError(
                self._name,
                expected=f"an answer within {self._deadline.seconds:g} s",
                got="none",
                do="check the load of the server, or raise the deadline",
            ) from exc

    def run(self, job: Callable[[], Answer], before: Callable[[], None]) -> None:
        """Settle it with what `job` returns or raises, and do something just before."""
        try:
            answer = job()
        except BaseException as exc:
            before()
            self._future.set_exception(exc)
        else:
            before()
            self._future.set_result(answer)


class Lane(Generic[Session]):
    """A thread and its session. One job at a time.

    Args:
        session: used and closed by the thread alone.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="pgn-edge-lane", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # else its arrays would live until the next one
        self._session.close()

    def put(self, job: Callable[[Session], None]) -> None:
        """Have the thread do something."""
        self._jobs.put(lambda: job(self._session))

    def stop(self) -> None:
        """Have the thread close its session and end."""
        self._jobs.put(None)

    def join(self, timeout_s: float) -> None:
        """Wait for that."""
        self._thread.join(timeout_s)


class Lanes(Generic[Session]):
    """As many lanes as requests may be in flight, each made when it is first needed. Any thread may call.

    Args:
        name: of the engine, for messages.
        most: of them.
        make: a session.
    """

    def __init__(self, name: str, most: int, make: Callable[[], Session]) -> None:
        self._name, self._most, self._make = name, most, make
        self._lock = Lock()
        self._all: list[Lane[Session]] = []
        self._idle: list[Lane[Session]] = []
        self._closed = False

    def start(self, job: Callable[[Session], Answer], deadline: Deadline) -> Pending[Answer]:
        """Run a job on a lane that is idle.

        Args:
            job: that ends by itself at the deadline.
            deadline: of the job.

        Raises:
            EngineError: all lanes are busy, or the engine is closed.
        """
        lane, pending = self._take(), Pending[Answer](self._name, deadline)

        def work(session: Session) -> None:
            # Idle before the answer is known: whoever has it may ask again at once.
            pending.run(lambda: job(session), lambda: self._give_back(lane))
            session.tidy()

        lane.put(work)
        return pending

    def _give_back(self, lane: Lane[Session]) -> None:
        with self._lock:
            self._idle.append(lane)

    def _take(self) -> Lane[Session]:
        with self._lock:
            if self._closed:
                raise EngineError(self._name, expected="an open engine", got="a closed one", do="open it again")
            if self._idle:
                return self._idle.pop()
            if len(self._all) < self._most:
                self._all.append(Lane(self._make()))
                return self._all[-1]
        raise EngineError(
            self._name,
            expected=f"at most {self._most} requests in flight",
            got="one more",
            do="wait for an answer first, or raise in_flight",
        )

    def close(self) -> None:
        """End every lane; one whose job is still under way ends with it."""
        with self._lock:
            self._closed = True
            lanes, self._all = self._all, []
        for lane in lanes:
            lane.stop()
        deadline = Deadline(CLOSE_S)
        for lane in lanes:
            lane.join(deadline.left_s)

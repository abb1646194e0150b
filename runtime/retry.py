"""When to try again, when to wait, and when to refuse at once: deadlines, backoff and a circuit breaker."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Lock
from time import monotonic

from pgn_edge.errors import EngineError

Clock = Callable[[], float]


class NoAnswerError(EngineError):
    """A server gave no answer to one attempt, so that another may be made; or to all of them.

    Attributes:
        status: of HTTP, where it answered that it cannot answer now; 0 where nothing came.
        retry_after_s: seconds that it asks to wait before the next attempt.
    """

    status = 0
    retry_after_s = 0.0


class Deadline:
    """A moment after which nobody waits any longer.

    Args:
        seconds: from now, more than 0.
        clock: seconds that never go back.
    """

    def __init__(self, seconds: float, clock: Clock = monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._end = clock() + seconds

    @property
    def left_s(self) -> float:
        """Seconds until then; 0 from then on."""
        return max(self._end - self._clock(), 0.0)


@dataclass(frozen=True)
class Backoff:
    """Pauses between attempts that double, each with jitter, so that many clients do not come back at once.

    Args:
        retries: attempts after the first; 0 or more.
        first_s: longest pause before the second attempt, in seconds.
        most_s: longest pause of all.

    Raises:
        EngineError: a negative number.
    """

    retries: int = 4
    first_s: float = 0.02
    most_s: float = 0.5

    def __post_init__(self) -> None:
        if not (self.retries >= 0 and self.first_s >= 0 and self.most_s >= 0):
            raise EngineError("backoff", expected="numbers of 0 or more", got=repr(self), do="choose other numbers")

    def pauses(self, draw: Callable[[], float] = random.random) -> Iterator[float]:
        """Seconds before each further attempt, between a half and the whole of what is doubled.

        Args:
            draw: a number from 0 to 1.
        """
        longest = self.first_s
        for _ in range(self.retries):
            yield min(longest, self.most_s) * (1 + draw()) / 2
            longest *= 2


class CircuitBreaker:
    """Keeps callers from a server that does not answer: open after some failures, and half open after a pause.

    Half open, one caller tries; what becomes of that decides for all. Any number of threads may call it.

    Args:
        failures: in a row, that open it; 1 or more.
        pause_s: seconds until one caller may try.
        clock: seconds that never go back.
    """

    def __init__(self, failures: int, pause_s: float, clock: Clock = monotonic) -> None:
        self._most, self._pause_s, self._clock = failures, pause_s, clock
        self._lock = Lock()
        self._failures = 0
        self._opens_at: float | None = None
        self._probing = False

    def enter(self) -> float:
        """Ask to go ahead; whoever may then says `succeeded`, `failed` or `withdrawn`, once.

        Returns:
            0 to go ahead; else the seconds after which to ask again.
        """
        with self._lock:
            if self._opens_at is None:
                return 0.0
            wait_s = self._opens_at - self._clock()
            if wait_s > 0 or self._probing:
                return max(wait_s, 1e-3)
            self._probing = True
            return 0.0

    def withdrawn(self) -> None:
        """Whoever went ahead did not ask the server after all."""
        with self._lock:
            self._probing = False

    def succeeded(self) -> None:
        """The server answered, be it with a refusal."""
        with self._lock:
            self._failures, self._opens_at, self._probing = 0, None, False

    def failed(self) -> None:
        """The server did not answer."""
        with self._lock:
            self._failures += 1
            if self._probing or self._failures >= self._most:
                self._opens_at, self._probing = self._clock() + self._pause_s, False

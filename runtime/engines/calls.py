"""Requests to a server that runs an engine: attempts within a deadline, over lanes, behind a circuit breaker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from math import isfinite
from pathlib import Path
from time import sleep
from typing import Generic

from pgn_edge.errors import EngineError
from pgn_edge.redact import keep_secret
from pgn_edge.runtime.engines.lanes import Answer, Lanes, Pending, Session
from pgn_edge.runtime.retry import Backoff, CircuitBreaker, Deadline, NoAnswerError


@dataclass(frozen=True)
class CallOptions:
    """How requests to a server are made.

    Args:
        deadline_s: of one request with all its attempts, in seconds.
        attempt_s: of one attempt; None for as long as the deadline.
        backoff: between attempts.
        in_flight: most requests at a time; one more is refused.
        breaker_failures: requests in a row without an answer, after which all are refused at once.
        breaker_pause_s: seconds until one may try again.
        ca_file: certificates to trust, PEM; None for those of the system.
        token: bearer token; never printed.

    Raises:
        EngineError: a number out of its range, a file that is missing, or a token that no header can hold.
    """

    deadline_s: float = 1.0
    attempt_s: float | None = None
    backoff: Backoff = field(default_factory=Backoff)
    in_flight: int = 4
    breaker_failures: int = 5
    breaker_pause_s: float = 2.0
    ca_file: Path | None = None
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("deadline_s", "attempt_s", "breaker_pause_s"):
            check_seconds(name, getattr(self, name))
        for name in ("in_flight", "breaker_failures"):
            if getattr(self, name) < 1:
                raise wrong_option(name, "1 or more", f"{getattr(self, name)}")
        check_pem(self.ca_file)
        keep_secret(self.token or "")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token.strip()):
            raise wrong_option("token", "printable ASCII", "something else")


class Calls(Generic[Session]):
    """Makes requests, each on a lane of its own. No request is waited for longer than its deadline.

    Attempts without an answer are repeated within the deadline, after a pause, or after the one that the server asks
    for; whatever else it answers is final. Any thread may call.

    Args:
        name: of the engine, for messages.
        options: deadline, attempts and limits.
        make: what a lane keeps, such as its connection.
    """

    def __init__(self, name: str, options: CallOptions, make: Callable[[], Session]) -> None:
        self._name, self._options = name, options
        self._lanes: Lanes[Session] = Lanes(name, options.in_flight, make)
        self._breaker = CircuitBreaker(options.breaker_failures, options.breaker_pause_s)
        self._last = "no answer"

    def open(self, job: Callable[[Session], Answer], deadline: Deadline) -> Answer:
        """Do something once, past the breaker.

        Args:
            job: that ends by itself at the deadline.
            deadline: of the job.

        Raises:
            EngineError: as the job, or it has not ended by then.
        """
        return self._lanes.start(job, deadline).result()

    def start(self, attempt: Callable[[Session, float], Answer], deadline_s: float | None = None) -> Pending[Answer]:
        """Make a request.

        Args:
            attempt: one of its attempts, within so many seconds.
            deadline_s: that begins now; None for that of the options.

        Returns:
            What waits for the answer, until the deadline.

        Raises:
            EngineError: too many in flight, or a server that has not answered lately.
        """
        deadline = Deadline(self._options.deadline_s if deadline_s is None else deadline_s)
        wait_s = self._breaker.enter()
        if wait_s:
            raise EngineError(
                self._name,
                expected="a server that answers",
                got=f"no answer to the last {self._options.breaker_failures} requests or more: {self._last}",
                do=f"check the server; the next request is let through in {wait_s:.2g} s",
            )
        try:
            return self._lanes.start(lambda session: self._answer(session, attempt, deadline), deadline)
        except BaseException:
            self._breaker.withdrawn()
            raise

    def _answer(self, session: Session, attempt: Callable[[Session, float], Answer], deadline: Deadline) -> Answer:
        """All attempts of one request; on the thread of a lane."""
        try:
            answer = self._attempts(session, attempt, deadline)
        except NoAnswerError as exc:
            self._last = exc.got
            self._breaker.failed()
            raise
        except BaseException:
            self._breaker.succeeded()  # it answered, be it with a refusal
            raise
        self._breaker.succeeded()
        return answer

    def _attempts(self, session: Session, attempt: Callable[[Session, float], Answer], deadline: Deadline) -> Answer:
        pauses = self._options.backoff.pauses()
        attempts = 0
        while True:
            attempts += 1
            timeout_s = min(self._options.attempt_s or deadline.left_s, deadline.left_s)
            try:
                return attempt(session, max(timeout_s, 1e-3))
            except NoAnswerError as exc:
                pause_s = next(pauses, None)
                # An attempt that could only begin after the deadline is none.
                if pause_s is None or max(pause_s, exc.retry_after_s) >= deadline.left_s:
                    raise self._given_up(exc, deadline, attempts) from exc
                sleep(max(pause_s, exc.retry_after_s))

    def _given_up(self, exc: NoAnswerError, deadline: Deadline, attempts: int) -> NoAnswerError:
        error = NoAnswerError(
            self._name,
            expected=f"an answer within {deadline.seconds:g} s",
            got=f"{exc.got}, in {attempts} attempt{'s' * (attempts > 1)}",
            do=exc.do,
        )
        error.status, error.retry_after_s = exc.status, exc.retry_after_s
        return error

    def close(self) -> None:
        """End every lane; one whose job is still under way ends with it."""
        self._lanes.close()


def is_loopback(host: str) -> bool:
    """Whether a host, a name or a number, is this machine, so that nothing leaves it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_seconds(name: str, value: float | None) -> None:
    """Refuse what is no time to wait.

    Raises:
        EngineError: neither None nor a finite number above 0.
    """
    if value is not None and not (isfinite(value) and value > 0):
        raise wrong_option(name, "seconds, more than 0", f"{value}")


def check_pem(path: Path | None) -> None:
    """Refuse a file that is not there.

    Raises:
        EngineError: likewise.
    """
    if path is not None and not path.is_file():
        raise wrong_option(str(path), "a PEM file", "no such file")


def wrong_option(subject: str, expected: str, got: str) -> EngineError:
    """An error that names an option."""
    return EngineError(subject, expected=expected, got=got, do="choose another value")

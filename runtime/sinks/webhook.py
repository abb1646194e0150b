"""Each answer as a JSON document in an HTTP POST."""

from __future__ import annotations

import io
import json
import random
import secrets
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection, IncompleteRead
from time import monotonic
from types import TracebackType
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pgn_edge.errors import OutputError
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.sinks.base import Counts, record
from pgn_edge.runtime.sinks.outbox import Document, Outbox, tls_context
from pgn_edge.runtime.sources import Frame

RETRIED = frozenset({408, 425, 429, *range(500, 600)})
MOST_ANSWER_BYTES = 65536  # a longer answer costs the connection, not our time


@dataclass(frozen=True)
class WebhookOptions:
    """How hard a webhook tries.

    Args:
        token: sent as `Authorization: Bearer`; never shown.
        ca_file: certificates that the server's must follow from, .pem; empty takes the system's.
        queue: documents that may wait; then the oldest is dropped.
        deadline_s: seconds for one request, from the connection to the last byte of the answer.
        budget_s: seconds for one document, all attempts and the waits between them.
        wait_s: seconds before the second attempt; they double with each further one.
        most_wait_s: seconds that they double to, and the most that a server's Retry-After is followed.
        flush_s: seconds for what still waits when the sink is closed.
    """

    token: str = field(default="", repr=False)
    ca_file: str = ""
    queue: int = 256
    deadline_s: float = 5.0
    budget_s: float = 60.0
    wait_s: float = 0.2
    most_wait_s: float = 10.0
    flush_s: float = 5.0


class WebhookSink:
    """Posts one JSON document for each frame and task, from a thread of its own; `write` never waits.

    Connections that fail, timeouts, 408, 425, 429 and 5xx are tried again with growing, random waits. Any other answer
    than 2xx is final. A document may arrive twice, when its answer got lost: its `Idempotency-Key` stays the same.

    Args:
        url: http:// or https://, without a password.
        options: how hard it tries.

    Raises:
        OutputError: another kind of address, certificates that cannot be read, or an option out of its range.
    """

    def __init__(self, url: str, options: WebhookOptions | None = None) -> None:
        self._options = options or WebhookOptions()
        self._url = _checked(url)
        _check_options(self._options)
        self._context = tls_context(self._options.ca_file) if self._url.scheme == "https" else None
        self._connection: HTTPConnection | None = None
        self._series, self._number = secrets.token_hex(8), 0
        self._outbox = Outbox(self._work, self._options.queue)

    @property
    def counts(self) -> Counts:
        """See `Sink.counts`; a document is sent when it was answered with 2xx."""
        return self._outbox.counts

    def write(self, frame: Frame, results: Sequence[Result]) -> None:
        """See `Sink.write`; it never raises."""
        for result in results:
            self._number += 1
            self._outbox.offer((f"{self._series}-{self._number}", json.dumps(record(frame, result)).encode()))

    def __enter__(self) -> WebhookSink:
        self._outbox.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._outbox.close(self._options.flush_s)

    def _work(self) -> None:
        while (document := self._outbox.take()) is not None:
            self._outbox.settle(self._deliver(document))
        self._hang_up()

    def _deliver(self, document: Document) -> bool:
        end, wait_s, known = monotonic() + self._options.budget_s, self._options.wait_s, self._connection is not None
        while (left_s := min(end - monotonic(), self._outbox.left_s)) > 0:
            fault, asked_s = "", 0.0
            try:
                status, asked_s = self._post(document, min(left_s, self._options.deadline_s))
                if 200 <= status < 300:
                    return True
                fault = f"status {status}"
                if status not in RETRIED:
                    self._outbox.fail(fault)
                    return False
            except (OSError, HTTPException) as exc:
                self._hang_up()
                if known and isinstance(exc, ConnectionError):
                    known = False  # a server closes what was idle: no fault, and no reason to wait
                    continue
                fault = _named(exc)
            known = False
            self._outbox.fail(fault)
            # Random, so that many cameras do not come back all at once.
            self._outbox.rest(max(min(asked_s, self._options.most_wait_s), wait_s * random.uniform(0.5, 1)))  # noqa: S311
            wait_s = min(2 * wait_s, self._options.most_wait_s)
        return False

    def _post(self, document: Document, deadline_s: float) -> tuple[int, float]:
        """Status of the answer, and the seconds that it asks to wait."""
        end = monotonic() + deadline_s
        if self._connection is None:
            self._connection = self._connect(deadline_s)
        connection = self._connection
        connected: Any = connection.sock  # a `_DeadlineSocket`
        connected.end = end
        key, body = document
        headers = {"Content-Type": "application/json", "Idempotency-Key": key, "User-Agent": "pgn-edge"}
        if self._options.token:
            headers["Authorization"] = f"Bearer {self._options.token}"
        path = (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")
        connection.request("POST", path, body, headers)
        with connection.getresponse() as response:
            rest = response.read(MOST_ANSWER_BYTES)
            if response.length and len(rest) < MOST_ANSWER_BYTES:
                raise IncompleteRead(rest, response.length)
            if response.will_close or len(rest) == MOST_ANSWER_BYTES:
                self._hang_up()
            return response.status, _retry_after_s(response.getheader("Retry-After", ""))

    def _connect(self, deadline_s: float) -> HTTPConnection:
        host = self._url.hostname or ""
        if self._context is None:
            connection = HTTPConnection(host, self._url.port, timeout=deadline_s)
        else:
            connection = HTTPSConnection(host, self._url.port, timeout=deadline_s, context=self._context)
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        connection.sock = _DeadlineSocket(connection.sock)
        return connection

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _DeadlineSocket:
    """A connected socket whose calls end at `end` all together: a server that sends a byte now and then gets no more
    time than one that is silent.
    """

    def __init__(self, connected: socket.socket) -> None:
        self.connected, self.end = connected, 0.0

    def sendall(self, data: bytes) -> None:
        self.connected.settimeout(_left(self.end))
        self.connected.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self))

    def close(self) -> None:
        self.connected.close()


class _Reader(io.RawIOBase):
    def __init__(self, deadline: _DeadlineSocket) -> None:
        self._deadline = deadline
        # A file of the socket's own, since http.client closes the socket before it has read the last answer from it.
        self._file = deadline.connected.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._deadline.connected.settimeout(_left(self._deadline.end))
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


def _left(end: float) -> float:
    left_s = end - monotonic()
    if left_s <= 0:
        raise TimeoutError("timed out")
    return left_s


def _named(exc: Exception) -> str:
    """A name for the log that holds nothing of the request."""
    if isinstance(exc, TimeoutError):
        return "timeout"
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"certificate: {exc.verify_message}"
    return f"connection: {type(exc).__name__}"


def _retry_after_s(value: str) -> float:
    """Seconds of a Retry-After, which is a number or a date; 0 for anything else."""
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    at = at if at.tzinfo else at.replace(tzinfo=timezone.utc)
    return max((at - datetime.now(timezone.utc)).total_seconds(), 0.0)


def _checked(url: str) -> SplitResult:
    """Parts of the address; an address that is refused may hold a password, and is not repeated."""
    expected = "http://host[:port]/path or https://host[:port]/path"
    try:
        parts = urlsplit(url)
        _, _ = parts.port, (parts.hostname or "").encode("idna")  # each raises where it is none
    except ValueError as exc:
        raise OutputError("webhook", expected=expected, got="an address that is none", do="check it") from exc
    if parts.username is not None or parts.password is not None:
        raise OutputError("webhook", expected=expected, got="one with a user or password", do="give a token instead")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise OutputError("webhook", expected=expected, got=f"scheme {parts.scheme!r}", do="give such an address")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise OutputError("webhook", expected=expected, got="characters that need encoding", do="encode them with %")
    return parts


def _check_options(options: WebhookOptions) -> None:
    token = options.token
    if not token.isascii() or not token.isprintable() or " " in token:
        raise OutputError("webhook", expected="a token of plain characters", got="others", do="check where it is from")
    if options.queue < 1 or min(options.deadline_s, options.budget_s, options.wait_s) <= 0 or options.flush_s < 0:
        raise OutputError(
            "webhook",
            expected="a queue of 1 or more and times above 0",
            got=f"queue {options.queue}, deadline {options.deadline_s:g} s, budget {options.budget_s:g} s, "
            f"wait {options.wait_s:g} s, flush {options.flush_s:g} s",
            do="choose others",
        )

"""HTTP connections whose requests end at a deadline, whatever the server does; of the standard library alone."""

from __future__ import annotations

import io
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from time import monotonic
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pgn_edge.errors import PgnEdgeError

RETRIED = frozenset({408, 425, 429, *range(500, 600)})
FAULTS = (OSError, HTTPException)  # what a connection raises; see `fault_name`


@dataclass(frozen=True)
class HttpAnswer:
    """What a server answered.

    Args:
        status: of HTTP.
        body: its first bytes, no more than were asked for.
        whole: whether that is all of it.
        framed: whether the server said beforehand where it ends; else a connection that is cut ends it too.
        retry_after_s: seconds that it asks to wait; 0 where it does not.
        location: where it points to instead; empty where it does not.
    """

    status: int
    body: bytes
    whole: bool
    framed: bool
    retry_after_s: float
    location: str


class HttpClient:
    """One connection to one address, made when it is needed and kept for the next request. One thread uses it.

    Args:
        url: as `check_url` gives it.
        context: of TLS; None for `http`.
    """

    def __init__(self, url: SplitResult, context: ssl.SSLContext | None) -> None:
        self._url, self._context = url, context
        self._path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        self._connection: HTTPConnection | None = None

    def post(self, body: bytes, headers: Mapping[str, str], deadline_s: float, most_bytes: int) -> HttpAnswer:
        """Post a document, and once more where the server had closed the connection while it was idle.

        Args:
            body: of the request.
            headers: of the request.
            deadline_s: from the connection to the last byte of the answer.
            most_bytes: of the answer; a longer one costs the connection, not our time.

        Raises:
            OSError, HTTPException: no answer, or half of one.
        """
        end, known = monotonic() + deadline_s, self._connection is not None
        try:
            return self._post(body, headers, end, most_bytes)
        except FAULTS as exc:
            self.close()
            if not (known and isinstance(exc, ConnectionError)):
                raise
        try:
            return self._post(body, headers, end, most_bytes)
        except FAULTS:
            self.close()
            raise

    def _post(self, body: bytes, headers: Mapping[str, str], end: float, most_bytes: int) -> HttpAnswer:
        if self._connection is None:
            self._connection = self._connect(_left(end))
        connection = self._connection
        connected: Any = connection.sock  # a `_DeadlineSocket`
        connected.end = end
        connection.request("POST", self._path, body, {"User-Agent": "pgn-edge", **headers})
        with connection.getresponse() as response:
            return self._read(response, most_bytes)

    def _read(self, response: HTTPResponse, most_bytes: int) -> HttpAnswer:
        body = response.read(most_bytes)
        if response.length and len(body) < most_bytes:
            raise IncompleteRead(body, response.length)
        if response.will_close or len(body) == most_bytes:
            self.close()
        return HttpAnswer(
            status=response.status,
            body=body,
            whole=len(body) < most_bytes,
            framed=response.chunked or response.length is not None,
            retry_after_s=retry_after_s(response.getheader("Retry-After", "")),
            location=response.getheader("Location", ""),
        )

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

    def close(self) -> None:
        """Hang up; the next request connects again."""
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


def fault_name(exc: Exception) -> str:
    """A name for one of `FAULTS` that holds nothing of the request."""
    if isinstance(exc, TimeoutError):
        return "timeout"
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"certificate: {exc.verify_message}"
    return f"connection: {type(exc).__name__}"


def retry_after_s(value: str) -> float:
    """Seconds of a Retry-After, which is a number or a date; 0 for anything else."""
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    at = at if at.tzinfo else at.replace(tzinfo=timezone.utc)
    return max((at - datetime.now(timezone.utc)).total_seconds(), 0.0)


def check_url(url: str, subject: str, error: type[PgnEdgeError]) -> SplitResult:
    """Parts of an address; an address that is refused may hold a password, and is not repeated.

    Args:
        url: http:// or https://, without a user or a password.
        subject: of the error.
        error: its kind.

    Raises:
        PgnEdgeError: of this kind; another scheme, or an address that is none.
    """
    expected = "http://host[:port]/path or https://host[:port]/path"
    try:
        parts = urlsplit(url)
        _, _ = parts.port, (parts.hostname or "").encode("idna")  # each raises where it is none
    except ValueError as exc:
        raise error(subject, expected=expected, got="an address that is none", do="check it") from exc
    if parts.username is not None or parts.password is not None:
        raise error(subject, expected=expected, got="one with a user or password", do="give a token instead")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise error(subject, expected=expected, got=f"scheme {parts.scheme!r}", do="give such an address")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise error(subject, expected=expected, got="characters that need encoding", do="encode them with %")
    return parts


def is_header(value: str) -> bool:
    """Whether a token or the value of a header is one line of plain characters."""
    return value.isascii() and value.isprintable() and bool(value.strip())


def tls_context(ca_file: str, error: type[PgnEdgeError]) -> ssl.SSLContext:
    """What checks the certificate of the other side, and its name.

    Args:
        ca_file: certificates that it must follow from, .pem; empty takes the system's.
        error: kind of the error.

    Raises:
        PgnEdgeError: of this kind; the file cannot be read, or holds none.
    """
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as exc:  # what is in it counts too: an SSLError is an OSError
        raise error(
            f"certificates {ca_file}", expected="a .pem file", got=exc.strerror or str(exc), do="check the file"
        ) from exc

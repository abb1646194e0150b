"""What the HTTP servers of an app share: bounded connections, deadlines, and who may ask."""

from __future__ import annotations

import hmac
import ipaddress
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from pgn_edge.errors import OutputError
from pgn_edge.redact import keep_secret

MOST_CONNECTIONS = 16  # at a time; one more takes the place of the longest silent stranger, or is closed at once
TIMEOUT_S = 5.0  # for a client that says nothing, or takes nothing
REQUEST_S = 10.0  # for a whole request: a client that says a byte now and then never runs into the other one
POLL_S = 0.1  # between two looks whether it is closed
CLOSE_S = 1.5  # for answers that are cut off to notice it


class QuietHandler(BaseHTTPRequestHandler):
    """A request whose error is one line of plain text, and that prints nothing.

    Attributes:
        token: Token of the service; empty for a service that only this machine may ask.
    """

    timeout = TIMEOUT_S
    token = ""

    def do_GET(self) -> None:
        """Answer a request; services do better than this."""
        self.send_error(501)

    def do_HEAD(self) -> None:
        """Answer as for GET; `answer` leaves the body out."""
        self.do_GET()

    def answer(self, status: int, kind: str, body: bytes, **headers: str) -> None:
        """Send a whole answer.

        Args:
            status: of HTTP.
            kind: media type of the body.
            body: all of it.
            headers: more of them; `_` in a name stands for `-`.
        """
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what cannot be read as a request."""
        text = message or self.responses.get(code, ("no such request",))[0]
        self.answer(code, "text/plain; charset=utf-8", f"{text}\n".encode(errors="replace"), Connection="close")

    def heard(self) -> None:
        """Say that the request is read whole, so that its deadline is over."""
        assert isinstance(self.server, _Server)
        self.server.heard(self.connection)

    def admit(self) -> None:
        """Say that the client may ask, so that a newcomer never takes its place."""
        assert isinstance(self.server, _Server)
        self.server.admit(self.connection)

    def is_for_us(self) -> bool:
        """Whether the Host header names this machine, where no token tells clients apart.

        A page of another site can make its own name point to 127.0.0.1 and then read answers from there (DNS
        rebinding). The Host header keeps that name.
        """
        return bool(self.token) or is_loopback(host_name(self.headers.get("Host", "")))

    def version_string(self) -> str:
        """Give away no versions."""
        return "pgn-edge"

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent: a request is no news."""


class HttpService:
    """Listens from the moment that it is made, and answers between `start` and `close`.

    Args:
        subject: for messages, such as `metrics server`.
        host: address or name to listen on.
        port: to listen on; 0 takes a free one, see `url`.
        token: that clients must send; empty for none, which is for loopback alone.
        handler: answers the requests.

    Raises:
        OutputError: an address that others reach without a token, a token that no header carries, or a port that is
            taken.
    """

    def __init__(self, subject: str, host: str, port: int, token: str, handler: type[QuietHandler]) -> None:
        subject = f"{subject} {host}:{port}"
        keep_secret(token)
        if not token and not is_loopback(host):
            raise OutputError(
                subject, expected="a token, for an address that others reach", got="none", do="give one, or 127.0.0.1"
            )
        if not token.isascii() or not token.isprintable() or " " in token:
            raise OutputError(subject, expected="a token of plain characters", got="others", do="choose another")
        handler = type(handler.__name__, (handler,), {"token": token})
        try:
            self._server = _Server(host, port, handler)
        except (OSError, OverflowError, UnicodeError) as exc:
            got = getattr(exc, "strerror", None) or str(exc)
            raise OutputError(subject, expected="a free port of this machine", got=got, do="choose another") from exc
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL_S,), name=subject, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens, `http://host:port`."""
        host, port = self._server.server_address[:2]
        return f"http://[{host!s}]:{port}" if ":" in str(host) else f"http://{host!s}:{port}"

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening, and cut off what is being answered."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server.cut_off()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address; of names only `localhost` is known to be so."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_name(host: str) -> str:
    """Name in a Host header, without port and brackets; empty for a header that is no host."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def same(given: str, expected: str) -> bool:
    """Compare secrets in constant time: else the time of a refusal would tell how much of a guess is right."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


@dataclass
class _Client:
    """An open connection.

    Args:
        since_s: Time of its arrival, of the monotonic clock.
        deadline_s: Time at which its request must be whole; infinite once it is.
        admitted: Whether it may ask.
    """

    since_s: float
    deadline_s: float
    admitted: bool = False


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, handler: type[QuietHandler]) -> None:
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        self._changed = threading.Condition()
        self._clients: dict[socket.socket, _Client] = {}
        super().__init__((host, port), handler)

    def heard(self, request: socket.socket) -> None:
        with self._changed:
            if request in self._clients:
                self._clients[request].deadline_s = float("inf")

    def admit(self, request: socket.socket) -> None:
        with self._changed:
            if request in self._clients:
                self._clients[request].admitted = True

    def cut_off(self) -> None:
        """End all connections, and wait a moment for those who serve them."""
        with self._changed:
            for request in self._clients:
                _shutdown(request)
            self._changed.wait_for(lambda: not self._clients, CLOSE_S)

    def service_actions(self) -> None:
        """Cut off whoever takes too long to ask; called every `POLL_S`."""
        now = monotonic()
        with self._changed:
            for request, client in self._clients.items():
                if client.deadline_s < now:
                    _shutdown(request)

    def server_bind(self) -> None:
        # HTTPServer would ask DNS for the name of the address, which may take long and is of no use here.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._make_room():
            self.shutdown_request(request)
            return
        with self._changed:
            now = monotonic()
            self._clients[request] = _Client(now, now + REQUEST_S)
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._forget(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in mid-answer is no news either."""

    def _make_room(self) -> bool:
        """Whether one more connection fits; if not, the longest silent one that was never admitted is cut off."""
        with self._changed:
            if len(self._clients) < MOST_CONNECTIONS:
                return True
            strangers = [request for request, client in self._clients.items() if not client.admitted]
            if not strangers:
                return False
            oldest = min(strangers, key=lambda request: self._clients[request].since_s)
            _shutdown(oldest)  # its thread reads the end at once, and goes
            del self._clients[oldest]
            return True

    def _forget(self, request: socket.socket) -> None:
        with self._changed:
            self._clients.pop(request, None)
            self._changed.notify_all()


def _shutdown(request: socket.socket) -> None:
    with suppress(OSError):  # it may be gone already
        request.shutdown(socket.SHUT_RDWR)

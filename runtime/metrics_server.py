"""`/metrics` for Prometheus and `/healthz` for whoever restarts a device that went blind."""

from __future__ import annotations

import hmac
import ipaddress
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from pgn_edge.errors import OutputError
from pgn_edge.runtime.metrics import CONTENT_TYPE, Metrics

MOST_CONNECTIONS = 16  # at a time; one more is closed at once
TIMEOUT_S = 5.0  # for a client that says nothing
POLL_S = 0.1  # between two looks whether it is closed


class MetricsServer:
    """Serves the numbers of an app over HTTP until it is closed.

    `/metrics` is the text exposition. `/healthz` is 200 while every camera gave an answer within `within_s`, else 503;
    its JSON says which did not.

    Args:
        metrics: what is served.
        host: address or name to listen on.
        port: to listen on; 0 takes a free one, see `url`.
        token: that a client must send as `Authorization: Bearer`; empty for none, which is for loopback alone.
        within_s: seconds after which a camera counts as silent.

    Raises:
        OutputError: an address that others reach without a token, a token that no header carries, or a port that is
            taken.
    """

    def __init__(
        self, metrics: Metrics, host: str = "127.0.0.1", port: int = 9464, *, token: str = "", within_s: float = 5.0
    ) -> None:
        subject = f"metrics server {host}:{port}"
        if not token and not _is_loopback(host):
            raise OutputError(
                subject, expected="a token, for an address that others reach", got="none", do="give one, or 127.0.0.1"
            )
        if not token.isascii() or not token.isprintable() or " " in token:
            raise OutputError(subject, expected="a token of plain characters", got="others", do="choose another")
        if within_s <= 0:
            raise OutputError(subject, expected="seconds above 0", got=f"{within_s:g}", do="choose another time")
        self._metrics, self._token, self._within_s = metrics, token, within_s
        try:
            self._server = _Server(host, port, self._handler())
        except (OSError, OverflowError, UnicodeError) as exc:
            got = getattr(exc, "strerror", None) or str(exc)
            raise OutputError(subject, expected="a free port of this machine", got=got, do="choose another") from exc
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_S,), name="pgn-edge metrics", daemon=True
        )

    @property
    def url(self) -> str:
        """Where it listens, `http://host:port`."""
        host, port = self._server.server_address[:2]
        return f"http://[{host!s}]:{port}" if ":" in str(host) else f"http://{host!s}:{port}"

    def health(self) -> tuple[int, dict[str, Any]]:
        """Status and JSON object of `/healthz`."""
        silence_s = self._metrics.silence_s()
        reasons = [] if silence_s else ["no camera yet"]
        for camera, seconds in silence_s.items():
            if seconds is None:
                reasons.append(f"{camera}: no frame yet")
            elif seconds > self._within_s:
                reasons.append(f"{camera}: no frame for {seconds:.1f} s")
        cameras = {camera: None if seconds is None else round(seconds, 3) for camera, seconds in silence_s.items()}
        return 503 if reasons else 200, {"healthy": not reasons, "reasons": reasons, "silence_s": cameras}

    def __enter__(self) -> MetricsServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _allows(self, header: str) -> bool:
        # In constant time: else the time of a refusal would tell how much of a guess is right.
        expected = f"Bearer {self._token}"
        return not self._token or hmac.compare_digest(header.encode("latin-1", "replace"), expected.encode())

    def _answer(self, path: str) -> tuple[int, str, str]:
        if path == "/metrics":
            return 200, CONTENT_TYPE, self._metrics.render()
        if path == "/healthz":
            status, document = self.health()
            return status, "application/json", json.dumps(document) + "\n"
        return 404, "text/plain", "there are /metrics and /healthz\n"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            timeout = TIMEOUT_S

            def do_GET(self) -> None:
                if server._allows(self.headers.get("Authorization", "")):
                    status, kind, text = server._answer(self.path.partition("?")[0])
                else:
                    status, kind, text = 401, "text/plain", "a token is wanted\n"
                body = text.encode()
                self.send_response(status)
                if status == 401:
                    self.send_header("WWW-Authenticate", "Bearer")
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def version_string(self) -> str:
                return "pgn-edge"

            def log_message(self, format: str, *args: Any) -> None:
                """Stay silent: a scrape is no news."""

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__((host, port), handler)

    def server_bind(self) -> None:
        # HTTPServer would ask DNS for the name of the address, which may take long and is of no use here.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in mid-answer is no news either."""


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

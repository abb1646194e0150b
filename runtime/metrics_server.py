"""`/metrics` for Prometheus and `/healthz` for whoever restarts a device that went blind."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any

from pgn_edge.errors import OutputError
from pgn_edge.runtime.http_server import HttpService, QuietHandler, same
from pgn_edge.runtime.metrics import CONTENT_TYPE, Metrics


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
        if within_s <= 0:
            subject = f"metrics server {host}:{port}"
            raise OutputError(subject, expected="seconds above 0", got=f"{within_s:g}", do="choose another time")
        self._metrics, self._token, self._within_s = metrics, token, within_s
        self._service = HttpService("metrics server", host, port, token, self._handler())

    @property
    def url(self) -> str:
        """Where it listens, `http://host:port`."""
        return self._service.url

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
        self._service.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._service.close()

    def _allows(self, header: str) -> bool:
        return not self._token or same(header, f"Bearer {self._token}")

    def _answer(self, path: str) -> tuple[int, str, str]:
        if path == "/metrics":
            return 200, CONTENT_TYPE, self._metrics.render()
        if path == "/healthz":
            status, document = self.health()
            return status, "application/json", json.dumps(document) + "\n"
        return 404, "text/plain", "there are /metrics and /healthz\n"

    def _handler(self) -> type[QuietHandler]:
        server = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:  # noqa: N802
                self.heard()
                if not self.is_for_us():
                    self.answer(403, "text/plain", b"this address is for this machine: ask it as localhost\n")
                elif server._allows(self.headers.get("Authorization", "")):
                    self.admit()
                    status, kind, text = server._answer(self.path.partition("?")[0])
                    self.answer(status, kind, text.encode())
                else:
                    self.answer(401, "text/plain", b"a token is wanted\n", WWW_Authenticate="Bearer")

        return Handler

"""`/metrics` for Prometheus and `/healthz` for whoever restarts a device that went blind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from pgn_edge.errors import OutputError
from pgn_edge.runtime.events import last_error
from pgn_edge.runtime.http_server import HttpService, QuietHandler, same
from pgn_edge.runtime.metrics import CONTENT_TYPE, Metrics


@dataclass(frozen=True)
class Health:
    """When an app is ready and when it is alive.

    Args:
        within_s: Seconds after which a camera counts as silent.
        cameras: `all` where every camera must give answers, `any` where one is enough.
        alive_s: Seconds after which a loop that no longer turns counts as dead.

    Raises:
        OutputError: A number that is not above 0, or another word.
    """

    within_s: float = 5.0
    cameras: Literal["all", "any"] = "all"
    alive_s: float = 30.0

    def __post_init__(self) -> None:
        if not (self.within_s > 0 and self.alive_s > 0):
            got = f"{self.within_s:g} and {self.alive_s:g}"
            raise OutputError("health", expected="seconds above 0", got=got, do="choose other times")
        if self.cameras not in ("all", "any"):
            raise OutputError("health", expected="all or any", got=repr(self.cameras), do="choose one of them")


class MetricsServer:
    """Serves the numbers of an app over HTTP until it is closed.

    `/metrics` is the text exposition. `/healthz` (ready) is 200 while cameras give answers, see `Health`, else 503; its
    JSON says which do not, and the last problem. `/livez` (alive) is 200 while the loop of the app turns, also while
    all cameras are silent: restart an app that fails it.

    Args:
        metrics: what is served.
        host: address or name to listen on.
        port: to listen on; 0 takes a free one, see `url`.
        token: that a client must send as `Authorization: Bearer`; empty for none, which is for loopback alone.
        health: When the app is ready and alive; None for the defaults.

    Raises:
        OutputError: an address that others reach without a token, a token that no header carries, or a port that is
            taken.
    """

    def __init__(
        self,
        metrics: Metrics,
        host: str = "127.0.0.1",
        port: int = 9464,
        *,
        token: str = "",
        health: Health | None = None,
    ) -> None:
        self._metrics, self._token, self._health = metrics, token, health or Health()
        self._service = HttpService("metrics server", host, port, token, self._handler())

    @property
    def url(self) -> str:
        """Where it listens, `http://host:port`."""
        return self._service.url

    def health(self) -> tuple[int, dict[str, Any]]:
        """Status and JSON object of `/healthz`."""
        silence_s = self._metrics.silence_s()
        reasons = [] if silence_s else ["no camera yet"]
        most = len(silence_s) - 1 if self._health.cameras == "any" else 0
        for camera, seconds in silence_s.items():
            if seconds is None:
                reasons.append(f"{camera}: no frame yet")
            elif seconds > self._health.within_s:
                reasons.append(f"{camera}: no frame for {seconds:.1f} s")
        cameras = {camera: None if seconds is None else round(seconds, 3) for camera, seconds in silence_s.items()}
        healthy = bool(silence_s) and len(reasons) <= most
        document = {"healthy": healthy, "reasons": reasons, "silence_s": cameras}
        return 200 if healthy else 503, {**document, "last_error": last_error(self._metrics.log)}

    def life(self) -> tuple[int, dict[str, Any]]:
        """Status and JSON object of `/livez`."""
        age_s = self._metrics.beat_age_s
        alive = age_s is None or age_s <= self._health.alive_s
        return 200 if alive else 503, {"alive": alive, "loop_s": None if age_s is None else round(age_s, 3)}

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
        if path in ("/healthz", "/livez"):
            status, document = self.health() if path == "/healthz" else self.life()
            return status, "application/json", json.dumps(document) + "\n"
        return 404, "text/plain", "there are /metrics, /healthz and /livez\n"

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

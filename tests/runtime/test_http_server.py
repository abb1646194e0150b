"""Both HTTP servers of an app, `/metrics` and the live page: who may ask, and who must go when the server is full."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import pytest

from pgn_edge.runtime import Runtime
from pgn_edge.runtime.http_server import MOST_CONNECTIONS, HttpService, QuietHandler
from pgn_edge.runtime.metrics import Metrics
from pgn_edge.runtime.metrics_server import MetricsServer
from pgn_edge.runtime.web import LivePage, PageOptions

PATHS = {"metrics": ("/metrics", "/healthz"), "page": ("/", "/api/state", "/page.css")}


@contextmanager
def opened(kind: str, tiny_pair, token: str = "") -> Iterator[str]:
    """One of the servers; gives its address."""
    if kind == "metrics":
        with MetricsServer(Metrics(), port=0, token=token) as server:
            yield server.url
        return
    with (
        Runtime(tiny_pair.vit, {"pets": tiny_pair.task}, threads=1) as runtime,
        LivePage(runtime, PageOptions(port=0, token=token)) as page,
    ):
        yield page.url


@pytest.fixture(params=PATHS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ask(url: str, path: str, method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    address = urlsplit(url)
    with closing(http.client.HTTPConnection(str(address.hostname), address.port, timeout=20)) as connection:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def connect(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((str(address.hostname), address.port), 20)


def is_open(connection: socket.socket) -> bool:
    connection.settimeout(0.05)
    try:
        return connection.recv(1) != b""
    except TimeoutError:
        return True
    except ConnectionError:
        return False


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9464", "192.0.2.1", "[", "", "127.0.0.1.evil.example"])
def test_another_sites_name_that_points_to_this_machine_reads_nothing(tiny_pair, kind: str, host: str) -> None:
    with opened(kind, tiny_pair) as url:
        for path in PATHS[kind]:
            status, _, body = ask(url, path, Host=host)
            assert (status, b"this machine" in body) == (403, True), path


@pytest.mark.parametrize("host", ["localhost", "localhost:9464", "127.0.0.1", "127.9.9.9:1", "[::1]:9464"])
def test_every_name_of_this_machine_may_ask(tiny_pair, kind: str, host: str) -> None:
    with opened(kind, tiny_pair) as url:
        assert ask(url, PATHS[kind][0], Host=host)[0] == 200


def test_with_a_token_any_name_may_ask(tiny_pair, kind: str) -> None:
    with opened(kind, tiny_pair, token="s3cret") as url:
        assert ask(url, PATHS[kind][0], Host="camera.example", Authorization="Bearer s3cret")[0] == 200
        assert ask(url, PATHS[kind][0], Host="camera.example")[0] == 401


def test_head_is_answered_as_get_without_a_body(tiny_pair, kind: str) -> None:
    with opened(kind, tiny_pair) as url:
        for path in (*PATHS[kind], "/none"):
            got, headers, body = ask(url, path)
            status, same_headers, nothing = ask(url, path, "HEAD")
            assert (status, nothing) == (got, b"")
            assert same_headers["Content-Type"] == headers["Content-Type"]
            assert abs(int(same_headers["Content-Length"]) - len(body)) < 16, "a clock in the body may grow a digit"


def test_24_silent_clients_keep_nobody_out_and_the_longest_silent_goes_first(tiny_pair, kind: str) -> None:
    with opened(kind, tiny_pair) as url:
        silent = [connect(url) for _ in range(24)]
        for _ in range(3):
            assert ask(url, PATHS[kind][0])[0] == 200
        still = [is_open(connection) for connection in silent]
        assert still == sorted(still), "a younger one went before an older one"
        assert not any(still[:8])
        assert still[-1]
        for connection in silent:
            connection.close()


def test_clients_that_may_ask_are_never_cut_off_for_a_newcomer() -> None:
    class Slow(QuietHandler):
        """Admits a client, and then takes its time."""

        def do_GET(self) -> None:  # noqa: N802
            self.heard()
            self.admit()
            self.wfile.write(b"1")
            self.rfile.read(1)  # until the client goes

    service = HttpService("slow", "127.0.0.1", 0, "", Slow)
    service.start()
    try:
        busy = []
        for _ in range(MOST_CONNECTIONS):
            busy.append(connect(service.url))
            busy[-1].sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert busy[-1].recv(1) == b"1"
        with connect(service.url) as newcomer:
            newcomer.settimeout(20)
            assert newcomer.recv(1) == b"", "one more than there is room for"
        assert all(is_open(connection) for connection in busy)
        for connection in busy:
            connection.close()
    finally:
        service.close()

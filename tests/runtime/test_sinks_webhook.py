"""A webhook against real servers on loopback that hang, fail, refuse, and go away."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgn_edge.errors import OutputError
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.sinks import WebhookOptions, WebhookSink
from pgn_edge.runtime.sources import Frame

RESULT = Result(
    "pets", "owl", 0.75, np.float32([0.25, 0.75]), ("cat", "owl"), np.zeros(8, np.float32), None, {"vit": 1.2}
)
FAST = {"wait_s": 0.01, "most_wait_s": 0.05, "budget_s": 20.0}
Answer = Callable[[BaseHTTPRequestHandler], None]


def frame_at(index: int) -> Frame:
    return Frame(index, f"cam#{index}", index / 10, np.zeros((4, 4, 3), np.uint8))


class Receiver(ThreadingHTTPServer):
    """Answers each request by the next of its script, and by the last for ever; keeps what it was sent."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, *script: Answer, port: int = 0) -> None:
        self.script, self.requests, self.times = list(script), [], []
        self.headers: list[dict[str, str]] = []
        self.released, self.peers = threading.Event(), set()
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook?camera=1"

    @property
    def indices(self) -> list[int]:
        return [document["sequence"] for document in self.requests]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what these tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        receiver = self.server
        receiver.requests.append(json.loads(body))
        receiver.times.append(monotonic())
        receiver.headers.append(dict(self.headers) | {"path": self.path})
        receiver.peers.add(self.client_address)
        answer = receiver.script.pop(0) if len(receiver.script) > 1 else receiver.script[0]
        answer(self)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


def status(code: int, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "2")
        handler.end_headers()
        handler.wfile.write(b"{}")

    return answer


def hang(handler: Any) -> None:
    handler.server.released.wait(30)
    handler.close_connection = True


def drip(handler: Any) -> None:
    """A byte now and then: no single read ever times out."""
    for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1000:
        if handler.server.released.wait(0.05):
            break
        handler.wfile.write(bytes([byte]))
    handler.close_connection = True


def go_away(handler: Any) -> None:
    handler.close_connection = True


def half_an_answer(handler: Any) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    handler.close_connection = True


def garbage(handler: Any) -> None:
    handler.wfile.write(b"\x00\xff no http at all\r\n\r\n")
    handler.close_connection = True


def answer_and_close(handler: Any) -> None:
    """As a server does that ends idle connections without a word."""
    status(200)(handler)
    handler.close_connection = True


def endless_answer(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(10**9))
    handler.end_headers()
    with suppress(OSError):
        while True:
            handler.wfile.write(bytes(65536))


@contextmanager
def serving(*script: Answer, tls: ssl.SSLContext | None = None, port: int = 0) -> Iterator[Receiver]:
    receiver = Receiver(*script, port=port)
    if tls is not None:
        receiver.socket = tls.wrap_socket(receiver.socket, server_side=True)
    thread = threading.Thread(target=receiver.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.released.set()
        receiver.shutdown()
        receiver.server_close()
        thread.join()


def post(url: str, count: int, **options: Any) -> WebhookSink:
    sink = WebhookSink(url, WebhookOptions(**{**FAST, **options}))
    with sink:
        for index in range(count):
            sink.write(frame_at(index), [RESULT])
    return sink


def outcome(sink: WebhookSink) -> tuple[int, int, int]:
    counts = sink.counts
    assert counts.waiting == 0
    return counts.sent, counts.dropped, counts.lost


def test_documents_arrive_in_order_on_one_connection() -> None:
    with serving(status(200)) as receiver:
        sink = post(receiver.url, 5, token="s3cret")
    assert receiver.indices == [0, 1, 2, 3, 4]
    first = receiver.requests[0]
    assert {key: first[key] for key in first if key not in ("run", "at")} == {
        "schema": 1,
        "camera": "cam",
        "sequence": 0,
        "name": "cam#0",
        "time_s": 0.0,
        "task": "pets",
        "bundle": None,
        "label": "owl",
        "score": 0.75,
        "top": [{"label": "owl", "score": 0.75}, {"label": "cat", "score": 0.25}],
        "degraded": None,
        "timings_ms": {"vit": 1.2},
    }
    assert len(receiver.peers) == 1
    header = receiver.headers[0]
    assert (header["path"], header["Content-Type"]) == ("/hook?camera=1", "application/json")
    assert header["Authorization"] == "Bearer s3cret"
    assert len({one["Idempotency-Key"] for one in receiver.headers}) == 5
    assert (outcome(sink), sink.counts.errors) == ((5, 0, 0), 0)


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        pytest.param(status(500), "status 500", id="500"),
        pytest.param(status(503), "status 503", id="503"),
        pytest.param(status(429), "status 429", id="429"),
        pytest.param(status(408), "status 408", id="408"),
        pytest.param(hang, "timeout", id="hangs"),
        pytest.param(drip, "timeout", id="a byte now and then"),
        pytest.param(go_away, "connection: RemoteDisconnected", id="no answer"),
        pytest.param(half_an_answer, "connection: IncompleteRead", id="closed in mid-answer"),
        pytest.param(garbage, "connection: BadStatusLine", id="no http"),
    ],
)
def test_what_may_pass_is_tried_again_with_the_same_key(fault: Answer, named: str) -> None:
    with serving(fault, fault, status(200)) as receiver:
        sink = post(receiver.url, 1, deadline_s=0.3 if named == "timeout" else 5.0)
    assert receiver.indices == [0, 0, 0]
    assert len({header["Idempotency-Key"] for header in receiver.headers}) == 1
    assert (outcome(sink), sink.counts.errors, sink.counts.last_error) == ((1, 0, 0), 2, named)


@pytest.mark.parametrize("code", [301, 400, 401, 404, 422])
def test_an_answer_that_is_final_is_one_loss_and_the_next_document_goes_on(code: int) -> None:
    with serving(status(code, Location="http://127.0.0.1:1/"), status(200)) as receiver:
        sink = post(receiver.url, 2)
    assert receiver.indices == [0, 1]
    assert (outcome(sink), sink.counts.errors, sink.counts.last_error) == ((1, 0, 1), 1, f"status {code}")


def test_a_connection_that_was_closed_while_idle_is_no_error() -> None:
    with serving(answer_and_close) as receiver:
        sink = post(receiver.url, 4)
    assert receiver.indices == [0, 1, 2, 3]
    assert (outcome(sink), sink.counts.errors, len(receiver.peers)) == ((4, 0, 0), 0, 4)


def test_an_endless_answer_costs_its_connection_and_no_time() -> None:
    with serving(endless_answer) as receiver:
        sink = post(receiver.url, 2)
    assert (outcome(sink), len(receiver.peers)) == ((2, 0, 0), 2)


@pytest.mark.parametrize(
    ("value", "most_wait_s", "waits_s"),
    [
        pytest.param(lambda: "1", 0.3, (0.3, 20), id="seconds, no further than most_wait_s"),
        pytest.param(lambda: "1", 3.0, (0.99, 20), id="seconds"),
        pytest.param(lambda: in_seconds(60), 0.3, (0.3, 20), id="a date, no further than most_wait_s"),
        pytest.param(lambda: in_seconds(-60), 3.0, (0, 2.9), id="a date that is over"),
        pytest.param(lambda: "soon", 3.0, (0, 2.9), id="neither"),
    ],
)
def test_retry_after_is_followed_as_far_as_most_wait_s(
    value: Callable[[], str], most_wait_s: float, waits_s: tuple[float, float]
) -> None:
    with serving(status(429, Retry_After=value()), status(200)) as receiver:
        sink = post(receiver.url, 1, most_wait_s=most_wait_s)
    first, second = receiver.times
    assert waits_s[0] <= second - first <= waits_s[1]
    assert outcome(sink) == (1, 0, 0)


def in_seconds(seconds: float) -> str:
    return format_datetime(datetime.now(timezone.utc) + timedelta(seconds=seconds), usegmt=True)


def test_a_document_whose_budget_is_spent_is_lost_and_the_next_one_is_tried() -> None:
    with serving(*[status(500)] * 200) as receiver:
        sink = post(receiver.url, 2, budget_s=0.2)
    assert set(receiver.indices) == {0, 1}
    assert len(receiver.indices) > 4
    assert outcome(sink) == (0, 0, 2)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_server_that_comes_back_gets_what_waited() -> None:
    port = free_port()
    with WebhookSink(f"http://127.0.0.1:{port}/", WebhookOptions(**FAST)) as sink:
        sink.write(frame_at(0), [RESULT])
        until(lambda: sink.counts.errors > 1)
        assert sink.counts.last_error == "connection: ConnectionRefusedError"
        with serving(status(200), port=port):
            until(lambda: sink.counts.sent == 1)
    assert outcome(sink) == (1, 0, 0)


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    end = monotonic() + seconds
    while not condition():
        assert monotonic() < end, "it never came to that"
        sleep(0.005)


@pytest.mark.parametrize("deadline_s", [0.3, 60], ids=["which each request gives up", "with requests that never end"])
def test_a_server_that_hangs_holds_neither_the_loop_nor_the_end(deadline_s: float) -> None:
    with serving(hang) as receiver:
        sink = WebhookSink(
            receiver.url, WebhookOptions(**{**FAST, "deadline_s": deadline_s, "queue": 10, "flush_s": 0.5})
        )
        with sink:
            sink.write(frame_at(0), [RESULT])
            until(lambda: receiver.requests)
            start = monotonic()
            for index in range(1, 1001):
                sink.write(frame_at(index), [RESULT])
            wrote_s = monotonic() - start
            counts = sink.counts
        closed_s = monotonic() - start - wrote_s
        assert outcome(sink) == (0, 990, 11)
        assert (counts.offered, counts.dropped) == (1001, 990)
        assert wrote_s < 5, "a thousand documents wait for nobody"
        assert 0.4 < closed_s < 3
        settled = sink.counts
    sleep(0.05)
    assert sink.counts == settled, "a worker that was left behind counts no more"


def test_the_newest_are_kept() -> None:
    gate = threading.Event()

    def wait_then_200(handler: BaseHTTPRequestHandler) -> None:
        gate.wait(20)
        status(200)(handler)

    with serving(wait_then_200, status(200)) as receiver:
        with WebhookSink(receiver.url, WebhookOptions(**{**FAST, "deadline_s": 20, "queue": 3})) as sink:
            sink.write(frame_at(0), [RESULT])
            until(lambda: receiver.requests)
            for index in range(1, 11):
                sink.write(frame_at(index), [RESULT])
            gate.set()
        assert receiver.indices == [0, 8, 9, 10]
    assert outcome(sink) == (4, 7, 0)


@settings(max_examples=12, deadline=None)
@given(
    script=st.lists(st.sampled_from([200, 200, 400, 500, 429, "close", "half"]), min_size=1, max_size=12),
    count=st.integers(1, 30),
    queue=st.integers(1, 40),
    flush_s=st.sampled_from([0.0, 0.05, 5.0]),
)
def test_every_document_is_sent_or_dropped_or_lost(
    script: list[int | str], count: int, queue: int, flush_s: float
) -> None:
    named = {"close": go_away, "half": half_an_answer}
    answers = [named[one] if isinstance(one, str) else status(one) for one in script]
    with serving(*answers, status(200)) as receiver:
        sink = post(receiver.url, count, queue=queue, flush_s=flush_s)
        counts = sink.counts
        assert counts.offered == count
        assert counts.sent + counts.dropped + counts.lost == counts.offered
        assert min(counts.sent, counts.dropped, counts.lost) >= 0
        arrived = Counter(receiver.indices)
        assert counts.sent <= len(arrived)
        if flush_s == 5.0:
            assert counts.sent >= len(arrived) - script.count(400)
        sink.write(frame_at(0), [RESULT])
        assert (sink.counts.offered, sink.counts.lost) == (count + 1, counts.lost + 1), "after the end nothing waits"


# Encryption.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a server named localhost, signed by itself."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate of the server")
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost "
    words += f"-addext subjectAltName=DNS:localhost -keyout {path} -out {path}.crt"
    subprocess.run(["openssl", *words.split()], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


@pytest.mark.parametrize(
    ("host", "trusted", "result"),
    [
        pytest.param("localhost", True, (1, 0, 0), id="known"),
        pytest.param("localhost", False, (0, 0, 1), id="signed by nobody we know"),
        pytest.param("127.0.0.1", True, (0, 0, 1), id="of another name"),
    ],
)
def test_https_goes_to_the_right_server_only(
    certificate: Path, host: str, trusted: bool, result: tuple[int, int, int]
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(status(200), tls=context) as receiver:
        url = f"https://{host}:{receiver.server_port}/"
        sink = post(url, 1, ca_file=f"{certificate}.crt" if trusted else "", budget_s=0.3, token="s3cret")
        assert len(receiver.requests) == result[0], "the token goes to nobody else"
    assert outcome(sink) == result
    if not result[0]:
        assert sink.counts.last_error.startswith("certificate: ")


# What is refused, and what is never shown.


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/",
        "host/path",
        "http://",
        "http://host:99999/",
        "http://user:s3cret@host/",
        "http://a..b/",
        "http://h/ä",
    ],
)
def test_addresses_that_are_refused_are_not_repeated(url: str) -> None:
    with pytest.raises(OutputError, match="webhook: expected http://host") as caught:
        WebhookSink(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue": 0}, "queue of 1 or more"),
        ({"deadline_s": 0}, "times above 0"),
        ({"flush_s": -1}, "times above 0"),
        ({"token": "s3cret\r\nHost: other"}, "a token of plain characters"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OutputError, match=message) as caught:
        WebhookSink("http://host/", WebhookOptions(**options))
    assert "s3cret" not in str(caught.value)


def test_certificates_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(OutputError, match=r"expected a \.pem file"):
            WebhookSink("https://host/", WebhookOptions(ca_file=str(tmp_path / name)))


def test_the_token_is_never_shown() -> None:
    options = WebhookOptions(token="s3cret")
    sink = post(f"http://127.0.0.1:{free_port()}/", 1, token="s3cret", budget_s=0.1)
    assert "s3cret" not in f"{options!r} {sink!r} {sink.counts!r}"

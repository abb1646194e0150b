"""One secret in the address of a camera, and everything that a running app writes, shows and serves."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pgn_edge.redact
from pgn_edge.cli.run_config import read_config
from pgn_edge.cli.run_report import print_summary
from pgn_edge.errors import DataError
from pgn_edge.known_secrets import Registry
from pgn_edge.runtime.app import Account
from pgn_edge.runtime.cameras import Camera
from pgn_edge.runtime.live import LiveOptions
from pgn_edge.runtime.live.address import Address, live_address
from pgn_edge.runtime.live.buffer import FrameBuffer
from pgn_edge.runtime.live.supervisor import Connection, Stream
from pgn_edge.runtime.metrics import Metrics
from pgn_edge.runtime.metrics_server import MetricsServer
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.sinks import JsonlSink, MqttSink, WebhookSink
from pgn_edge.runtime.sources import Frame, Missing
from pgn_edge.runtime.web.state import State

RESULT = Result("pets", "owl", 0.75, np.float32([0.75]), ("owl",), np.zeros(8, np.float32), None, {"vit": 1.2})
SECRETS = st.text(st.sampled_from(" /?#@:\"'\\&%+!=") | st.characters(codec="utf-8", exclude_categories=["C"]))
PLACES = st.sampled_from(
    [
        "rtsp://admin:{}@10.0.0.2/stream",
        "http://10.0.0.2/snap.jpg?user=admin&passwd={quoted}",
        'rtspsrc location=rtsp://10.0.0.2/1 user-id=admin user-pw="{escaped}" ! appsink',
    ]
)


@pytest.fixture(autouse=True)
def no_secrets_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgn_edge.redact, "_REGISTRY", Registry())


@pytest.fixture(scope="module")
def server() -> Iterator[MetricsServer]:
    with MetricsServer(Metrics(), port=0) as running:
        yield running


def failure(address: Any, words: str) -> str:
    """What a supervisor says of a grabber whose FFmpeg wrote these words."""
    grabber = cast("Any", SimpleNamespace(last_words=lambda: words, refusal=lambda: ""))
    connection = Connection(grabber, address, LiveOptions(), FrameBuffer(), Stream())
    return connection._failed("it does not open").reason


@given(SECRETS, PLACES)
def test_a_password_of_a_camera_is_in_nothing_that_an_app_writes_shows_or_serves(
    server: MetricsServer, secret: str, place: str
) -> None:
    secret = f"Zq9{secret}x7W"
    escaped = secret.replace("\\", "\\\\").replace('"', '\\"')
    source = place.replace("{quoted}", quote(secret)).replace("{escaped}", escaped).replace("{}", secret)
    written = []
    try:
        address = live_address(source)
        assert address is not None
    except DataError as exc:  # its password should have been encoded
        written.append(str(exc))
        address = Address("stream", source)
    frame = Frame(0, f"{address.label}#0", None, np.zeros((4, 4, 3), np.uint8), 0.0, 1.0, 0)
    raw = Frame(1, f"{source}#1", None, frame.image_bgr, 0.0, 1.0, 1)  # from a loop of the user's own
    named = replace(raw, camera=source)
    words = f"[tcp @ 0x55] Could not open {source}: 401 ({secret!r}, {quote(secret)})"
    written += [failure(address, words), str(DataError(source, expected="x", got=words, do="y"))]

    documents: list[Any] = []
    mqtt, webhook = MqttSink("localhost"), WebhookSink("http://localhost/")
    for sink in (mqtt, webhook):
        sink._outbox.offer = documents.append  # type: ignore[method-assign]
        sink._outbox.fail(words)
        written.append(sink.counts.last_error)
    metrics, state = Metrics(), State()
    server._metrics = metrics
    metrics.expect(Camera(source, cast("Any", None), ("pets",)).name)
    out, err = io.StringIO(), io.StringIO()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(out), redirect_stderr(err):
        with JsonlSink(Path(folder) / "answers.jsonl") as jsonl:
            sinks = [jsonl, mqtt, webhook]
            account = Account(
                {"camera": cast("Any", SimpleNamespace(count=None, missing=Missing()))}, (), metrics=metrics
            )
            for given_frame in (frame, raw, named):
                account.deliver("camera", given_frame, [RESULT], sinks)
                state.write(given_frame, [RESULT])
            account.fail("camera", words)
        written.append((Path(folder) / "answers.jsonl").read_text())
        summary = account.summary(1.0, sinks)
        print_summary(summary)
    state.watch("mqtt", mqtt)
    written += [out.getvalue(), err.getvalue(), json.dumps(summary.to_json()), metrics.render()]
    written += [json.dumps(server.health()), json.dumps(state.document(-1, {})), repr(documents)]
    assert len(documents) == 6
    for text in written:
        assert "Zq9" not in text, (source, text)


def test_a_variable_in_the_user_part_of_an_address_is_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATE_PASSWORD", "two words/50%@ö")
    monkeypatch.setenv("GATE_LOGIN", "viewer:a/b")
    monkeypatch.setenv("GATE_HOST", "10.0.0.2:554")
    (tmp_path / "app.toml").write_text(
        """
        vit = "vit.onnx"
        tasks = { pets = "pets.pgn" }
        [cameras]
        a.source = "rtsp://viewer:${GATE_PASSWORD}@${GATE_HOST}/stream"
        b.source = "rtsp://${GATE_LOGIN}@10.0.0.3/stream"
        c.source = "http://10.0.0.4/snap.jpg?pwd=${GATE_PASSWORD}"
        """
    )
    plan = read_config(tmp_path / "app.toml")
    assert [camera.source for camera in plan.cameras] == [
        "rtsp://viewer:two%20words%2F50%25%40%C3%B6@10.0.0.2:554/stream",
        "rtsp://viewer:a%2Fb@10.0.0.3/stream",
        "http://10.0.0.4/snap.jpg?pwd=two%20words%2F50%25%40%C3%B6",
    ]
    assert "two words" not in pgn_edge.redact.redact("401 for two words/50%@ö at 10.0.0.2:554")
    assert "10.0.0.2:554" in pgn_edge.redact.redact("401 for two words/50%@ö at 10.0.0.2:554")

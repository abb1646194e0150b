"""What a running app says: one line at each change of state, and the last problem in the metrics."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic, sleep
from typing import Any

import numpy as np

from pgn_edge.runtime.events import BURST_LINES, LINE_S, EventLog
from pgn_edge.runtime.metrics import Metrics
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.sinks import WebhookOptions, WebhookSink
from pgn_edge.runtime.sources import Frame

RESULT = Result("pets", "owl", 0.75, np.float32([0.75]), ("owl",), np.zeros(8, np.float32), None, {"vit": 1.2})
FRAME = Frame(0, "gate#0", None, np.zeros((4, 4, 3), np.uint8))


def test_each_change_of_state_is_one_line_and_repeats_are_only_counted() -> None:
    lines: list[str] = []
    events = EventLog(lines.append)
    for state, text in (("lost", "no frame"), ("lost", "no frame"), ("back", ""), ("lost", "401 Unauthorized")):
        events.add("camera", "gate", state, text)
    assert [line.partition(" ")[2] for line in lines] == [
        "camera gate: lost: no frame",
        "camera gate: back",
        "camera gate: lost: 401 Unauthorized",
    ]
    assert events.counts == {("camera", "gate", "lost"): 3, ("camera", "gate", "back"): 1}
    assert events.last_error is not None
    assert events.last_error.text == "401 Unauthorized"
    assert events.last_error.at.endswith("Z")


def test_a_camera_that_flaps_all_night_does_not_fill_the_log() -> None:
    lines: list[str] = []
    now = [0.0]
    events = EventLog(lines.append, clock=lambda: now[0])
    for second in range(3600):
        now[0] = float(second)
        events.add("camera", "gate", "lost" if second % 2 else "back", "")
    assert len(lines) <= BURST_LINES + 3600 / LINE_S
    assert "29 changes before it not shown" in lines[-1] or "28 changes before it not shown" in lines[-1]
    events.add("camera", "door", "lost", "")
    assert "door" in lines[-1], "another subject has lines of its own"


def test_no_secret_is_in_an_event() -> None:
    lines: list[str] = []
    events = EventLog(lines.append)
    events.add("camera", "rtsp://me:two words@cam/1", "lost", "rtsp://me:two words@cam/1?pwd=x refused")
    assert lines[0].partition(" ")[2] == "camera rtsp://***@cam/1: lost: rtsp://***@cam/1?pwd=*** refused"


def test_events_and_the_last_error_of_each_subject_are_in_the_metrics() -> None:
    events = EventLog()
    metrics = Metrics(events)
    events.add("sink", "webhook", "failing", "status 404")
    events.add("sink", "webhook", "recovered")
    text = metrics.render()
    assert 'pgn_edge_events_total{kind="sink",subject="webhook",state="failing"} 1' in text
    assert 'pgn_edge_last_error_timestamp_seconds{kind="sink",subject="webhook",text="status 404"} ' in text


def test_a_webhook_that_answers_404_is_said_once_and_so_is_its_recovery() -> None:
    status = [404]

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status[0])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    lines: list[str] = []
    events = EventLog(lines.append)
    sink = WebhookSink(f"http://127.0.0.1:{server.server_port}/", WebhookOptions(wait_s=0.01))

    def until(states: list[str]) -> None:
        end = monotonic() + 20
        while [event.state for event in events.events] != states:
            assert monotonic() < end, events.events
            sink.write(FRAME, [RESULT])
            sleep(0.02)

    try:
        with sink, events.watching({"webhook": sink}):
            until(["failing"])
            status[0] = 204
            until(["failing", "recovered"])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert [line.partition(" ")[2] for line in lines] == [
        "sink webhook: failing: status 404",
        "sink webhook: recovered",
    ]

"""The text format, read by a parser written from its specification; and the server, asked over real sockets."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from time import monotonic, sleep
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgn_edge.errors import OutputError
from pgn_edge.runtime.http_server import MOST_CONNECTIONS
from pgn_edge.runtime.live import Counters
from pgn_edge.runtime.metrics import AGE_BUCKETS_S, CONTENT_TYPE, STAGE_BUCKETS_S, Counter, Gauge, Histogram, Metrics
from pgn_edge.runtime.metrics_server import Health, MetricsServer
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.runtime import Runtime
from pgn_edge.runtime.sinks import CallbackSink
from pgn_edge.runtime.sources import Frame

RESULT = Result(
    "pets", "owl", 1.0, np.ones(1, np.float32), ("owl",), np.zeros(8, np.float32), None, {"pgn": 0.2, "vit": 30.0}
)
IMAGE = np.zeros((4, 4, 3), np.uint8)


class Family(NamedTuple):
    kind: str
    about: str
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(text: str) -> dict[str, Family]:
    """The text exposition format 0.0.4, strictly.

    Source: prometheus.io/docs/instrumenting/exposition_formats, "Text format details".
    """
    assert text.endswith("\n"), "the last line must end with a line feed"
    families: dict[str, Family] = {}
    current = about = ""
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            _, _, current, about = line.split(" ", 3)
            assert current not in families, "all lines of a metric stand together"
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == current
            assert kind in ("counter", "gauge", "histogram")
            families[name] = Family(kind, unescape(about, ""), {})
        else:
            name, labels, value = parse_sample(line)
            family = families[current]
            suffixes = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
            assert name in {current + suffix for suffix in suffixes}
            key = name, frozenset(labels)
            assert key not in family.samples, "a label set appears once"
            family.samples[key] = value
    return families


def parse_sample(line: str) -> tuple[str, list[tuple[str, str]], float]:
    match = re.fullmatch(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)", line)
    assert match, line
    name, inner, number = match.groups()
    pair = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
    assert inner is None or re.fullmatch(rf"{pair}(?:,{pair})*", inner), line
    labels = [(key, unescape(value, '"')) for key, value in re.findall(pair, inner or "")]
    # As Go's ParseFloat takes it.
    assert re.fullmatch(r"[+-]?(\d+(\.\d+)?([eE][+-]?\d+)?|Inf)|NaN", number), line
    return name, labels, float(number)


def unescape(text: str, also: str) -> str:
    return re.sub(rf"\\([\\n{also}])", lambda match: "\n" if match[1] == "n" else match[1], text)


def lines(family: Any) -> str:
    return "".join(f"{line}\n" for line in family.lines())


def frame_at(index: int, camera: str = "front", **more: Any) -> Frame:
    return Frame(index, f"{camera}#{index}", index / 10, IMAGE, **more)


@given(
    text=st.text(st.characters(), max_size=30),
    about=st.text(st.characters(codec="utf-8"), max_size=30),
    value=st.floats(min_value=0),
)
def test_any_label_any_help_and_any_number_comes_back(text: str, about: str, value: float) -> None:
    counter = Counter("a_total", about, ("camera", "task"))
    counter.add(value, text, "pets")
    page = lines(counter)
    page.encode()
    family = parse(page)["a_total"]
    kept = text.encode(errors="replace").decode()
    assert family == Family("counter", about, {("a_total", frozenset({("camera", kept), ("task", "pets")})): value})


@pytest.mark.parametrize("value", [0, -3.5, 1e300, float("inf"), float("-inf"), 12345678901234567890.0, 1e-9], ids=str)
def test_a_gauge_takes_any_number(value: float) -> None:
    gauge = Gauge("a", "about")
    gauge.set(value)
    assert parse(lines(gauge))["a"] == Family("gauge", "about", {("a", frozenset()): value})


def test_a_gauge_takes_nan() -> None:
    gauge = Gauge("a", "about")
    gauge.set(float("nan"))
    assert lines(gauge).endswith("\na NaN\n")
    parse(lines(gauge))


@given(st.lists(st.floats(0, 20), max_size=50))
def test_a_histogram_is_what_counting_says(values: Sequence[float]) -> None:
    histogram = Histogram("a_seconds", "about", ("camera",), AGE_BUCKETS_S)
    for value in values:
        histogram.observe(value, "front")
    samples = parse(lines(histogram))["a_seconds"].samples
    camera = ("camera", "front")
    if not values:
        assert samples == {}
        return
    for bound in (*AGE_BUCKETS_S, float("inf")):
        (got,) = [n for (_, labels), n in samples.items() if any(k == "le" and float(v) == bound for k, v in labels)]
        assert got == sum(value <= bound for value in values), "buckets hold everything up to their bound"
    assert samples["a_seconds_count", frozenset({camera})] == len(values)
    assert samples["a_seconds_sum", frozenset({camera})] == pytest.approx(sum(values))
    assert ("a_seconds_bucket", frozenset({camera, ("le", "+Inf")})) in samples
    assert len(samples) == len(AGE_BUCKETS_S) + 3


def test_the_names_are_those_that_dashboards_use() -> None:
    families = parse(Metrics().render())
    assert {name: family.kind for name, family in families.items()} == {
        "pgn_edge_frames_total": "counter",
        "pgn_edge_frames_dropped_total": "counter",
        "pgn_edge_frame_age_seconds": "histogram",
        "pgn_edge_stage_seconds": "histogram",
        "pgn_edge_task_swaps_total": "counter",
        "pgn_edge_reconnects_total": "counter",
        "pgn_edge_errors_total": "counter",
        "pgn_edge_drift": "gauge",
        "pgn_edge_sink_lost_total": "counter",
        "pgn_edge_events_total": "counter",
        "pgn_edge_last_error_timestamp_seconds": "gauge",
        "pgn_edge_camera_up": "gauge",
        "pgn_edge_camera_last_frame_age_seconds": "gauge",
        "pgn_edge_camera_stalls_total": "counter",
        "pgn_edge_camera_errors_total": "counter",
    }


def value_of(metrics: Metrics, name: str, **labels: str) -> float:
    family = parse(metrics.render())[re.sub(r"(_seconds)_(sum|count)$", r"\1", name)]
    return family.samples[name, frozenset(labels.items())]


def test_answers_are_counted_by_camera_and_task_and_frames_once() -> None:
    metrics = Metrics()
    for index in range(3):
        frame = frame_at(index, captured_s=monotonic() - 0.5, dropped=2)
        for task in ("pets", "roads"):
            metrics.observe(replace(RESULT, task=task), frame)
    metrics.observe(RESULT, Frame(0, "a.png", 0.0, IMAGE))
    assert value_of(metrics, "pgn_edge_frames_total", camera="front", task="roads") == 3
    assert value_of(metrics, "pgn_edge_frames_total", camera="files", task="pets") == 1
    assert value_of(metrics, "pgn_edge_frames_dropped_total", camera="front") == 6
    assert value_of(metrics, "pgn_edge_frame_age_seconds_count", camera="front") == 3
    assert 1.5 <= value_of(metrics, "pgn_edge_frame_age_seconds_sum", camera="front") < 6
    assert value_of(metrics, "pgn_edge_stage_seconds_count", task="pets", stage="vit") == 4
    assert value_of(metrics, "pgn_edge_stage_seconds_sum", task="pets", stage="vit") == pytest.approx(0.12)


def test_a_degraded_answer_is_an_error_of_that_kind() -> None:
    metrics = Metrics()
    metrics.observe(RESULT, frame_at(0))
    metrics.observe(replace(RESULT, label="", degraded="canvas"), frame_at(1))
    assert value_of(metrics, "pgn_edge_errors_total", kind="degraded") == 1
    assert value_of(metrics, "pgn_edge_frames_total", camera="front", task="pets") == 2


def test_swaps_and_drift_of_the_tasks_that_are_there(tiny_pair, golden_images: np.ndarray) -> None:
    def shown(name: str) -> dict[frozenset[tuple[str, str]], float]:
        return {labels: value for (_, labels), value in parse(metrics.render())[name].samples.items()}

    metrics = Metrics()
    with Runtime(tiny_pair.vit, {"a": tiny_pair.task}) as runtime:
        metrics.watch_runtime(runtime)
        assert shown("pgn_edge_drift") == {}, "no frame yet"
        runtime.add("b", tiny_pair.task)
        runtime.infer_batch([(name, image) for name in "ab" for image in golden_images[:2]])
        drift = runtime.drift("b")
        for measure in ("entropy", "entropy_z", "usage_divergence"):
            assert value_of(metrics, "pgn_edge_drift", task="b", measure=measure) == getattr(drift, measure)
        runtime.swap("a", tiny_pair.task)
        swaps = {task: value_of(metrics, "pgn_edge_task_swaps_total", task=task) for task in "ab"}
        assert swaps == runtime.swaps == {"a": 1, "b": 0}
        assert {dict(labels)["task"] for labels in shown("pgn_edge_drift")} == {"b"}, "the new one saw nothing yet"
        runtime.remove("b")
        assert shown("pgn_edge_drift") == {}
        assert shown("pgn_edge_task_swaps_total") == {frozenset({("task", "a")}): 1}
    assert shown("pgn_edge_task_swaps_total") == {}, "a runtime that is closed has no tasks"


@pytest.mark.parametrize(
    ("name", "camera"),
    [("rtsp://10.0.0.1/a#b#12", "rtsp://10.0.0.1/a#b"), ("0#3", "0"), ("one.png", "files"), ("#3", "files")],
)
def test_the_camera_of_a_frame_does_not_change_with_each_frame(name: str, camera: str) -> None:
    assert Frame(0, name, 0.0, IMAGE).camera == camera


def test_numbers_of_others_are_read_when_they_are_asked_for() -> None:
    metrics, swaps = Metrics(), iter([1.0, 2.0])
    metrics.task_swaps.follow(lambda: next(swaps), "pets")
    with CallbackSink(lambda frame, results: 1 / 0, "drop") as sink:
        metrics.watch("mine", sink)
        for index in range(3):
            sink.write(frame_at(index), [RESULT])
            lost = value_of(metrics, "pgn_edge_sink_lost_total", sink="mine") if index == 1 else 0
            assert lost == (2 if index == 1 else 0)
    assert value_of(metrics, "pgn_edge_task_swaps_total", task="pets") == 2


def test_the_gauges_and_counters_that_others_fill() -> None:
    metrics = Metrics()
    metrics.drift.set(0.25, "pets", "usage")
    metrics.drift.set(0.5, "pets", "usage")
    metrics.errors.add(1, "webhook")
    metrics.reconnects.add(2, "front")
    assert value_of(metrics, "pgn_edge_drift", task="pets", measure="usage") == 0.5
    assert value_of(metrics, "pgn_edge_errors_total", kind="webhook") == 1
    assert value_of(metrics, "pgn_edge_reconnects_total", camera="front") == 2


def test_no_observation_is_lost_between_threads() -> None:
    metrics, stop = Metrics(), threading.Event()
    pages: list[str] = []

    def scrape() -> None:
        while not stop.is_set():
            pages.append(metrics.render())

    def observe(camera: str) -> None:
        for index in range(2000):
            metrics.observe(RESULT, frame_at(index, camera))

    scraper = threading.Thread(target=scrape)
    writers = [threading.Thread(target=observe, args=(camera,)) for camera in ("a", "b", "b", "c")]
    for thread in (scraper, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    scraper.join()
    totals = [value_of(metrics, "pgn_edge_frames_total", camera=camera, task="pets") for camera in "abc"]
    assert totals == [2000, 4000, 2000]
    assert value_of(metrics, "pgn_edge_stage_seconds_count", task="pets", stage="pgn") == 8000
    for page in (pages[0], pages[-1]):
        parse(page)


def test_observations_leave_no_memory_behind() -> None:
    metrics = Metrics()
    frames = [frame_at(index, captured_s=0.0) for index in range(100)]
    metrics.observe(RESULT, frames[-1])
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(50):
        for frame in frames:
            metrics.observe(RESULT, frame)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 4096, "5000 observations, no more than their numbers"


# The server.


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def server(metrics: Metrics) -> Iterator[MetricsServer]:
    with MetricsServer(metrics, port=0, health=Health(within_s=0.3)) as opened:
        yield opened


def get(server: MetricsServer, path: str, **headers: str) -> tuple[int, str, str]:
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=20)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type", ""), response.read().decode()
    finally:
        connection.close()


def test_metrics_are_served_as_prometheus_wants_them(server: MetricsServer, metrics: Metrics) -> None:
    metrics.observe(RESULT, frame_at(0, 'a "b" \\ \n ü'))
    status, kind, page = get(server, "/metrics?debug=1")
    assert (status, kind) == (200, CONTENT_TYPE)
    families = parse(page)
    assert set(families["pgn_edge_frames_total"].samples.values()) == {1.0}
    buckets = [name for name, _ in families["pgn_edge_stage_seconds"].samples if name.endswith("_bucket")]
    assert len(buckets) == 2 * (len(STAGE_BUCKETS_S) + 1)
    assert get(server, "/")[0] == 404


def test_health_names_the_camera_that_is_silent(server: MetricsServer, metrics: Metrics) -> None:
    def health() -> tuple[int, dict[str, Any]]:
        status, kind, text = get(server, "/healthz")
        assert kind == "application/json"
        return status, json.loads(text)

    assert health() == (503, {"healthy": False, "reasons": ["no camera yet"], "silence_s": {}, "last_error": None})
    metrics.expect("back")
    metrics.observe(RESULT, frame_at(0))
    status, document = health()
    assert (status, document["reasons"], document["silence_s"]["back"]) == (503, ["back: no frame yet"], None)
    metrics.observe(RESULT, frame_at(0, "back"))
    metrics.expect("back")
    metrics.observe(RESULT, frame_at(1))
    status, document = health()
    assert (status, document["healthy"], document["reasons"]) == (200, True, [])
    assert set(document["silence_s"]) == {"front", "back"}
    sleep(0.35)
    metrics.observe(RESULT, frame_at(2))
    status, document = health()
    assert status == 503
    assert re.fullmatch(r"back: no frame for \d+\.\d s", document["reasons"][0])
    assert len(document["reasons"]) == 1


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer guess"}, 401),
        ({"Authorization": "s3cret"}, 401),
        ({"Authorization": "Bearer s3crét"}, 401),
        ({"Authorization": "Bearer s3cret"}, 200),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/metrics", "/healthz"])
def test_with_a_token_nothing_is_told_without_it(
    metrics: Metrics, header: dict[str, str], status: int, path: str
) -> None:
    metrics.observe(RESULT, frame_at(0))
    with MetricsServer(metrics, "0.0.0.0", 0, token="s3cret") as server:
        got, _, text = get(server, path, **header)
    assert got == status
    assert ("front" in text) is (status == 200)
    assert "s3cret" not in f"{server!r}"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "camera.example"])
def test_an_address_that_others_reach_wants_a_token(metrics: Metrics, host: str) -> None:
    with pytest.raises(OutputError, match="expected a token, for an address that others reach, got none"):
        MetricsServer(metrics, host, 0)


def test_what_cannot_be_served_is_refused(metrics: Metrics, server: MetricsServer) -> None:
    port = urlsplit(server.url).port
    assert port is not None
    with pytest.raises(OutputError, match="a free port of this machine, got Address already in use"):
        MetricsServer(metrics, port=port)
    with pytest.raises(OutputError, match="a token of plain characters"):
        MetricsServer(metrics, port=0, token="a\r\nb")
    with pytest.raises(OutputError, match="seconds above 0"):
        MetricsServer(metrics, port=0, health=Health(within_s=0))
    with pytest.raises(OutputError, match="a free port"):
        MetricsServer(metrics, port=99999)


def test_the_server_listens_on_ipv6_too(metrics: Metrics) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        opened = MetricsServer(metrics, "::1", 0)
    except OutputError as exc:
        pytest.skip(f"no IPv6 here: {exc.got}")
    with opened as server:
        assert server.url.startswith("http://[::1]:")
        assert get(server, "/metrics")[0] == 200


def test_clients_that_say_nothing_cost_no_more_than_their_number(server: MetricsServer) -> None:
    before = threading.active_count()
    silent = [socket.create_connection(("127.0.0.1", urlsplit(server.url).port)) for _ in range(3 * MOST_CONNECTIONS)]
    assert get(server, "/metrics")[0] == 200
    end = monotonic() + 20
    while threading.active_count() > before + MOST_CONNECTIONS:
        assert monotonic() < end, "threads of clients that were cut off are still there"
        sleep(0.01)
    for connection in silent:
        connection.close()


def counters(age_ms: float | None, stalls: int) -> Counters:
    return Counters(frames=0, dropped=0, thinned=0, reconnects=1, stalls=stalls, errors=3, age_ms=age_ms)


def test_a_camera_that_never_came_has_its_series_and_one_that_is_away_is_not_up() -> None:
    metrics = Metrics()
    metrics.watch_camera("never", lambda: counters(None, 0))
    metrics.watch_camera("away", lambda: counters(9000.0, 2))
    metrics.watch_camera("here", lambda: counters(40.0, 0))
    lines = metrics.render().splitlines()
    for line in (
        'pgn_edge_camera_up{camera="never"} 0',
        'pgn_edge_camera_last_frame_age_seconds{camera="never"} NaN',
        'pgn_edge_frames_dropped_total{camera="never"} 0',
        'pgn_edge_camera_up{camera="away"} 0',
        'pgn_edge_camera_last_frame_age_seconds{camera="away"} 9',
        'pgn_edge_camera_stalls_total{camera="away"} 2',
        'pgn_edge_camera_errors_total{camera="away"} 3',
        'pgn_edge_camera_up{camera="here"} 1',
    ):
        assert line in lines


def test_one_silent_camera_of_twenty_leaves_an_app_alive_and_where_any_is_enough_ready() -> None:
    metrics = Metrics()
    for number in range(20):
        metrics.expect(f"camera{number}")
        if number:
            metrics.observe(RESULT, Frame(0, f"camera{number}#0", None, np.zeros((4, 4, 3), np.uint8)))
    metrics.beat()
    with MetricsServer(metrics, port=0) as strict, MetricsServer(metrics, port=0, health=Health(cameras="any")) as lax:
        assert (strict.health()[0], lax.health()[0]) == (503, 200)
        assert lax.health()[1]["reasons"] == ["camera0: no frame yet"]
        assert get(strict, "/livez")[0] == 200
    with MetricsServer(metrics, port=0, health=Health(alive_s=1e-9)) as stuck:
        assert get(stuck, "/livez")[0] == 503
    with pytest.raises(OutputError, match="all or any"):
        Health(cameras="most")  # type: ignore[arg-type]

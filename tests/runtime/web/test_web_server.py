"""Who may ask the page, for what, and what becomes of those who misbehave; over real sockets."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import quote, urlsplit

import cv2
import numpy as np
import pytest

import pgn_edge.runtime.http_server
import pgn_edge.runtime.web.server
from pgn_edge.errors import OutputError
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.annotate import ACCENT, canvas_picture
from pgn_edge.runtime.sources import Frame
from pgn_edge.runtime.web import LivePage, PageOptions
from pgn_edge.runtime.web.server import HEADERS, MOST_STREAMS
from tests.runtime.web.conftest import ask, eventually, feed, frame_at

TOKEN = "s3cret"
JSON = {"Content_Type": "application/json"}


def address_of(page: LivePage) -> tuple[str, int]:
    address = urlsplit(page.url)
    return str(address.hostname), int(address.port or 0)


def state_of(page: LivePage) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(ask(page, "/api/state").body)
    return document


def swap(page: LivePage, task: str = "pets", bundle: str = "good.pgn", **headers: str) -> tuple[int, str]:
    answer = ask(page, "/api/swap", json.dumps({"task": task, "bundle": bundle}), **{**JSON, **headers})
    return answer.status, answer.body.decode().strip()


@pytest.fixture
def guarded(runtime: Runtime) -> Iterator[LivePage]:
    with LivePage(runtime, PageOptions(host="0.0.0.0", port=0, token=TOKEN)) as opened:
        feed(runtime, opened)
        yield opened


@pytest.fixture
def seen(page: LivePage, runtime: Runtime) -> LivePage:
    feed(runtime, page)
    return page


# Documents and pictures.


@pytest.mark.parametrize(
    ("path", "kind", "part"),
    [
        ("/", "text/html; charset=utf-8", b"<!doctype html>"),
        ("/?anything=1", "text/html; charset=utf-8", b"<!doctype html>"),
        ("/page.css", "text/css; charset=utf-8", b"prefers-color-scheme"),
        ("/page.js", "text/javascript; charset=utf-8", b"import"),
        ("/camera.js", "text/javascript; charset=utf-8", b"class Camera"),
        ("/plot.js", "text/javascript; charset=utf-8", b"class Plot"),
        ("/dom.js", "text/javascript; charset=utf-8", b"textContent"),
        ("/api/state", "application/json", b'"cameras"'),
        ("/picture/front", "image/jpeg", b"\xff\xd8"),
        ("/canvas/front/pets", "image/png", b"\x89PNG"),
    ],
)
def test_what_there_is(seen: LivePage, path: str, kind: str, part: bytes) -> None:
    answer = ask(seen, path)
    assert (answer.status, answer.headers["Content-Type"]) == (200, kind)
    assert part in answer.body
    assert int(answer.headers["Content-Length"]) == len(answer.body)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/no", 404),
        ("/../page.py", 404),
        ("/page.py", 404),
        ("/picture/back", 404),
        ("/picture/%ff", 404),
        ("/stream/back", 404),
        ("/stream/", 404),
        ("/canvas/front/roads", 404),
        ("/canvas/front", 404),
        ("/api/state?after=x", 400),
        ("/api/state?after=" + "9" * 400, 400),
        ("/?" + "&".join(f"a{number}=1" for number in range(50)), 400),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_there_is_not(seen: LivePage, path: str, status: int) -> None:
    answer = ask(seen, path)
    assert answer.status == status
    assert answer.body.count(b"\n") == 1
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("path", ["/", "/no", "/api/state", "/stream/none", "/favicon.ico"])
def test_every_answer_is_careful(seen: LivePage, path: str) -> None:
    headers = ask(seen, path).headers
    assert {name: headers[name] for name in HEADERS} == HEADERS
    assert headers["Server"] == "pgn-edge"


def test_what_is_no_request_is_one_careful_line(seen: LivePage) -> None:
    with socket.create_connection(address_of(seen), 20) as connection:
        connection.sendall(b"DANCE <b> HTTP/1.0\r\n\r\n")
        answer = connection.makefile("rb").read()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 501 ")
    assert b"frame-ancestors 'none'" in head
    assert b"nosniff" in head
    assert b"text/plain" in head
    assert body.count(b"\n") == 1


def test_the_state_says_what_the_tasks_said(page: LivePage, runtime: Runtime) -> None:
    frame = frame_at(3)
    results = runtime.infer_batch([("pets", frame.image_bgr)])
    page.write(frame, results)
    document = state_of(page)
    (camera,), (task,) = document["cameras"], document["tasks"]
    (answer,) = camera["answers"]
    assert (camera["name"], answer["task"], answer["label"]) == ("front", "pets", results[0].label)
    assert answer["score"] == pytest.approx(results[0].score, abs=1e-4)
    assert (task["name"], task["swaps"], task["last"]) == ("pets", 0, None)
    assert (task["bundle"], task["digest"]) == ("task.pgn", results[0].bundle), "which bundle runs"
    assert camera["seen"] == pytest.approx([0.21875, 0.0, 0.78125, 1.0], abs=0.01), (
        "the square in the middle of 160 x 90"
    )
    assert document["bundles"] == ["damaged.pgn", "good.pgn"]  # and not the half one of a writer that was killed
    assert (page.counts.offered, page.counts.sent) == (1, 1)


def test_rows_come_by_themselves(page: LivePage, runtime: Runtime) -> None:
    feed(runtime, page)
    eventually(lambda: state_of(page)["rows"], "no row within 20 s")
    row = state_of(page)["rows"][0]
    assert set(row["stages_ms"]) == {"preprocess", "pgn", "vit", "head", "total"}
    assert row["drift"].keys() == {"pets"}


@pytest.mark.parametrize("name", ["a b/c?d#e&f", 'über "<script>"', "clip\udce9.mp4", "%2F", "rtsp://10.0.0.2/1"])
def test_names_may_hold_anything(page: LivePage, runtime: Runtime, name: str) -> None:
    feed(runtime, page, camera=name)
    (camera,) = state_of(page)["cameras"]
    assert camera["name"] == name
    assert camera["path"] == quote(name, safe="", errors="surrogatepass")
    assert ask(page, f"/picture/{camera['path']}").status == 200
    assert ask(page, f"/canvas/{camera['path']}/pets").status == 200


@pytest.mark.parametrize(
    ("size_hw", "sent_hw"),
    [((90, 160), (90, 160)), ((1080, 1920), (540, 960)), ((1200, 4), (960, 3)), ((1, 4000), (1, 960))],
    ids=["small stays", "large", "needle", "ribbon"],
)
def test_pictures_are_at_most_960_pixels(
    page: LivePage, runtime: Runtime, size_hw: tuple[int, int], sent_hw: tuple[int, int]
) -> None:
    image_bgr = np.full((*size_hw, 3), (200, 100, 50), np.uint8)
    page.write(Frame(0, "front#0", 0.0, image_bgr), [])
    data = np.frombuffer(ask(page, "/picture/front").body, np.uint8)
    picture_bgr = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert picture_bgr.shape[:2] == sent_hw
    assert np.abs(picture_bgr.astype(int) - (200, 100, 50)).max() < 8


def test_the_canvas_is_what_the_vit_saw_with_slots_outlined(page: LivePage, runtime: Runtime) -> None:
    frame = frame_at(0)
    result = runtime.infer("pets", frame.image_bgr)
    page.write(frame, [result])
    data = np.frombuffer(ask(page, "/canvas/front/pets").body, np.uint8)
    picture_bgr, geometry = cv2.imdecode(data, cv2.IMREAD_COLOR), runtime.facts.geometry
    zoom = picture_bgr.shape[0] // geometry.canvas_hw[0]
    assert zoom > 1
    assert picture_bgr.shape == (zoom * geometry.canvas_hw[0], zoom * geometry.canvas_hw[1], 3)
    plain_bgr = canvas_picture(result.kept_canvas(), runtime.facts)
    content = slice(0, geometry.content_hw[0] * zoom, zoom)
    assert (picture_bgr[content, ::zoom] == plain_bgr[: geometry.content_hw[0]]).all()
    for slot in range(geometry.prompts):
        x0, y0, x1, y1 = (side * zoom for side in geometry.slot_box(slot))
        assert (picture_bgr[y0, x0:x1] == ACCENT).all()
        assert (picture_bgr[y0:y1, x1 - 1] == ACCENT).all()
        middle = (y0 + y1) // 2, (x0 + x1) // 2
        assert (picture_bgr[middle] == plain_bgr[middle[0] // zoom, middle[1] // zoom]).all()


def test_without_canvases_none_is_offered(tiny_pair) -> None:
    with (
        Runtime(tiny_pair.vit, {"pets": tiny_pair.task}, threads=1) as runtime,
        LivePage(runtime, PageOptions(port=0)) as page,
    ):
        feed(runtime, page)
        assert state_of(page)["cameras"][0]["answers"][0]["canvas"] is False
        assert ask(page, "/canvas/front/pets").status == 404
        assert state_of(page)["bundles"] is None


# Streams.


def open_stream(page: LivePage, camera: str = "front") -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(*address_of(page), timeout=20)
    connection.request("GET", f"/stream/{camera}")
    return connection.getresponse()


def next_picture(response: http.client.HTTPResponse) -> bytes:
    while (line := response.readline()) != b"":
        if line.lower().startswith(b"content-length"):
            assert response.readline() == b"\r\n"
            return response.read(int(line.split(b":")[1]))
    return b""


def test_the_stream_moves(page: LivePage, runtime: Runtime) -> None:
    feed(runtime, page)
    response = open_stream(page)
    assert response.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=pgn-edge-picture"
    assert {name: response.headers[name] for name in HEADERS} == HEADERS
    pictures = []
    for index in range(1, 4):
        pictures.append(next_picture(response))
        feed(runtime, page, index)
    assert len(set(pictures)) == 3
    assert all(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (90, 160, 3) for data in pictures)
    response.close()


def test_a_picture_is_encoded_once_for_all_viewers_and_for_nobody_not_at_all(
    page: LivePage, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, real = [], cv2.imencode

    def counted(kind: str, *rest: object) -> object:
        calls.append(kind)
        return real(kind, *rest)

    monkeypatch.setattr(cv2, "imencode", counted)
    for index in range(3):
        feed(runtime, page, index)
    assert calls == []
    streams = [open_stream(page) for _ in range(4)]
    assert len({next_picture(stream) for stream in streams}) == 1
    assert calls == [".jpg"]
    for stream in streams:
        stream.close()


def test_streams_leave_room_for_the_page(page: LivePage, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgn_edge.runtime.web.server, "RESEND_S", 0.2)
    feed(runtime, page)
    streams = [open_stream(page) for _ in range(MOST_STREAMS)]
    assert all(next_picture(stream) for stream in streams)
    refused = ask(page, "/stream/front")
    assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
    assert ask(page, "/api/state").status == 200
    streams.pop().close()
    # A viewer that went away is noticed when the picture is sent to it again.
    eventually(lambda: ask_stream_status(page) == 200, "the slot of a viewer that is gone is still taken")
    for stream in streams:
        stream.close()


def ask_stream_status(page: LivePage) -> int:
    response = open_stream(page)
    status = response.status
    response.close()
    return status


def test_a_reader_that_stops_holds_nothing_up(
    page: LivePage, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgn_edge.runtime.http_server.QuietHandler, "timeout", 0.5)
    noise = np.random.default_rng(0).integers(0, 256, (640, 960, 3), dtype=np.uint8)
    page.write(Frame(0, "front#0", 0.0, noise), [])
    slow = open_stream(page)
    before = threading.active_count()
    for index in range(1, 40):  # several MB that nobody reads
        page.write(Frame(index, f"front#{index}", 0.0, np.roll(noise, index)), [])
        assert ask(page, "/picture/front").status == 200
        if threading.active_count() < before:
            break
        threading.Event().wait(0.07)
    eventually(lambda: threading.active_count() < before, "the thread of a dead reader is still there")
    slow.close()


@pytest.mark.parametrize("reading", [True, False], ids=["streams", "streams that nobody reads"])
def test_closing_ends_all_streams_within_two_seconds(runtime: Runtime, reading: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (640, 960, 3), dtype=np.uint8)
    page = LivePage(runtime, PageOptions(port=0))
    with page:
        page.write(Frame(0, "front#0", 0.0, noise), [])
        streams = [open_stream(page) for _ in range(3)]
        for index in range(1, 12):
            page.write(Frame(index, f"front#{index}", 0.0, np.roll(noise, index)), [])
            if reading:
                assert next_picture(streams[index % 3])
            else:
                threading.Event().wait(0.07)
        before = monotonic()
    assert monotonic() - before < 2.0
    for stream in streams:
        while stream.read(1 << 20):
            pass
        stream.close()


# Connections.


def test_a_client_that_dribbles_is_cut_off(page: LivePage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgn_edge.runtime.http_server, "REQUEST_S", 0.4)
    with socket.create_connection(address_of(page), 20) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\nX-Slow: ")
        eventually(lambda: is_cut_off(connection), "a client may ask for ever")


def is_cut_off(connection: socket.socket) -> bool:
    """Say one byte more."""
    try:
        connection.sendall(b"a")
    except ConnectionError:
        return True
    return False


# Who may ask.


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "camera.example"])
def test_an_address_that_others_reach_wants_a_token(runtime: Runtime, host: str) -> None:
    with pytest.raises(OutputError, match="expected a token, for an address that others reach, got none"):
        LivePage(runtime, PageOptions(host=host, port=0))


def test_what_cannot_be_served_is_refused(runtime: Runtime, page: LivePage, tmp_path: Path) -> None:
    port = address_of(page)[1]
    with pytest.raises(OutputError, match="a free port of this machine, got Address already in use"):
        LivePage(runtime, PageOptions(port=port))
    with pytest.raises(OutputError, match="a token of plain characters"):
        LivePage(runtime, PageOptions(port=0, token="a\nb"))
    with pytest.raises(OutputError, match="a folder of bundles"):
        LivePage(runtime, PageOptions(port=0, bundles=tmp_path / "no"))
    assert TOKEN not in repr(PageOptions(token=TOKEN))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer guess"},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer s3crét"},
        {"Cookie": f"pgn_edge_page={TOKEN}"},
        {"Cookie": "pgn_edge_page=" + "0" * 64},
        {"Cookie": 'pgn_edge_page="'},
    ],
    ids=str,
)
def test_with_a_token_nothing_is_told_without_it(guarded: LivePage, headers: dict[str, str]) -> None:
    for path in ("/", "/page.js", "/api/state", "/picture/front", "/stream/front", "/canvas/front/pets"):
        answer = ask(guarded, path, **headers)
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer"), path
        assert b"front" not in answer.body
        assert TOKEN.encode() not in answer.body


def test_with_a_token_nothing_is_swapped_without_it(guarded: LivePage) -> None:
    assert swap(guarded)[0] == 401
    assert swap(guarded, Authorization=f"Bearer {TOKEN}")[0] == 403, "no folder of bundles here"


def test_the_token_opens_everything_from_any_host(guarded: LivePage) -> None:
    for path in ("/", "/api/state", "/picture/front"):
        assert ask(guarded, path, Authorization=f"Bearer {TOKEN}", Host="camera.example").status == 200


def test_a_browser_brings_the_token_once(guarded: LivePage) -> None:
    welcome = ask(guarded, f"/?token={TOKEN}")
    assert (welcome.status, welcome.headers["Location"]) == (303, "./")
    cookie, *rules = welcome.headers["Set-Cookie"].split("; ")
    assert set(rules) == {"HttpOnly", "SameSite=Strict"}
    assert TOKEN not in cookie
    assert ask(guarded, "/", Cookie=cookie).status == 200
    assert ask(guarded, "/api/state", Cookie=f"other=1; {cookie}").status == 200
    behind_tls = ask(guarded, f"/?token={TOKEN}", X_Forwarded_Proto="https")
    assert "Secure" in behind_tls.headers["Set-Cookie"].split("; ")
    wrong = ask(guarded, "/?token=guess")
    assert (wrong.status, wrong.headers["Set-Cookie"]) == (401, None)
    assert ask(guarded, f"/api/state?token={TOKEN}").status == 401, "only the page itself takes it from an address"


def test_the_cookie_is_good_after_a_restart_and_for_this_token_alone(runtime: Runtime, guarded: LivePage) -> None:
    cookie = ask(guarded, f"/?token={TOKEN}").headers["Set-Cookie"].split("; ")[0]
    for token, status in ((TOKEN, 200), ("another", 401)):
        with LivePage(runtime, PageOptions(port=0, token=token)) as again:
            assert ask(again, "/api/state", Cookie=cookie).status == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8080", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8080", 200),
        ("evil.example", 403),
        ("evil.example:8080", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_without_a_token_a_name_that_was_pointed_here_is_refused(page: LivePage, host: str, status: int) -> None:
    assert ask(page, "/api/state", Host=host).status == status
    if status == 403:
        assert swap(page, Host=host)[0] == 403


# Swaps.


def test_a_swap_is_done_and_said(page: LivePage, runtime: Runtime) -> None:
    before = runtime.infer("pets", frame_at(0).image_bgr)
    assert swap(page) == (200, "pets is good.pgn now")
    (task,) = state_of(page)["tasks"]
    assert (task["swaps"], task["last"]) == (1, {"bundle": "good.pgn", "state": "done", "error": ""})
    after = runtime.infer("pets", frame_at(0).image_bgr)
    assert not np.array_equal(before.embedding, after.embedding), "fp16 is not fp32, bit by bit"


def test_a_bundle_that_is_refused_says_why_and_changes_nothing(page: LivePage, runtime: Runtime) -> None:
    before = runtime.infer("pets", frame_at(0).image_bgr)
    status, text = swap(page, bundle="damaged.pgn")
    assert status == 422
    assert "damaged.pgn: expected" in text
    assert "\n" not in text
    (task,) = state_of(page)["tasks"]
    assert (task["swaps"], task["last"]) == (0, {"bundle": "damaged.pgn", "state": "failed", "error": text})
    assert np.array_equal(before.embedding, runtime.infer("pets", frame_at(0).image_bgr).embedding)


@pytest.mark.parametrize(
    "bundle",
    ["../outside.pgn", "deeper/hidden.pgn", "notes.txt", "none.pgn", "", ".", "good.pgn\0", "/etc/passwd"],
    ids=repr,
)
def test_nothing_is_opened_but_what_is_offered(page: LivePage, runtime: Runtime, bundle: str) -> None:
    status, text = swap(page, bundle=bundle)
    assert (status, text) == (404, f"no bundle {bundle!r}: there are damaged.pgn, good.pgn")
    assert runtime.swaps == {"pets": 0}


def test_an_absolute_path_of_a_real_bundle_is_not_opened(page: LivePage, runtime: Runtime, bundles: Path) -> None:
    assert swap(page, bundle=str(bundles / "good.pgn"))[0] == 404
    assert runtime.swaps == {"pets": 0}


def test_an_unknown_task_is_refused(page: LivePage) -> None:
    assert swap(page, task="roads\n") == (404, "no task 'roads\\n': there are pets")


def test_a_folder_that_is_pulled_out_offers_nothing(page: LivePage, bundles: Path) -> None:
    bundles.rename(bundles.with_name("away"))
    assert state_of(page)["bundles"] == []
    assert swap(page) == (404, "no bundle 'good.pgn': there are none")


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ("{", JSON, 400),
        ("", JSON, 400),
        ("[]", JSON, 400),
        ("null", JSON, 400),
        ('{"task": "pets"}', JSON, 400),
        ('{"task": 1, "bundle": []}', JSON, 400),
        ("[" * 4000, JSON, 400),
        (b"\xff\xfe\xfd", JSON, 400),
        ("x" * 5000, JSON, 413),
        ("x" * 3_000_000, JSON, 413),
        ('{"task": "pets", "bundle": "good.pgn"}', {"Content_Type": "text/plain"}, 415),
        ('{"task": "pets", "bundle": "good.pgn"}', {}, 415),
        ("task=pets&bundle=good.pgn", {"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ('{"task": "pets", "bundle": "good.pgn"}', {**JSON, "Origin": "http://evil.example"}, 403),
        ('{"task": "pets", "bundle": "good.pgn"}', {**JSON, "Origin": "null"}, 403),
        ('{"task": "pets", "bundle": "good.pgn"}', {**JSON, "Origin": "http://["}, 403),
        ('{"task": "pets", "bundle": "good.pgn"}', {**JSON, "Origin": "http://localhost:1"}, 403),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_post_is_one_clear_line(
    page: LivePage, runtime: Runtime, body: str | bytes, headers: dict[str, str], status: int
) -> None:
    try:
        answer = ask(page, "/api/swap", body, **headers)
    except ConnectionError:
        assert len(body) > 1_000_000, "only what is far too large may break off"
    else:
        assert answer.status == status
        assert answer.body.count(b"\n") == 1
    assert runtime.swaps == {"pets": 0}


def test_our_own_origin_may_swap_and_nothing_else_takes_a_post(page: LivePage) -> None:
    assert swap(page, Origin=page.url)[0] == 200
    assert ask(page, "/api/state", "{}", **JSON).status == 404


def test_a_body_that_is_shorter_than_it_says_is_no_swap(page: LivePage, runtime: Runtime) -> None:
    with socket.create_connection(address_of(page), 20) as connection:
        head = ("POST /api/swap HTTP/1.0", "Host: localhost", "Content-Type: application/json", "Content-Length: 100")
        connection.sendall("\r\n".join((*head, "", '{"task": ')).encode())
        connection.shutdown(socket.SHUT_WR)
        assert b" 400 " in connection.makefile("rb").readline()
    assert runtime.swaps == {"pets": 0}


def test_swaps_go_one_at_a_time(page: LivePage, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, go, real = threading.Event(), threading.Event(), runtime.swap

    def held(name: str, path: Path) -> None:
        entered.set()
        assert go.wait(20)
        real(name, path)

    monkeypatch.setattr(runtime, "swap", held)
    answers: list[tuple[int, str]] = []
    first = threading.Thread(target=lambda: answers.append(swap(page)))
    first.start()
    assert entered.wait(20)
    assert state_of(page)["tasks"][0]["last"]["state"] == "loading"
    assert swap(page) == (409, "another swap is under way: try again when it is done")
    go.set()
    first.join()
    assert answers == [(200, "pets is good.pgn now")]
    assert runtime.swaps == {"pets": 1}

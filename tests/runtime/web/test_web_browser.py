"""The page in a real Chromium: what an engineer would see, and click.

With $PGN_EDGE_SCREENSHOTS set, pictures of it are left in that folder.
"""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np
import pytest
from selenium.webdriver import Chrome

import pgn_edge.runtime.web.state
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.events import EventLog
from pgn_edge.runtime.sinks import CallbackSink
from pgn_edge.runtime.web import LivePage, PageOptions
from tests.runtime.web.browser import chromium, look, require_chromium
from tests.runtime.web.conftest import cameras_running, eventually, feed, frame_at

# What the pixels of a picture are, as a text that differs where they do.
PIXELS = """
const image = document.querySelector(arguments[0]);
if (!image || !image.naturalWidth) return '';
const canvas = document.createElement('canvas');
canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
canvas.getContext('2d').drawImage(image, 0, 0);
return canvas.toDataURL();
"""


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    require_chromium()
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def browser(chrome: Chrome) -> Iterator[Chrome]:
    """The browser, whose console stays clean of all but what a server that is away makes it say."""
    look(chrome, 1280, 1000, "light")
    chrome.get_log("browser")
    yield chrome
    chrome.get("about:blank")
    entries = [entry["message"] for entry in chrome.get_log("browser")]
    assert [entry for entry in entries if "ERR_CONNECTION_" not in entry] == []


def text_of(browser: Chrome, selector: str) -> str:
    return str(browser.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", selector))


def count_of(browser: Chrome, selector: str) -> int:
    return int(browser.execute_script("return document.querySelectorAll(arguments[0]).length", selector))


def save(browser: Chrome, name: str) -> None:
    folder = os.environ.get("PGN_EDGE_SCREENSHOTS")
    if folder:
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def choose(browser: Chrome, bundle: str) -> None:
    select = browser.find_element("css selector", "#tasks select")
    select.find_element("css selector", f"option[value='{bundle}']").click()
    browser.find_element("css selector", "#tasks button").click()


def test_pictures_move_answers_are_the_tasks_and_plots_have_points(
    page: LivePage, runtime: Runtime, browser: Chrome
) -> None:
    with cameras_running(runtime, page, "back", "front"):
        browser.get(page.url)
        eventually(lambda: count_of(browser, ".camera") == 2, "two cameras")
        assert text_of(browser, "#status") == "live"
        for selector in (".picture img", ".seen img"):
            eventually(lambda selector=selector: browser.execute_script(PIXELS, selector), f"{selector}: no picture")
            first = browser.execute_script(PIXELS, selector)
            eventually(
                lambda s=selector, f=first: browser.execute_script(PIXELS, s) not in ("", f), f"{selector} stands"
            )
        # Four points at least: three lines between them.
        paths = "return [...document.querySelectorAll('.curve')].map((path) => path.getAttribute('d'))"
        eventually(lambda: max(path.count("L") for path in ["", *browser.execute_script(paths)]) >= 3, "a curve")
        assert count_of(browser, ".plot .curve") >= 7, "five stages and two cameras"
        look(browser, 1280, 1000, "dark")
        save(browser, "dark")
        look(browser, 1280, 1000, "light")
        save(browser, "light")
    labels = {runtime.infer("pets", frame_at(index).image_bgr).label for index in range(4)}
    assert text_of(browser, ".answer .label") in labels
    assert text_of(browser, ".answer .task") == "pets"
    assert text_of(browser, ".camera .name") == "back"
    assert count_of(browser, ".camera:first-child .bars li") == 5


def test_the_label_on_the_page_is_the_last_answer(page: LivePage, runtime: Runtime, browser: Chrome) -> None:
    browser.get(page.url)
    eventually(
        lambda: browser.execute_script("return !document.querySelector('#empty').hidden"), "nothing yet, and said"
    )
    frame = frame_at(0)
    result = runtime.infer("pets", frame.image_bgr)
    for label in ("<img src=x onerror=alert(1)>", "dögs & cats"):
        labels = tuple(label if each == result.label else each for each in result.labels)
        page.write(frame, [replace(result, label=label, labels=labels)])
        eventually(lambda label=label: text_of(browser, ".answer .label") == label, f"{label} on the page, as text")
        assert text_of(browser, ".bars li:first-child .class") == label
    page.write(frame, [replace(result, label="", score=0.0, scores=0 * result.scores, degraded="canvas")])
    eventually(lambda: text_of(browser, ".answer .label") == "degraded", "a degraded answer is marked")
    assert text_of(browser, ".answer .degraded") == "not finite: canvas; no answer"
    assert count_of(browser, ".bars li") == 0


def test_a_swap_through_the_menu_changes_the_answers(page: LivePage, runtime: Runtime, browser: Chrome) -> None:
    before = runtime.infer("pets", frame_at(0).image_bgr)
    feed(runtime, page)
    browser.get(page.url)
    eventually(lambda: count_of(browser, "#tasks option") == 2, "two bundles are offered")
    choose(browser, "good.pgn")
    eventually(lambda: text_of(browser, "#tasks .result") == "pets is good.pgn now", "the swap is said to be done")
    assert runtime.swaps == {"pets": 1}
    assert (before.embedding != runtime.infer("pets", frame_at(0).image_bgr).embedding).any()
    eventually(lambda: "swaps 1" in text_of(browser, "#tasks .numbers").replace("\n", " "), "the swap is counted")
    choose(browser, "damaged.pgn")
    eventually(lambda: "damaged.pgn: expected" in text_of(browser, "#tasks .result.failed"), "the error is shown")
    assert runtime.swaps == {"pets": 1}
    save(browser, "refused")
    refused = [entry["message"] for entry in browser.get_log("browser")]
    assert len(refused) == 1, "the browser itself notes the status of the refusal, and nothing else"
    assert "422" in refused[0]
    eventually(lambda: browser.find_element("css selector", "#tasks button").is_enabled(), "the next swap may come")
    eventually(lambda: "task pets: done: swap to good.pgn" in text_of(browser, "#events"), "the swap is an event")


def test_a_silent_camera_is_shown_and_comes_back(
    page: LivePage, runtime: Runtime, browser: Chrome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgn_edge.runtime.web.state, "SILENT_S", 1.0)
    with cameras_running(runtime, page, "back", "front") as running:
        browser.get(page.url)
        eventually(lambda: count_of(browser, ".camera") == 2, "two cameras")
        assert count_of(browser, ".camera.quiet") == 0
        running.discard("back")
        eventually(lambda: text_of(browser, ".camera.quiet .silent").startswith("silent for "), "a silent camera")
        assert text_of(browser, ".camera.quiet .name") == "back"
        save(browser, "silent")
        running.add("back")
        eventually(lambda: count_of(browser, ".camera.quiet") == 0, "it is back")


def test_a_server_that_went_away_is_picked_up_again(runtime: Runtime, browser: Chrome) -> None:
    with LivePage(runtime, PageOptions(port=0)) as page:
        feed(runtime, page)
        browser.get(page.url)
        eventually(lambda: count_of(browser, ".camera") == 1, "one camera")
        port = int(urlsplit(page.url).port or 0)
    eventually(lambda: "No answer from the server" in text_of(browser, "#gone"), "the page says that nobody answers")
    assert count_of(browser, ".camera.quiet") == 1, "what stands there is old"
    save(browser, "gone")
    with LivePage(runtime, PageOptions(port=port)) as page, cameras_running(runtime, page, "other"):
        eventually(lambda: text_of(browser, "#status") == "live", "the page is live again")
        eventually(lambda: text_of(browser, ".camera .name") == "other", "the camera of the new run")
        first = browser.execute_script(PIXELS, ".picture img")
        eventually(lambda: browser.execute_script(PIXELS, ".picture img") not in ("", first), "its picture moves")
        assert text_of(browser, "#gone") == ""


def test_more_cameras_than_streams_all_move(page: LivePage, runtime: Runtime, browser: Chrome) -> None:
    look(browser, 1280, 3000, "light")
    names = [f"camera {number}" for number in range(6)]
    with cameras_running(runtime, page, *names):
        browser.get(page.url)
        eventually(lambda: count_of(browser, ".camera") == 6, "six cameras")
        for number in range(1, 7):
            selector = f".camera:nth-child({number}) .picture img"
            eventually(lambda s=selector: browser.execute_script(PIXELS, s), f"{selector}: no picture")
            first = browser.execute_script(PIXELS, selector)
            eventually(
                lambda s=selector, f=first: browser.execute_script(PIXELS, s) not in ("", f), f"{selector} stands"
            )
        streams = "return [...document.images].filter((image) => image.src.includes('/stream/')).length"
        assert browser.execute_script(streams) == 3


def test_a_phone_needs_no_sideways_scroll(runtime: Runtime, page: LivePage, browser: Chrome) -> None:
    look(browser, 390, 844, "light")
    name = "a camera whose name is " + "long" * 20
    with ExitStack() as stack:
        sink = stack.enter_context(CallbackSink(lambda frame, results: 1 / 0, "drop"))
        page.watch("a sink", sink)
        page.expect(name, lambda: 3)
        sink.write(frame_at(0), [])
        stack.enter_context(cameras_running(runtime, page, name, "front"))
        browser.get(page.url)
        eventually(lambda: count_of(browser, ".answer") == 2 and count_of(browser, "#plots .curve") > 5, "all is shown")
        width: Any = browser.execute_script("return document.documentElement.scrollWidth")
        assert width == 390
        eventually(lambda: "reconnects 3" in text_of(browser, ".camera .numbers").replace("\n", " "), "reconnects")
        assert "lost 1" in text_of(browser, "#sinks").replace("\n", " ")
        save(browser, "phone")


class Prefix(BaseHTTPRequestHandler):
    """A reverse proxy that serves the page below /pgn/ and nothing else."""

    port = 0
    strays: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.forward("GET", None)

    def do_POST(self) -> None:
        self.forward("POST", self.rfile.read(int(self.headers["Content-Length"])))

    def forward(self, method: str, body: bytes | None) -> None:
        if not self.path.startswith("/pgn/"):
            if self.path != "/favicon.ico":
                self.strays.append(self.path)
            self.send_response(204)
            self.end_headers()
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, self.path.removeprefix("/pgn"), body, dict(self.headers))
        answer = connection.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.end_headers()
        with suppress(ConnectionError):
            while piece := answer.read1():
                self.wfile.write(piece)
        connection.close()

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


@pytest.fixture
def proxied() -> Iterator[Callable[[LivePage], tuple[str, list[str]]]]:
    """Put a page below a path; gives its address there and the requests that missed the path."""
    servers: list[ThreadingHTTPServer] = []

    def put(page: LivePage) -> tuple[str, list[str]]:
        strays: list[str] = []
        handler = type("Handler", (Prefix,), {"port": urlsplit(page.url).port, "strays": strays})
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        servers[-1].daemon_threads = True
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}/pgn/", strays

    yield put
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_page_works_below_a_path_of_a_reverse_proxy(
    tiny_pair, bundles: Path, browser: Chrome, proxied: Callable[[LivePage], tuple[str, list[str]]]
) -> None:
    with (
        Runtime(tiny_pair.vit, {"pets": tiny_pair.task}, threads=1, canvases=True) as runtime,
        LivePage(runtime, PageOptions(port=0, token="s3cret", bundles=bundles)) as page,
        cameras_running(runtime, page, "front"),
    ):
        address, strays = proxied(page)
        browser.get(f"{address}?token=s3cret")
        assert browser.current_url == address
        for selector in (".picture img", ".seen img"):
            eventually(lambda selector=selector: browser.execute_script(PIXELS, selector), f"{selector}: no picture")
        choose(browser, "good.pgn")
        eventually(lambda: text_of(browser, "#tasks .result") == "pets is good.pgn now", "a swap through the proxy")
        eventually(lambda: text_of(browser, "#tasks .file") == "good.pgn", "the bundle that runs")
        assert text_of(browser, "#tasks .digest") == runtime.tasks["pets"].digest
        assert strays == []
        browser.get("about:blank")
    browser.delete_all_cookies()


def test_a_silent_camera_says_why_and_its_last_answer_is_grey(
    runtime: Runtime, browser: Chrome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgn_edge.runtime.web.state, "SILENT_S", 0.5)
    reason, events = "the camera refused the password (401)", EventLog()
    with LivePage(runtime, PageOptions(port=0), events) as page:
        page.expect("front", lambda: 2)
        feed(runtime, page)
        events.add("camera", "back", "lost", "another camera")
        events.add("camera", "front", "refused", reason)
        browser.get(page.url)
        eventually(lambda: text_of(browser, ".camera.quiet .trouble") == reason, "why it is silent")
        opacity = "return getComputedStyle(document.querySelector('.camera .said')).opacity"
        assert float(browser.execute_script(opacity)) < 0.5
        with cameras_running(runtime, page, "front"):
            eventually(lambda: count_of(browser, ".camera.quiet") == 0, "it is back")
            assert float(browser.execute_script(opacity)) == 1
            assert text_of(browser, ".camera .trouble") == ""
        browser.get("about:blank")


BOXES = """
const box = (selector) => { const r = document.querySelector(selector).getBoundingClientRect();
  return [r.left, r.top, r.right, r.bottom]; };
const [l, t, r, b] = box('.picture'), [x0, y0, x1, y1] = box('.seen-part'), w = r - l, h = b - t;
return [(x0 - l) / w, (y0 - t) / h, (x1 - l) / w, (y1 - t) / h];
"""


@pytest.mark.parametrize(
    ("size_hw", "edges"),
    [
        ((90, 160), (0.21875, 0, 0.78125, 1)),
        ((100, 400), (0.375, 0.2, 0.625, 0.8)),  # the picture's shape ends at 2.4: bars above and below
        ((400, 100), (0.375, 0.375, 0.625, 0.625)),  # and at 1: bars at both sides
    ],
    ids=["16:9", "a ribbon", "a needle"],
)
def test_what_the_centre_crop_cuts_off_is_shaded(
    page: LivePage, runtime: Runtime, browser: Chrome, size_hw: tuple[int, int], edges: tuple[float, ...]
) -> None:
    image_bgr = np.full((*size_hw, 3), 200, np.uint8)
    page.write(replace(frame_at(0), image_bgr=image_bgr), runtime.infer_batch([("pets", image_bgr)]))
    browser.get(page.url)
    eventually(lambda: count_of(browser, ".seen-part:not([hidden])") == 1, "a shade")
    assert browser.execute_script(BOXES) == pytest.approx(edges, abs=0.01)
    seen = min(size_hw) / max(size_hw)
    said = text_of(browser, ".camera .numbers").replace("\n", " ").partition("seen ")[2]
    assert float(said.removesuffix("%")) == pytest.approx(100 * seen, abs=1)


def test_twenty_cameras_fit_on_two_screens(page: LivePage, runtime: Runtime, browser: Chrome) -> None:
    look(browser, 1440, 900, "light")
    for number in range(20):
        feed(runtime, page, number, f"camera {number}")
    browser.get(page.url)
    eventually(lambda: count_of(browser, ".camera .label") == 20, "twenty cameras")
    height = "return document.querySelector('#cameras').getBoundingClientRect().height"
    assert browser.execute_script(height) < 1500
    save(browser, "twenty")
    look(browser, 390, 844, "dark")
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    save(browser, "twenty-phone")


INSIDE = """
const inside = (card) => { const own = card.getBoundingClientRect();
  return [...card.querySelectorAll('*')].every((each) => { const box = each.getBoundingClientRect();
    return !box.width || each.matches('.picture *') || (box.left >= own.left - 1 && box.right <= own.right + 1); }); };
return [...document.querySelectorAll('.card')].filter((card) => !inside(card)).map((card) => card.innerText);
"""


def test_on_a_phone_nothing_leaves_its_card(
    runtime: Runtime, bundles: Path, browser: Chrome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgn_edge.runtime.web.state, "SILENT_S", 0.0)
    look(browser, 390, 844, "dark")

    def fail(frame: object, results: object) -> None:
        raise OSError("https://hooks.example.org/" + "a" * 200 + " answered 404 and says " + "words " * 20)

    events = EventLog()
    events.add("camera", "back", "lost", "rtsp://10.0.0.2/" + "p" * 200)
    options = PageOptions(port=0, bundles=bundles)
    with LivePage(runtime, options, events) as page, CallbackSink(fail, "drop") as sink:
        page.watch("webhook-" + "w" * 80, sink)
        page.expect("back", lambda: 12345)
        sink.write(frame_at(0), [])
        feed(runtime, page)
        browser.get(page.url)
        eventually(lambda: "last error" in text_of(browser, "#sinks .error"), "the sink's error")
        eventually(lambda: "pppp" in text_of(browser, ".camera .trouble"), "the camera's error")
        assert browser.execute_script(INSIDE) == []
        assert browser.execute_script("return document.documentElement.scrollWidth") == 390
        save(browser, "phone-errors")
        browser.get("about:blank")


def test_the_token_lets_a_browser_in_once_and_for_all(runtime: Runtime, browser: Chrome) -> None:
    with LivePage(runtime, PageOptions(port=0, token="s3cret")) as page:
        feed(runtime, page)
        browser.get(f"{page.url}/?token=s3cret")
        eventually(lambda: count_of(browser, ".camera") == 1, "the page is open")
        assert browser.current_url == f"{page.url}/"
        assert browser.execute_script("return document.cookie") == "", "no script can read it"
        browser.get(page.url)
        eventually(lambda: count_of(browser, ".camera") == 1, "it is open without the token in its address")
    browser.delete_all_cookies()

"""Annotated videos of real cameras: they last as long as the wall clock, and a browser plays them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

import pytest
from live_cameras import HttpCamera, RtspCamera
from selenium.webdriver import Chrome

from pgn_edge.runtime import Runtime
from pgn_edge.runtime.cameras import Camera, run_cameras
from pgn_edge.runtime.live import LiveSource
from pgn_edge.runtime.sinks import CallbackSink, VideoSink
from tests.runtime.test_sinks_video import PLAY, seconds_of
from tests.runtime.web.browser import chromium, require_chromium

LASTS_S = 4.0


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    require_chromium()
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


class Clock(CallbackSink):
    """Takes `each_s` for a frame, ends the camera after `LASTS_S`, and remembers when frames began and ended.

    It is the last sink, so that it is left first.
    """

    def __init__(self, camera: Camera, each_s: float) -> None:
        super().__init__(lambda frame, _: self.take(frame.captured_s))
        self.camera, self.each_s, self.start_s, self.end_s, self.frames = camera, each_s, 0.0, 0.0, 0

    def take(self, captured_s: float | None) -> None:
        assert captured_s is not None
        self.start_s = self.start_s or captured_s
        self.frames += 1
        time.sleep(self.each_s)
        if time.monotonic() - self.start_s > LASTS_S:
            self.camera.end()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_s = time.monotonic()


def record(url: str, folder: Path, tiny_pair, each_s: float = 0.0) -> tuple[Path, Clock]:
    """Record a camera for some seconds."""
    path = folder / "out.mp4"
    with (
        LiveSource(url) as source,
        Runtime(tiny_pair.vit, {"task": tiny_pair.task}, threads=1, canvases=True) as runtime,
    ):
        source.connect()
        camera = Camera("door", source, ("task",))
        clock = Clock(camera, each_s)
        video = VideoSink(path, runtime.facts, min(source.fps, 10.0), segment_s=60.0)
        run_cameras(runtime, [camera], [video, clock])
    assert video.paths == (path,)
    return path, clock


def play(chrome: Chrome, path: Path) -> float:
    """Play a video, and give its duration as the browser has it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=path.parent))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        chrome.get(f"http://127.0.0.1:{server.server_port}/")
        played = chrome.execute_async_script(PLAY, f"/{path.name}")
    finally:
        server.shutdown()
        server.server_close()
    assert "error" not in played, played
    return float(played["seconds"])


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_a_recording_of_a_web_camera_of_10_fps_lasts_as_long_as_the_wall_clock(
    chrome: Chrome, http: HttpCamera, tiny_pair, tmp_path: Path
) -> None:
    http.fps = 10.0
    path, clock = record(http.url, tmp_path, tiny_pair)
    lasted_s = clock.end_s - clock.start_s
    assert seconds_of(path) == pytest.approx(lasted_s, rel=0.05)
    assert play(chrome, path) == pytest.approx(lasted_s, rel=0.05)


def test_a_recording_of_an_rtsp_camera_that_the_app_cannot_follow_lasts_as_long_as_the_wall_clock(
    chrome: Chrome, rtsp: RtspCamera, tiny_pair, tmp_path: Path
) -> None:
    path, clock = record(rtsp.url, tmp_path, tiny_pair, each_s=0.4)
    lasted_s = clock.end_s - clock.start_s
    assert clock.frames < 0.2 * 25 * lasted_s
    assert seconds_of(path) == pytest.approx(lasted_s, rel=0.05)
    assert play(chrome, path) == pytest.approx(lasted_s, rel=0.05)

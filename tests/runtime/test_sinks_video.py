"""Annotated videos: how long they last, what plays them, and what is left of one whose process was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from selenium.webdriver import Chrome

from pgn_edge.runtime.sinks import VideoSink, video
from pgn_edge.runtime.sinks.video_track import Codec
from pgn_edge.runtime.sources import Frame, open_source
from tests.runtime.test_sinks import FACTS, RESULT
from tests.runtime.videos import write_video
from tests.runtime.web.browser import chromium, require_chromium

IMAGE = np.full((48, 64, 3), 200, np.uint8)
FPS = 5.0


def camera_frame(index: int, captured_s: float) -> Frame:
    return Frame(index, f"door#{index}", None, IMAGE, captured_s)


def record(sink: VideoSink, times_s: Sequence[float]) -> None:
    with sink:
        for index, time_s in enumerate(times_s):
            sink.write(camera_frame(index, time_s), [RESULT])


def seconds_of(path: Path) -> float:
    capture = cv2.VideoCapture(str(path))
    seconds = capture.get(cv2.CAP_PROP_FRAME_COUNT) / capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return float(seconds)


@pytest.mark.parametrize(
    ("times_s", "seconds"),
    [
        (np.arange(0, 8, 0.2), 8.0),
        (np.arange(0, 8, 1.0), 7.2),
        (np.arange(0, 8, 0.05), 8.2),
        ([0.0, 0.3, 1.7, 1.8, 4.0, 9.0], 9.2),
        ([0.0, 0.2, 40.0, 40.2], 40.4),
    ],
    ids=["the stated rate", "an overloaded app", "a faster camera than it states", "an uneven one", "an outage"],
)
def test_a_recording_lasts_as_long_as_what_it_shows(tmp_path: Path, times_s: Sequence[float], seconds: float) -> None:
    sink = VideoSink(tmp_path / "out.mp4", FACTS, FPS, codec="mp4v")
    record(sink, times_s)
    assert seconds_of(tmp_path / "out.mp4") == pytest.approx(seconds, rel=0.05)
    places = round(seconds_of(tmp_path / "out.mp4") * FPS)
    assert sink.counts.offered == sink.counts.sent == min(len(times_s), places)


def test_each_picture_is_shown_when_its_frame_was_captured(tmp_path: Path) -> None:
    times_s = [3.0, 3.2, 5.0, 5.4]
    with VideoSink(tmp_path / "out.mp4", FACTS, FPS, codec="mp4v") as sink:
        for index, at_s in enumerate(times_s):
            image_bgr = np.full((48, 64, 3), 60 * (index + 1), np.uint8)
            sink.write(Frame(index, f"door#{index}", None, image_bgr, at_s), [RESULT])
    with open_source(str(tmp_path / "out.mp4")) as source:
        shades = [round(float(frame.image_bgr[100:200, 100:200].mean()) / 60) for frame in source]
    assert shades == [1] + [2] * 9 + [3] * 2 + [4]


def test_a_video_of_a_file_keeps_its_frames_and_its_length(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mov", 20)
    with open_source(str(clip)) as source, VideoSink(tmp_path / "out.mp4", FACTS, source.fps, codec="mp4v") as sink:
        for frame in source:
            sink.write(frame, [RESULT])
    assert seconds_of(tmp_path / "out.mp4") == 2.0
    assert sink.counts.sent == 20


def test_an_encoder_that_cannot_follow_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MOST_GAP_S", 2.0)
    sink = VideoSink(tmp_path / "out.mp4", FACTS, FPS, codec="mp4v")
    record(sink, [0.0, 0.2, 10.0])
    assert seconds_of(tmp_path / "out.mp4") == pytest.approx(2.6, abs=0.2)
    assert sink.counts.last_error == "out.mp4 is 7.6 s short: the encoder is slower than its rate"


def test_a_recording_goes_on_while_the_camera_gives_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "TICK_S", 0.02)
    monkeypatch.setattr(video, "BEHIND_S", 0.2)
    monkeypatch.setattr(video, "OUTAGE_S", 0.4)
    path = tmp_path / "out.mp4"
    start_s = time.monotonic()
    with VideoSink(path, FACTS, 10.0, codec="mp4v", segment_s=1.0) as sink:
        sink.write(camera_frame(0, start_s), [RESULT])
        while len(sink.paths) < 2:
            assert time.monotonic() - start_s < 60, "the video grows without a frame"
            time.sleep(0.02)
        lasted_s = time.monotonic() - start_s
    assert sum(map(seconds_of, sink.paths)) == pytest.approx(lasted_s, abs=0.5)
    with open_source(str(path)) as source:
        brightness = [float(frame.image_bgr[100:200, 100:200].mean()) for frame in source]
    assert brightness[-1] < 0.5 * brightness[0], "a picture without a live camera is dark"


def test_a_recording_never_replaces_another(tmp_path: Path) -> None:
    sinks = [VideoSink(tmp_path / "out.mp4", FACTS, FPS, codec="mp4v", segment_s=60.0) for _ in range(3)]
    record(sinks[0], [time.monotonic()])
    before = (tmp_path / "out.mp4").read_bytes()
    for sink in sinks[1:]:
        record(sink, [time.monotonic()])
    assert (tmp_path / "out.mp4").read_bytes() == before
    paths = {path for sink in sinks for path in sink.paths}
    assert len(paths) == len(list(tmp_path.iterdir())) == 3


def test_a_recording_is_kept_whatever_ends_the_run(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "out.mp4", FACTS, FPS, segment_s=60.0)
    with suppress(ValueError), sink:
        sink.write(camera_frame(0, time.monotonic()), [RESULT])
        raise ValueError("an engine failed")
    assert seconds_of(tmp_path / "out.mp4") > 0
    assert (sink.counts.sent, sink.counts.lost) == (1, 0)


def test_a_recording_without_frames_is_no_file(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "out.webm", FACTS, FPS, segment_s=60.0)
    record(sink, [])
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys, time
import numpy as np
from pgn_edge.runtime.sinks import VideoSink
from tests.runtime.test_sinks_video import FACTS, FPS, RESULT, camera_frame
start_s = time.monotonic()
with VideoSink(sys.argv[1], FACTS, FPS, segment_s=2.0) as sink:
    for index in range(38):
        sink.write(camera_frame(index, start_s + index / FPS), [RESULT])
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("name", ["out.mp4", "out.webm"])
def test_a_recording_survives_the_kill_of_its_process(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE, cwd=root) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    segments = [file for file in tmp_path.iterdir() if not file.name.startswith(".")]
    assert path in segments
    # Of 7.6 s in segments of 2 s, the last one is lost.
    assert [seconds_of(segment) for segment in segments] == pytest.approx([2.0] * 3, abs=0.2)
    record(VideoSink(path, FACTS, FPS, segment_s=2.0), [time.monotonic()])
    left = [file for file in tmp_path.iterdir() if file.name.startswith(".")]
    assert left == [], "the next recording removes what the killed one left"


PLAY = """
const done = arguments[arguments.length - 1], video = document.createElement('video');
video.muted = true;
video.onerror = () => done({error: video.error.message || String(video.error.code)});
video.ontimeupdate = () => {
  if (video.currentTime > 0.2) done({seconds: video.duration, width: video.videoWidth, height: video.videoHeight});
};
video.src = arguments[0];
document.body.append(video);
video.play().catch((error) => done({error: String(error)}));
"""


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    require_chromium()
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.mark.parametrize(
    ("name", "codec", "plays"),
    [("out.mp4", None, True), ("out.webm", None, True), ("vp9.webm", "vp9", True), ("old.mp4", "mp4v", False)],
)
def test_the_default_plays_in_a_browser(
    chrome: Chrome, videos: Path, name: str, codec: Codec | None, plays: bool
) -> None:
    record(VideoSink(videos / name, FACTS, FPS, codec=codec), np.arange(0, 3, 0.2))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=videos))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        chrome.get(f"http://127.0.0.1:{server.server_port}/")
        played = chrome.execute_async_script(PLAY, f"/{name}")
    finally:
        server.shutdown()
        server.server_close()
    assert ("error" not in played) is plays, played
    if plays:
        assert played["seconds"] == pytest.approx(3.0, rel=0.05)
        assert played["width"] > played["height"] > 384


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

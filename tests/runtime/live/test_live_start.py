"""Cameras that are off at the start, refuse the password, give single pictures, or are slow."""

from __future__ import annotations

import threading
import time
from urllib.parse import quote

import cv2
import pytest
from live_cameras import HttpCamera, RtspCamera, eventually, pattern, read_pattern

from pgn_edge.cli.run_execute import _live
from pgn_edge.cli.run_plan import CameraPlan
from pgn_edge.errors import DataError
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.cameras import Camera, run_cameras
from pgn_edge.runtime.events import EventLog
from pgn_edge.runtime.live import LiveOptions, LiveSource
from pgn_edge.runtime.live.address import Address
from pgn_edge.runtime.live.loss import HLS_STALL_S, STALL_S, Pause
from pgn_edge.runtime.metrics import Metrics
from pgn_edge.runtime.sinks import CallbackSink
from pgn_edge.runtime.sources import open_source

AWKWARD = "two words/50%@?"


def states(events: EventLog, camera: str) -> list[str]:
    return [event.state for event in events.events if event.subject == camera]


def test_a_camera_that_comes_long_after_the_start_of_a_run_is_answered(
    rtsp_packages: None, http: HttpCamera, tiny_pair
) -> None:
    late, events, answered = RtspCamera(), EventLog(), set[str]()
    options = LiveOptions(connect_s=4.0)

    def sink(frame, _results) -> None:
        answered.add(frame.camera)
        if len(answered) == 2:
            for camera in cameras:
                camera.end()

    def switch_on() -> None:
        eventually(lambda: "lost" in states(events, "late"), 30, "it is said that the camera is away")
        time.sleep(options.connect_s)  # as long as a camera was once waited for
        late.start()

    with (
        Runtime(tiny_pair.vit, {"task": tiny_pair.task}) as runtime,
        LiveSource(late.url, options, events.about("camera", "late")) as first,
        LiveSource(http.url, report=events.about("camera", "early")) as second,
    ):
        cameras = [Camera("late", first, ("task",)), Camera("early", second, ("task",))]
        switching = threading.Thread(target=switch_on)
        switching.start()
        giving_up = threading.Timer(60, lambda: [camera.end() for camera in cameras])
        giving_up.start()
        summary = run_cameras(runtime, cameras, [CallbackSink(sink)], metrics=Metrics(events))
        switching.join()
        giving_up.cancel()
    late.kill()
    assert answered == {"late", "early"}
    assert summary.failed == {}
    assert states(events, "late")[-1] == "back"
    assert states(events, "early") == []
    assert summary.last_error is not None
    assert summary.last_error["subject"] == "late"


def test_only_a_person_who_waits_for_one_camera_is_told_that_it_does_not_come() -> None:
    plan = CameraPlan("gate", "rtsp://me:s3cret@127.0.0.1:9/stream", live={"connect_s": 0.5})
    with pytest.raises(DataError, match=r"a first frame within 0.5 s.*--connect-s"):
        _live(plan, True, EventLog())
    source = _live(plan, False, EventLog())
    assert source is not None
    with source:
        time.sleep(1.0)
        assert source.grabber_pid is not None or not source.counters.frames


def test_a_web_camera_that_refuses_the_password_is_asked_once_and_then_not_for_minutes(http: HttpCamera) -> None:
    http.login, events = f"viewer:{AWKWARD}", EventLog()
    wrong = http.url.replace("//", "//viewer:wrong@")
    with LiveSource(wrong, report=events.about("camera", "gate")) as live:
        eventually(lambda: states(events, "gate") == ["refused"], 30, "the refusal is said")
        with pytest.raises(DataError, match=r"expected a camera that takes this user and password.*401 Unauthorized"):
            live.connect()
        time.sleep(1.0)
        assert http.logins.count("viewer:wrong") == 1
    assert "the next attempt is in 300 s" in events.events[0].text


def test_a_refused_rtsp_password_is_not_tried_again_for_minutes_and_the_right_one_plays(rtsp_packages: None) -> None:
    camera, events = RtspCamera(), EventLog()
    camera.start(password=AWKWARD)
    try:
        wrong = camera.url.replace("//", "//viewer:wrong@")
        with LiveSource(wrong, report=events.about("camera", "gate")) as live:
            eventually(lambda: states(events, "gate") == ["refused"], 30, "the refusal is said")
            time.sleep(1.0)
            assert live.counters.errors == 1
        assert "401" in events.events[0].text
        right = camera.url.replace("//", f"//viewer:{quote(AWKWARD, safe='')}@")
        with open_source(right, LiveOptions(connect_s=30)) as live:
            assert next(iter(live)).image_bgr.shape == (128, 160, 3)
    finally:
        camera.kill()


def test_an_address_of_single_pictures_is_asked_at_a_rate(http: HttpCamera) -> None:
    http.files["/snap.cgi"] = cv2.imencode(".jpg", pattern(7))[1].tobytes()
    http.kinds["/snap.cgi"] = "image/jpeg"
    http.login = f"viewer:{AWKWARD}"
    address = f"{http.root}/snap.cgi?channel=1".replace("//", f"//viewer:{quote(AWKWARD, safe='')}@")
    with open_source(address, LiveOptions(max_fps=5, connect_s=30)) as live:
        assert isinstance(live, LiveSource)
        frames = [frame for frame, _ in zip(live, range(4), strict=False)]
        assert (live.fps, live.counters.stalls, live.counters.errors) == (5.0, 0, 0)
        http.files["/snap.cgi"] = cv2.imencode(".jpg", pattern(8))[1].tobytes()
        eventually(lambda: read_pattern(next(iter(live)).image_bgr)[0] == 8, 30, "the next picture is a new one")
    assert [read_pattern(frame.image_bgr)[0] for frame in frames] == [7, 7, 7, 7]
    captured_s = [frame.captured_s or 0.0 for frame in frames]
    assert captured_s[-1] - captured_s[0] >= 0.5


def test_a_camera_of_one_frame_a_second_opens_and_does_not_stall(rtsp_packages: None) -> None:
    camera = RtspCamera()
    camera.start(fps=1)
    try:
        with open_source(camera.url, LiveOptions(connect_s=30)) as live:
            assert isinstance(live, LiveSource)
            for _, _frame in zip(range(3), live, strict=False):
                pass
            assert live.counters.stalls == 0
    finally:
        camera.kill()


def test_how_long_a_camera_may_be_silent_follows_its_rate() -> None:
    rtsp, hls = Address("stream", "rtsp://cam/1"), Address("stream", "https://cam/live.m3u8?token=x")
    fast, slow, segments = Pause(LiveOptions(), rtsp), Pause(LiveOptions(), rtsp), Pause(LiveOptions(), hls)
    for number in range(10):
        fast.sign(number / 25)
        slow.sign(float(number))
        segments.sign(number // 5 * 6.0)
    assert (fast.longest_s, slow.longest_s, segments.longest_s) == (STALL_S, 3.0, HLS_STALL_S)
    assert Pause(LiveOptions(), rtsp).longest_s == LiveOptions().connect_s, "one frame tells nothing about the rate"
    assert Pause(LiveOptions(stall_s=0.5), hls).longest_s == 0.5

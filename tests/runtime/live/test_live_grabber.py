"""Policies, sizes, rates and ends, on a web camera and on cameras that misbehave on cue."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import cv2
import numpy as np
import pytest
from live_cameras import (
    SYSTEM_PYTHON,
    HttpCamera,
    eventually,
    is_running,
    mapped_memories,
    pattern,
    read_pattern,
    shared_memories,
)

from pgn_edge.errors import DataError
from pgn_edge.runtime.live import LiveOptions, LiveSource, Policy, child, grabber, source
from pgn_edge.runtime.sources import Frame, Missing, open_source
from tests.runtime.videos import damage, trim, write_video

FAKE = Path(__file__).with_name("fake_camera.py")


@pytest.fixture
def fake_cameras(monkeypatch: pytest.MonkeyPatch) -> None:
    """For this test, `/dev/video-<name>` are the devices of `fake_camera.py`."""
    monkeypatch.setattr(child, "SCRIPT", FAKE)


def take(live: source.LiveSource, count: int, pause_s: float = 0.0) -> list[Frame]:
    frames = []
    for frame in live:
        frames.append(frame)
        if len(frames) == count:
            break
        time.sleep(pause_s)
    return frames


def assert_all_accounted_for(live: LiveSource, frames: list[Frame]) -> None:
    """Every frame of the camera was handed over or counted as dropped, in order."""
    last = -1
    for index, frame in enumerate(frames):
        assert (frame.index, frame.sequence) == (index, last + 1 + frame.dropped)
        last = frame.sequence
    live.close()
    counters = live.counters
    assert counters.frames == len(frames)
    assert counters.dropped >= sum(frame.dropped for frame in frames)


def test_latest_gives_the_newest_frame(http: HttpCamera) -> None:
    with open_source(http.url) as live:
        assert isinstance(live, LiveSource)
        frames = take(live, 8, pause_s=0.15)
        numbers = [read_pattern(frame.image_bgr)[0] for frame in frames]
        assert (live.count, live.missing.frames, live.name) == (None, 0, http.url)
        assert_all_accounted_for(live, frames)
    assert numbers == sorted(set(numbers))
    assert [late - early for early, late in pairwise(numbers)] == [frame.dropped + 1 for frame in frames[1:]]
    assert sum(frame.dropped for frame in frames[2:]) > 0
    assert all(frame.age_ms is not None and frame.age_ms >= 0 for frame in frames)
    # 20 ms between two frames, and room for a busy machine: far below the 150 ms that the app takes.
    assert sorted(frame.age_ms or 0 for frame in frames)[4] < 100


def test_drop_oldest_holds_a_queue(http: HttpCamera) -> None:
    with open_source(http.url, LiveOptions("drop-oldest", queue=3)) as live:
        assert isinstance(live, LiveSource)
        first = take(live, 1)
        time.sleep(0.6)
        frames = first + take(live, 4)
        assert_all_accounted_for(live, frames)
    assert frames[1].dropped > 0
    # Those that were queued follow each other.
    assert [frame.dropped for frame in frames[2:4]] == [0, 0]


def write_avi(folder: Path, frames: int) -> bytes:
    path = folder / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (160, 128))
    for number in range(frames):
        writer.write(pattern(number))
    writer.release()
    return path.read_bytes()


@pytest.mark.parametrize(("share", "missing"), [(1.0, False), (0.5, True)], ids=["whole", "cut short"])
def test_a_file_behind_an_address_ends_and_loses_nothing(
    http: HttpCamera, tmp_path: Path, share: float, missing: bool
) -> None:
    data = write_avi(tmp_path, 30)
    http.files["/clip.avi"] = data[: int(len(data) * share)]
    with open_source(f"{http.root}/clip.avi?token=s3cret", LiveOptions(stall_s=0.4)) as live:
        assert isinstance(live, LiveSource)
        frames = take(live, 3)
        time.sleep(1.0)  # longer than stall_s: the grabber waits for the app, and is not taken for stalled
        frames += list(live)
        assert live.counters.stalls == live.counters.dropped == live.counters.errors == 0
        assert (live.count, live.fps) == (30, 10.0)
        assert (live.missing.frames > 0) is missing
        assert len(frames) + live.missing.frames == 30
    assert [read_pattern(frame.image_bgr)[0] for frame in frames] == list(range(len(frames)))
    assert frames[3].name == f"{http.root}/clip.avi?token=***#3"


def test_a_file_behind_an_address_has_media_time_however_slowly_it_is_read(http: HttpCamera, tmp_path: Path) -> None:
    http.files["/clip.avi"] = write_avi(tmp_path, 30)
    with open_source(f"{http.root}/clip.avi", LiveOptions(max_fps=100)) as live:
        frames = list(live)
    assert [frame.time_s for frame in frames] == pytest.approx([number / 10 for number in range(30)])


def test_a_damaged_packet_of_a_file_behind_an_address_costs_one_frame(http: HttpCamera, tmp_path: Path) -> None:
    path = tmp_path / "damaged.avi"
    path.write_bytes(write_avi(tmp_path, 30))
    http.files["/clip.avi"] = damage(path, 12).read_bytes()
    with open_source(f"{http.root}/clip.avi") as live:
        frames = list(live)
    others = [number for number in range(30) if number != 12]
    assert [read_pattern(frame.image_bgr)[0] for frame in frames] == others
    assert [frame.sequence for frame in frames] == others
    assert [frame.dropped for frame in frames] == [0] * 29
    assert (live.missing.damaged, live.missing.cut_short) == (1, 0)


def test_a_trimmed_file_behind_an_address_misses_nothing(http: HttpCamera, tmp_path: Path) -> None:
    path = trim(write_video(tmp_path / "clip.mp4", 60, "mp4v"), 1.0, 3.0)
    http.files["/clip.mp4"] = path.read_bytes()
    http.files["/damaged.mp4"] = damage(path, 20, packets=3).read_bytes()
    with open_source(f"{http.root.replace('//', '//user:secret@')}/clip.mp4") as live:
        frames = list(live)
        assert (len(frames), live.missing, live.count) == (30, Missing(), 30)
    with open_source(f"{http.root}/damaged.mp4") as live:
        frames = list(live)
        assert len(frames) < 30
        assert len(frames) + live.missing.frames == live.count == 30


def test_a_file_behind_an_address_that_yields_no_frame_is_an_error(http: HttpCamera, tmp_path: Path) -> None:
    path = tmp_path / "damaged.avi"
    path.write_bytes(write_avi(tmp_path, 5))
    http.files["/clip.avi"] = damage(path, 0, packets=5).read_bytes()
    with pytest.raises(DataError, match="expected a video that OpenCV decodes, got no frame"):
        open_source(f"{http.root}/clip.avi")
    with LiveSource(f"{http.root}/clip.avi") as live, pytest.raises(DataError, match="got no frame"):
        list(live)


@pytest.mark.parametrize("policy", ["latest", "wait"])
def test_max_fps(fake_cameras: None, policy: str) -> None:
    with open_source("/dev/video-plain", LiveOptions(policy, max_fps=10, stall_s=0.3)) as live:
        assert isinstance(live, LiveSource)
        frames = take(live, 8)
        counters = live.counters
    assert frames[0].captured_s is not None
    assert frames[-1].captured_s is not None
    assert (frames[-1].captured_s - frames[0].captured_s) >= 0.6
    assert (counters.thinned > 0) is (policy == "latest")
    assert (counters.stalls, counters.errors) == (0, 0)
    if policy == "wait":
        assert [int(frame.image_bgr[0, 0, 0]) for frame in frames] == list(range(8))


def test_a_slow_rate_is_no_stall(fake_cameras: None) -> None:
    with open_source("/dev/video-plain", LiveOptions(max_fps=1.2, stall_s=0.4)) as live:
        assert isinstance(live, LiveSource)
        take(live, 2)
        assert live.counters.stalls == 0


def test_a_size_that_changes_is_followed(fake_cameras: None) -> None:
    with open_source("/dev/video-resize", LiveOptions("wait")) as live:
        assert isinstance(live, LiveSource)
        frames = take(live, 120)
        assert live.counters.reconnects == live.counters.dropped == 0
    for number, frame in enumerate(frames):
        expected = np.full((48, 64, 3) if number < 100 else (96, 128, 3), number, np.uint8)
        np.testing.assert_array_equal(frame.image_bgr, expected)


def test_grey_and_alpha_become_bgr(fake_cameras: None) -> None:
    with open_source("/dev/video-grey", LiveOptions("wait")) as live:
        for frame in take(live, 6):
            np.testing.assert_array_equal(frame.image_bgr, np.full((48, 64, 3), frame.sequence, np.uint8))


def test_garbage_is_an_error_and_a_new_start(fake_cameras: None) -> None:
    with open_source("/dev/video-garbage", LiveOptions("wait")) as live:
        assert isinstance(live, LiveSource)
        frames = take(live, 6)
        counters = live.counters
    assert counters.errors >= 2
    assert counters.reconnects >= 2
    assert [frame.sequence for frame in frames] == list(range(6))


@pytest.mark.parametrize(
    ("device", "options", "says"),
    [
        ("huge", LiveOptions("wait", queue=1000), "shared memory: expected .* MB for 1002 frames"),
        ("vast", LiveOptions(), "frames up to 16384 a side, got 20000 x 2"),
    ],
    ids=["more memory than there is", "a size that no camera has"],
)
def test_frames_that_do_not_fit(fake_cameras: None, device: str, options: LiveOptions, says: str) -> None:
    with pytest.raises(DataError, match=says):
        open_source(f"/dev/video-{device}", options)


def test_a_grabber_that_hangs_and_ignores_signals(fake_cameras: None) -> None:
    with open_source("/dev/video-stubborn", LiveOptions(stall_s=0.3)) as live:
        assert isinstance(live, LiveSource)
        first_pid = live.grabber_pid
        eventually(lambda: live.counters.reconnects >= 1, 8.0, "another grabber")
        assert live.counters.stalls >= 1
        assert first_pid is not None
        assert not is_running(first_pid)


@pytest.mark.parametrize("policy", ["latest", "drop-oldest", "wait"])
def test_no_frame_is_half_written(fake_cameras: None, policy: Policy) -> None:
    with open_source("/dev/video-large", LiveOptions(policy)) as live:
        assert isinstance(live, LiveSource)
        frames = []
        for _ in range(2):
            frames += take(live, 15)
            assert live.grabber_pid is not None
            os.kill(live.grabber_pid, signal.SIGKILL)
            eventually(lambda: live.grabber_pid is not None and is_running(live.grabber_pid), 2.0, "a new grabber")
        frames += take(live, 10)
        for frame in frames:
            assert frame.image_bgr.min() == frame.image_bgr.max()
        assert_all_accounted_for(live, frames)


def frozen(live: LiveSource) -> None:
    assert live.grabber_pid is not None
    os.kill(live.grabber_pid, signal.SIGSTOP)


@pytest.mark.parametrize("before", [frozen, lambda live: None], ids=["frozen", "in the midst of frames"])
def test_close_ends_the_grabber_within_two_seconds(http: HttpCamera, before: Callable[[LiveSource], None]) -> None:
    live = open_source(http.url)
    assert isinstance(live, LiveSource)
    take(live, 1)
    pid = live.grabber_pid
    before(live)
    start = time.monotonic()
    live.close()
    assert time.monotonic() - start < 2.0
    assert pid is not None
    assert not is_running(pid)
    assert list(live) == []


def test_close_from_another_thread_ends_the_iteration(http: HttpCamera) -> None:
    with open_source(http.url) as live:
        assert isinstance(live, LiveSource)
        closing = threading.Timer(0.3, live.close)
        closing.start()
        assert list(live)
        closing.join()


def test_a_grabber_that_is_killed_is_replaced(http: HttpCamera) -> None:
    with open_source(http.url) as live:
        assert isinstance(live, LiveSource)
        frames = take(live, 3)
        assert live.grabber_pid is not None
        os.kill(live.grabber_pid, signal.SIGKILL)
        eventually(lambda: live.counters.reconnects == 1, 5.0, "a new grabber")
        frames += take(live, 3)
        assert mapped_memories() == 1
        assert (live.counters.errors, live.counters.stalls) == (1, 0)
        assert_all_accounted_for(live, frames)


def test_no_name_in_shared_memory_while_it_runs(http: HttpCamera) -> None:
    before = shared_memories()
    with open_source(http.url) as live:
        take(live, 2)  # type: ignore[arg-type]
        assert shared_memories() <= before


PARENT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background was told to ignore it
from pgn_edge.runtime.sources import open_source
with open_source(sys.argv[1]) as live:
    print(live.grabber_pid, flush=True)
    for frame in live:
        pass
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_parent_that_ends_leaves_no_grabber(http: HttpCamera, number: signal.Signals) -> None:
    command = [sys.executable, "-c", PARENT, http.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        try:
            parent.send_signal(number)
            parent.wait(5)
            eventually(lambda: not is_running(pid), 2.0, "the grabber ended")
        finally:
            parent.kill()


@pytest.mark.parametrize(
    ("address", "connect_s", "says"),
    [
        (
            "rtsp://user:s3cret@127.0.0.1:9/camera",
            3.0,
            "within 3 s, got it does not open: .*refused.*attempts.*--connect-s",
        ),
        ("/dev/video987", 600.0, r"/dev/video987: expected a camera at this device, got no device /dev/video987"),
        ("987", 600.0, r"987: expected a camera at this device, got no device /dev/video987 \(there are: "),
    ],
    ids=["nobody listens", "no such device fails at once", "no such number fails at once"],
)
def test_a_camera_that_never_came_up_is_one_error(address: str, connect_s: float, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        open_source(address, LiveOptions(connect_s=connect_s))
    assert "s3cret" not in str(caught.value)


def test_an_address_that_answers_but_sends_nothing(http: HttpCamera) -> None:
    http.fps = 0.01
    with pytest.raises(DataError, match="a first frame within 1 s, got no"):
        open_source(http.url, LiveOptions(connect_s=1.0))


def test_a_gstreamer_pipeline_in_an_opencv_that_has_it() -> None:
    check = "import cv2; raise SystemExit(not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))"
    if (
        not Path(SYSTEM_PYTHON).exists()
        or subprocess.run([SYSTEM_PYTHON, "-c", check], capture_output=True, check=False).returncode
    ):
        pytest.skip("the system's Python has no OpenCV with GStreamer: apt-get install python3-opencv")
    pipeline = (
        "videotestsrc num-buffers=5 ! video/x-raw,width=64,height=48 ! videoconvert ! video/x-raw,format=BGR ! appsink"
    )
    order = {"kind": "pipeline", "address": pipeline, "may_end": True, "policy": "wait", "max_fps": None}
    memory = SharedMemory(create=True, size=48 * 64 * 3 * 8)
    try:
        answer = {"memory": memory.name, "slots": 8}
        lines = "".join(json.dumps(message) + "\n" for message in (order, answer)).encode()
        with subprocess.Popen([SYSTEM_PYTHON, grabber.__file__], stdin=-1, stdout=-1, stderr=-1) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(lines)
            process.stdin.flush()
            events = [json.loads(line) for line in process.stdout]
    finally:
        memory.close()
        memory.unlink()
    assert events[1] == ["size", 48, 64]
    assert [event[2] for event in events if event[0] == "frame"] == list(range(5))
    assert events[-1][0] in ("ended", "failed")

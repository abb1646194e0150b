"""A real RTSP server on loopback: killed, frozen, restarted, of another size, and behind a line that flips bits."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from live_cameras import RtspCamera, eventually, read_pattern

from pgn_edge.errors import DataError
from pgn_edge.runtime.live import LiveOptions, LiveSource
from pgn_edge.runtime.sources import Frame, open_source

CLOCK_MODULO_MS = 65536


def take(live: LiveSource, count: int, pause_s: float = 0.0) -> list[Frame]:
    frames = []
    for frame in live:
        frames.append(frame)
        if len(frames) == count:
            break
        time.sleep(pause_s)
    return frames


def true_age_ms(frame: Frame) -> int:
    """From the clock in the pixels until now."""
    _, clock_ms = read_pattern(frame.image_bgr)
    return (int(time.monotonic() * 1e3) - clock_ms) % CLOCK_MODULO_MS


def open_live(url: str, options: LiveOptions | None = None) -> LiveSource:
    live = open_source(url, options)
    assert isinstance(live, LiveSource)
    return live


def test_plays_in_order_and_without_delay(rtsp: RtspCamera) -> None:
    with open_live(rtsp.url) as live:
        assert (live.fps, live.count, live.missing.frames) == (25.0, None, 0)
        ages_ms, numbers = [], []
        for frame in live:
            ages_ms.append(true_age_ms(frame))
            numbers.append(read_pattern(frame.image_bgr)[0])
            if frame.index == 12:
                break
            time.sleep(0.1)
    assert numbers == sorted(set(numbers))
    # The app takes a frame in 100 ms, a frame comes every 40: after 12 of them a queue would be 700 ms behind.
    assert sorted(ages_ms)[6] < 500


def test_wait_loses_no_frame(rtsp: RtspCamera) -> None:
    with open_live(rtsp.url, LiveOptions("wait")) as live:
        numbers = [read_pattern(frame.image_bgr)[0] for frame in take(live, 20)]
        assert live.counters.dropped == 0
    assert numbers == list(range(numbers[0], numbers[0] + 20))


def test_killed_and_restarted_with_another_size(rtsp: RtspCamera) -> None:
    with open_live(rtsp.url) as live:
        before = take(live, 3)
        rtsp.kill()
        eventually(lambda: live.counters.errors + live.counters.stalls > 0, 2.5, "the loss is seen")
        time.sleep(0.5)
        rtsp.start(width=320, height=240)
        eventually(lambda: live.counters.reconnects == 1, 5.0, "frames come again")
        after = take(live, 3)
    assert before[-1].image_bgr.shape == (128, 160, 3)
    assert after[-1].image_bgr.shape == (240, 320, 3)
    assert after[-1].sequence is not None
    assert before[-1].sequence is not None
    assert after[-1].sequence > before[-1].sequence
    assert true_age_ms(after[-1]) < 2000


def test_a_frozen_camera_is_a_stall(rtsp: RtspCamera) -> None:
    with open_live(rtsp.url) as live:
        take(live, 2)
        rtsp.signal(signal.SIGSTOP)
        seconds = eventually(lambda: live.counters.stalls == 1, 3.0, "the stall is seen")
        assert seconds > 1.5
        age_ms = live.counters.age_ms
        assert age_ms is not None
        assert age_ms > 1500
        rtsp.signal(signal.SIGCONT)
        eventually(lambda: live.counters.reconnects == 1, 5.0, "frames come again")
        assert true_age_ms(take(live, 3)[-1]) < 2000


class Line:
    """A TCP connection to a camera which flips bits on demand."""

    def __init__(self, port: int) -> None:
        self.noisy = False
        self._target = port
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"rtsp://127.0.0.1:{self._listener.getsockname()[1]}/camera"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [near, far]
                for pair in ((near, far, False), (far, near, True)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, may_be_noisy: bool) -> None:
        with contextlib.suppress(OSError):
            while data := bytearray(source.recv(65536)):
                if self.noisy and may_be_noisy:
                    for position in range(0, len(data), 7):
                        data[position] ^= 0x55
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def line(rtsp: RtspCamera) -> Iterator[Line]:
    opened = Line(rtsp.port)
    yield opened
    opened.close()


def test_a_corrupt_stream_is_an_error_and_recovers(line: Line) -> None:
    with open_live(line.url, LiveOptions(stall_s=1.0)) as live:
        take(live, 3)
        line.noisy = True
        eventually(lambda: live.counters.errors + live.counters.stalls > 0, 6.0, "the corruption is seen")
        line.noisy = False
        reconnects = live.counters.reconnects
        eventually(lambda: live.counters.reconnects > reconnects, 8.0, "frames come again")
        frames = take(live, 5)
        assert true_age_ms(frames[-1]) < 2000


def test_a_grabber_that_is_killed_is_replaced(rtsp: RtspCamera) -> None:
    with open_live(rtsp.url) as live:
        take(live, 2)
        assert live.grabber_pid is not None
        os.kill(live.grabber_pid, signal.SIGKILL)
        eventually(lambda: live.counters.reconnects == 1, 5.0, "a new grabber")
        assert true_age_ms(take(live, 3)[-1]) < 2000
        assert (live.counters.errors, live.counters.stalls) == (1, 0)


def test_closed_in_the_midst_of_a_stream_that_hangs(rtsp: RtspCamera) -> None:
    live = open_live(rtsp.url)
    take(live, 2)
    rtsp.signal(signal.SIGSTOP)
    time.sleep(0.2)
    start = time.monotonic()
    live.close()
    assert time.monotonic() - start < 2.0


def test_an_address_that_the_server_does_not_know(rtsp: RtspCamera) -> None:
    with pytest.raises(DataError, match=r"/other: expected a first frame within 2 s.*404"):
        open_source(rtsp.url.replace("/camera", "/other"), LiveOptions(connect_s=2.0))

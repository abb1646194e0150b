"""A function of the user's own, and a window on a display that nobody looks at."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from pgn_edge.contract import EngineFacts
from pgn_edge.errors import OutputError
from pgn_edge.geometry import Geometry
from pgn_edge.preprocess import Preprocess
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.sinks import CallbackSink, WindowSink
from pgn_edge.runtime.sources import Frame
from tests.runtime.conftest import apt_install

FACTS = EngineFacts(
    "vit", "builtin", "0" * 64, Geometry((64, 64), 8, 16), Preprocess((64, 64)), "fp32", 17, "embedding"
)
RESULT = Result("pets", "owl", 1.0, np.ones(1, np.float32), ("owl",), np.zeros(8, np.float32), None, {})
FRAME = Frame(3, "front#3", 0.1, np.zeros((48, 64, 3), np.uint8))


def test_a_function_gets_the_frame_and_all_its_results() -> None:
    calls: list[tuple[Frame, Sequence[Result]]] = []
    with CallbackSink(lambda frame, results: calls.append((frame, results))) as sink:
        sink.write(FRAME, [RESULT, RESULT])
    assert calls == [(FRAME, [RESULT, RESULT])]
    assert (sink.counts.offered, sink.counts.sent) == (1, 1)


def divide(frame: Frame, results: Sequence[Result]) -> float:
    return 1 / (frame.index - 3)


def test_a_function_that_fails_ends_the_run_and_keeps_its_traceback() -> None:
    sink = CallbackSink(divide)
    with sink, pytest.raises(OutputError, match=r"got ZeroDivisionError: .*; mend it, or drop its errors") as caught:
        sink.write(FRAME, [RESULT])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert (sink.counts.lost, sink.counts.errors) == (1, 1)


def test_a_function_that_fails_may_be_counted_instead() -> None:
    with CallbackSink(divide, "drop") as sink:
        for index in range(5):
            sink.write(Frame(index, "front", 0.0, FRAME.image_bgr), [RESULT])
    counts = sink.counts
    assert (counts.offered, counts.sent, counts.lost, counts.errors) == (5, 4, 1, 1)
    assert counts.last_error.startswith("ZeroDivisionError")


def test_an_interrupt_is_no_error_of_the_function() -> None:
    def interrupt(frame: Frame, results: Sequence[Result]) -> None:
        raise KeyboardInterrupt

    with CallbackSink(interrupt, "drop") as sink, pytest.raises(KeyboardInterrupt):
        sink.write(FRAME, [RESULT])


# Windows.


def test_without_a_display_a_window_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux has programs without a display")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("QT_QPA_PLATFORM", raising=False)
    sink = WindowSink(FACTS)
    with pytest.raises(OutputError, match=r"window: expected a display.*; set DISPLAY"), sink:
        pass
    assert sink.counts.offered == 0


def install(program: str, package: str) -> None:
    if shutil.which(program) is None:
        apt_install(package)
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed, and cannot be installed here")


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    """A screen in memory."""
    install("Xvfb", "xvfb")
    reader, writer = os.pipe()
    command = ["Xvfb", "-displayfd", str(writer), "-screen", "0", "1280x800x24", "-nolisten", "tcp"]
    process = subprocess.Popen(command, pass_fds=[writer], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(writer)
    with os.fdopen(reader) as file:
        number = file.readline().strip()
    assert number, "Xvfb does not start"
    yield f":{number}"
    process.terminate()
    process.wait()


# In a process of its own: Qt takes the display that it first saw.
SHOWS = """
import sys, numpy as np, cv2
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.sinks import WindowSink
from pgn_edge.runtime.sources import Frame
from pgn_edge.contract import EngineFacts
from pgn_edge.geometry import Geometry
from pgn_edge.preprocess import Preprocess
geometry = Geometry((64, 64), 8, 16)
facts = EngineFacts("vit", "builtin", "0" * 64, geometry, Preprocess((64, 64)), "fp32", 17, "embedding")
canvas = np.zeros((3, 80, 64), np.float32)
result = Result("pets", "owl", 1.0, np.ones(1, np.float32), ("owl",), np.zeros(8), canvas, {"vit": 1.0})
with WindowSink(facts, "answers") as sink:
    index = 0
    while not sink.closed and index < int(sys.argv[1]):
        sink.write(Frame(index, f"front#{index}", 0.0, np.zeros((48, 64, 3), np.uint8)), [result, result])
        if not index:
            print(cv2.getWindowImageRect("answers")[2] > 300, flush=True)
        index += 1
    ended = sink.closed
    sink.write(Frame(index, "front", 0.0, np.zeros((48, 64, 3), np.uint8)), [result])
counts = sink.counts
print(ended, sink.closed, counts.offered - index, counts.sent - index, counts.lost)
"""


def show(display: str, folder: Path, frames: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "DISPLAY": display, "XDG_RUNTIME_DIR": str(folder), "QT_LOGGING_RULES": "*=false"}
    command = [sys.executable, "-c", SHOWS, str(frames)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_a_window_shows_every_frame(display: str, tmp_path: Path) -> None:
    with show(display, tmp_path, 4) as child:
        said, _ = child.communicate(timeout=120)
    assert (child.returncode, said.splitlines()) == (0, ["True", "False True 1 1 0"])


# What a window manager sends to the window of that number when its close button is pressed.
CLOSE = """
import ctypes, sys
x11 = ctypes.CDLL("libX11.so.6")
x11.XOpenDisplay.restype = ctypes.c_void_p
x11.XInternAtom.restype = ctypes.c_ulong
class Message(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("serial", ctypes.c_ulong), ("sent", ctypes.c_int),
                ("display", ctypes.c_void_p),
                ("window", ctypes.c_ulong), ("kind", ctypes.c_ulong), ("format", ctypes.c_int),
                ("data", ctypes.c_long * 5), ("rest", ctypes.c_long * 24)]
display, window = ctypes.c_void_p(x11.XOpenDisplay(None)), int(sys.argv[1])
kind, close = x11.XInternAtom(display, b"WM_PROTOCOLS", 0), x11.XInternAtom(display, b"WM_DELETE_WINDOW", 0)
message = Message(33, 0, 1, display, window, kind, 32, (ctypes.c_long * 5)(close))
x11.XSendEvent(display, ctypes.c_ulong(window), 0, ctypes.c_long(0), ctypes.byref(message))
x11.XCloseDisplay(display)
"""


@pytest.mark.parametrize("way", ["key", "close button"])
def test_a_window_that_is_closed_stays_closed_and_counts_what_it_does_not_show(
    display: str, tmp_path: Path, way: str
) -> None:
    install("xdotool", "xdotool")
    environment = {**os.environ, "DISPLAY": display}
    with show(display, tmp_path, 10**6) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "True\n"
            search = ["xdotool", "search", "--sync", "--name", "^answers$"]
            found = subprocess.run(search, env=environment, check=True, timeout=20, capture_output=True, text=True)
            window = found.stdout.split()[0]
            key, button = ["xdotool", "key", "--window", window, "q"], [sys.executable, "-c", CLOSE, window]
            subprocess.run(key if way == "key" else button, env=environment, check=True, timeout=20)
            said, _ = child.communicate(timeout=20)
        finally:
            child.kill()
    assert (child.returncode, said) == (0, "True True 1 0 1\n")

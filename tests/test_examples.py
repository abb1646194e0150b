"""The examples run as they stand, with real cameras, bundles and signals."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pgn_edge.cli.run_config import read_config
from tests.runtime.live import conftest as cameras
from tests.runtime.live.live_cameras import HttpCamera, RtspCamera, eventually, free_port

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
MOST_LINES = 60
FRAMES, FPS = 5, 10.0
WAIT_S = 60.0  # on a busy machine

rtsp_packages, rtsp = cameras.rtsp_packages, cameras.rtsp


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Five frames of noise, half a second."""
    path, rng = tmp_path / "clip.mp4", np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (64, 48))
    for _ in range(FRAMES):
        writer.write(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    writer.release()
    return path


def command(script: Path | str, *arguments: object) -> list[str]:
    return [sys.executable, "-W", "error", str(EXAMPLES / script), *map(str, arguments)]


def finished(script: Path | str, *arguments: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(script, *arguments), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


class Running:
    """An example in a process of its own; what it prints goes to files."""

    def __init__(self, folder: Path, *arguments: Any) -> None:
        self.out, self.err, self.port = folder / "out.txt", folder / "err.txt", free_port()
        environment = {**os.environ, "METRICS_PORT": str(self.port), "HOOK_TOKEN": "secret"}
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(command(*arguments), stdout=out, stderr=err, env=environment)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until something holds, or the process has ended without."""
        eventually(lambda: holds() or self.process.poll() is not None, WAIT_S, what)
        assert holds(), f"{what}: {self.err.read_text()}"

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as page:
            (line,) = (line for line in page.read().decode().splitlines() if line.startswith(name))
        return float(line.rpartition(" ")[2])


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start an example; it is gone when the test is over."""
    started: list[Running] = []

    def begin(*arguments: Any) -> Running:
        started.append(Running(tmp_path, *arguments))
        return started[-1]

    yield begin
    for running in started:
        running.process.kill()
        running.process.wait()


class Hook(ThreadingHTTPServer):
    """Takes every document."""

    def __init__(self) -> None:
        hook = self
        self.documents: list[dict[str, Any]] = []
        self.tokens: set[str] = set()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                hook.documents.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                hook.tokens.add(self.headers["Authorization"])
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    daemon_threads = True
    block_on_close = False


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class WhiteCamera(HttpCamera):
    """A camera that sees nothing but light."""

    def _part(self, number: int) -> bytes:
        _, encoded = cv2.imencode(".jpg", np.full((*self.size_hw, 3), 255, np.uint8))
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {encoded.size}\r\n\r\n"
        return head.encode() + encoded.tobytes() + b"\r\n"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_fits_on_a_page(path: Path):
    assert len(path.read_text().splitlines()) <= MOST_LINES


def test_every_example_is_tried_here():
    names = {"app.toml", "camera_app.py", "camera_loop.py", "pgn-edge.service", "robot_loop.py"}
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == names


@pytest.mark.parametrize("name", ["camera_app.py", "camera_loop.py", "robot_loop.py"])
def test_an_example_without_arguments_prints_its_usage(name: str):
    command = [sys.executable, str(EXAMPLES / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert f"python examples/{name} " in done.stderr
    assert "Traceback" not in done.stderr


# camera_loop.py


def test_the_camera_loop_prints_one_line_for_each_frame(tiny_pair: Any, clip: Path):
    lines = finished("camera_loop.py", tiny_pair.vit, tiny_pair.task, clip).stdout.splitlines()
    assert len(lines) == FRAMES
    for line in lines:
        assert re.fullmatch(r"\d \d+%  \d+\.\d ms", line), line


# camera_app.py


def test_the_app_posts_swaps_when_told_and_loses_no_frame(
    tiny_pair: Any, tmp_path: Path, rtsp: RtspCamera, hook: Hook, start: Any
):
    paths = {name: tmp_path / f"{name}.pgn" for name in ("left", "right")}
    for path in paths.values():
        shutil.copy(tiny_pair.task, path)
    tasks = [f"{name}={path}" for name, path in paths.items()]
    app = start("camera_app.py", rtsp.url, tiny_pair.vit, f"http://127.0.0.1:{hook.server_port}/hook", *tasks)
    app.until(lambda: len(hook.documents) >= 4, "answers")
    paths["left"].write_bytes(b"no bundle")
    app.process.send_signal(signal.SIGHUP)
    app.until(lambda: "right: swapped" in app.err.read_text(), "one refused, one swapped")
    # A decoder that lost a packet says so on the same stream.
    told = [line for line in app.err.read_text().splitlines() if line.startswith(("left: ", "right: "))]
    assert re.fullmatch(r"left: the old one stays: .*left\.pgn: expected .*\nright: swapped", "\n".join(told))
    shutil.copy(tiny_pair.task_fp16, paths["left"])
    app.process.send_signal(signal.SIGHUP)
    app.until(lambda: "left: swapped" in app.err.read_text(), "mended, and swapped")
    before = len(hook.documents)
    app.until(lambda: len(hook.documents) > before + 4, "answers afterwards")
    assert app.metric('pgn_edge_task_swaps_total{task="left"}') == 1
    assert app.end() == 0, app.err.read_text()
    assert hook.tokens == {"Bearer secret"}
    for name in paths:
        indices = [document["sequence"] for document in hook.documents if document["task"] == name]
        assert indices == list(range(len(indices)))
    assert re.fullmatch(r"((left|right): \d \d+%\n)+", app.out.read_text())


def test_the_app_acts_on_no_degraded_answer(
    tiny_pair: Any, tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    fragile = importlib.import_module("soak_frames").fragile_bundle(tiny_pair.task, tmp_path / "fragile.pgn")
    camera, answers = WhiteCamera(), tmp_path / "answers.jsonl"
    try:
        app = start("camera_app.py", camera.url, tiny_pair.vit, answers, f"whole={tiny_pair.task}", f"frail={fragile}")
        app.until(lambda: app.out.read_text().count("\n") >= 3, "answers")
        assert app.end(signal.SIGINT) == 0, app.err.read_text()
    finally:
        camera.close()
    assert {line.partition(":")[0] for line in app.out.read_text().splitlines()} == {"whole"}
    records = [json.loads(line) for line in answers.read_text().splitlines()]
    assert {(record["task"], record["label"] is None) for record in records} == {("whole", False), ("frail", True)}
    assert {record["degraded"] for record in records if record["task"] == "frail"} == {"canvas"}


def test_the_app_acts_on_no_stale_answer(tiny_pair: Any, tmp_path: Path, start: Any):
    script, answers = tmp_path / "stale.py", tmp_path / "answers.jsonl"
    text = (EXAMPLES / "camera_app.py").read_text()
    script.write_text(text.replace("STALE_S = 0.5", "STALE_S = 0.0"))
    assert script.read_text() != text
    camera = HttpCamera()
    try:
        app = start(script, camera.url, tiny_pair.vit, answers, f"task={tiny_pair.task}")
        app.until(lambda: _answered(app) >= 3, "answers")
        assert app.end() == 0, app.err.read_text()
    finally:
        camera.close()
    assert app.out.read_text() == ""
    assert len(answers.read_text().splitlines()) >= 3


def _answered(app: Running) -> float:
    try:
        return app.metric("pgn_edge_frames_total{")
    except (OSError, ValueError):  # it does not listen yet, or has answered nothing
        return 0


# robot_loop.py


def test_the_loop_plays_a_file_and_accounts_for_every_period(tiny_pair: Any, clip: Path):
    done = finished("robot_loop.py", clip, tiny_pair.vit, tiny_pair.task, 1000)
    commands = done.stdout.splitlines()
    found = re.fullmatch(r"(\d+) periods, (\d+) missed, (\d+) held safe, (\d+) failed\n", done.stderr)
    assert found is not None, done.stderr
    periods, missed, held, failed = map(int, found.groups())
    assert len(commands) == periods + 1
    assert commands[-1] == "stop"
    assert commands[:-1].count("stop") == held
    assert {line for line in commands if line != "stop"} <= set("0123456789")
    assert len(commands) > held + 1
    assert failed == 0
    # An answer takes longer than a millisecond, and the clip half a second.
    assert missed > 0
    assert periods + missed >= 400


def test_the_loop_holds_its_safe_state_while_the_camera_is_silent(tiny_pair: Any, rtsp: RtspCamera, start: Any):
    loop = start("robot_loop.py", rtsp.url, tiny_pair.vit, tiny_pair.task, 50)

    def last(count: int) -> set[str]:
        return set(loop.out.read_text().splitlines()[-count:])

    loop.until(lambda: bool(last(5)) and "stop" not in last(5), "answers")
    rtsp.signal(signal.SIGSTOP)
    loop.until(lambda: last(5) == {"stop"}, "the safe state")
    before = len(loop.out.read_text())
    loop.until(lambda: len(loop.out.read_text()) > before, "the loop goes on")
    rtsp.signal(signal.SIGCONT)
    loop.until(lambda: "stop" not in last(5), "answers again")
    assert loop.end() == 0
    assert last(1) == {"stop"}
    assert loop.err.read_text().endswith(" failed\n")


# pgn-edge.service and app.toml


def test_systemd_takes_the_unit(tmp_path: Path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit, text = tmp_path / "pgn-edge.service", (EXAMPLES / "pgn-edge.service").read_text()
    unit.write_text(text.replace("/usr/local/bin/pgn-edge", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("Restart=always", "Restart=forever"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False, timeout=60)
    assert "restart" in done.stderr  # it does find faults


def test_run_takes_the_config_of_the_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    unit = (EXAMPLES / "pgn-edge.service").read_text()
    assert "run --config /etc/pgn-edge/app.toml\n" in unit
    monkeypatch.setenv("GATE_PASSWORD", "open sesame")
    monkeypatch.setenv("HOOK_TOKEN", "secret")
    plan = read_config(EXAMPLES / "app.toml")
    assert [(camera.name, camera.tasks) for camera in plan.cameras] == [
        ("door", ("people",)),
        ("gate", ("people", "vehicles")),
    ]
    assert "//viewer:open%20sesame@" in plan.cameras[1].source
    folders = {str(Path(path).parent) for path in (plan.vit, *plan.tasks.values())}
    assert folders == {"/var/lib/pgn-edge"}
    assert "StateDirectory=pgn-edge\n" in unit

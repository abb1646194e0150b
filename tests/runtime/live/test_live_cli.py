"""`pgn-edge run` on a web camera."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import pytest
from click.testing import CliRunner, Result
from live_cameras import HttpCamera, pattern

from pgn_edge.cli import cli


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def ended(child: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """What it still wrote; one that does not end is killed, and the test fails."""
    try:
        return child.communicate(timeout=60)
    finally:
        child.kill()


def test_every_frame_of_a_file_behind_an_address(http: HttpCamera, tiny_pair, tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (160, 128))
    for number in range(6):
        writer.write(pattern(number))
    writer.release()
    http.files["/clip.avi"] = path.read_bytes()
    source = f"{http.root}/clip.avi"
    options = ("--vit", tiny_pair.vit, "--task", tiny_pair.task, "--jsonl", "-", "--policy", "wait", "--max-fps", 100)
    done = call("run", "--source", source, *options)
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["name"] for line in lines] == [f"{source}#{index}" for index in range(6)]


@pytest.mark.parametrize(
    ("extra", "status", "says"),
    [
        (("--policy", "latest"), 1, "a camera or a stream"),
        (("--max-fps", "0"), 1, "max_fps: expected a number above 0"),
        (("--policy", "newest"), 2, "--policy"),
    ],
    ids=["a file has no newest frame", "no frames at all", "no such policy"],
)
def test_options_that_are_refused(tmp_path: Path, extra: tuple[str, ...], status: int, says: str) -> None:
    done = call("run", "--source", tmp_path, "--vit", "vit.onnx", "--task", "task.pgn", *extra)
    assert done.exit_code == status
    assert says in done.output


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["ctrl-c", "sigterm", "a closed terminal"]
)
def test_a_camera_ends_with_a_signal_and_what_was_written_is_kept(
    http: HttpCamera, tiny_pair, tmp_path: Path, number: signal.Signals
) -> None:
    files = ("--vit", str(tiny_pair.vit), "--task", str(tiny_pair.task), "--threads", "1")
    command = [sys.executable, "-m", "pgn_edge", "run", "--source", http.url, *files, "--jsonl", "-"]
    video = tmp_path / "out.mp4"
    with subprocess.Popen([*command, "--output", video], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        lines = [json.loads(child.stdout.readline()) for _ in range(3)]
        child.send_signal(number)
        rest, errors = ended(child)
    assert child.returncode == 0, errors
    lines += [json.loads(line) for line in rest.splitlines()]
    assert f"{len(lines)} frames in" in errors.decode()
    first, last = (datetime.fromisoformat(line["at"].replace("Z", "+00:00")) for line in (lines[0], lines[-1]))
    capture = cv2.VideoCapture(str(video))
    seconds = capture.get(cv2.CAP_PROP_FRAME_COUNT) / capture.get(cv2.CAP_PROP_FPS)
    assert seconds == pytest.approx((last - first).total_seconds(), abs=1.0)


def test_metrics_and_a_webhook_of_a_run(http: HttpCamera, tiny_pair, tmp_path: Path) -> None:
    posted: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    hook = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    files = ("--vit", str(tiny_pair.vit), "--task", str(tiny_pair.task), "--threads", "1", "--jsonl", "-")
    where = ("--webhook", f"http://127.0.0.1:{hook.server_port}/", "--metrics", str(port))
    command = [sys.executable, "-m", "pgn_edge", "run", "--source", http.url, *files, *where]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        lines = [json.loads(child.stdout.readline()) for _ in range(3)]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
            assert answer.status == 200
        child.send_signal(signal.SIGINT)
        rest, errors = ended(child)
    hook.shutdown()
    hook.server_close()
    assert child.returncode == 0, errors
    assert f'pgn_edge_frames_total{{camera="{http.url}",task="task"}}' in text
    assert 'pgn_edge_sink_lost_total{sink="webhook"} 0' in text
    assert f'pgn_edge_reconnects_total{{camera="{http.url}"}} 0' in text
    assert [one["name"] for one in posted[:3]] == [line["name"] for line in lines]
    assert len(posted) == len(lines) + len(rest.splitlines())


def test_a_terminal_that_is_closed_takes_nothing_of_a_recording_with_it(
    http: HttpCamera, tiny_pair, tmp_path: Path
) -> None:
    lines, video = tmp_path / "out.jsonl", tmp_path / "out.mp4"
    files = ("--vit", str(tiny_pair.vit), "--task", str(tiny_pair.task), "--threads", "1", "--jsonl", str(lines))
    command = [sys.executable, "-m", "pgn_edge", "run", "--source", http.url, *files, "--output", str(video)]
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [*command, "--codec", "mp4v"])
    said = b""
    while not lines.exists() or lines.stat().st_size < 3000:
        said += os.read(terminal, 65536)  # the bar grows with each frame
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, said
    answered = len(lines.read_text().splitlines())
    assert answered > 1
    capture = cv2.VideoCapture(str(video))
    assert capture.read()[0]

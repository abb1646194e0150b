"""Real cameras on loopback: GStreamer's RTSP server, and streams and files over HTTP."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np

BITS = 16
SERVER = Path(__file__).parents[1] / "rtsp_server.py"
SYSTEM_PYTHON = "/usr/bin/python3"


def pattern(number: int, size_hw: tuple[int, int] = (128, 160)) -> np.ndarray:
    """A frame that holds its number as the RTSP server's do, in both halves."""
    bits = [255 * (number >> bit & 1) for bit in range(BITS - 1, -1, -1)]
    row = np.repeat(np.array(bits, np.uint8), size_hw[1] // BITS)
    return np.ascontiguousarray(np.broadcast_to(row[None, :, None], (*size_hw, 3)))


def read_pattern(image_bgr: np.ndarray) -> tuple[int, int]:
    """Number, and milliseconds of the monotonic clock when it was made, both modulo 65536."""
    height, width = image_bgr.shape[:2]
    middles = np.arange(BITS) * (width // BITS) + width // BITS // 2
    rows = [image_bgr[height * quarter // 4, middles].mean(axis=1) > 128 for quarter in (1, 3)]
    number, clock_ms = (int("".join("1" if bit else "0" for bit in row), 2) for row in rows)
    return number, clock_ms


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(holds: Callable[[], bool], within_s: float, what: str) -> float:
    """Wait until something holds, and give back the seconds that it took."""
    start = time.monotonic()
    while not holds():
        assert time.monotonic() - start < within_s, f"not within {within_s} s: {what}"
        time.sleep(0.01)
    return time.monotonic() - start


def is_running(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def grabbers() -> set[int]:
    """Running grabber processes of this process."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"live/grabber.py" in (status.parent / "cmdline").read_bytes():
                found.add(int(status.parent.name))
    return {pid for pid in found if is_running(pid)}


def mapped_memories() -> int:
    """Shared memories that this process still holds."""
    return sum("psm_" in line for line in Path("/proc/self/maps").read_text().splitlines())


def shared_memories() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("psm_*")}


class RtspCamera:
    """A camera at a fixed address that can be switched off, frozen and switched on again."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"rtsp://127.0.0.1:{self.port}/camera"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, width: int = 160, height: int = 128, fps: int = 25, password: str = "") -> None:
        """Switch it on; it listens when this returns."""
        arguments = [*(str(number) for number in (self.port, width, height, fps)), *([password] if password else [])]
        self._process = subprocess.Popen([SYSTEM_PYTHON, str(SERVER), *arguments], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Switch it off, if it is on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None


class HttpCamera:
    """`/camera.mjpg` is a stream without an end; `files` are served under their names."""

    def __init__(self) -> None:
        self.size_hw = (128, 160)
        self.fps = 50.0
        self.number = 0
        self.broken = False
        self.files: dict[str, bytes] = {}
        self.kinds: dict[str, str] = {}
        self.login = ""  # `user:password` that requests must carry
        self.logins: list[str | None] = []  # what each request carried
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with contextlib.suppress(OSError):
                    camera.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.root = f"http://127.0.0.1:{self._server.server_port}"
        self.url = f"{self.root}/camera.mjpg"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._stopped = False
        self._thread.start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        header = request.headers.get("Authorization")
        self.logins.append(None if header is None else base64.b64decode(header.partition(" ")[2]).decode())
        if self.login and self.logins[-1] != self.login:
            request.send_response(401)
            request.send_header("WWW-Authenticate", 'Basic realm="camera"')
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        path = request.path.partition("?")[0]
        data = self.files.get(path)
        if data is not None:
            first, _, last = request.headers.get("Range", "").removeprefix("bytes=").partition("-")
            start = int(first or 0)
            part = data[start : int(last or len(data)) + 1]
            request.send_response(206 if first else 200)
            if path in self.kinds:
                request.send_header("Content-Type", self.kinds[path])
            request.send_header("Content-Length", str(len(part)))
            request.send_header("Accept-Ranges", "bytes")
            if first:
                request.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(data)}")
            request.end_headers()
            request.wfile.write(part)
        elif request.path.startswith("/camera.mjpg"):
            request.send_response(200)
            request.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            request.end_headers()
            number = self.number
            while not self._stopped:
                number += 1
                request.wfile.write(self._part(number))
                self.number = max(self.number, number)
                time.sleep(1 / self.fps)
        else:
            request.send_error(404)

    def _part(self, number: int) -> bytes:
        _, encoded = cv2.imencode(".jpg", pattern(number, self.size_hw))
        jpeg = b"\x00" * encoded.size if self.broken else encoded.tobytes()
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
        return head.encode() + jpeg + b"\r\n"

    def close(self) -> None:
        self._stopped = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

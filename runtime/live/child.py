"""The grabber as its parent sees it: a process, its events, and the last that it wrote to stderr."""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import sys
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from pgn_edge.runtime.live import grabber

SCRIPT = Path(grabber.__file__)
# FFmpeg says why an address does not open; what OpenCV warns of is that it does not.
FFMPEG_LEVEL = "16"
ERRORS_ONLY = {"OPENCV_FFMPEG_LOGLEVEL": FFMPEG_LEVEL, "OPENCV_LOG_LEVEL": "ERROR"}
STDERR_LINES = 20
REFUSED = re.compile(r"(?:failed: |error )((?:401|403)\b.*)")
LONGEST_LINE = 4096
TERMINATE_S, KILL_S, JOIN_S = 0.4, 0.8, 0.2

Event = list[Any]


class Grabber:
    """A running grabber process, which waits for its order. Leaving the context ends it, whatever it does.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self) -> None:
        environment = {**os.environ, **ERRORS_ONLY}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(  # noqa: S603  (our own script)
            [sys.executable, str(SCRIPT)], stdin=pipe, stdout=pipe, stderr=pipe, env=environment, bufsize=0
        )
        self.events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self._threads = [
            threading.Thread(target=target, name="pgn-edge grabber", daemon=True)
            for target in (self._read_events, self._read_stderr)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def send(self, message: dict[str, Any]) -> None:
        """Write one message; one that is dead needs none."""
        with suppress(OSError, ValueError):
            self._stdin.write(json.dumps(message).encode() + b"\n")

    def last_words(self) -> str:
        """The last line that it wrote to stderr, else a status that tells of a failure, else nothing."""
        status = 0
        with suppress(subprocess.TimeoutExpired):
            status = self._process.wait(TERMINATE_S)
            self._threads[1].join(JOIN_S)
        if self._stderr:
            return self._stderr[-1]
        return f"status {status}" if status else ""

    def refusal(self) -> str:
        """Give the status of a refused user and password, such as `401 Unauthorized`; empty if there is none."""
        found = [match[1] for line in self._stderr if (match := REFUSED.search(line))]
        return found[-1] if found else ""

    def __enter__(self) -> Grabber:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(TERMINATE_S)
        self._process.kill()
        # A driver may hold it in the kernel for longer; it ends when the driver lets go.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_S)
        for thread in self._threads:
            thread.join(JOIN_S)
        self._stdin.close()
        for thread, stream in zip(self._threads, (self._process.stdout, self._process.stderr), strict=True):
            if stream is not None and not thread.is_alive():
                stream.close()

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _read_events(self) -> None:
        for line in _lines(self._process.stdout):
            with suppress(ValueError):
                self.events.put(json.loads(line))
        self.events.put(None)

    def _read_stderr(self) -> None:
        for line in _lines(self._process.stderr):
            text = line.decode(errors="replace").strip().removeprefix(f"[OPENCV:FFMPEG:{FFMPEG_LEVEL}] ")
            if text:
                self._stderr.append(text)


def _lines(stream: IO[bytes] | None) -> Any:
    assert stream is not None
    with open(stream.fileno(), "rb", closefd=False) as buffered:
        while line := buffered.readline(LONGEST_LINE):
            yield line

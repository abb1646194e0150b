"""The process that a plan is built in: when memory runs out, the system ends this one and not its parent.

In: a line of JSON on stdin, and the ONNX behind it. Out: lines of JSON on stdout, progress first, then the version of
the backend or an error. Whatever a library prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from pgn_edge.backends import load_backend
from pgn_edge.errors import EngineError, OutputError, PgnEdgeError
from pgn_edge.export.builders import BuildRequest, build

PAUSE_S = 0.1  # between two words of progress; a builder has thousands


class Channel:
    """The parent's end of stdout.

    Args:
        stream: text, closed by nobody: the process ends first.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.lock = threading.Lock()  # a builder may tell of progress from several threads
        self.last = ("", 0.0)

    def send(self, message: dict[str, Any]) -> None:
        """One message, as one line."""
        with self.lock:
            self.stream.write(json.dumps(message) + "\n")
            self.stream.flush()

    def progress(self, step: str, done: int, total: int, note: str = "") -> None:
        """A listener that passes on the beginning and the end of a step, and what lies between now and then."""
        name, at = self.last
        now = time.monotonic()
        if name == step and done < total and now - at < PAUSE_S:
            return
        self.last = (step, now)
        self.send({"progress": [step, done, total, note]})


def main() -> None:
    """Build what stdin asks for, and leave."""
    channel = Channel(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    try:
        header = json.loads(sys.stdin.buffer.readline())
        onnx_bytes = sys.stdin.buffer.read(header["onnx_size"])
        threading.Thread(target=_leave_with_parent, daemon=True).start()
        channel.send({"version": _build(header, onnx_bytes, channel)})
    except PgnEdgeError as exc:
        channel.send({"error": describe(exc)})
    except Exception as exc:
        # Whatever a library throws: the parent says it in one line.
        backend = str(header["request"]["backend"])
        error = EngineError(backend, expected="a plan", got=f"{type(exc).__name__}: {exc}", do="see: pgn-edge doctor")
        channel.send({"error": describe(error)})
    os._exit(0)  # before a GPU library's own goodbye can crash


def describe(error: PgnEdgeError) -> dict[str, str]:
    """An error as the parent reads it."""
    kind = "OutputError" if isinstance(error, OutputError) else "EngineError"
    return {"kind": kind, "subject": error.subject, "expected": error.expected, "got": error.got, "do": error.do}


def _build(header: dict[str, Any], onnx_bytes: bytes, channel: Channel) -> str:
    request = BuildRequest.from_json(header["request"])
    trt = load_backend(request.backend)
    plan = build(trt, onnx_bytes, request, channel.progress)
    try:
        Path(header["plan"]).write_bytes(plan)
    except OSError as exc:
        raise OutputError(
            str(header["plan"]), expected="room for the plan", got=exc.strerror or str(exc), do="free disk space"
        ) from exc
    return str(trt.__version__)


def _leave_with_parent() -> None:
    """End this process when the parent's end of stdin closes, however the parent came to its end."""
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()

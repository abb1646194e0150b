"""The parent's side of a build: start the child, pass on its progress, and say in one line how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pgn_edge.errors import EngineError, OutputError
from pgn_edge.export.builders import BuildRequest
from pgn_edge.export.memory import available_bytes, megabytes
from pgn_edge.progress import Progress, silent

COMMAND = (sys.executable, "-m", "pgn_edge.export.build_child")
HEARTBEAT_S = 1.0
LINES_KEPT = 3  # of what a child says before it ends without a word to us

Log = Callable[[str], None]


def run_build(
    request: BuildRequest, onnx_bytes: bytes, plan: Path, progress: Progress = silent, log: Log | None = None
) -> str:
    """Build a plan in a child process, which ends with this call whatever happens.

    Args:
        request: what to build.
        onnx_bytes: the graph.
        plan: where to; half-written if this raises.
        progress: listener; hears something at least once a second.
        log: called with each line that the library prints.

    Returns:
        Version of the backend.

    Raises:
        EngineError: the builder refused or failed, or its process was killed.
        OutputError: the plan or the timing cache cannot be written.
    """
    before = available_bytes()
    conversation = _Conversation(progress, log)
    with _folder() as folder, _start(request, folder) as process:
        try:
            _ask(process, request, onnx_bytes, plan)
            conversation.listen(process)
            status = process.wait()
        finally:
            _end(process)
    return _outcome(conversation, status, request, before)


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    """An empty folder that only this build can see: a graph that names files finds none beside it.

    Python also imports from the child's folder first, and the user's folder may hold an `onnx/`.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="pgn-edge-build-", ignore_cleanup_errors=True)
    except OSError as exc:
        raise OutputError(
            tempfile.gettempdir(),
            expected="room for an empty folder",
            got=exc.strerror or str(exc),
            do="free disk space, or set TMPDIR to a folder that you can write to",
        ) from exc
    with folder as path:
        yield path


def _start(request: BuildRequest, folder: str) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # noqa: S603  # our own module, and no shell
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            start_new_session=True,  # Ctrl-C is for this process, which then ends the child
        )
    except OSError as exc:
        raise EngineError(
            f"build with {request.backend}",
            expected="a process for it",
            got=exc.strerror or str(exc),
            do="close applications, and try again",
        ) from exc


class _Conversation:
    """What the child has said so far."""

    def __init__(self, progress: Progress, log: Log | None) -> None:
        self.progress, self.log = progress, log
        self.began = self.shown = time.monotonic()
        self.at: tuple[str, int, int] = ("starting the builder", 0, 1)
        self.answer: dict[str, Any] = {}
        self.last_lines: deque[str] = deque(maxlen=LINES_KEPT)

    def listen(self, process: subprocess.Popen[bytes]) -> None:
        """Until the child has closed both streams, or has ended and left them to somebody else."""
        assert process.stdout is not None
        assert process.stderr is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ, self._message)
            selector.register(process.stderr, selectors.EVENT_READ, self._line)
            rest: dict[int, bytes] = {}
            while selector.get_map():
                events = selector.select(HEARTBEAT_S)
                if not events and process.poll() is not None:
                    return
                for key, _ in events:
                    data = os.read(key.fd, 1 << 16)
                    *lines, rest[key.fd] = (rest.get(key.fd, b"") + data).split(b"\n")
                    if not data:
                        selector.unregister(key.fileobj)
                        lines = [rest[key.fd]]
                    for line in filter(None, lines):
                        key.data(line.decode(errors="replace"))
                self._beat()

    def _message(self, line: str) -> None:
        try:
            message = json.loads(line)
            if "progress" in message:
                step, done, total, note = message["progress"]
                self._show((str(step), int(done), int(total)), str(note))
            else:
                self.answer = dict(message)
        except (ValueError, TypeError):
            self._line(line)

    def _line(self, line: str) -> None:
        self.last_lines.append(line.strip())
        if self.log is not None:
            self.log(line)

    def _beat(self) -> None:
        if time.monotonic() - self.shown >= HEARTBEAT_S:
            self._show(self.at, f"{time.monotonic() - self.began:.0f} s")

    def _show(self, at: tuple[str, int, int], note: str) -> None:
        self.at, self.shown = at, time.monotonic()
        self.progress(*at, note)


def _ask(process: subprocess.Popen[bytes], request: BuildRequest, onnx_bytes: bytes, plan: Path) -> None:
    assert process.stdin is not None
    header = {"request": request.to_json(), "onnx_size": len(onnx_bytes), "plan": str(plan.absolute())}
    with contextlib.suppress(BrokenPipeError):  # how the child ended tells more
        process.stdin.write(json.dumps(header).encode() + b"\n")
        process.stdin.write(onnx_bytes)
        process.stdin.flush()


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.stdin is not None:
        with contextlib.suppress(OSError):  # what it did not read any more
            process.stdin.close()


def _outcome(conversation: _Conversation, status: int, request: BuildRequest, before: int | None) -> str:
    answer, subject = conversation.answer, f"build with {request.backend}"
    if "version" in answer and status == 0:
        return str(answer["version"])
    if "error" in answer:
        error = dict(answer["error"])
        kind = {"OutputError": OutputError, "EngineError": EngineError}[error.pop("kind")]
        raise kind(**error)
    if status == -signal.SIGKILL:
        raise EngineError(
            subject,
            expected="a process that ends by itself",
            got="SIGKILL, as the system sends when memory runs out; available before the build: "
            f"{megabytes(before)}, after it: {megabytes(available_bytes())}",
            do="choose a smaller --max-batch or --workspace, close applications, or add swap",
        )
    said = "; ".join(conversation.last_lines) or "without a word"
    how = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
    raise EngineError(
        subject,
        expected="a process that ends with a plan",
        got=f"{how}: {said}",
        do="run it with --debug and report it",
    )

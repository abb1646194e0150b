"""What a running command shows on stderr: a bar on a terminal, and lines in a log. Every command has one display."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from pgn_edge.progress import ProgressLines
from pgn_edge.redact import redact

if TYPE_CHECKING:
    from rich.console import Console

QUIET_S = 1.0  # a command that ends sooner shows nothing
TICK_S = 0.5
LOADED = ("torch", "open_clip", "timm", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "matplotlib", "cv2")


class Display:
    """Progress of one command, from its first second on. A thread calls `tick`, the command calls the rest.

    Args:
        console: Terminal to draw on; None where stderr is no terminal, so that lines are written instead.
        write: Function that takes one line of a log.
        clock: Function that gives the time in seconds.
    """

    def __init__(
        self,
        console: Console | None,
        write: Callable[[str], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._console, self._clock = console, clock
        self.live = True  # a measurement draws only when it tells something: a drawing thread would disturb it
        self._started_s = clock()
        self._lock = threading.RLock()
        self._bars: Any = None
        self._rows: dict[str, Any] = {}
        self._waiting: Any = None
        self._doing, self._ended = "", False
        self._lines = ProgressLines(write, clock)

    def __call__(self, step: str, done: int, total: int, note: str = "") -> None:
        """See `Progress`."""
        with self._lock:
            if self._console is None:
                self._lines(step, done, total, note)
                return
            self._clear_waiting()
            bars = self._open_bars()
            if step not in self._rows:
                self._rows[step] = bars.add_task(step, total=total, note="")
            bars.update(self._rows[step], completed=done, total=total, note=note)
            bars.refresh()

    def begin(self, doing: str) -> None:
        """Name what happens until the next step."""
        with self._lock:
            self._doing, self._ended, self._started_s = doing, False, self._clock()

    def tick(self) -> None:
        """Show that the command is alive: a moving bar before the first step, or a line after 30 s of silence."""
        with self._lock:
            if self._ended:
                return
            doing = self._doing or loading() or "working"
            if self._console is None:
                if not self._lines.has_steps:
                    self._lines.begin(doing)
                self._lines.beat()
            elif not self._rows and self._clock() - self._started_s >= QUIET_S:
                bars = self._open_bars()
                if self._waiting is None:
                    self._waiting = bars.add_task(doing, total=None, note="")
                bars.update(self._waiting, description=doing)
                bars.refresh()

    def pause(self) -> None:
        """Take the bars off the terminal: what the command prints now is its result."""
        with self._lock:
            self._clear_waiting()
            if self._bars is not None:
                self._bars.stop()
            self._bars, self._rows, self._ended = None, {}, self._console is not None

    def _clear_waiting(self) -> None:
        if self._waiting is not None:
            self._bars.remove_task(self._waiting)
            self._waiting = None

    def _open_bars(self) -> Any:
        if self._bars is None:
            self._bars = _new_bars(self._console, self.live)
            self._bars.start()
        return self._bars


def loading() -> str:
    """`loading torch …` while that library is being imported; empty while none is."""
    for name in LOADED:
        spec = getattr(sys.modules.get(name), "__spec__", None)
        if getattr(spec, "_initializing", False):
            return f"loading {name} …"
    return ""


@contextmanager
def showing() -> Iterator[Display]:
    """The display of a command while it runs."""
    global _current  # noqa: PLW0603  # one command runs in a process
    console = None
    if sys.stderr is not None and sys.stderr.isatty():  # a caller may have closed it
        from rich.console import Console

        console = Console(stderr=True)
    shown = Display(console, lambda line: click.echo(redact(f"pgn-edge: {line}"), err=True))
    ended = threading.Event()

    def beat() -> None:
        with suppress(OSError, ValueError):  # whoever read stderr is gone, and the command decides what that means
            while not ended.wait(TICK_S):
                shown.tick()

    thread = threading.Thread(target=beat, name="pgn-edge progress", daemon=True)
    before, _current = _current, shown
    thread.start()
    try:
        yield shown
    finally:
        ended.set()
        thread.join()
        shown.pause()
        _current = before


def current_display() -> Display | None:
    """The display of the command that runs; None outside of a command."""
    return _current


_current: Display | None = None


def _new_bars(console: Console | None, live: bool) -> Any:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        auto_refresh=live,
    )

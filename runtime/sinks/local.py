"""Answers for the program itself, and for a person at the screen."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import TracebackType

import numpy as np

from pgn_edge.contract import EngineFacts
from pgn_edge.errors import OutputError
from pgn_edge.extras import cv2
from pgn_edge.host import output_of
from pgn_edge.runtime.annotate import annotate
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.sinks.base import Counts, OnError, Tally, check_on_error
from pgn_edge.runtime.sources import Frame

# Qt ends the whole process where it finds no display, so that a child has to try it first.
PROBE = "import cv2; cv2.namedWindow('probe'); cv2.waitKey(1); cv2.destroyAllWindows()"
QUIT_KEYS = (27, ord("q"))  # Esc or q


class CallbackSink:
    """Calls a function for each frame, in the thread of the loop.

    Args:
        callback: takes the frame and its results; both are its own, and what it returns is ignored.
        on_error: `raise` ends the run when it fails; `drop` counts the frame as lost and goes on.

    Raises:
        OutputError: another `on_error`.
    """

    def __init__(self, callback: Callable[[Frame, Sequence[Result]], object], on_error: OnError = "raise") -> None:
        check_on_error(on_error, "callback")
        self._callback, self._on_error, self._tally = callback, on_error, Tally()

    @property
    def counts(self) -> Counts:
        """See `Sink.counts`."""
        return self._tally.counts

    def write(self, frame: Frame, results: Sequence[Result]) -> None:
        """See `Sink.write`."""
        with self._tally.attempt(self._on_error):
            try:
                self._callback(frame, results)
            except Exception as exc:
                got = f"{type(exc).__name__}: {exc}"
                raise OutputError(
                    "callback", expected="a call that returns", got=got, do="mend it, or drop its errors"
                ) from exc

    def __enter__(self) -> CallbackSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class WindowSink:
    """Shows the annotated frame in a window; Esc, q or its close button end the showing, not the run.

    `write` belongs to one thread, on macOS the main one. `closed` says that the person is done: a loop may end then.

    Args:
        facts: of the ViT engine, `Runtime.facts`.
        title: of the window.
    """

    def __init__(self, facts: EngineFacts, title: str = "pgn-edge") -> None:
        self._facts, self._title, self._tally = facts, title, Tally()
        self.closed = False

    @property
    def counts(self) -> Counts:
        """See `Sink.counts`; frames after the window was closed are lost."""
        return self._tally.counts

    def write(self, frame: Frame, results: Sequence[Result]) -> None:
        """See `Sink.write`."""
        self._tally.add(offered=1)
        if self.closed:
            self._tally.add(lost=1)
            return
        cv2.imshow(self._title, np.vstack([annotate(frame.image_bgr, result, self._facts) for result in results]))
        self._tally.add(sent=1)
        # A window handles its own clicks, and is drawn, only while a key is waited for.
        key = cv2.waitKey(1) & 0xFF
        if key in QUIT_KEYS or not self._is_open():
            self._close()

    def __enter__(self) -> WindowSink:
        _, reason = output_of([sys.executable, "-c", PROBE])
        if reason:
            raise OutputError(
                "window",
                expected="a display, and an OpenCV that opens windows",
                got=reason,
                do="set DISPLAY or WAYLAND_DISPLAY, take opencv-python and not its headless build, or show none",
            )
        cv2.namedWindow(self._title, cv2.WINDOW_AUTOSIZE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.closed:
            self._close()

    def _close(self) -> None:
        self.closed = True
        if self._is_open():
            cv2.destroyWindow(self._title)
            cv2.waitKey(1)  # else the window stays until the next event

    def _is_open(self) -> bool:
        try:
            return bool(cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1)
        except cv2.error:  # Qt's answer once the last window of the process was closed
            return False

"""How library functions tell of their progress without knowing who listens, and progress as lines of a log."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Protocol

EVERY_S = 30.0  # longest silence of a log


class Progress(Protocol):
    """Called now and then by anything that takes more than two seconds."""

    def __call__(self, step: str, done: int, total: int, note: str = "") -> None:
        """`done` of `total` units of `step` are finished; `note` is a short remark such as a loss."""


def silent(step: str, done: int, total: int, note: str = "") -> None:
    """The default listener: nobody."""


class ProgressLines:
    """Progress as lines of text: the start and the end of each step, and a line at least every 30 s between them.

    Args:
        write: Function that takes one line.
        clock: Function that gives the time in seconds.

    Example:
        >>> lines = ProgressLines(print, clock=lambda: 0.0)
        >>> lines("train", 0, 100)
        train: 0 of 100
        >>> lines("train", 40, 100)
        >>> lines("train", 100, 100, "loss 0.51")
        train: 100 of 100, loss 0.51
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = monotonic) -> None:
        self._write, self._clock = write, clock
        self._started_s = self._written_s = clock()
        self._seen: set[str] = set()
        self._ended: set[str] = set()
        self._last = ""

    def __call__(self, step: str, done: int, total: int, note: str = "") -> None:
        """See `Progress`."""
        self._last = f"{step}: {done} of {total}{f', {note}' if note else ''}"
        # A stream without an end has as many frames as were read, so each of its frames would be the last.
        ends = done >= total and step not in self._ended
        if step not in self._seen or ends or self._is_due():
            self._say(self._last)
        self._seen.add(step)
        if done >= total:
            self._ended.add(step)

    @property
    def has_steps(self) -> bool:
        """Whether a step was told of."""
        return bool(self._seen)

    def begin(self, doing: str) -> None:
        """Name what happens until the next step; it is said only if it takes long."""
        self._last = doing

    def beat(self) -> None:
        """Say what is under way if nothing was said for 30 s; a thread calls this once a second."""
        if self._is_due():
            self._say(f"{self._last}, {self._clock() - self._started_s:.0f} s since the start")

    def _is_due(self) -> bool:
        return self._clock() - self._written_s >= EVERY_S

    def _say(self, line: str) -> None:
        self._written_s = self._clock()
        # Steps and notes may hold names of files: no line breaks, no terminal escapes.
        self._write("".join(character if character.isprintable() else " " for character in line))

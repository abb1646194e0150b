"""What every sink is: a context manager that takes frames with their answers, and counts what became of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, Protocol

from pgn_edge.errors import OutputError
from pgn_edge.redact import redact
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.sources import Frame

OnError = Literal["raise", "drop"]


@dataclass(frozen=True)
class Counts:
    """What became of everything that a sink was given; once it is closed, offered = sent + dropped + lost.

    Args:
        offered: what it was given: documents, one for each frame and task, or pictures, one for each frame.
        sent: what arrived, as far as the sink can know.
        dropped: what gave way to something newer in a full queue.
        lost: what failed for good.
        errors: failed attempts, of which one thing may see several.
        last_error: the latest of them; empty where there was none.
    """

    offered: int = 0
    sent: int = 0
    dropped: int = 0
    lost: int = 0
    errors: int = 0
    last_error: str = ""

    @property
    def waiting(self) -> int:
        """What is still on its way."""
        return self.offered - self.sent - self.dropped - self.lost


class Tally:
    """`Counts` that grow; any thread may call."""

    def __init__(self) -> None:
        self._lock, self._counts = threading.Lock(), Counts()

    @property
    def counts(self) -> Counts:
        """The counts of this moment."""
        return self._counts

    def add(self, **more: int) -> None:
        """Count so many more of the fields that are named."""
        with self._lock:
            self._counts = replace(self._counts, **{name: getattr(self._counts, name) + n for name, n in more.items()})

    def fail(self, reason: str) -> None:
        """Count a failed attempt."""
        shown = redact(reason)
        with self._lock:
            self._counts = replace(self._counts, errors=self._counts.errors + 1, last_error=shown)

    @contextmanager
    def attempt(self, on_error: OnError, *, sent: int = 1) -> Iterator[None]:
        """Count something that is offered and written here, or lost by an OutputError.

        Args:
            on_error: whether that is raised again.
            sent: what counts as sent where it was written; 0 where only the end of the file will tell.
        """
        self.add(offered=1)
        try:
            yield
        except OutputError as exc:
            self.add(lost=1)
            self.fail(exc.got)
            if on_error == "raise":
                raise
        else:
            self.add(sent=sent)


class Sink(Protocol):
    """A context manager that keeps what it is given; left by an exception, it leaves no file behind."""

    @property
    def counts(self) -> Counts:
        """What became of everything so far; readable from any thread, also after the end."""

    def write(self, frame: Frame, results: Sequence[Result]) -> None:
        """Take one frame and the answers of all tasks for it.

        Raises:
            OutputError: it cannot be written.
        """

    def __enter__(self) -> Sink: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...


def check_on_error(on_error: str, subject: str) -> None:
    """Refuse what is neither `raise` nor `drop`.

    Raises:
        OutputError: likewise.
    """
    if on_error not in ("raise", "drop"):
        raise OutputError(subject, expected="on_error raise or drop", got=repr(on_error), do="choose one of them")

"""The event log of a running app: what was lost, came back, was refused, fails or was swapped."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from pgn_edge.redact import public_name, redact
from pgn_edge.runtime.record import utc
from pgn_edge.runtime.sinks.base import Sink

MOST_EVENTS = 200  # that are kept
LONGEST_TEXT = 300  # characters
LOOK_S = 0.5  # between two looks at the counts of the sinks
# A subject that changes its state all the time may say this many lines at once, and then one every LINE_S.
BURST_LINES = 6
LINE_S = 30.0
PROBLEMS = frozenset({"lost", "refused", "failing", "failed"})

Report = Callable[[str, str], None]


@dataclass(frozen=True)
class Event:
    """One change of state.

    Args:
        at: UTC time in ISO 8601, to the millisecond.
        kind: Kind of the subject: `camera`, `sink` or `task`.
        subject: Name of the camera, sink or task.
        state: New state: `lost`, `back`, `refused`, `failed`, `failing`, `recovered` or `done`.
        text: Reason in a few words, without secrets.
    """

    at: str
    kind: str
    subject: str
    state: str
    text: str

    @property
    def is_problem(self) -> bool:
        """Whether something is wrong from here on."""
        return self.state in PROBLEMS

    def __str__(self) -> str:
        return f"{self.at} {self.kind} {self.subject}: {self.state}{f': {self.text}' if self.text else ''}"

    def to_json(self) -> dict[str, str]:
        """Give the event as a JSON object."""
        return {name: getattr(self, name) for name in ("at", "kind", "subject", "state", "text")}


class EventLog:
    """Keeps the newest events, counts all, and says each change of state once; any thread may call.

    Args:
        say: Function that takes one line for a person, such as `print`; None for a log that is only read. Lines of one
            subject are limited to a burst of 6 and one every 30 s; the next line says how many were left out.
        clock: Function that gives seconds that never go back.

    Example:
        >>> events = EventLog()
        >>> events.add("camera", "gate", "lost", "no frame for 1.8 s")
        >>> events.last_error.subject, events.counts
        ('gate', {('camera', 'gate', 'lost'): 1})
    """

    def __init__(self, say: Callable[[str], object] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._lock = threading.Lock()
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._newest: dict[tuple[str, str], Event] = {}
        self._problems: dict[tuple[str, str], Event] = {}
        self._lines: dict[tuple[str, str], _Lines] = {}

    def add(self, kind: str, subject: str, state: str, text: str = "") -> None:
        """Log a state of a subject; one that it is in already, for the same reason, is only counted.

        Args:
            kind: Kind of the subject: `camera`, `sink` or `task`.
            subject: Name of the camera, sink or task.
            state: State of the subject from now on, see `Event`.
            text: Reason in a few words; secrets in it are left out.
        """
        shown = " ".join(redact(text).split())[:LONGEST_TEXT]
        event = Event(utc(time.time()), kind, public_name(subject), state, shown)
        key = kind, event.subject
        with self._lock:
            self._counts[(*key, state)] += 1
            before = self._newest.get(key)
            if before is not None and (before.state, before.text) == (state, shown):
                return
            self._newest[key] = event
            self._events.append(event)
            if event.is_problem:
                self._problems.pop(key, None)
                self._problems[key] = event
            line = self._lines.setdefault(key, _Lines(self._clock())).line(event, self._clock())
        if self._say is not None and line:
            self._say(line)

    def about(self, kind: str, subject: str) -> Report:
        """Give a function that logs a state and its reason of one subject.

        Args:
            kind: Kind of the subject.
            subject: Name of the subject.
        """
        return partial(self.add, kind, subject)

    @property
    def events(self) -> tuple[Event, ...]:
        """The newest events, the oldest of them first."""
        with self._lock:
            return tuple(self._events)

    @property
    def counts(self) -> dict[tuple[str, str, str], int]:
        """How often each subject came into each state, by kind, subject and state."""
        with self._lock:
            return dict(self._counts)

    @property
    def problems(self) -> dict[tuple[str, str], Event]:
        """The last problem of each subject that had one, by kind and subject, over or not."""
        with self._lock:
            return dict(self._problems)

    @property
    def last_error(self) -> Event | None:
        """The newest problem; None where there was none."""
        problems = list(self.problems.values())
        return problems[-1] if problems else None

    def state_of(self, kind: str, subject: str) -> Event | None:
        """Give the newest event of a subject; None where there was none."""
        with self._lock:
            return self._newest.get((kind, subject))

    @contextmanager
    def watching(self, sinks: Mapping[str, Sink]) -> Iterator[None]:
        """Log when a sink begins to fail and when it works again, from its counts.

        Args:
            sinks: Sinks by the name that the log gives them.
        """
        over = threading.Event()
        watches = [_SinkWatch(sink, self.about("sink", name)) for name, sink in sinks.items()]

        def look() -> None:
            while not over.wait(LOOK_S):
                for watch in watches:
                    watch.look()

        thread = threading.Thread(target=look, name="pgn-edge events", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            for watch in watches:
                watch.look()


class _Lines:
    """How many lines a subject may still say."""

    def __init__(self, now: float) -> None:
        self._left, self._at, self._unsaid = float(BURST_LINES), now, 0

    def line(self, event: Event, now: float) -> str:
        """Text for a person; empty where there were too many."""
        self._left = min(self._left + (now - self._at) / LINE_S, BURST_LINES)
        self._at = now
        if self._left < 1:
            self._unsaid += 1
            return ""
        more = f" ({self._unsaid} changes before it not shown)" if self._unsaid else ""
        self._left, self._unsaid = self._left - 1, 0
        return f"{event}{more}"


class _SinkWatch:
    """The counts of a sink at the last look."""

    def __init__(self, sink: Sink, report: Report) -> None:
        self._sink, self._report, self._before = sink, report, sink.counts
        self._fails = False

    def look(self) -> None:
        before, now = self._before, self._sink.counts
        self._before = now
        if now.errors > before.errors:
            self._fails = True
            self._report("failing", now.last_error)
        elif self._fails and now.sent > before.sent:
            self._fails = False
            self._report("recovered", "")


def silent(_state: str, _text: str) -> None:
    """Log nothing."""


def last_error(events: EventLog) -> dict[str, str] | None:
    """Give the newest problem of a log as a JSON object; None where there is none."""
    event = events.last_error
    return None if event is None else event.to_json()

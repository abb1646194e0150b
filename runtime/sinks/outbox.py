"""Documents on their way to another machine: a bounded queue, and a thread that nobody ever waits for in vain."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from time import monotonic

from pgn_edge.runtime.sinks.base import Counts, Tally

Document = tuple[str, bytes]  # where to, what
GRACE_S = 0.5  # for a worker to see that its time is over


class Outbox:
    """Keeps documents until they are settled, the newest of them where there are too many.

    One thread of its own runs `work`, which takes documents and settles each as sent or lost. Any thread may offer.
    After `close` every document is settled: what is then still here or under way is lost, and a worker that hangs in a
    call of the system is left behind, with nothing that it can count any more.

    Args:
        work: runs until `expired`, or until `idle` after `closing`.
        limit: of documents that wait.
        wake: called after each `offer` and at `close`, for a worker that waits for more than documents.
    """

    def __init__(self, work: Callable[[], None], limit: int, wake: Callable[[], object] = lambda: None) -> None:
        self._limit, self._wake, self._tally = limit, wake, Tally()
        self._waiting: deque[Document] = deque()
        self._changed = threading.Condition()
        self._deadline: float | None = None
        self._over = False
        self._thread = threading.Thread(target=work, name="pgn-edge sink", daemon=True)

    @property
    def counts(self) -> Counts:
        """See `Sink.counts`."""
        return self._tally.counts

    def start(self) -> None:
        """Let the worker begin."""
        self._thread.start()

    def offer(self, document: Document) -> None:
        """Queue a document; the oldest gives way if there is no room. Never waits for the network."""
        with self._changed:
            if self._over:
                self._tally.add(offered=1, lost=1)
                return
            full = len(self._waiting) >= self._limit
            if full:
                self._waiting.popleft()
            self._waiting.append(document)
            self._tally.add(offered=1, dropped=int(full))
            self._changed.notify_all()
        self._wake()

    def take(self, wait: bool = True) -> Document | None:
        """The oldest document, which the caller then settles; None when there is none, and none will come.

        Args:
            wait: until there is one, or until the outbox closes; else None may also mean that there is none yet.
        """
        with self._changed:
            while wait and not self._waiting and self._deadline is None:
                self._changed.wait()
            return None if self.expired or not self._waiting else self._waiting.popleft()

    def give_back(self, document: Document) -> None:
        """Put a document that was taken, and not settled, in front again; it gives way where the queue is full."""
        with self._changed:
            if self._over:
                return
            if len(self._waiting) >= self._limit:
                self._tally.add(dropped=1)
            else:
                self._waiting.appendleft(document)

    def settle(self, sent: bool) -> None:
        """Say what became of a document that was taken."""
        with self._changed:
            if not self._over:
                self._tally.add(**{"sent" if sent else "lost": 1})

    def fail(self, reason: str) -> None:
        """Count a failed attempt."""
        with self._changed:
            if not self._over:
                self._tally.fail(reason)

    @property
    def closing(self) -> bool:
        """Whether nothing more will come."""
        return self._deadline is not None

    @property
    def idle(self) -> bool:
        """Whether no document waits."""
        return not self._waiting

    @property
    def expired(self) -> bool:
        """Whether the time for flushing is over."""
        return self.left_s <= 0

    @property
    def left_s(self) -> float:
        """Seconds until the worker must be done; endless before `close`."""
        return float("inf") if self._deadline is None else self._deadline - monotonic()

    def rest(self, seconds: float) -> None:
        """Wait between two attempts, no longer than the time that is left, also where that becomes known meanwhile."""
        until = monotonic() + seconds
        with self._changed:
            while (left_s := min(until - monotonic(), self.left_s)) > 0:
                self._changed.wait(left_s)

    def close(self, flush_s: float) -> None:
        """Let the worker go on for `flush_s` at the most, then count what is left as lost; twice does no harm."""
        with self._changed:
            if self._deadline is None:
                self._deadline = monotonic() + flush_s
            self._changed.notify_all()
        self._wake()
        if self._thread.is_alive():
            self._thread.join(max(self.left_s, 0) + GRACE_S)
        with self._changed:
            self._over = True
            self._tally.add(lost=self._tally.counts.waiting)
            self._waiting.clear()

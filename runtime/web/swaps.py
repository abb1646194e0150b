"""Bundles that the page may put in the place of a task, and what became of it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from pgn_edge.errors import PgnEdgeError
from pgn_edge.runtime.events import EventLog
from pgn_edge.runtime.runtime import Runtime

MOST_BUNDLES = 500


class Swaps:
    """Swaps tasks of a runtime for bundles of one folder, one swap at a time; any thread may call.

    Args:
        runtime: whose tasks.
        folder: of the bundles; None where none is to be swapped.
        events: Log of what became of each swap.
    """

    def __init__(self, runtime: Runtime, folder: Path | None, events: EventLog) -> None:
        self._runtime, self._folder, self._events = runtime, folder, events
        self._one = threading.Lock()
        self._last: dict[str, dict[str, Any]] = {}

    @property
    def bundles(self) -> list[str] | None:
        """Names of the bundles, `*.pgn`, in order; None where no swap is offered."""
        if self._folder is None:
            return None
        try:
            found = [path.name for path in self._folder.glob("*.pgn") if path.is_file()]
            # A hidden one is half a bundle: a writer is at work, or was killed.
            return sorted(name for name in found if not name.startswith("."))[:MOST_BUNDLES]
        except OSError:  # a card that was pulled out
            return []

    def last(self, task: str) -> dict[str, Any] | None:
        """The last swap of a task as a JSON object: bundle, state (loading, done, failed) and error."""
        return self._last.get(task)

    def swap(self, task: str, bundle: str) -> tuple[int, str]:
        """Put a bundle in the place of a task, in this thread.

        Args:
            task: name of a loaded task.
            bundle: one of `bundles`; nothing else is opened.

        Returns:
            Status of HTTP, and one line that says what happened.
        """
        bundles = self.bundles
        if self._folder is None or bundles is None:
            return 403, "no swap is offered here: the page was started without a folder of bundles"
        if task not in self._runtime.tasks:
            return 404, f"no task {task!r}: there are {', '.join(self._runtime.tasks) or 'none'}"
        if bundle not in bundles:
            return 404, f"no bundle {bundle!r}: there are {', '.join(bundles) or 'none'}"
        if not self._one.acquire(blocking=False):
            return 409, "another swap is under way: try again when it is done"
        try:
            return self._swap(task, bundle, self._folder / bundle)
        finally:
            self._one.release()

    def _swap(self, task: str, bundle: str, path: Path) -> tuple[int, str]:
        self._last = {name: last for name, last in self._last.items() if name in self._runtime.tasks}
        self._last[task] = {"bundle": bundle, "state": "loading", "error": ""}
        error = "the swap broke off"
        try:
            self._runtime.swap(task, path)
            error = ""
        except PgnEdgeError as exc:
            error = str(exc)
        finally:
            self._last[task] = {"bundle": bundle, "state": "failed" if error else "done", "error": error}
            self._events.add("task", task, "refused" if error else "done", f"swap to {bundle}{error and f': {error}'}")
        return (422, error) if error else (200, f"{task} is {bundle} now")

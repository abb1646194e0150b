"""Objects with threads belong to the process that made them: a forked child has the objects and not the threads."""

from __future__ import annotations

import os

from pgn_edge.errors import EngineError

_abandoned: list[object] = []


class ProcessGuard:
    """Knows the process that an object was made in.

    Args:
        what: Name of the object for messages, for example `runtime`.
    """

    def __init__(self, what: str) -> None:
        self._what, self._made_in = what, os.getpid()

    @property
    def is_fork(self) -> bool:
        """Whether this process was forked from the one that made the object."""
        return os.getpid() != self._made_in

    def check(self) -> None:
        """Refuse a forked process.

        Raises:
            EngineError: This process was forked from the one that made the object.
        """
        if self.is_fork:
            raise EngineError(
                self._what,
                expected=f"the process that made it ({self._made_in})",
                got=f"a process that was forked from it ({os.getpid()}), without its threads",
                do="make it after the fork, in each process, or start processes with multiprocessing's 'spawn'",
            )

    def abandon(self, *objects: object) -> None:
        """Keep objects of the parent alive in a forked child: destroying them would wait for threads of the parent."""
        _abandoned.extend(objects)

"""Every error that pgn-edge raises on purpose.

PgnEdgeError
├── CheckpointError    a training checkpoint cannot be used
├── BundleError        a task bundle (task.pgn) cannot be used
├── GeometryError      sizes, slots and layouts that do not fit together
├── EngineError        an engine cannot be opened, or failed while it ran
│   └── TaskError          the PGN engine of one task failed; the ViT engine and other tasks did not
├── PairingError       a task and a ViT engine were not made for each other
├── ExportError        an export was refused
│   ├── InversionError     prompt inversion would not be exact
│   └── ParityError        a rung of the parity ladder failed
├── DataError          images, videos or data sets cannot be read
├── TrainingError      training cannot start, go on, or has diverged
│   └── InterruptedRunError  a signal ended a run that can go on later
├── OutputError        a result cannot be written
└── MissingExtraError  an optional dependency is not installed

Each carries what was expected, what came and what to do about it, and reads as one line.
"""

from __future__ import annotations

import signal
from typing import Any

from pgn_edge.redact import redact


class PgnEdgeError(Exception):
    """Root of the tree: one line that says what was expected, what came, and what to do.

    Args:
        subject: the file, option or object that the sentence is about.
        expected: what would have been right.
        got: what came instead.
        do: what the user can do now.
    """

    def __init__(self, subject: str, *, expected: str, got: str, do: str) -> None:
        # Parts may quote an address, or a foreign error that does.
        self.subject = redact(str(subject))
        self.expected = redact(str(expected))
        self.got = redact(str(got))
        self.do = redact(str(do))
        message = f"{self.subject}: expected {self.expected}, got {self.got}; {self.do}"
        # Parts of it come from files that nobody vouches for: no line breaks, no terminal escapes.
        super().__init__("".join(c if c.isprintable() else " " for c in message))

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle as cls(*args), which would lose the keywords on the way back from a worker process.
        return _rebuild, (type(self), self.subject, self.expected, self.got, self.do)


def _rebuild(cls: type[PgnEdgeError], subject: str, expected: str, got: str, do: str) -> PgnEdgeError:
    error = cls.__new__(cls)
    PgnEdgeError.__init__(error, subject, expected=expected, got=got, do=do)
    return error


class CheckpointError(PgnEdgeError):
    """A training checkpoint is damaged, foreign, or made for something else."""


class BundleError(PgnEdgeError):
    """A task bundle is damaged, foreign, or of another version."""


class GeometryError(PgnEdgeError):
    """Sizes, prompt slots and layouts do not fit together."""


class EngineError(PgnEdgeError):
    """An engine cannot be opened, or failed while it ran."""


class TaskError(EngineError):
    """The PGN engine of one task failed while it ran; its subject is the name of that engine."""


class PairingError(PgnEdgeError):
    """A task and a ViT engine were not made for each other."""


class ExportError(PgnEdgeError):
    """An export was refused."""


class InversionError(ExportError):
    """Prompt inversion would not be exact for this projection and library."""


class ParityError(ExportError):
    """A rung of the parity ladder is outside its limit."""


class DataError(PgnEdgeError):
    """Images, videos or data sets cannot be read."""


class TrainingError(PgnEdgeError):
    """Training cannot start, cannot go on, or has diverged."""


class InterruptedRunError(TrainingError):
    """A signal ended a run, which wrote its state and can go on later.

    `got` begins with the name of the signal.
    """

    @property
    def status(self) -> int:
        """Exit status of the command: 128 and the number of the signal; 1 for a signal in another process."""
        number = getattr(signal, self.got.split(" ", 1)[0], None)
        return 128 + number if isinstance(number, signal.Signals) else 1


class OutputError(PgnEdgeError):
    """A result cannot be written."""


def install_line(*extras: str) -> str:
    """The pip line that installs pgn-edge with extras, from a package or from a checkout of the source.

    Args:
        extras: Names of extras; empty ones are left out.
    """
    names = ",".join(filter(None, extras))
    return f"pip install 'pgn-edge[{names}]' (in a checkout: pip install '.[{names}]')" if names else "pip install ."


class MissingExtraError(PgnEdgeError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            package,
            expected="the package to be installed",
            got="no such module",
            do=f"run: {install_line(extra)}",
        )

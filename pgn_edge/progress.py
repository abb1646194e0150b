"""How library functions tell of their progress without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called now and then by anything that takes more than two seconds."""

    def __call__(self, step: str, done: int, total: int, note: str = "") -> None:
        """`done` of `total` units of `step` are finished; `note` is a short remark such as a loss."""


def silent(step: str, done: int, total: int, note: str = "") -> None:
    """The default listener: nobody."""

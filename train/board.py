"""Curves for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pgn_edge.errors import OutputError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Board:
    """Writes scalars to a folder, or nowhere.

    Args:
        folder: of this run's files; None for nowhere.

    Raises:
        OutputError: the folder cannot be written.
    """

    def __init__(self, folder: Path | None) -> None:
        self.writer: SummaryWriter | None = None
        if folder is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        try:
            self.writer = SummaryWriter(str(folder))
        except OSError as exc:
            got = exc.strerror or str(exc)
            raise OutputError(
                str(folder), expected="a folder that can be written", got=got, do="choose another"
            ) from exc

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *reason: object) -> None:
        if self.writer is not None:
            self.writer.close()

    def write(self, step: int, curves: Mapping[str, float]) -> None:
        """Add a point to each curve.

        Args:
            step: steps done.
            curves: name -> value.
        """
        if self.writer is not None:
            for name, value in curves.items():
                self.writer.add_scalar(name, value, step)

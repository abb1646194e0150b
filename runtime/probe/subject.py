"""What is probed: something that answers pictures with vectors, whatever is behind it."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from pgn_edge.errors import EngineError

USUAL_SIZES = (224, 256, 384, 336, 448, 512, 518, 128, 96, 64, 32)  # of ViTs, the usual first; pixels of a side
MOST_CALLS = 400


class Subject(Protocol):
    """An engine or a service that takes pictures of one size at least.

    Attributes:
        name: file or address, for messages.
        eight_bit: whether it takes pixels of 8 bits and nothing else.
        size_hw: a size (H, W) that it takes.
        fixed: whether it declares that it takes no other.
        calls: made so far.
    """

    name: str
    eight_bit: bool
    size_hw: tuple[int, int]
    fixed: bool
    calls: int

    def answer(self, values: np.ndarray) -> np.ndarray:
        """One vector for each picture.

        Args:
            values: (M, H, W, 3) of any real type, in the units and the order of channels that it expects.

        Returns:
            (M, D) float64; NaN and Inf are passed on.

        Raises:
            EngineError: it refused, or did not answer.
            SpentError: all calls are made.
        """


class SpentError(EngineError):
    """The probe has made all the calls that it may."""


def spent(name: str, most: int) -> SpentError:
    """The error of a probe that has made `most` calls."""
    return SpentError(name, expected=f"all questions in {most} calls", got="more", do="allow more with --calls")


def to_levels(values: np.ndarray) -> np.ndarray:
    """The nearest of the 256 levels; what is outside is clipped. NaN is none of them, and becomes 0."""
    return np.asarray(np.nan_to_num(np.rint(values), nan=0.0).clip(0, 255), np.uint8)

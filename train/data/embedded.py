"""Readers of the data sets that are made from what scikit-learn ships."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pgn_edge.train.data.dataset import Parts
from pgn_edge.train.data.samples import Arrays


def read_digits(root: Path) -> Parts:
    """Handwritten digits over photographs; nothing is read from the root."""
    from pgn_edge.train.digits import LABELS, SPLITS, digit_frames

    return _parts("digits", LABELS, SPLITS, digit_frames())


def read_counts(root: Path) -> Parts:
    """One to eight objects over photographs; nothing is read from the root."""
    from pgn_edge.train.counts import LABELS, SPLITS, count_frames

    return _parts("counts", LABELS, SPLITS, count_frames())


def _parts(
    title: str, labels: tuple[str, ...], splits: Mapping[str, tuple[int, int]], made: tuple[np.ndarray, np.ndarray]
) -> Parts:
    frames, numbers = made
    # The frames stay one read-only copy in the process; labels are small, and torch warns of read-only ones.
    parts = {
        part: Arrays(frames[low:high], numbers[low:high].copy(), f"{title}/{part}")
        for part, (low, high) in splits.items()
    }
    return Parts(labels, parts["train"], parts["test"], parts["validation"])

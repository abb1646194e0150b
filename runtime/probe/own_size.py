"""Which size a service works at: most take pictures of any size, and resample them to their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pgn_edge.errors import EngineError
from pgn_edge.runtime.probe.finding import margin
from pgn_edge.runtime.probe.pictures import pictures
from pgn_edge.runtime.probe.resize import FILTERS
from pgn_edge.runtime.probe.subject import SpentError, Subject, to_levels
from pgn_edge.runtime.probe.yardstick import FLOOR, OPPOSITE, distances

LARGE = 640  # pixels of a side: more than any usual ViT takes


def own_size(subject: Subject, sizes: Sequence[tuple[int, int]], seed: int) -> tuple[tuple[int, int], float]:
    """The size at which a large picture is answered as it is at its full size.

    Resampled to the service's own size beforehand, with its own filter, it is left alone there; at any other size it is
    resampled twice.

    Args:
        subject: that is asked.
        sizes: to choose from, (H, W); at least two.
        seed: of the picture.

    Returns:
        The best of them, and the margin against the next best.

    Raises:
        EngineError: the large picture is refused.
    """
    large = pictures(1, (LARGE, LARGE), seed)
    whole = subject.answer(large)
    apart = {size_hw: _apart(subject, whole, large, size_hw) for size_hw in sizes}
    best, second = sorted(apart, key=lambda size_hw: apart[size_hw])[:2]
    return best, margin(apart[best], apart[second])


def _apart(subject: Subject, whole: np.ndarray, large: np.ndarray, size_hw: tuple[int, int]) -> float:
    """Distance of the answers, with the filter that suits it best; the largest there is where the size is refused."""
    levels = np.concatenate([to_levels(resize(large, *size_hw)) for resize in FILTERS.values()])
    try:
        answers = subject.answer(levels)
    except SpentError:
        raise
    except EngineError:
        return OPPOSITE
    return max(float(distances(answers, np.repeat(whole, len(answers), axis=0)).min()), FLOOR)

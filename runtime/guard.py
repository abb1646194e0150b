"""NaN and Inf, found before anybody takes what follows from them for an answer."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

import numpy as np


def flaw(arrays: Mapping[str, np.ndarray | None]) -> str:
    """Name of the first array that is not finite; empty where all are.

    Args:
        arrays: float32 of any shape, in the order in which they were computed; None where there is none.
    """
    for name, array in arrays.items():
        # NaN is the largest and the smallest of all; a mask of the whole array would have to be allocated.
        if array is not None and not (isfinite(array.max()) and isfinite(array.min())):
            return name
    return ""

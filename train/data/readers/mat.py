"""MATLAB files (before version 7.3) with arrays of numbers."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pgn_edge.train.data.readers.files import damaged, wrong_layout

SIZE_LIMIT = 1 << 30  # elements of an array; SVHN's training images are 225 million


def read_mat(path: Path, names: Sequence[str], layout: str) -> dict[str, np.ndarray]:
    """Arrays by name.

    Args:
        path: the file.
        names: what is read; other variables are skipped.
        layout: of the data set, for messages.

    Raises:
        DataError: no such file, a damaged one, or one without these arrays.
    """
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatReadError

    if not path.is_file():
        raise wrong_layout(path.parent, layout, f"no {path.name}")
    try:
        shapes = {name: shape for name, shape, _ in whosmat(str(path))}  # headers alone: a bomb is not inflated
        if not all(name in shapes and math.prod(shapes[name]) <= SIZE_LIMIT for name in names):
            raise ValueError(f"{', '.join(f'{name} {shape}' for name, shape in shapes.items()) or 'no array'}")
        return {
            name: np.asarray(array) for name, array in loadmat(str(path), variable_names=names).items() if name in names
        }
    except (
        ValueError,
        TypeError,
        OSError,
        EOFError,
        NotImplementedError,
        LookupError,
        MatReadError,
        zlib.error,
    ) as exc:
        raise damaged(path, f"a MATLAB file with {', '.join(names)}", str(exc) or type(exc).__name__) from exc

"""The embedded data set `digits`: real handwritten digits as colour strokes over photographs.

1,797 digits of 8 x 8 grey levels (UCI optical recognition of handwritten digits, as scikit-learn ships them) and the
two photographs that scikit-learn ships. The split is by index, and the writers follow one another in the file, so test
digits are mostly by writers who are not in the training split; the photographs are cut in the same way.
"""

from __future__ import annotations

import functools

import numpy as np

from pgn_edge.extras import cv2
from pgn_edge.train.backgrounds import SIZE, crop

LABELS = tuple("0123456789")
SPLITS = {"train": (0, 1097), "validation": (1097, 1397), "test": (1397, 1797)}
SEED = 64


@functools.cache
def digit_frames() -> tuple[np.ndarray, np.ndarray]:
    """All digits in the order of the file, made once in a process.

    Returns:
        (1797, 64, 64, 3) uint8 RGB frames and (1797,) int64 labels, both read-only; the same on every call.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    frames = np.empty((len(digits.images), SIZE, SIZE, 3), np.uint8)
    for part, (low, high) in enumerate(SPLITS.values()):
        for index in range(low, high):
            random = np.random.default_rng((SEED, index))
            frames[index] = _blend(digits.images[index], crop(part, random), random)
    labels = digits.target.astype(np.int64)
    frames.flags.writeable = labels.flags.writeable = False
    return frames, labels


def _blend(digit: np.ndarray, background: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Lay a digit (8, 8) of 0..16 over a background as a stroke of one colour that stands out from it."""
    padded = np.pad(digit / 16.0, 1).astype(np.float32)
    stroke = np.clip(cv2.resize(padded, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC), 0, 1)[..., None]
    dark = background.mean() > 127
    colour = random.uniform(0, 90, 3) if dark else random.uniform(165, 255, 3)
    return np.asarray((background * (1 - stroke) + colour * stroke).round().astype(np.uint8))

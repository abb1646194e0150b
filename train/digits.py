"""The embedded data set `digits`: real handwritten digits as colour strokes over photographs.

1,797 digits of 8 x 8 grey levels (UCI optical recognition of handwritten digits, as scikit-learn ships them) and the
two photographs that scikit-learn ships. The split is by index, and the writers follow one another in the file, so test
digits are mostly by writers who are not in the training split; the photographs are cut in the same way.
"""

from __future__ import annotations

import cv2
import numpy as np

SIZE = 64
SPLITS = {"train": (0, 1097), "validation": (1097, 1397), "test": (1397, 1797)}
SEED = 64


def digit_frames() -> tuple[np.ndarray, np.ndarray]:
    """All digits in the order of the file.

    Returns:
        (1797, 64, 64, 3) uint8 RGB frames and (1797,) int64 labels; the same on every call.
    """
    from sklearn.datasets import load_digits, load_sample_images

    digits = load_digits()
    photos = load_sample_images().images
    frames = np.empty((len(digits.images), SIZE, SIZE, 3), np.uint8)
    for part, (low, high) in enumerate(SPLITS.values()):
        for index in range(low, high):
            random = np.random.default_rng((SEED, index))
            background = _background(photos, part, random)
            frames[index] = _blend(digits.images[index], background, random)
    return frames, digits.target.astype(np.int64)


def _background(photos: list[np.ndarray], part: int, random: np.random.Generator) -> np.ndarray:
    """A crop from the third of a photograph that belongs to this split."""
    photo = photos[random.integers(len(photos))]
    third = photo.shape[1] // len(SPLITS)
    side = int(random.integers(48, 160))
    top = int(random.integers(0, photo.shape[0] - side))
    left = part * third + int(random.integers(0, third - side))
    return np.asarray(
        cv2.resize(photo[top : top + side, left : left + side], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    )


def _blend(digit: np.ndarray, background: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Lay a digit (8, 8) of 0..16 over a background as a stroke of one colour that stands out from it."""
    padded = np.pad(digit / 16.0, 1).astype(np.float32)
    stroke = np.clip(cv2.resize(padded, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC), 0, 1)[..., None]
    dark = background.mean() > 127
    colour = random.uniform(0, 90, 3) if dark else random.uniform(165, 255, 3)
    return np.asarray((background * (1 - stroke) + colour * stroke).round().astype(np.uint8))

"""Backgrounds of the embedded data sets: crops of the two photographs that scikit-learn ships."""

from __future__ import annotations

import functools

import numpy as np

from pgn_edge.extras import cv2

SIZE = 64
SPLITS = 3  # a photograph is cut in thirds, so that no background is seen in two splits


def crop(split: int, random: np.random.Generator) -> np.ndarray:
    """A crop from the third of a photograph that belongs to one split.

    Args:
        split: 0 for training, 1 for validation, 2 for test.
        random: draws photograph, size and place.

    Returns:
        (64, 64, 3) uint8 RGB.
    """
    photos = _photos()
    photo = photos[random.integers(len(photos))]
    third = photo.shape[1] // SPLITS
    side = int(random.integers(48, 160))
    top = int(random.integers(0, photo.shape[0] - side))
    left = split * third + int(random.integers(0, third - side))
    return np.asarray(
        cv2.resize(photo[top : top + side, left : left + side], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    )


@functools.cache
def _photos() -> list[np.ndarray]:
    from sklearn.datasets import load_sample_images

    photos: list[np.ndarray] = load_sample_images().images
    return photos

"""Pictures made by arithmetic: always the same, of any size, and varied as photographs are."""

from __future__ import annotations

import numpy as np
import pytest

from pgn_edge.export.synthetic import pictures


def test_pictures_are_the_same_each_time_and_others_for_another_seed():
    first = pictures(8, (48, 32), 3)
    assert (first.shape, first.dtype) == ((8, 48, 32, 3), np.uint8)
    np.testing.assert_array_equal(first, pictures(8, (48, 32), 3))
    assert (first != pictures(8, (48, 32), 4)).mean() > 0.9


def test_pictures_are_varied_and_more_than_noise():
    images = pictures(100, (224, 224), 0).astype(float) / 255
    assert images.mean(axis=(1, 2)).std(axis=0).min() > 0.1, "colours"
    contrast = images.std(axis=(1, 2, 3))
    assert contrast.max() > 4 * contrast.min()
    steps = np.abs(np.diff(images, axis=2)).mean(axis=(1, 2, 3)) / contrast
    assert steps.max() < 0.5, "neighbouring pixels of noise differ by more than their spread"
    assert steps.max() > 5 * steps.min(), "fine and coarse"
    edges = np.abs(np.diff(images, axis=2)).max(axis=(1, 2, 3))
    assert (edges > 0.2).sum() > 10, "shapes have edges"


@pytest.mark.parametrize("size_hw", [(1, 1), (2, 5), (7, 224)])
def test_pictures_of_any_size(size_hw: tuple[int, int]):
    assert pictures(4, size_hw, 0).shape == (4, *size_hw, 3)

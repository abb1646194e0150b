"""Test pictures made by arithmetic: smooth colour, with or without texture."""

from __future__ import annotations

import numpy as np
from PIL import Image

SMOOTH = (2, 3, 6)  # cells across the picture: so few that every filter makes the same of them in another size
FINE = (13, 40)


def pictures(count: int, size_hw: tuple[int, int], seed: int, *, texture: bool = True) -> np.ndarray:
    """Pictures that differ in colour and content.

    Args:
        count: number of pictures M.
        size_hw: size (H, W) in pixels.
        seed: the same seed gives the same pictures.
        texture: adds detail down to single pixels.

    Returns:
        (M, H, W, 3) uint8 RGB.
    """
    random = np.random.default_rng(seed)
    return np.stack([_picture(random, size_hw, texture) for _ in range(count)])


def _picture(random: np.random.Generator, size_hw: tuple[int, int], texture: bool) -> np.ndarray:
    # A colour of its own: channels in another order, or of another scale, are another picture.
    levels = random.uniform(70, 186, 3) + sum(60 * (_field(random, size_hw, cells) - 0.5) for cells in SMOOTH)
    if texture:
        levels = levels + sum(40 * (_field(random, size_hw, cells) - 0.5) for cells in FINE)
        levels = levels + random.normal(0, 6, levels.shape)
    return np.asarray(levels.round().clip(0, 255), np.uint8)


def _field(random: np.random.Generator, size_hw: tuple[int, int], cells: int) -> np.ndarray:
    """A grid of random colours, interpolated to the whole picture: (H, W, 3) in 0 to 1."""
    coarse = Image.fromarray(random.integers(0, 256, (cells, cells, 3), np.uint8))
    return np.asarray(coarse.resize(size_hw[::-1], Image.Resampling.BICUBIC)) / 255

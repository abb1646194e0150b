"""Pictures made by arithmetic, for golden frames where nobody has images at hand."""

from __future__ import annotations

import numpy as np

SYNTHETIC = "synthetic"  # in place of the number of golden images, where a checkpoint says where it came from
SCALES = (3, 7, 19, 53)  # cells across the picture, from broad colour to fine grain


def pictures(count: int, size_hw: tuple[int, int], seed: int) -> np.ndarray:
    """Varied pictures: colour fields, gradients, stripes and shapes, with texture at several scales.

    Args:
        count: number of pictures M.
        size_hw: size (H, W) in pixels.
        seed: the same seed gives the same pictures.

    Returns:
        (M, H, W, 3) uint8 RGB.
    """
    random = np.random.default_rng(seed)
    painters = (_colour_field, _gradient, _stripes, _shapes)
    return np.stack([_grain(painters[i % len(painters)](random, size_hw), random) for i in range(count)])


def _colour_field(random: np.random.Generator, size_hw: tuple[int, int]) -> np.ndarray:
    """Patches of colour that run into each other, (H, W, 3) in 0 to 1."""
    return _field(random, size_hw, int(random.integers(2, 10)))


def _gradient(random: np.random.Generator, size_hw: tuple[int, int]) -> np.ndarray:
    """From one colour to another along a random direction."""
    x, _ = _axes(random, size_hw)
    share = ((x - x.min()) / max(np.ptp(x), 1e-9))[..., None]
    low, high = random.random((2, 3))
    return np.asarray(low + (high - low) * share)


def _stripes(random: np.random.Generator, size_hw: tuple[int, int]) -> np.ndarray:
    """Waves in one or two directions, from a few to dozens across the picture."""
    x, y = _axes(random, size_hw)
    frequency = 2 ** random.uniform(1, 5, 2)
    wave = np.sin(np.pi * frequency[0] * x)
    if random.random() < 0.5:
        wave = wave * np.sin(np.pi * frequency[1] * y)
    low, high = random.random((2, 3))
    return np.asarray(low + (high - low) * (0.5 + 0.5 * wave)[..., None])


def _shapes(random: np.random.Generator, size_hw: tuple[int, int]) -> np.ndarray:
    """Turned boxes and ellipses of any size over a gradient."""
    picture = _gradient(random, size_hw)
    for _ in range(random.integers(1, 7)):
        x, y = _axes(random, size_hw)
        centre, radius = random.uniform(-0.8, 0.8, 2), random.uniform(0.1, 0.7, 2)
        u, v = (x - centre[0]) / radius[0], (y - centre[1]) / radius[1]
        inside = np.hypot(u, v) < 1 if random.random() < 0.5 else np.maximum(abs(u), abs(v)) < 1
        picture = np.where(inside[..., None], _field(random, size_hw, SCALES[0]), picture)
    return picture


def _grain(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Texture at every scale, another brightness and contrast, then whole numbers."""
    size_hw = (picture.shape[0], picture.shape[1])
    for cells in SCALES:
        picture = picture + random.uniform(0, 0.15) * (_field(random, size_hw, cells) - 0.5)
    brightness, contrast = random.uniform(0.3, 0.7), random.uniform(0.4, 1.3)
    levels = brightness + contrast * (picture - picture.mean())
    return np.asarray((255 * levels.clip(0, 1)).round(), np.uint8)


def _field(random: np.random.Generator, size_hw: tuple[int, int], cells: int) -> np.ndarray:
    """A grid of random colours, (cells, cells, 3) in 0 to 1, interpolated to the whole picture."""
    grid = random.random((cells, cells, 3))
    down, across = (_hats(size, cells) for size in size_hw)
    return np.asarray(np.einsum("yi,xj,ijc->yxc", down, across, grid, optimize=True))


def _hats(size: int, cells: int) -> np.ndarray:
    """Linear interpolation as a matrix, (size, cells)."""
    where = np.linspace(0, cells - 1, size)
    return np.asarray(np.maximum(0, 1 - abs(where[:, None] - np.arange(cells))))


def _axes(random: np.random.Generator, size_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates x and y of each pixel, each (H, W), -1 to 1 across the picture, turned by a random angle."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in size_hw), indexing="ij")
    cosine, sine = np.cos(angle := random.uniform(0, 2 * np.pi)), np.sin(angle)
    return cosine * x + sine * y, cosine * y - sine * x

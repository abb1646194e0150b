"""Inputs to measure a graph on: pictures, and what no camera sends but an engine must survive."""

from __future__ import annotations

import numpy as np
import torch

from pgn_edge.export.inversion import Projection, invert_library
from pgn_edge.export.synthetic import pictures
from pgn_edge.geometry import Geometry
from pgn_edge.nn.canvas import prompt_rows
from pgn_edge.nn.vit import FrozenViT

PICTURES = 4


def adversarial_images(size_hw: tuple[int, int]) -> np.ndarray:
    """(5, H, W, 3) uint8: black, white, a checkerboard of single pixels, saturated noise, pure red."""
    height, width = size_hw
    board = np.indices(size_hw).sum(axis=0) % 2 * 255
    noise = np.random.default_rng(0).integers(0, 2, (height, width, 3)) * 255
    images = np.zeros((5, height, width, 3), np.uint8)
    images[1] = 255
    images[2] = board[..., None]
    images[3] = noise
    images[4, ..., 0] = 255
    return images


def check_canvases(vit: FrozenViT, geometry: Geometry) -> np.ndarray:
    """Canvases (9, 3, H_c, W_c) float32 of pictures and adversarial images, with prompts of every size in their slots.

    The prompts are tokens that point anywhere, half to four times as large as the ViT's own positions, as pixels.
    """
    size = geometry.content_hw
    images = _images(geometry)
    content = vit.spec.preprocess.with_size(size).normalise(images)
    canvas = np.zeros((len(images), 3, *geometry.canvas_hw), np.float32)
    canvas[:, :, : size[0]] = content
    if geometry.prompts:
        sizes = np.geomspace(0.5, 4, len(images))[:, None, None] * float(vit.position.std())
        tokens = sizes * np.random.default_rng(0).standard_normal((len(images), geometry.prompts, vit.width))
        inversion = invert_library(Projection.of(vit, geometry), tokens.reshape(-1, vit.width))
        assert inversion.pixels is not None
        patches = inversion.pixels.reshape(*tokens.shape[:2], -1)
        if inversion.offset is not None:
            patches = patches + inversion.offset
        canvas[:, :, size[0] :] = prompt_rows(torch.from_numpy(patches).float(), geometry).numpy()
    return canvas


def check_pixels(geometry: Geometry) -> np.ndarray:
    """Canvases (9, H_c, W_c, 3) uint8 of the same images, with noise of all levels in the prompt slots."""
    images = _images(geometry)
    rows = (len(images), geometry.rows * geometry.patch, *images.shape[2:])
    return np.concatenate([images, np.random.default_rng(0).integers(0, 256, rows, np.uint8)], axis=1)


def _images(geometry: Geometry) -> np.ndarray:
    size = geometry.content_hw
    return np.concatenate([pictures(PICTURES, size, seed=0), adversarial_images(size)])

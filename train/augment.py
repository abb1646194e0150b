"""Small random changes to training images, made on whole batches."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT, TURN, SCALE, LIGHT = 0.08, 10.0, 0.12, 0.2  # share of the size, degrees, relative, relative


def augment(image: Tensor, generator: torch.Generator) -> Tensor:
    """Shift, turn, scale and re-light each image on its own.

    Args:
        image: (B, 3, H, W) normalised.
        generator: source of randomness; the same state gives the same images.

    Returns:
        (B, 3, H, W), edges repeated where the image moved away from them.
    """
    batch = len(image)
    angle, scale, shift_x, shift_y, gain, bias = _uniform(6, batch, generator)
    angle = angle * math.radians(TURN)
    scale = 1 + scale * SCALE
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    # One row a coordinate: affine_grid wants (B, 2, 3) in units of half the image.
    matrix = torch.stack([cosine, -sine, 2 * SHIFT * shift_x, sine, cosine, 2 * SHIFT * shift_y], dim=1).view(
        batch, 2, 3
    )
    grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
    moved = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved * (1 + LIGHT * gain.view(-1, 1, 1, 1)) + LIGHT * bias.view(-1, 1, 1, 1)


def _uniform(rows: int, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return tuple(2 * torch.rand(rows, batch, generator=generator) - 1)

"""Small random changes to training images, made on whole batches."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT, TURN, SCALE, LIGHT = 0.08, 10.0, 0.12, 0.2  # share of the size, degrees, relative, relative
MIX, GREY, NEGATIVE = 0.3, 0.2, 0.3  # strength of the channel mix, and shares of images; the paper solarizes 0.2


def augment(image: Tensor, generator: torch.Generator) -> Tensor:
    """Shift, turn, scale, re-colour and re-light each image on its own.

    Args:
        image: (B, 3, H, W) normalised.
        generator: source of randomness; the same state gives the same images.

    Returns:
        (B, 3, H, W), edges repeated where the image moved away from them.
    """
    moved = _move(image, generator)
    gain, bias = (value.view(-1, 1, 1, 1) for value in _uniform(2, len(image), generator))
    return _recolour(moved, generator) * (1 + LIGHT * gain) + LIGHT * bias


def _move(image: Tensor, generator: torch.Generator) -> Tensor:
    batch = len(image)
    angle, scale, shift_x, shift_y = _uniform(4, batch, generator)
    angle = angle * math.radians(TURN)
    scale = 1 + scale * SCALE
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    # One row a coordinate: affine_grid wants (B, 2, 3) in units of half the image.
    rows = [cosine, -sine, 2 * SHIFT * shift_x, sine, cosine, 2 * SHIFT * shift_y]
    grid = F.affine_grid(torch.stack(rows, dim=1).view(batch, 2, 3), list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _recolour(image: Tensor, generator: torch.Generator) -> Tensor:
    """Mix the channels at random; some images become grey, some their own negative."""
    batch = len(image)
    mix = torch.eye(3) + MIX * torch.randn(batch, 3, 3, generator=generator)
    grey, negative = torch.rand(2, batch, 1, 1, generator=generator)
    mix = torch.where(grey < GREY, torch.full((3, 3), 1 / 3), mix)
    return torch.einsum("bij,bjhw->bihw", torch.where(negative < NEGATIVE, -mix, mix), image)


def _uniform(rows: int, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return tuple(2 * torch.rand(rows, batch, generator=generator) - 1)

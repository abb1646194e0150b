"""The canvas in torch: image and prompt rows together, and what 8 bits and a codec leave of them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pgn_edge.geometry import Geometry
from pgn_edge.preprocess import Preprocess
from pgn_edge.transport import Transport

THREADS = min(4, os.cpu_count() or 1)


def prompt_rows(patches: Tensor, geometry: Geometry) -> Tensor:
    """The rows of the canvas that hold the prompts; spare slots are zero.

    Args:
        patches: pixels of the prompt slots (B, K, 3P²), order (C, P, P).
        geometry: the canvas, K at least 1.

    Returns:
        (B, 3, r P, W), to stand under the image.
    """
    rows, columns, patch = geometry.rows, geometry.grid_hw[1], geometry.patch
    if geometry.spare:
        patches = F.pad(patches, (0, 0, 0, geometry.spare))
    grid = patches.reshape(-1, rows, columns, 3, patch, patch)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, rows * patch, columns * patch)


def slot_patches(canvas: Tensor, geometry: Geometry) -> Tensor:
    """Pixels of the prompt slots of a canvas (B, 3, H_c, W_c): (B, K, 3P²), order (C, P, P); undoes `prompt_rows`."""
    rows, columns, patch = geometry.rows, geometry.grid_hw[1], geometry.patch
    grid = canvas[:, :, geometry.content_hw[0] :].reshape(-1, 3, rows, patch, columns, patch)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(-1, rows * columns, 3 * patch**2)[:, : geometry.prompts]


def assemble(image: Tensor, patches: Tensor, geometry: Geometry) -> Tensor:
    """Image (B, 3, H, W) and pixels of the prompt slots (B, K, 3P²), both normalised -> canvas (B, 3, H_c, W_c)."""
    return torch.cat([image, prompt_rows(patches, geometry)], dim=2)


def to_input(images: Tensor, preprocess: Preprocess, device: torch.device) -> Tensor:
    """uint8 (B, H, W, 3) -> normalised float32 (B, 3, H, W) on `device`, the same bits as `Preprocess.normalise`."""
    scale, shift = (torch.from_numpy(side).to(device) for side in preprocess.affine())
    return (images.to(device).permute(0, 3, 1, 2).float() * scale + shift).contiguous()


def to_pixels(canvas: Tensor, preprocess: Preprocess) -> Tensor:
    """Normalised (B, 3, H, W) -> uint8 (B, H, W, 3) RGB: the nearest of the 256 levels; what is outside is clipped."""
    scale, shift = (torch.from_numpy(side).to(canvas.device) for side in preprocess.affine())
    levels = ((canvas.float() - shift) / scale).round().clamp(0, 255)
    return levels.permute(0, 2, 3, 1).to(torch.uint8)


def carry(pixels: Tensor, transport: Transport) -> Tensor:
    """What an engine behind `transport` sees of uint8 RGB canvases (B, H, W, 3): the same shape, on the same device."""
    if transport.quality is None:
        return pixels
    carried = _pool().map(transport.carry, pixels.cpu().numpy())
    return torch.from_numpy(np.stack(list(carried))).to(pixels.device)


def send(
    image: Tensor, patches: Tensor, geometry: Geometry, preprocess: Preprocess, transport: Transport
) -> tuple[Tensor, Tensor]:
    """Image and prompts as the engine sees them: on one canvas of 8 bits, through the very codec.

    Args:
        image: (B, 3, H, W) normalised.
        patches: pixels of the prompt slots (B, K, 3P²), normalised.
        geometry: the canvas.
        preprocess: gives the normalisation.
        transport: what the canvas goes through.

    Returns:
        Both, of the same shapes; the gradient of the prompts is that of the identity.
    """
    with torch.no_grad():
        canvas = carry(to_pixels(assemble(image, patches, geometry), preprocess), transport)
        seen = to_input(canvas, preprocess, image.device)
    prompts = slot_patches(seen, geometry)
    # What is added is zero, and carries the gradient: training sees the very values that are deployed.
    return seen[:, :, : geometry.content_hw[0]], prompts + (patches - patches.detach())


@cache
def _pool() -> ThreadPoolExecutor:
    # Pillow lets go of the interpreter while it encodes and decodes, so threads do run side by side.
    return ThreadPoolExecutor(THREADS, thread_name_prefix="transport")

"""The PGN as it runs on the device: uint8 image in, canvas out, prompt inversion folded into one constant."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pgn_edge.export.inversion import Inversion
from pgn_edge.geometry import Geometry
from pgn_edge.nn.pgn import PGN
from pgn_edge.preprocess import Preprocess


class DeployedPGN(nn.Module):
    """uint8 NHWC image -> float32 canvas.

    Args:
        pgn: trained, in evaluation mode; copied, and its batch norms folded into the convolutions.
        geometry: the canvas.
        preprocess: gives the normalisation.
        inversion: of the PGN's library.
    """

    def __init__(self, pgn: PGN, geometry: Geometry, preprocess: Preprocess, inversion: Inversion) -> None:
        super().__init__()
        self.pgn = _fold_batch_norms(copy.deepcopy(pgn).eval())
        self.geometry = geometry
        scale, shift = (torch.from_numpy(array) for array in preprocess.affine())
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.register_buffer("pixels", torch.from_numpy(inversion.pixels).float())
        offset = None if inversion.offset is None else torch.from_numpy(inversion.offset).float()
        self.register_buffer("offset", offset)
        self.scale: Tensor
        self.shift: Tensor
        self.pixels: Tensor
        self.offset: Tensor | None

    def forward(self, image: Tensor) -> Tensor:
        """uint8 RGB (B, H, W, 3) -> canvas (B, 3, H_c, W_c), normalised units."""
        # Cast first: TensorRT has no uint8 arithmetic, not even Transpose.
        x = image.float().permute(0, 3, 1, 2) * self.scale + self.shift
        patches = self.pgn.coefficients(x) @ self.pixels  # (B, K, 3P²)
        if self.offset is not None:
            patches = patches + self.offset
        return torch.cat([x, prompt_rows(patches, self.geometry)], dim=2)


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


def _fold_batch_norms(pgn: PGN) -> PGN:
    for module in pgn.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for index, (first, second) in enumerate(zip(module, list(module)[1:], strict=False)):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                module[index] = fuse_conv_bn_eval(first, second)
                module[index + 1] = nn.Identity()
    return pgn

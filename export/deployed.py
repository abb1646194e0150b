"""The PGN as it runs on the device: uint8 image in, canvas out, prompt inversion folded into one constant.

Mixture coefficients that are shares of the library are a second output: they are there anyway, and say without labels
what the camera drifts to.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pgn_edge.export.inversion import Inversion
from pgn_edge.geometry import Geometry
from pgn_edge.mixtures import COEFFICIENTS
from pgn_edge.nn.pgn import PGN
from pgn_edge.preprocess import Preprocess


class DeployedPGN(nn.Module):
    """uint8 NHWC image -> float32 canvas, and the mixture coefficients where they are shares made for each image.

    Args:
        pgn: trained, in evaluation mode; copied, and its batch norms folded into the convolutions.
        geometry: the canvas.
        preprocess: gives the normalisation.
        inversion: of the PGN's library, or of its prompts where it has none.

    Attributes:
        more_outputs: names of what comes beside the canvas.
    """

    def __init__(self, pgn: PGN, geometry: Geometry, preprocess: Preprocess, inversion: Inversion) -> None:
        super().__init__()
        self.pgn = _fold_batch_norms(copy.deepcopy(pgn).eval())
        self.geometry = geometry
        self.more_outputs = (COEFFICIENTS,) if self.pgn.config.observed else ()
        scale, shift = (torch.from_numpy(array) for array in preprocess.affine())
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        pixels = None if inversion.pixels is None else torch.from_numpy(inversion.pixels).float()
        self.register_buffer("pixels", pixels)
        offset = None if inversion.offset is None else torch.from_numpy(inversion.offset).float()
        self.register_buffer("offset", offset)
        self.scale: Tensor
        self.shift: Tensor
        self.pixels: Tensor | None
        self.offset: Tensor | None

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """uint8 RGB (B, H, W, 3) -> canvas (B, 3, H_c, W_c), normalised units; and coefficients (B, K, N)."""
        # Cast first: TensorRT has no uint8 arithmetic, not even Transpose.
        x = image.float().permute(0, 3, 1, 2) * self.scale + self.shift
        codes = self.pgn.codes(x)  # (B, K, N)
        patches = codes if self.pixels is None else codes @ self.pixels  # (B, K, 3P²)
        if self.offset is not None:
            patches = patches + self.offset
        if self.pgn.levels is not None:
            patches = self.pgn.levels(patches, *self.pgn.legal())
        canvas = torch.cat([x, prompt_rows(patches, self.geometry)], dim=2)
        return (canvas, codes) if self.more_outputs else (canvas,)


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


def _fold_batch_norms(pgn: PGN) -> PGN:
    for module in pgn.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for index, (first, second) in enumerate(zip(module, list(module)[1:], strict=False)):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                module[index] = fuse_conv_bn_eval(first, second)
                module[index + 1] = nn.Identity()
    return pgn

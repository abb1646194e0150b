"""The PGN as it runs on the device: uint8 image in, canvas out, prompt inversion folded into one constant.

Mixture coefficients that are shares of the library are a second output: they are there anyway, and say without labels
what the camera drifts to.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pgn_edge.contract import CanvasType
from pgn_edge.export.inversion import Inversion
from pgn_edge.geometry import Geometry
from pgn_edge.mixtures import COEFFICIENTS
from pgn_edge.nn.canvas import assemble, prompt_rows
from pgn_edge.nn.pgn import PGN
from pgn_edge.preprocess import Preprocess

LEVELS = 255.0


class DeployedPGN(nn.Module):
    """uint8 NHWC image -> canvas, and the mixture coefficients where they are shares made for each image.

    Prompts of a pixel space are computed in levels, 0..255 as the image has them, and clamped to these: under any
    coefficients whatsoever, and whatever a rounding does, a prompt pixel is one that an image may hold. On a canvas of
    floats, image and prompts then go through one normalisation.

    Args:
        pgn: trained, in evaluation mode; copied, and its batch norms folded into the convolutions.
        geometry: the canvas.
        preprocess: gives the normalisation.
        inversion: of the PGN's library, or of its prompts where it has none.
        canvas: `float32` or `uint8`, see `EngineFacts`; the latter for a pixel space alone.

    Attributes:
        more_outputs: names of what comes beside the canvas.
    """

    def __init__(
        self,
        pgn: PGN,
        geometry: Geometry,
        preprocess: Preprocess,
        inversion: Inversion,
        canvas: CanvasType = "float32",
    ) -> None:
        super().__init__()
        self.pgn = _fold_batch_norms(copy.deepcopy(pgn).eval())
        self.geometry, self.canvas = geometry, canvas
        self.rounded = self.pgn.config.rounded or canvas == "uint8"
        self.more_outputs = (COEFFICIENTS,) if self.pgn.config.observed else ()
        scale, shift = (torch.from_numpy(array) for array in preprocess.affine())
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        pixels = inversion.pixels
        if self.pgn.config.space == "pixel":
            pixels = None if pixels is None else _levels(pixels, *self.pgn.legal())
            for side, level in zip(self.pgn.legal(), (0, LEVELS), strict=True):
                side.fill_(level)  # of the copy: what it gives straight from a net are levels too
        self.register_buffer("pixels", None if pixels is None else torch.from_numpy(pixels).float())
        offset = None if inversion.offset is None else torch.from_numpy(inversion.offset).float()
        self.register_buffer("offset", offset)
        self.scale: Tensor
        self.shift: Tensor
        self.pixels: Tensor | None
        self.offset: Tensor | None

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """uint8 RGB (B, H, W, 3) -> canvas, see `EngineFacts`; and coefficients (B, K, N)."""
        # Cast first: TensorRT has no uint8 arithmetic, not even Transpose.
        pixels = image.float()
        levels = pixels.permute(0, 3, 1, 2)
        x = levels * self.scale + self.shift
        codes = self.pgn.codes(x)  # (B, K, N)
        patches = codes if self.pixels is None else codes @ self.pixels  # (B, K, 3P²)
        if self.offset is not None:
            patches = patches + self.offset
        if self.pgn.config.space == "token":
            canvas = assemble(x, patches, self.geometry)
        elif self.canvas == "uint8":
            rows = prompt_rows(self._legal(patches), self.geometry).permute(0, 2, 3, 1)
            canvas = torch.cat([pixels, rows], dim=1).to(torch.uint8)
        else:
            canvas = assemble(levels, self._legal(patches), self.geometry) * self.scale + self.shift
        return (canvas, codes) if self.more_outputs else (canvas,)

    def _legal(self, patches: Tensor) -> Tensor:
        """Levels that an image may hold."""
        patches = patches.clamp(0.0, LEVELS)  # both floats: torch's exporter takes no mixture
        return patches.round() if self.rounded else patches


def _levels(pixels: np.ndarray, low: Tensor, high: Tensor) -> np.ndarray:
    """Normalised pixels (N, 3P²) float64 in levels; low and high are the values of 0 and 255."""
    bottom, top = (side.double().numpy() for side in (low, high))
    return np.asarray((pixels - bottom) * (LEVELS / (top - bottom)))


def _fold_batch_norms(pgn: PGN) -> PGN:
    for module in pgn.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for index, (first, second) in enumerate(zip(module, list(module)[1:], strict=False)):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                module[index] = fuse_conv_bn_eval(first, second)
                module[index + 1] = nn.Identity()
    return pgn

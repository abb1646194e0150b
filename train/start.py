"""A PGN as training begins."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pgn_edge.geometry import Geometry
from pgn_edge.nn.pgn import PGN, PgnConfig
from pgn_edge.nn.vit import FrozenViT
from pgn_edge.train.config import TrainConfig

MLP_SIDE = 10  # pixels in the middle that `mlp` sees unless told; all of 224 x 224 would take 38 M parameters


CELL = 4  # pixels: what changes faster is what a codec takes first


def build_pgn(config: TrainConfig, vit: FrozenViT, geometry: Geometry) -> PGN:
    """A PGN whose library, of either space, begins as the same random tokens, drawn from torch's own generator.

    Patches that give random tokens are noise, of which a lossy codec leaves next to nothing, and mixtures that look
    alike learn nothing: a library for such a transport begins as smooth patches.

    Args:
        config: of the run.
        vit: the frozen ViT.
        geometry: of the canvas.

    Raises:
        CheckpointError: sizes or options of the PGN that do not fit each other.
    """
    shape, preprocess = _shape(config, vit, geometry), vit.spec.preprocess
    # Prompt tokens start as large as the ViT's own positions: far smaller ones would be turned by a large angle in each
    # step of the optimiser, since the pre-norm takes their length away.
    std = config.library_std or float(vit.position.std())
    if shape.space == "token":
        return PGN(shape, std)
    if not shape.library:
        return PGN(shape, config.library_std or 1.0, preprocess)
    if config.carrier is not None and config.carrier.quality is not None:
        share = (config.library_std or 1.0) * smooth_noise(shape.library, geometry.patch)
        low, high = (torch.from_numpy(side).repeat_interleave(geometry.patch**2) for side in preprocess.legal())
        return PGN(shape, preprocess=preprocess, patches=torch.lerp(low, high, share.sigmoid()))
    tokens = std * torch.randn(shape.library, vit.width)
    return PGN(shape, preprocess=preprocess, patches=least_squares_patches(vit, geometry, tokens))


def least_squares_patches(vit: FrozenViT, geometry: Geometry, tokens: Tensor) -> Tensor:
    """The smallest patches that the projection, and what the ViT adds in a slot, turn into tokens as near as can be.

    Args:
        vit: the frozen ViT.
        geometry: of the canvas, whose slots may each add something else: their mean counts.
        tokens: (N, d).

    Returns:
        (N, 3P²) float32, normalised, order (C, P, P), of any size.

    Source: Loedeman et al., BMVC 2024, section 3.3.
    """
    weight, bias = vit.projection()
    wanted = tokens.double().numpy() - bias - vit.slot_position(geometry).double().mean(dim=0).numpy()
    return torch.from_numpy(np.linalg.lstsq(weight, wanted.T, rcond=None)[0].T).float()


def smooth_noise(count: int, patch: int) -> Tensor:
    """Random patches (count, 3P²) that change over `CELL` pixels, of standard deviation 1 over all of them."""
    cells = max(patch // CELL, 1)
    coarse = torch.randn(count, 3, cells, cells)
    fine = F.interpolate(coarse, (patch, patch), mode="bicubic", align_corners=False)
    return (fine / fine.std()).flatten(1)


def _shape(config: TrainConfig, vit: FrozenViT, geometry: Geometry) -> PgnConfig:
    library = config.library
    if library is None:
        library = geometry.prompts if config.generator == "constant" else 256
    side = MLP_SIDE if config.generator == "mlp" else geometry.content_hw[1]
    return PgnConfig(
        config.generator,
        geometry.prompts,
        library,
        vit.width if config.library_space == "token" else 3 * geometry.patch**2,
        config.resolution or side,
        config.library_space,
        config.mixing,
        config.hidden,
        config.rounded or config.transport is not None,
    )

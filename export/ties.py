"""The float32 reference of prompts that are rounded to 8 bits, where two right answers are possible.

A prompt pixel that lies in the middle between two levels goes up in one runtime and down in another, for a difference
in the seventh digit. Over thousands of pixels some always do. There the answer that is examined may choose the level;
everywhere else it is the reference that does, so one level that is wrong elsewhere shows in full.
"""

from __future__ import annotations

import numpy as np
import torch

from pgn_edge.export.parity import pieces
from pgn_edge.geometry import Geometry
from pgn_edge.nn.canvas import slot_patches
from pgn_edge.nn.pgn import PGN
from pgn_edge.nn.vit import FrozenViT

TIE_LEVELS = 0.01  # from the middle; float32 arithmetic of a trained PGN stays well below


@torch.no_grad()
def settled(vit: FrozenViT, pgn: PGN, geometry: Geometry, image: np.ndarray, canvas: np.ndarray) -> np.ndarray:
    """Embeddings of the reference, with every tie settled as the canvas has it.

    Args:
        vit: the frozen ViT.
        pgn: in pixel space, rounded.
        geometry: of the canvas.
        image: (M, 3, H, W) float32, normalised.
        canvas: (M, 3, H_c, W_c) float32, what is examined.

    Returns:
        (M, D) float32.
    """
    answers = []
    for frames, examined in zip(pieces(image), pieces(canvas), strict=True):
        batch = torch.from_numpy(frames)
        low, high = pgn.legal()
        step = (high - low) / 255
        exact = (pgn.unrounded(batch).double() - low) / step
        found = ((slot_patches(torch.from_numpy(examined), geometry) - low) / step).round()
        tie = ((exact - exact.floor()) - 0.5).abs() < TIE_LEVELS
        neighbour = (found - exact).abs() < 0.5 + TIE_LEVELS
        level = torch.where(tie & neighbour, found.double(), exact.round()).float()
        answers.append(vit(batch, vit.slot_tokens(low + level * step, geometry)).numpy())
    return np.concatenate(answers)

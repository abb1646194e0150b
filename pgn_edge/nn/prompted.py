"""A PGN and its frozen ViT together, prompts given as tokens: as in training, and as every engine must match."""

from __future__ import annotations

from torch import Tensor

from pgn_edge.geometry import Geometry
from pgn_edge.nn.pgn import PGN
from pgn_edge.nn.vit import FrozenViT


def embed(vit: FrozenViT, pgn: PGN, geometry: Geometry, image: Tensor) -> Tensor:
    """Embedding of images with the prompts that the PGN makes for them.

    Args:
        vit: the frozen ViT.
        pgn: in token or pixel space.
        geometry: of the canvas that the task is deployed with.
        image: (B, 3, H, W) normalised.

    Returns:
        (B, D) embedding.

    Source: Loedeman et al., BMVC 2024, section 3; prompt tokens enter after the position table.
    """
    prompts = pgn(image)  # (B, K, d) tokens, or (B, K, 3P²) pixels
    if pgn.config.space == "pixel":
        prompts = vit.slot_tokens(prompts, geometry)
    embedding: Tensor = vit(image, prompts)
    return embedding

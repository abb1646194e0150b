"""A PGN and its frozen ViT together: as in training, and as every engine must match."""

from __future__ import annotations

from torch import Tensor

from pgn_edge.geometry import Geometry
from pgn_edge.nn.canvas import send
from pgn_edge.nn.pgn import PGN
from pgn_edge.nn.vit import FrozenViT
from pgn_edge.transport import Transport


def embed(vit: FrozenViT, pgn: PGN, geometry: Geometry, image: Tensor, transport: Transport | None = None) -> Tensor:
    """Embedding of images with the prompts that the PGN makes for them.

    Args:
        vit: the frozen ViT.
        pgn: in token or pixel space.
        geometry: of the canvas that the task is deployed with.
        image: (B, 3, H, W) normalised.
        transport: what the canvas goes through on its way to the ViT, with 8 bits at the least; a pixel space alone has
            a canvas. None for prompts that are given as tokens, without a loss.

    Returns:
        (B, D) embedding.

    Source: Loedeman et al., BMVC 2024, section 3; prompt tokens enter after the position table.
    """
    prompts = pgn(image)  # (B, K, d) tokens, or (B, K, 3P²) pixels
    if transport is not None:
        assert pgn.config.space == "pixel", "tokens have no canvas"
        image, prompts = send(image, prompts, geometry, vit.spec.preprocess, transport)
    if pgn.config.space == "pixel":
        prompts = vit.slot_tokens(prompts, geometry)
    embedding: Tensor = vit(image, prompts)
    return embedding

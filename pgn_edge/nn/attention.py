"""Self-attention in the one form that every adapter exports."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Multi-head self-attention after its input projection.

    Args:
        qkv: (B, n, 3d), query, key and value side by side.
        heads: number of heads; divides d.

    Returns:
        (B, n, d), heads side by side, before the output projection.
    """
    count, width = qkv.shape[1], qkv.shape[2] // 3
    # The batch is the one -1: every other size is static, so the exported shapes are constants.
    query, key, value = (
        part.reshape(-1, count, heads, width // heads).transpose(1, 2) for part in qkv.chunk(3, dim=-1)
    )  # each (B, heads, n, d / heads)
    if torch.compiler.is_exporting():
        # Spelt out, since torch's own decomposition computes every shape again in the exported graph.
        scores = (query * (width // heads) ** -0.5) @ key.transpose(-2, -1)
        mixed = scores.softmax(dim=-1) @ value
    else:
        mixed = F.scaled_dot_product_attention(query, key, value)
    joined: Tensor = mixed.transpose(1, 2).reshape(-1, count, width)
    return joined

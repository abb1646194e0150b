"""Transformer blocks in the one form that every adapter exports."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn_edge.nn.weights import linear_of

OPTIONAL = ("query_norm", "key_norm", "inner_norm", "scale_1", "scale_2")


class Block(nn.Module):
    """Pre-norm transformer block: attention, then an MLP. Who derives from it brings the parts.

    The optional ones do nothing until they are set: the norms of each head's queries and keys, the norm before
    attention's output projection, and the scales of what is added to the tokens.
    """

    heads: int
    norm_1: nn.Module
    qkv: nn.Linear
    query_norm: nn.Module
    key_norm: nn.Module
    inner_norm: nn.Module
    out: nn.Module
    scale_1: nn.Module
    norm_2: nn.Module
    mlp: nn.Module
    scale_2: nn.Module

    def __init__(self) -> None:
        super().__init__()
        for part in OPTIONAL:
            setattr(self, part, nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, d) -> (B, n, d)."""
        query, key, value = self.qkv(self.norm_1(x)).chunk(3, dim=-1)
        return self._add(x, query, key, value)

    def _add(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Tokens (B, m, d) and their queries, keys and values of all tokens (B, n, d) -> (B, m, d)."""
        joined = (-1, *query.shape[1:])
        query, key = self.query_norm(self._split(query)), self.key_norm(self._split(key))
        mixed = attend(*(part.transpose(1, 2) for part in (query, key, self._split(value))))
        x = x + self.scale_1(self.out(self.inner_norm(mixed.transpose(1, 2).reshape(joined))))
        out: Tensor = x + self.scale_2(self.mlp(self.norm_2(x)))
        return out

    def _split(self, x: Tensor) -> Tensor:
        """(B, n, d) -> (B, n, heads, d / heads)."""
        # The batch is the one -1: every other size is static, so the exported shapes are constants.
        return x.reshape(-1, x.shape[1], self.heads, x.shape[2] // self.heads)


class ClassTokenBlock(Block):
    """The last block of a ViT that reads nothing but its class token: of the others it takes keys and values alone.

    Args:
        block: whose parts it shares; query and key with value become layers of their own, on the same memory.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.heads = block.heads
        for part in ("norm_1", "out", "norm_2", "mlp", *OPTIONAL):
            setattr(self, part, getattr(block, part))
        width = block.qkv.out_features // 3
        self.query, self.key_value = _rows(block.qkv, slice(width)), _rows(block.qkv, slice(width, None))

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, d) -> (B, 1, d)."""
        normed = self.norm_1(x)
        key, value = self.key_value(normed).chunk(2, dim=-1)
        return self._add(x[:, :1], self.query(normed[:, :1]), key, value)


def stack(blocks: list[Block], class_token: bool) -> nn.Sequential:
    """Blocks in the order that they run.

    Args:
        blocks: the whole ones.
        class_token: whether the first token is all that is read of the result; then the last block computes no other.
    """
    return nn.Sequential(*blocks[:-1], *(ClassTokenBlock(block) if class_token else block for block in blocks[-1:]))


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Multi-head attention between its projections.

    Args:
        query: (B, heads, m, d / heads).
        key: (B, heads, n, d / heads).
        value: (B, heads, n, d / heads).

    Returns:
        (B, heads, m, d / heads).
    """
    if not torch.compiler.is_exporting():
        return F.scaled_dot_product_attention(query, key, value)
    # Spelt out, since torch's own decomposition computes every shape again in the exported graph.
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    mixed: Tensor = scores.softmax(dim=-1) @ value
    return mixed


def _rows(linear: nn.Linear, rows: slice) -> nn.Linear:
    """The layer that gives some of a layer's outputs."""
    bias = None if linear.bias is None else nn.Parameter(linear.bias.detach()[rows])
    return linear_of(nn.Parameter(linear.weight.detach()[rows]), bias)

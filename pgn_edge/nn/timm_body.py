"""timm's `VisionTransformer` between its position table and its classifier, in the form that exports."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pgn_edge.nn.attention import Block, stack


class TimmBlock(Block):
    """One of timm's residual blocks."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        attention = block.attn
        self.heads = attention.num_heads
        self.norm_1, self.norm_2 = block.norm1, block.norm2
        self.scale_1, self.scale_2 = block.ls1, block.ls2
        self.qkv, self.inner_norm, self.out = attention.qkv, attention.norm, attention.proj
        self.query_norm, self.key_norm = attention.q_norm, attention.k_norm
        self.mlp = block.mlp


class LatentPool(nn.Module):
    """timm's attention pooling, with its one query computed beforehand: it is the same for every image."""

    def __init__(self, pool: Any) -> None:
        super().__init__()
        self.heads = pool.num_heads
        with torch.no_grad():
            query = pool.q(pool.latent) * pool.scale  # (1, 1, d)
        # Its last bits depend on the machine, so the digest of all weights covers what it is computed from instead.
        self.register_buffer("query", query.reshape(self.heads, 1, -1), persistent=False)
        self.latent, self.query_projection = pool.latent, pool.q
        self.query: Tensor
        self.kv, self.out, self.norm, self.mlp = pool.kv, pool.proj, pool.norm, pool.mlp

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, d) -> (B, d)."""
        count, width = x.shape[1:]
        key, value = (
            part.reshape(-1, count, self.heads, width // self.heads).transpose(1, 2)
            for part in self.kv(x).chunk(2, dim=-1)
        )  # each (B, heads, n, d / heads)
        mixed = (self.query @ key.transpose(-2, -1)).softmax(dim=-1) @ value
        pooled: Tensor = self.out(mixed.reshape(-1, width))
        return pooled if self.mlp is None else pooled + self.mlp(self.norm(pooled))


class TimmBody(nn.Module):
    """Pre-norm, blocks, norm, pooling, norm: timm's `VisionTransformer` between its position table and its classifier.

    Average and attention pooling take every token behind the prefix (or the prefix as well, where the model says so),
    prompts included: that is what the stock model does when it is given the taller canvas. So their last block stays
    whole; where the class token is the embedding, the registers beside it are not read behind that block.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.token = model.attn_pool is None and model.global_pool == "token"
        self.pre_norm, self.blocks = model.norm_pre, stack([TimmBlock(block) for block in model.blocks], self.token)
        self.norm, self.post_norm = model.norm, model.fc_norm
        self.pool = None if model.attn_pool is None else LatentPool(model.attn_pool)
        self.first = 0 if model.pool_include_prefix else model.num_prefix_tokens

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, p + n, d) -> (B, D)."""
        x = self.blocks(self.pre_norm(tokens))
        # The norm works token by token, so it need not see those that pooling leaves out.
        if self.token:
            pooled = self.norm(x[:, 0])
        elif self.pool is None:
            pooled = self.norm(x[:, self.first :]).mean(dim=1)
        else:
            pooled = self.pool(self.norm(x[:, self.first :]))
        embedding: Tensor = self.post_norm(pooled)
        return embedding

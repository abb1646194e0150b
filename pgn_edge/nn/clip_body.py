"""open_clip's image tower after its position table, in the form that exports."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pgn_edge.nn.attention import Block, stack
from pgn_edge.nn.weights import linear_of


class ClipBlock(Block):
    """One of open_clip's residual blocks."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        attention: nn.MultiheadAttention = block.attn
        self.heads = attention.num_heads
        self.norm_1, self.norm_2 = block.ln_1, block.ln_2
        self.scale_1, self.scale_2 = block.ls_1, block.ls_2
        self.qkv = linear_of(attention.in_proj_weight, attention.in_proj_bias)
        self.out = attention.out_proj
        self.mlp = block.mlp


class ClipBody(nn.Module):
    """Pre-norm, transformer, pooling, post-norm, projection: open_clip's tower after its position table.

    Average pooling takes every token but the class token, prompts included: that is what the stock model does when it
    is given the taller canvas. So its last block stays whole.
    """

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.average, self.norm_last = visual.pool_type == "avg", visual.final_ln_after_pool
        self.pre_norm = visual.ln_pre
        self.blocks = stack([ClipBlock(block) for block in visual.transformer.resblocks], not self.average)
        self.post_norm = visual.ln_post
        self.project = visual.proj

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 1 + n, d) -> (B, D)."""
        x = self.blocks(self.pre_norm(tokens))
        if not self.average:  # one token, so it does not matter which comes first
            pooled = self.post_norm(x[:, 0])
        elif self.norm_last:
            pooled = self.post_norm(x[:, 1:].mean(dim=1))
        else:
            pooled = self.post_norm(x[:, 1:]).mean(dim=1)
        embedding: Tensor = pooled if self.project is None else pooled @ self.project
        return embedding

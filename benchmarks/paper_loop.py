"""A training step as the paper's own code takes it, in plain torch: what `benchmarks/training.py` is held against.

Every step runs the text encoder over all class names, although nothing in it ever changes; the CNN sees the image in
its own layout, the ViT keeps every token of its last block, and everything is float32. Source: jochemloedeman/PGN,
pgn/lightning/pgn_clip.py and pgn/pgn_models.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn_edge.nn.pgn import PGN


class PaperModel(nn.Module):
    """CLIP with prompts beside the patches, and its text encoder in the loop.

    Args:
        model: open_clip's CLIP with a ViT image tower.
        pgn: emits the prompts; token space.
        tokens: (C, 77) int64, one sentence a class.
    """

    def __init__(self, model: Any, pgn: PGN, tokens: Tensor) -> None:
        super().__init__()
        self.model, self.pgn, self.tokens = model.requires_grad_(False), pgn, tokens

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, C) logits."""
        embedding = F.normalize(self._encode(image, self.pgn(image)), dim=-1)
        text = F.normalize(self.model.encode_text(self.tokens), dim=-1)
        logits: Tensor = self.model.logit_scale.exp() * embedding @ text.T
        return logits

    def _encode(self, image: Tensor, prompts: Tensor) -> Tensor:
        visual = self.model.visual
        patches = visual.conv1(image).flatten(2).transpose(1, 2)
        first = visual.class_embedding.expand(len(image), 1, -1)
        tokens = torch.cat([first, patches], dim=1) + visual.positional_embedding
        tokens = visual.transformer(visual.ln_pre(torch.cat([tokens, prompts], dim=1)))
        embedding: Tensor = visual.ln_post(tokens[:, 0]) @ visual.proj
        return embedding


class PaperLoop:
    """The model and its optimiser: SGD with momentum, as published.

    Args:
        model: whose PGN learns.
        rate: learning rate.
    """

    def __init__(self, model: PaperModel, rate: float) -> None:
        self.model = model
        self.optimizer = torch.optim.SGD(model.pgn.parameters(), lr=rate, momentum=0.9)

    def step(self, image: Tensor, label: Tensor) -> float:
        """One step on normalised (B, 3, H, W) images with labels (B,); the loss."""
        self.model.pgn.train()
        loss = F.cross_entropy(self.model(image), label)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return float(loss.detach())

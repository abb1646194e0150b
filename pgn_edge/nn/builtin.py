"""The embedded backbone `builtin`: a small ViT that knows printed characters, for demos, tests and first steps.

64 x 64 RGB, patch 8, width 128, depth 6; trained by `pgn_edge.train.pretrain` (model card: docs/builtin.md).
It is shaped like CLIP: class token, pre-norm, no bias in the patch projection, and a cosine head whose 62 rows
(0-9, A-Z, a-z) stand where CLIP has text weights.
"""

from __future__ import annotations

import hashlib
import string
from importlib import resources

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn_edge.errors import CheckpointError, DataError
from pgn_edge.heads import Head
from pgn_edge.nn.attention import Block, stack
from pgn_edge.nn.vit import Backbone, FrozenViT, VitSpec, ZeroShot
from pgn_edge.preprocess import Preprocess

CHARACTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
IMAGE, PATCH, WIDTH, DEPTH, HEADS = 64, 8, 128, 6, 4
PREPROCESS = Preprocess((IMAGE, IMAGE), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
WEIGHTS_SHA256 = "64e62577b0f91cb6c7b75e1f6448548d12161cafa5cc13dcfa3ee1dc65c980e3"


class CharacterBlock(Block):
    """Pre-norm transformer block: attention, then a GELU MLP of four times the width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class Body(nn.Module):
    """Pre-norm, blocks, post-norm of the class token, projection to the embedding."""

    def __init__(
        self, pre_norm: nn.LayerNorm, blocks: nn.Sequential, post_norm: nn.LayerNorm, project: nn.Linear
    ) -> None:
        super().__init__()
        self.pre_norm, self.blocks, self.post_norm, self.project = pre_norm, blocks, post_norm, project

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 1 + n, d) -> (B, d)."""
        x = self.blocks(self.pre_norm(tokens))
        embedding: Tensor = self.project(self.post_norm(x[:, 0]))
        return embedding


class CharacterNet(nn.Module):
    """The trainable form of `builtin`, with its 62-way cosine head: what pre-training optimises and saves."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH, bias=False)
        self.prefix = nn.Parameter(0.02 * torch.randn(1, WIDTH))
        self.position = nn.Parameter(0.02 * torch.randn((IMAGE // PATCH) ** 2, WIDTH))
        blocks = nn.Sequential(*(CharacterBlock(WIDTH, HEADS) for _ in range(DEPTH)))
        self.body = Body(nn.LayerNorm(WIDTH), blocks, nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH, bias=False))
        self.head = nn.Parameter(torch.randn(len(CHARACTERS), WIDTH))
        self.log_scale = nn.Parameter(torch.tensor(2.5))

    def forward(self, image: Tensor) -> Tensor:
        """Normalised (B, 3, 64, 64) -> logits (B, 62)."""
        tokens = self.patch_embed(image).flatten(2).transpose(1, 2) + self.position
        prefix = self.prefix.expand(len(image), -1, -1)
        embedding = self.body(torch.cat([prefix, tokens], dim=1))
        cosine = F.normalize(embedding, dim=-1) @ F.normalize(self.head, dim=-1).T
        return self.log_scale.exp() * cosine

    def backbone(self) -> Backbone:
        """Freeze: this net as a `Backbone`."""
        spec = VitSpec("builtin", (IMAGE, IMAGE), PATCH, PREPROCESS)
        # Training and the weights file have the last block whole.
        own, blocks = self.body, stack([*self.body.blocks], class_token=True)
        body = Body(own.pre_norm, blocks, own.post_norm, own.project)
        vit = FrozenViT(spec, self.patch_embed, self.prefix, self.position, body, body.pre_norm)
        return Backbone(vit, _CharacterHead(self.head.detach(), float(self.log_scale.detach().exp())))


class _CharacterHead(ZeroShot):
    def __init__(self, rows: Tensor, scale: float) -> None:
        self.rows, self.scale = rows, scale

    def head(self, labels: tuple[str, ...], template: str) -> Head:
        unknown = [label for label in labels if len(label) != 1 or label not in CHARACTERS]
        if unknown:
            raise DataError(
                "builtin",
                expected="classes named by one character of 0-9, A-Z, a-z",
                got=repr(unknown[0]),
                do="train with a linear head: --head linear",
            )
        rows = torch.stack([self.rows[CHARACTERS.index(label)] for label in labels])
        return Head.text(F.normalize(rows, dim=-1).numpy(), labels, self.scale)

    def outputs(self) -> Head:
        return self.head(tuple(CHARACTERS), "{}")


def load_builtin() -> Backbone:
    """The embedded backbone from the package's own weights.

    Raises:
        CheckpointError: the weights file is not the one that this version was released with.
    """
    from safetensors.torch import load

    data = resources.files("pgn_edge.nn").joinpath("builtin.safetensors").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise CheckpointError(
            "builtin weights",
            expected=f"sha256 {WEIGHTS_SHA256}",
            got=digest,
            do="install pgn-edge again",
        )
    net = CharacterNet()
    net.load_state_dict({name: tensor.float() for name, tensor in load(data).items()})
    return net.backbone()

"""A checkpoint back in its place, before the frozen ViT that it was trained with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from pgn_edge.nn.backbones import load_backbone
from pgn_edge.nn.checkpoint import Checkpoint, load_checkpoint
from pgn_edge.nn.vit import Backbone
from pgn_edge.train.model import HeadModule, PromptedViT


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained task in torch.

    Args:
        name: the checkpoint's file.
        checkpoint: what the file holds.
        backbone: its frozen ViT, and the head that this has of its own.
        model: PGN, ViT and head, in evaluation mode on the best device that there is; the canvas goes through what it
            went through in training.
    """

    name: str
    checkpoint: Checkpoint
    backbone: Backbone
    model: PromptedViT

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names of its head."""
        return self.checkpoint.head.labels

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.model.vit.position.device


def load_trained(
    path: str | Path,
    weights: str | Path | None = None,
    load: Callable[[str, str | Path | None], Backbone] = load_backbone,
) -> Trained:
    """Read a checkpoint, and load its frozen ViT.

    Args:
        path: of the checkpoint.
        weights: of the backbone; None downloads them or takes the embedded ones.
        load: gives the backbone; one that remembers saves memory where several checkpoints share one.

    Raises:
        CheckpointError: the checkpoint or the backbone cannot be loaded, or they do not belong together.
        MissingExtraError: the library behind the backbone is not installed.
    """
    checkpoint = load_checkpoint(path)
    backbone = load(checkpoint.backbone, weights or checkpoint.weights)
    checkpoint.require_vit(backbone.vit, str(path))
    head = HeadModule(checkpoint.head)
    model = PromptedViT(backbone.vit, checkpoint.pgn, head, checkpoint.geometry, checkpoint.transport)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Trained(str(path), checkpoint, backbone, model.requires_grad_(False).eval().to(device))

"""One untrained task in front of the tiny ViT, and what it makes of a few images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pgn_edge.nn.checkpoint import Checkpoint, load_checkpoint
from pgn_edge.nn.pgn import PGN, PgnConfig
from pgn_edge.nn.vit import Backbone
from pgn_edge.progress import silent
from pgn_edge.train.analysis.features import Features, gather
from pgn_edge.train.analysis.trained import Trained, load_trained
from pgn_edge.train.data.dataset import DataSet
from pgn_edge.train.model import HeadModule, PromptedViT


@pytest.fixture
def trained(tiny_checkpoint: Path, tiny_backbone: Backbone) -> Trained:
    """`tiny_checkpoint` before its ViT."""
    return load_trained(tiny_checkpoint, load=lambda name, weights: tiny_backbone)


@pytest.fixture
def features(trained: Trained, bar_data: DataSet) -> Features:
    """Of the 24 training images of `bar_data`."""
    return gather(trained, bar_data, bar_data.train, silent)


@pytest.fixture
def other(tiny_checkpoint: Path, tiny_backbone: Backbone) -> Callable[[PgnConfig], Trained]:
    """`trained` with another PGN."""

    def make(config: PgnConfig) -> Trained:
        old = load_checkpoint(tiny_checkpoint)
        pgn = PGN(config, preprocess=old.preprocess).eval()
        vit, geometry = tiny_backbone.vit, tiny_backbone.vit.geometry(config.prompts)
        identity = (old.name, old.backbone, old.fingerprint, old.weights_sha256)
        parts = (*identity, geometry, old.preprocess, pgn, old.head, old.golden_images)
        checkpoint = Checkpoint(*parts)
        model = PromptedViT(vit, pgn, HeadModule(old.head), geometry).eval()
        return Trained("other.pt", checkpoint, tiny_backbone, model)

    return make

"""A checkpoint back in its place, and what PGN and ViT make of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pgn_edge.errors import CheckpointError, DataError
from pgn_edge.nn.builtin import CharacterNet
from pgn_edge.nn.pgn import PgnConfig
from pgn_edge.nn.prompted import embed
from pgn_edge.progress import silent
from pgn_edge.train.analysis.features import Features, choose, flat_mixtures, gather
from pgn_edge.train.analysis.trained import Trained, load_trained
from pgn_edge.train.data.dataset import DataSet
from pgn_edge.train.data.samples import Arrays, Files


def test_features_are_those_of_the_modules(trained: Trained, features: Features):
    vit, pgn = trained.backbone.vit, trained.checkpoint.pgn
    x = torch.from_numpy(trained.checkpoint.preprocess.normalise(features.images))
    with torch.no_grad():
        assert features.prompted == pytest.approx(embed(vit, pgn, trained.checkpoint.geometry, x).numpy(), abs=1e-5)
        assert features.frozen == pytest.approx(vit(x).numpy(), abs=1e-5)
        assert features.coefficients == pytest.approx(pgn.coefficients(x).numpy(), abs=1e-6)
        assert features.prompts == pytest.approx(pgn(x).numpy(), abs=1e-6)
    assert features.images.shape == (24, 64, 64, 3)
    assert flat_mixtures([features])[0].shape == (24, 16 * 32)


def test_the_head_is_the_checkpoints(trained: Trained, features: Features):
    x = torch.from_numpy(trained.checkpoint.preprocess.normalise(features.images))
    with torch.no_grad():
        logits = trained.model(x).numpy()
    assert logits == pytest.approx(trained.checkpoint.head.logits(features.prompted), abs=1e-4)
    assert not any(parameter.requires_grad for parameter in trained.model.parameters())


def test_a_vit_of_another_fingerprint_is_refused(tiny_checkpoint: Path):
    with pytest.raises(CheckpointError, match="fingerprint"):
        load_trained(tiny_checkpoint, load=lambda name, weights: CharacterNet().backbone())


def test_constant_prompts_mix_nothing(other: Callable[[PgnConfig], Trained], bar_data: DataSet):
    found = gather(other(PgnConfig("constant", 8, 8, 128, 16)), bar_data, bar_data.test, silent)
    assert found.coefficients is None
    assert found.prompts is None
    assert flat_mixtures([found]) == []


def test_what_cannot_be_read_is_counted(trained: Trained, bar_data: DataSet, tmp_path: Path):
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path in paths:
        Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(path)
    paths[1].write_bytes(b"no image")
    found = gather(trained, bar_data, Files(paths, np.array([0, 1, 1])), silent)
    assert (found.unreadable, found.labels.tolist()) == (1, [0, 1])
    for path in paths:
        path.unlink()
    with pytest.raises(DataError, match="at least one that can be read"):
        gather(trained, bar_data, Files(paths, np.array([0, 1, 1])), silent)


def test_a_limit_takes_images_from_the_whole_split(bar_data: DataSet):
    chosen = choose(bar_data, "train", 3)
    assert [chosen.name(index) for index in range(3)] == ["bars[0]", "bars[12]", "bars[23]"]
    assert len(choose(bar_data, "test", None)) == 12


def test_a_split_without_images_is_refused(bar_data: DataSet):
    nothing = Arrays(bar_data.train.read(0)[None][:0], np.zeros(0, np.int64), "none")
    with pytest.raises(DataError, match="images in the split train, got none"):
        choose(replace(bar_data, train=nothing), "train", None)

"""Tasks whose prompts are 8-bit levels, or no shares of a library, on a real ViT engine."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from pgn_edge.bundle import read_bundle, write_bundle
from pgn_edge.errors import PairingError
from pgn_edge.export.task import export_task
from pgn_edge.nn.checkpoint import load_checkpoint, save_checkpoint
from pgn_edge.nn.pgn import PGN, PgnConfig
from pgn_edge.nn.vit import Backbone
from pgn_edge.runtime import Runtime


@pytest.fixture
def export(tiny_checkpoint: Path, use_tiny_backbone: Backbone, tmp_path: Path):
    """Export the tiny task with another PGN."""

    def run(config: PgnConfig) -> Path:
        checkpoint = load_checkpoint(tiny_checkpoint)
        torch.manual_seed(0)
        pgn = PGN(config, 1.0, checkpoint.preprocess).eval()
        save_checkpoint(tmp_path / "ckpt.pt", dataclasses.replace(checkpoint, pgn=pgn))
        export_task(tmp_path / "ckpt.pt", tmp_path / "task.pgn")
        return tmp_path / "task.pgn"

    return run


CONFIGS = {
    "rounded": PgnConfig("mlp", 16, 6, 192, 10, "pixel", rounded=True),
    "direct": PgnConfig("mlp", 16, 0, 128, 10),
    "sigmoid": PgnConfig("mlp", 16, 6, 128, 10, mixing="sigmoid"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_it_answers_as_torch_did(name: str, export, tiny_pair):
    path = export(CONFIGS[name])
    golden = read_bundle(path).golden
    with Runtime(tiny_pair.vit, {"a": path}) as runtime:
        results = [runtime.infer("a", image[:, :, ::-1].copy()) for image in golden.images]
        assert [int(result.label) for result in results] == golden.top1.tolist()
    assert read_bundle(path).profile is None or name == "rounded"


@pytest.mark.parametrize("levels", [1, 2])
def test_a_pixel_may_lie_one_level_away_and_no_further(export, tiny_pair, tmp_path: Path, levels: int):
    bundle = read_bundle(export(CONFIGS["rounded"]))
    rows = bundle.golden.prompt_rows.copy()
    rows[0, 0, 0, 0] += levels * bundle.facts.preprocess.affine()[0][0, 0, 0]
    moved = dataclasses.replace(bundle, golden=dataclasses.replace(bundle.golden, prompt_rows=rows))
    write_bundle(tmp_path / "moved.pgn", moved)
    if levels == 1:
        Runtime(tiny_pair.vit, {"a": tmp_path / "moved.pgn"}).close()
        # Of a task that does not round, the same difference is an error.
        write_bundle(
            tmp_path / "moved.pgn",
            dataclasses.replace(moved, certificate={**bundle.certificate, "rounded": False}),
        )
    with pytest.raises(PairingError, match="golden prompt rows of the canvas"):
        Runtime(tiny_pair.vit, {"a": tmp_path / "moved.pgn"})


def test_an_embedding_that_is_another_is_refused_all_the_same(export, tiny_pair, tmp_path: Path):
    bundle = read_bundle(export(CONFIGS["rounded"]))
    spoilt = bundle.golden.embedding + 0.1 * np.abs(bundle.golden.embedding).max()
    wrong = dataclasses.replace(bundle, golden=dataclasses.replace(bundle.golden, embedding=spoilt))
    write_bundle(tmp_path / "wrong.pgn", wrong)
    with pytest.raises(PairingError, match="golden embedding"):
        Runtime(tiny_pair.vit, {"a": tmp_path / "wrong.pgn"})

"""`--weights` and `--weights-key`, and what commands say of a backbone before they work with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner, Result

from pgn_edge.cli import cli
from pgn_edge.errors import CheckpointError
from pgn_edge.export.frozen import VitOptions
from pgn_edge.nn.backbones import load_backbone


@pytest.fixture
def averaged(tmp_path: Path) -> Path:
    """A training's file with plain and averaged weights."""
    state = timm.create_model("test_vit").state_dict()
    torch.save({"model": state, "model_ema": state}, tmp_path / "last.pth")
    return tmp_path / "last.pth"


def load_alone(monkeypatch: pytest.MonkeyPatch, *options: str) -> Result:
    """`export-vit` up to the point where the backbone is loaded."""

    def stop(backbone: str, output: Path, options: VitOptions) -> None:
        load_backbone(backbone, options.weights)
        raise CheckpointError("test", expected="a backbone", got="one", do="stop here")

    monkeypatch.setattr("pgn_edge.export.frozen.export_vit", stop)
    result = CliRunner().invoke(cli, ["export-vit", "timm:test_vit", *options])
    assert "stop here" in result.stderr, result.output
    return result


def test_a_command_says_activation_normalisation_and_that_averaged_weights_are_taken(
    averaged: Path, monkeypatch: pytest.MonkeyPatch
):
    result = load_alone(monkeypatch, "--weights", str(averaged))
    said = result.stderr.splitlines()
    assert said[0] == "timm:test_vit: GELU; normalisation mean 0.5 0.5 0.5, std 0.5 0.5 0.5"
    assert "last.pth: the averaged (EMA) weights under 'model_ema' are taken; --weights-key model takes" in said[1]
    assert result.stdout == ""


@pytest.mark.parametrize("last", [True, False], ids=["behind --weights", "before it"])
def test_a_key_chooses_among_the_weights_of_a_file(averaged: Path, monkeypatch: pytest.MonkeyPatch, last: bool):
    parts = [["--weights", str(averaged)], ["--weights-key", "model"]]
    options = parts if last else parts[::-1]
    assert "EMA" not in load_alone(monkeypatch, *options[0], *options[1]).stderr


def test_a_key_without_a_file_is_a_wrong_call():
    result = CliRunner().invoke(cli, ["export-vit", "builtin", "--weights-key", "model"])
    assert result.exit_code == 2
    assert "give it with --weights FILE" in result.stderr

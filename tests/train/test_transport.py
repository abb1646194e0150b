"""Training behind a codec: the canvas of deployment in every step and in validation, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pgn_edge.errors import CheckpointError, DataError, PgnEdgeError, TrainingError
from pgn_edge.nn.checkpoint import load_checkpoint, save_checkpoint
from pgn_edge.nn.vit import Backbone
from pgn_edge.train.analysis.trained import load_trained
from pgn_edge.train.compare import own_config
from pgn_edge.train.config import Execution, Schedule, TrainConfig
from pgn_edge.train.loop import accuracy
from pgn_edge.train.model import PromptedViT
from pgn_edge.train.task import train_task
from pgn_edge.transport import Transport

QUICK = Schedule(epochs=2, warm_start=0, batch=8, lr=0.01)


@pytest.fixture(autouse=True)
def _tiny(use_tiny_backbone: Backbone) -> None:
    """`builtin` is the tiny backbone in this file."""


@pytest.fixture
def config(bar_folder: Path) -> TrainConfig:
    return TrainConfig(str(bar_folder), resolution=32, layout="inset", library_space="pixel", transport="jpeg:50")


@pytest.fixture
def trained(config: TrainConfig, tmp_path: Path) -> Path:
    train_task(config, QUICK, tmp_path / "ckpt.pt")
    return tmp_path / "ckpt.pt"


def test_every_canvas_goes_through_the_codec(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    carried, carry = [], Transport.carry

    def counted(self: Transport, image: Any) -> Any:
        carried.append((str(self), image.shape))
        return carry(self, image)

    monkeypatch.setattr(Transport, "carry", counted)
    report = train_task(config, QUICK, tmp_path / "ckpt.pt")
    images = 2 * (15 + 3) + 3  # two epochs of training and validation, and the held-out images at the end
    assert carried == [("jpeg:50", (64, 64, 3))] * images
    before = replace(config, transport=None)
    plain = train_task(before, QUICK, tmp_path / "plain.pt")
    assert report.history.loss != plain.history.loss
    assert len(carried) == images


def test_the_checkpoint_says_it_and_is_judged_as_it_was_chosen(config: TrainConfig, tmp_path: Path):
    report = train_task(config, QUICK, tmp_path / "ckpt.pt")
    checkpoint = load_checkpoint(tmp_path / "ckpt.pt")
    assert checkpoint.provenance["config"]["transport"] == "jpeg:50"
    assert checkpoint.transport == Transport("jpeg", 50)
    assert checkpoint.pgn.config.rounded, "a transport implies 8 bits"
    again = load_trained(tmp_path / "ckpt.pt")
    assert again.model.transport == Transport("jpeg", 50)
    found = accuracy(again.model, report.data.validation, report.preprocess)
    assert found == max(report.history.validation)


def test_the_codec_is_in_the_way_and_the_gradient_passes(config: TrainConfig, trained: Path):
    model = load_trained(trained).model.cpu()
    plain = PromptedViT(model.vit, model.pgn, model.head, model.geometry)
    image = torch.rand(4, 3, *model.geometry.content_hw, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (model(image) - plain(image)).abs().max() > 1e-3
    assert model.pgn is not None
    model.pgn.requires_grad_(True).train()  # in evaluation mode the rounding has no gradient
    model(image)[:, 0].sum().backward()
    assert model.pgn.library is not None
    assert float(model.pgn.library.grad.abs().max()) > 0


def test_constant_prompts_of_a_comparison_go_through_it_too(config: TrainConfig):
    assert own_config("constant", config).transport == "jpeg:50"
    assert own_config("cnn", config).transport is None


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        pytest.param({"library_space": "token"}, TrainingError, "--library-space pixel", id="tokens"),
        pytest.param({"transport": "gif"}, DataError, "jpeg:QUALITY", id="unknown codec"),
        pytest.param({"transport": "jpeg"}, DataError, "jpeg:QUALITY", id="jpeg without a quality"),
        pytest.param({"transport": ""}, DataError, "jpeg:QUALITY", id="empty"),
    ],
)
def test_transports_that_make_no_sense(
    config: TrainConfig, changes: dict[str, Any], error: type[PgnEdgeError], says: str
):
    with pytest.raises(error, match=says):
        replace(config, **changes)


def test_a_codec_is_not_compiled(config: TrainConfig, tmp_path: Path):
    with pytest.raises(TrainingError, match="leave --compile or --transport out"):
        train_task(config, QUICK, tmp_path / "ckpt.pt", execution=Execution(compile=True))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("transport", "says"), [("gif", "a transport"), ("png", "a pixel library behind png")], ids=["unknown", "of tokens"]
)
def test_checkpoints_that_name_a_transport_they_cannot_have(
    tiny_checkpoint: Path, tmp_path: Path, transport: str, says: str
):
    old = load_checkpoint(tiny_checkpoint)
    assert old.transport is None
    save_checkpoint(tmp_path / "bad.pt", replace(old, provenance={"config": {"transport": transport}}))
    with pytest.raises(CheckpointError, match=says):
        load_checkpoint(tmp_path / "bad.pt")

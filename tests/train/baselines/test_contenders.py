"""One roof and one budget."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pgn_edge.nn.vit import Backbone
from pgn_edge.progress import Progress, silent
from pgn_edge.train.baselines.contenders import CONTENDERS, Setting, thaw
from pgn_edge.train.compare import choose_head, own_config
from pgn_edge.train.config import Execution, Schedule, TrainConfig
from pgn_edge.train.data.table import load_data

SHORT = Schedule(epochs=1, warm_start=2, batch=9)


def make(name: str, config: TrainConfig, backbone: Backbone, folder: Path, progress: Progress = silent) -> Setting:
    data = load_data(config.data)
    return Setting(name, config, SHORT, backbone, data, folder / "run.pt", progress, Execution("cpu"))


@pytest.mark.parametrize("name", list(CONTENDERS))
def test_each_gets_the_same_passes_and_leaves_the_frozen_vit_alone(
    name: str, bar_folder: Path, use_tiny_backbone: Backbone, tmp_path: Path
):
    told: dict[str, int] = defaultdict(int)

    def listen(step: str, done: int, total: int, note: str = "") -> None:
        told[step] = total

    backbone, data = use_tiny_backbone, load_data(str(bar_folder))
    head = choose_head(name, "zero-shot", backbone, data)
    config = own_config(name, TrainConfig(str(bar_folder), resolution=16, library=8, head=head))
    setting = make(name, config, backbone, tmp_path, listen)
    before = {key: tensor.clone() for key, tensor in backbone.vit.state_dict().items()}
    contender = CONTENDERS[name]
    model = contender.train(setting, contender.build(setting))
    steps = 2  # of 18 - 3 training images
    told.pop("held-out images", None)
    assert sum(told.values()) == (3 * steps if contender.learns else 0)
    assert set(told) <= {"warm start", "training"}
    assert not model.training
    assert all(torch.equal(before[key], tensor) for key, tensor in backbone.vit.state_dict().items())
    assert not any(parameter.requires_grad for parameter in backbone.vit.parameters())
    assert model(torch.zeros(1, 3, *setting.preprocess(model).size_hw)).shape == (1, 3)


def test_a_thawed_vit_learns_everywhere_and_starts_as_the_frozen_one(tiny_backbone: Backbone):
    frozen = tiny_backbone.vit
    copy = thaw(frozen)
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    embedding = copy(image)
    assert torch.equal(embedding.detach(), frozen(image))
    embedding.sum().backward()
    named = dict(copy.named_parameters())
    assert {"prefix", "position"} < set(named)
    assert all(parameter.grad is not None for parameter in named.values())
    assert set(copy.state_dict()) == set(frozen.state_dict())
    assert not dict(frozen.named_parameters()).keys() & {"prefix", "position"}


def test_full_fine_tuning_changes_class_token_and_positions(
    bar_folder: Path, use_tiny_backbone: Backbone, tmp_path: Path
):
    setting = make("full-fine-tuning", TrainConfig(str(bar_folder), head="tuned"), use_tiny_backbone, tmp_path)
    contender = CONTENDERS["full-fine-tuning"]
    model = contender.train(setting, contender.build(setting))
    for name in ("prefix", "position"):
        assert not torch.equal(getattr(model.vit, name), getattr(use_tiny_backbone.vit, name))


def test_the_cnn_is_the_generator_of_the_pgn(bar_folder: Path, use_tiny_backbone: Backbone, tmp_path: Path):
    setting = make("cnn", TrainConfig(str(bar_folder), generator="mlp"), use_tiny_backbone, tmp_path)
    assert CONTENDERS["cnn"].build(setting).resolution == 10
    again = replace(setting, config=replace(setting.config, resolution=12, hidden=5))
    model = CONTENDERS["cnn"].build(again)
    assert (model.resolution, model.head[0].out_features) == (12, 5)

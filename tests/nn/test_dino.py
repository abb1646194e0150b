"""Full DINO checkpoints, in the layout that DINO's own training writes, against the same computation spelt out."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from pgn_edge.errors import CheckpointError, DataError, GeometryError
from pgn_edge.export.frozen import vit_graph
from pgn_edge.nn.backbones import load_backbone
from pgn_edge.nn.vit import Backbone

NAME, WIDTH, PROTOTYPES = "dino:test_vit@32", 64, 20


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return 0.2 * torch.randn(shape, generator=generator)


def net(seed: int, size: int = 160) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Backbone in timm's names, which are DINO's, and projection head; no parameter is zero or one."""
    generator = torch.Generator().manual_seed(seed)
    model = timm.create_model("test_vit", num_classes=0, img_size=size)
    backbone = {key: normal(generator, *tensor.shape) for key, tensor in model.state_dict().items()}
    sizes, head = (WIDTH, 24, 28, 16), {}
    for layer, inside, outside in zip((0, 2, 4), sizes[:-1], sizes[1:], strict=True):
        head[f"mlp.{layer}.weight"] = normal(generator, outside, inside)
        head[f"mlp.{layer}.bias"] = normal(generator, outside)
    head["last_layer.weight_v"] = normal(generator, PROTOTYPES, 16)
    head["last_layer.weight_g"] = 0.5 + torch.rand(PROTOTYPES, 1, generator=generator)
    return backbone, head


def published(size: int = 160) -> dict[str, Any]:
    """What DINO saves after an epoch: student and teacher, optimiser, options and the centre of its loss."""

    def join(seed: int, prefix: str) -> dict[str, Tensor]:
        backbone, head = net(seed, size)
        return {f"{prefix}backbone.{k}": v for k, v in backbone.items()} | {
            f"{prefix}head.{k}": v for k, v in head.items()
        }

    return {
        "student": join(1, "module."),
        "teacher": join(2, ""),
        "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 5e-4, "params": [0]}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", patch_size=16, out_dim=65536, local_crops_scale=(0.05, 0.25)),
        "dino_loss": {"center": torch.zeros(1, PROTOTYPES)},
    }


def write(folder: Path, data: Any) -> Path:
    torch.save(data, folder / "full.pth")
    return folder / "full.pth"


def dino_backbone(folder: Path) -> Backbone:
    """A tiny DINO with 20 prototypes, from a file."""
    return load_backbone(NAME, write(folder, published()))


def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def by_hand(image: Tensor) -> tuple[Tensor, Tensor]:
    """Teacher's backbone, student's head: unit embedding and logits, with torch's own weight norm."""
    model = timm.create_model("test_vit", num_classes=0).eval()
    model.load_state_dict(net(2)[0])
    model.set_input_size((32, 32))
    head = net(1)[1]
    x = model(image)
    for layer in (0, 2, 4):
        x = x @ head[f"mlp.{layer}.weight"].T + head[f"mlp.{layer}.bias"]
        if layer < 4:
            x = torch.nn.functional.gelu(x)
    x = x / x.norm(dim=1, keepdim=True)
    last = torch._weight_norm(head["last_layer.weight_v"], head["last_layer.weight_g"], 0)
    return x, x @ last.T / 0.1


def test_embedding_and_prototypes(tmp_path: Path):
    backbone = dino_backbone(tmp_path)
    with torch.no_grad():
        embedding, (expected, logits) = backbone.vit(images()), by_hand(images())
    torch.testing.assert_close(embedding, expected, rtol=0, atol=1e-6)
    assert float((expected[0] - expected[1]).abs().max()) > 1e-3, "images tell nothing apart here"
    outputs = backbone.zero_shot.outputs()
    assert (outputs.kind, len(outputs.labels)) == ("linear", PROTOTYPES)
    np.testing.assert_allclose(outputs.logits(embedding.numpy()), logits.numpy(), rtol=0, atol=1e-4)


def test_positions_may_have_the_size_in_the_name_already(tmp_path: Path):
    backbone = load_backbone(NAME, write(tmp_path, published(size=32)))
    stored = net(2, size=32)[0]["pos_embed"][0, 1:]
    torch.testing.assert_close(backbone.vit.position, stored, rtol=0, atol=0)


def test_it_is_normalised_as_dino_was_trained(tmp_path: Path):
    spec = dino_backbone(tmp_path).vit.spec
    assert spec.preprocess.mean == (0.485, 0.456, 0.406)
    assert spec.preprocess.std == (0.229, 0.224, 0.225)
    assert (spec.image_hw, spec.backbone) == ((32, 32), NAME)


def test_prototypes_have_no_names(tmp_path: Path):
    with pytest.raises(DataError, match="a model that can name its outputs"):
        dino_backbone(tmp_path).zero_shot.head(("cat",), "{}")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_engine_gives_unit_vectors(tmp_path: Path, precision: str):
    vit = dino_backbone(tmp_path).vit
    graph = vit_graph(vit, 2, "append", precision)
    assert all(rung.passed for rung in graph.parity)
    assert graph.facts.output == "embedding"


def changed(change: Callable[[dict[str, Any]], object]) -> Any:
    data = published()
    change(data)
    return data


class Code:
    """Pickles as a call, the way that hostile files do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code from the file ran",)


NO_LAYER = "no mlp.4.bias in the head"
BAD = {
    "no dictionary": (lambda: [1, 2], "got no such parts"),
    "the backbone alone": (lambda: net(2)[0], "got no such parts"),
    "no student": (lambda: changed(lambda d: d.pop("student")), "got no such parts"),
    "no teacher": (lambda: changed(lambda d: d.pop("teacher")), "got no such parts"),
    "a word for a net": (lambda: changed(lambda d: d.update(teacher="good")), "got no such parts"),
    "a shorter head": (lambda: changed(lambda d: d["student"].pop("module.head.mlp.4.bias")), NO_LAYER),
    "batch norms in the head": (
        lambda: changed(lambda d: d["student"].update({"module.head.mlp.1.running_mean": torch.zeros(24)})),
        "another mlp.1.running_mean",
    ),
    "a bias without a shape": (
        lambda: changed(lambda d: d["student"].update({"module.head.mlp.0.bias": torch.tensor(1.0)})),
        "another mlp.0.bias",
    ),
    "layers that do not follow": (
        lambda: changed(lambda d: d["student"].update({"module.head.mlp.2.weight": torch.zeros(28, 9)})),
        "size mismatch for mlp.2.weight",
    ),
    "lengths for other prototypes": (
        lambda: changed(lambda d: d["student"].update({"module.head.last_layer.weight_g": torch.ones(3, 1)})),
        "prototypes of width 16",
    ),
    "a backbone of another shape": (
        lambda: changed(lambda d: d["teacher"].update({"backbone.norm.bias": torch.zeros(3)})),
        "size mismatch for norm.bias",
    ),
    "NaN in a prototype": (
        lambda: changed(lambda d: d["student"]["module.head.last_layer.weight_v"].fill_(float("nan"))),
        "NaN or Inf in weight",
    ),
    "code among the options": (lambda: changed(lambda d: d.update(args=Code())), "pickled code"),
    "code within the options": (lambda: changed(lambda d: setattr(d["args"], "arch", Code())), "pickled code"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_refused(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]):
    make, message = BAD[name]
    with pytest.raises(CheckpointError) as caught:
        load_backbone(NAME, write(tmp_path, make()))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert "pgn-edge train" not in str(caught.value), "the advice is for checkpoints of our own"
    assert "ran" not in capsys.readouterr().out


def test_the_hostile_file_would_run_code_elsewhere(capsys: pytest.CaptureFixture[str]):
    pickle.loads(pickle.dumps(Code()))
    assert "ran" in capsys.readouterr().out


def test_names_that_are_refused(tmp_path: Path):
    path = write(tmp_path, published())
    with pytest.raises(CheckpointError, match=r"got no file; pass it with --weights FILE"):
        load_backbone(NAME)
    with pytest.raises(CheckpointError, match="no such file"):
        load_backbone(NAME, tmp_path / "missing.pth")
    with pytest.raises(CheckpointError, match="try dino:vit_small_patch16_224"):
        load_backbone("dino:vits16", path)
    with pytest.raises(GeometryError):
        load_backbone("dino:test_vit@33", path)

"""Upstream files: what is no such file is refused, and no code in it is ever run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pgn_edge.export.upstream_file import read_upstream

LIBRARY, WIDTH = 6, 128  # of the fixture `upstream_state`

Make = Callable[..., dict[str, Tensor]]
Change = Callable[[Make], Any]  # what stands in the file, from what makes a good one


def without(name: str) -> Change:
    return lambda make: {key: tensor for key, tensor in make().items() if key != name}


def also(name: str, tensor: Tensor) -> Change:
    return lambda make: {**make(), name: tensor}


def spoilt(name: str, value: float) -> Change:
    def change(make: Make) -> dict[str, Tensor]:
        state = make()
        state[name].view(-1)[-1] = value
        return state

    return change


RESNET18 = {
    "tl_vectors": torch.ones(6, 8),
    "model.conv1.weight": torch.ones(64, 3, 7, 7),
    "model.fc.bias": torch.ones(30),
}
MLP = {"tl_vectors": torch.ones(6, 8), "model.0.weight": torch.ones(16, 12), "model.0.bias": torch.ones(16)}


@pytest.mark.usefixtures("use_tiny_backbone")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(spoilt("tl_vectors", float("nan")), "NaN or Inf in tl_vectors", id="NaN in the library"),
        pytest.param(
            spoilt("model.blocks.2.net.4.running_var", float("inf")),
            "NaN or Inf in model.blocks.2.net.4.running_var",
            id="Inf in a variance",
        ),
        pytest.param(without("tl_vectors"), "expected tl_vectors", id="no library"),
        pytest.param(without("model.output_net.2.weight"), "expected tl_vectors and", id="no last layer"),
        pytest.param(without("model.output_net.2.bias"), "got no model.output_net.2.bias", id="no bias"),
        pytest.param(without("model.blocks.3.downsample.weight"), "got no model.blocks.3.downsample.weight", id="gap"),
        pytest.param(also("extra", torch.ones(1)), "got also extra", id="a tensor too many"),
        pytest.param(
            also("model.blocks.0.net.0.weight", torch.ones(32, 16, 3, 3)),
            "expected model.blocks.0.net.0.weight float32 (16, 16, 3, 3), got float32 (32, 16, 3, 3)",
            id="another number of channels",
        ),
        pytest.param(
            also("tl_vectors", torch.ones(LIBRARY, WIDTH, dtype=torch.int64)),
            "expected tl_vectors float32 (6, 128), got int64 (6, 128)",
            id="a library of whole numbers",
        ),
        pytest.param(
            also("tl_vectors", torch.ones(7, WIDTH)),
            "K x N rows, got float32 (7, 128) and float32 (30, 128)",
            id="N that does not divide the outputs",
        ),
        pytest.param(also("tl_vectors", torch.ones(0, WIDTH)), "K x N rows", id="an empty library"),
        pytest.param(also("tl_vectors", torch.ones(6)), "K x N rows", id="a flat library"),
        pytest.param(lambda make: make(width=64), "width 128, as builtin has, got 64", id="a width of no known ViT"),
        pytest.param(lambda make: make(width=384), "looks like ViT-S/16", id="the width of S/16"),
        pytest.param(lambda make: RESNET18, "got a resnet18 generator", id="resnet18"),
        pytest.param(lambda make: MLP, "got an mlp generator", id="mlp"),
        pytest.param(
            lambda make: {"pgn_vectors": torch.ones(16, 768)}, "got input-independent prompts", id="no generator"
        ),
        pytest.param(lambda make: {"state_dict": make()}, "got a training checkpoint", id="a Lightning checkpoint"),
        pytest.param(
            lambda make: {"conv1.weight": torch.ones(3)}, "got keys ['conv1.weight']", id="a foreign state_dict"
        ),
        pytest.param(lambda make: {}, "got keys []", id="empty"),
        pytest.param(lambda make: [torch.ones(3)], "got list", id="a list"),
        pytest.param(lambda make: torch.ones(3), "got Tensor", id="a tensor"),
        pytest.param(lambda make: {1: torch.ones(3)}, "got keys ['1']", id="a key that is no word"),
    ],
)
def test_files_that_are_refused(upstream_state, write, refused, tmp_path: Path, change: Change, says: str):
    path = write(tmp_path, change(upstream_state))
    line = refused(path, tmp_path / "ckpt.pt")
    assert line.startswith(f"{path}: expected ")
    assert says in line


def test_a_checkpoint_of_ours_needs_no_import(refused, tiny_checkpoint: Path, tmp_path: Path):
    assert "got a training checkpoint; make a bundle of it first" in refused(tiny_checkpoint, tmp_path / "ckpt.pt")


class Marker:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the marker's own open file, in the check at the end
def test_pickled_code_is_never_run(upstream_state, write, refused, tmp_path: Path):
    marker = tmp_path / "marker"
    path = write(tmp_path, {**upstream_state(), "tl_vectors": Marker(marker)})
    assert "pickled code" in refused(path, tmp_path / "ckpt.pt")
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the file was harmless: this test proves nothing"


@pytest.mark.parametrize("data", [b"", b"no checkpoint", None], ids=["empty", "text", "no file"])
def test_files_that_do_not_load(refused, tmp_path: Path, data: bytes | None):
    path = tmp_path / "upstream.pt"
    if data is not None:
        path.write_bytes(data)
    assert str(path) in refused(path, tmp_path / "ckpt.pt")


def test_the_tensors_are_copies(upstream_state, write, tmp_path: Path):
    state = upstream_state()
    state["tl_vectors"] = torch.zeros(1_000_000)[: LIBRARY * WIDTH].view(LIBRARY, WIDTH)
    _, tensors = read_upstream(write(tmp_path, state))
    assert tensors["library"].untyped_storage().nbytes() == 4 * LIBRARY * WIDTH

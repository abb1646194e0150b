"""From a name and a file of weights to a frozen ViT: what every family shares."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pgn_edge.errors import CheckpointError, GeometryError
from pgn_edge.nn import backbones, weights
from pgn_edge.nn.backbones import load_backbone
from pgn_edge.nn.builtin import CharacterNet
from pgn_edge.nn.weight_file import read_weights
from pgn_edge.nn.weights import fill, linear_of, sketch

NAME = "timm:test_vit"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(timm.create_model("test_vit").state_dict())


@pytest.mark.parametrize("name", ["", "resnet", "openclip:ViT-B-32/openai", "timm", "torchvision"])
def test_an_unknown_family_is_answered_with_an_example_of_each(name: str):
    with pytest.raises(CheckpointError) as caught:
        load_backbone(name)
    if name in ("timm", "torchvision"):
        assert "try " in str(caught.value)
        return
    for example in ("builtin", "open_clip:ViT-B-32/openai", "timm:vit_small_patch16_224.dino", "torchvision:vit_b_32"):
        assert example in caught.value.do


@pytest.mark.parametrize("size", ["", "big", "-1", "2.5", "12345", "²", "١٦"])
@pytest.mark.parametrize("plain", ["open_clip:ViT-B-32/openai", "timm:test_vit", "torchvision:vit_b_32"])
def test_what_is_no_size_is_refused(plain: str, size: str):
    with pytest.raises(GeometryError, match="an image size in pixels behind the @"):
        load_backbone(f"{plain}@{size}")


class Code:
    """Pickles as a call, the way that hostile files do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code from the file ran",)


def unwritten(path: Path, state: dict[str, Tensor]) -> None:
    pass


def torch_file(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path, dict[str, Tensor]], None]:
    return lambda path, state: torch.save(change(dict(state)), path)


def without(state: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if key not in names}


FILES = {
    "no such file": (unwritten, "got no such file"),
    "a folder": (lambda path, state: path.mkdir(), "got a folder"),
    "text": (lambda path, state: path.write_text("not weights"), "got pickled code, or no checkpoint at all"),
    "cut off": (lambda path, state: (torch.save(state, path), os.truncate(path, 9999)), "a whole torch file"),
    "pickled code": (lambda path, state: path.write_bytes(pickle.dumps(Code())), "got pickled code"),
    "pickled code in a torch file": (torch_file(lambda s: {**s, "norm.bias": Code()}), "got pickled code"),
    "a list": (torch_file(lambda s: list(s.values())), "a state dict, got an empty or other list"),
    "no tensors": (torch_file(lambda s: {}), "a state dict, got an empty or other dict"),
    "numbers among the tensors": (torch_file(lambda s: {**s, "epoch": 3}), "got int under 'epoch'"),
    "a name that is none": (torch_file(lambda s: {**s, 7: s["norm.bias"]}), "got Tensor under 7"),
    "a sparse tensor": (torch_file(lambda s: {**s, "norm.bias": s["norm.bias"].to_sparse()}), "under norm.bias"),
    "a tensor without data": (torch_file(lambda s: {**s, "norm.bias": s["norm.bias"].to("meta")}), "norm.bias"),
    "integers": (torch_file(lambda s: {**s, "norm.bias": s["norm.bias"].long()}), "norm.bias"),
    "one missing": (torch_file(lambda s: without(s, "blocks.3.mlp.fc1.bias")), "got no blocks.3.mlp.fc1.bias"),
    "two missing": (torch_file(lambda s: without(s, "norm.bias", "cls_token")), "got no cls_token"),
    "one too many": (torch_file(lambda s: {**s, "extra": s["norm.bias"]}), "got the unknown extra"),
    "a wrong shape": (torch_file(lambda s: {**s, "norm.bias": torch.zeros(3)}), "size mismatch for norm.bias"),
    "another model's": (torch_file(lambda s: {"conv1.weight": s["norm.bias"]}), "got no cls_token"),
    "NaN": (torch_file(lambda s: {**s, "norm.bias": s["norm.bias"] / 0}), r"got NaN or Inf in body\.norm\.bias"),
    "infinity": (torch_file(lambda s: {**s, "pos_embed": s["pos_embed"] + torch.inf}), "NaN or Inf in p"),
    "NaN in the classifier": (torch_file(lambda s: {**s, "head.bias": s["head.bias"] / 0}), "NaN or Inf in bias"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_refused(tmp_path: Path, state: dict[str, Tensor], capsys: Any, case: str):
    write, message = FILES[case]
    path = tmp_path / "weights.pt"
    write(path, state)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_backbone(NAME, path)
    assert caught.value.subject in (str(path), NAME)
    assert "pgn-edge train" not in str(caught.value)
    assert "code from the file ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (unwritten, "got no such file"),
        (lambda path, state: path.mkdir(), "got a folder"),
        (lambda path, state: path.write_bytes(b"\xff" * 64), "a whole safetensors file"),
        (lambda path, state: (save_file(state, path), os.truncate(path, 9999)), "a whole safetensors file"),
        (lambda path, state: torch.save(state, path), "a whole safetensors file"),
        (lambda path, state: save_file(without(state, "cls_token"), path), "got no cls_token"),
    ],
    ids=["no such file", "a folder", "noise", "cut off", "a torch file", "one missing"],
)
def test_safetensors_that_are_refused(tmp_path: Path, state: dict[str, Tensor], write: Any, message: str):
    path = tmp_path / "weights.safetensors"
    write(path, state)
    with pytest.raises(CheckpointError, match=message):
        load_backbone(NAME, path)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": [1, 2]},
        lambda state: {"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}},
    ],
    ids=["under state_dict", "under model", "from a parallel training loop"],
)
def test_state_dicts_as_training_loops_leave_them(tmp_path: Path, state: dict[str, Tensor], wrap: Any):
    torch.save(wrap(state), tmp_path / "weights.pt")
    read = read_weights(tmp_path / "weights.pt").state
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], state[key]) for key in state)


def test_a_tensor_that_no_file_holds_is_never_left_without_data():
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))
            self.register_buffer("table", torch.zeros(2), persistent=False)

    module = sketch("any", Module)
    with pytest.raises(CheckpointError, match="got no table"):
        fill(module, {"weight": torch.ones(2)}, "any", "weights.pt")


def test_a_model_that_cannot_be_built_is_refused():
    def build() -> nn.Module:
        raise ImportError("no module named else\nin two lines")

    with pytest.raises(CheckpointError, match="can be built, got ImportError: no module named else; choose another"):
        sketch("any", build)


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_around_parameters_is_the_layer_they_came_from(bias: bool):
    first = nn.Linear(3, 5, bias=bias)
    second = linear_of(first.weight, first.bias)
    assert second.weight is first.weight
    assert torch.equal(second(torch.ones(2, 3)), first(torch.ones(2, 3)))


def test_nan_in_the_embedded_backbone_is_refused_as_well(monkeypatch: pytest.MonkeyPatch):
    net = CharacterNet()
    net.body.blocks[1].mlp[0].weight.data[3, 4] = torch.nan
    monkeypatch.setattr(backbones, "_load_builtin", lambda rest, weights: net.backbone())
    with pytest.raises(CheckpointError, match=r"builtin: expected finite weights, got NaN or Inf in body\.blocks\.1"):
        load_backbone("builtin")


OFFLINE = """
import socket

def refuse(*arguments, **options):
    raise OSError("no network here")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from pgn_edge.errors import CheckpointError
from pgn_edge.nn.backbones import load_backbone
for name in ("open_clip:ViT-B-32/openai", "timm:test_vit.r160_in1k", "torchvision:vit_b_32"):
    try:
        load_backbone(name)
    except CheckpointError as exc:
        print(exc)
"""


def test_without_a_network_it_says_at_once_how_to_pass_a_file(tmp_path: Path):
    # Without HF_HUB_OFFLINE: the hub's client would retry for a minute.
    environment = {**os.environ, "HF_HOME": str(tmp_path), "TORCH_HOME": str(tmp_path)}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    child = subprocess.run(
        [sys.executable, "-c", OFFLINE], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    lines = child.stdout.splitlines()
    assert len(lines) == 3, child
    for line, family in zip(lines, ("open_clip", "timm", "torchvision"), strict=True):
        assert line.startswith(f"{family}:"), child
        assert f"expected weights from the download of {family} (no answer from " in line
        assert "pass a local copy with --weights FILE" in line
        assert "Retrying" not in line
    assert "Traceback" not in child.stderr


def test_a_server_whose_name_is_looked_up_for_ever_counts_as_no_network(monkeypatch: pytest.MonkeyPatch):
    release = threading.Event()
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: nullcontext(release.wait(60)))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights, "ANSWER_S", 0.01)

    def load() -> None:
        with weights.downloading("timm:any", "timm", weights.HUB):
            raise OSError("not in the cache")  # the library is still asked: it may have the weights

    with pytest.raises(CheckpointError, match=r"download of timm \(no answer from .*got OSError: not in the cache"):
        load()
    release.set()

"""Heads from files of every kind that is read, and from files that hold something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pgn_edge.errors import DataError
from pgn_edge.export.head_file import read_head


def as_npz(path: Path, tensors: dict[str, Tensor]) -> Path:
    np.savez(path.with_suffix(".npz"), **{name: tensor.numpy() for name, tensor in tensors.items()})
    return path.with_suffix(".npz")


def as_safetensors(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def as_pt(path: Path, data: Any) -> Path:
    torch.save(data, path.with_suffix(".pt"))
    return path.with_suffix(".pt")


@pytest.mark.parametrize("save", [as_npz, as_safetensors, as_pt], ids=["npz", "safetensors", "pt"])
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
def test_heads_that_are_read(tmp_path: Path, save: Callable, biased: bool):
    weight, bias = torch.randn(2, 5), torch.randn(2)
    head = read_head(
        save(tmp_path / "head", {"weight": weight, "bias": bias} if biased else {"weight": weight}), ("cat", "dog")
    )
    assert (head.kind, head.labels) == ("linear", ("cat", "dog"))
    np.testing.assert_array_equal(head.weight, weight)
    np.testing.assert_array_equal(head.bias, bias if biased else np.zeros(2))


def test_a_half_precision_head_is_widened(tmp_path: Path):
    weight = torch.randn(2, 4).bfloat16()
    head = read_head(as_safetensors(tmp_path / "head", {"weight": weight}), ("cat", "dog"))
    np.testing.assert_array_equal(head.weight, weight.float())


@pytest.mark.parametrize(
    ("tensors", "got"),
    [
        pytest.param({"weight": torch.ones(3, 8)}, r"weight \(3, 8\)", id="another number of classes"),
        pytest.param({"weight": torch.ones(2, 8), "bias": torch.ones(3)}, r"bias \(3,\)", id="a bias too many"),
        pytest.param({"weight": torch.ones(2, 8), "bias": torch.ones(2, 1)}, r"bias \(2, 1\)", id="a bias of two axes"),
        pytest.param({"weight": torch.ones(2)}, r"weight \(2,\)", id="a flat weight"),
        pytest.param({"bias": torch.ones(2)}, r"bias \(2,\)", id="no weight"),
        pytest.param({"weight": torch.ones(2, 8), "scale": torch.ones(1)}, "scale", id="more than a linear head"),
        pytest.param({"weight": torch.ones(2, 8, dtype=torch.int64)}, r"weight \(2, 8\)", id="whole numbers"),
        pytest.param({"weight": torch.full((2, 8), float("nan"))}, "NaN", id="NaN"),
        pytest.param({}, "nothing", id="empty"),
    ],
)
@pytest.mark.parametrize("save", [as_npz, as_safetensors, as_pt], ids=["npz", "safetensors", "pt"])
def test_heads_that_are_none(tmp_path: Path, save: Callable, tensors: dict[str, Tensor], got: str):
    with pytest.raises(DataError, match=rf"got .*{got}.*; check --head and --labels"):
        read_head(save(tmp_path / "head", tensors), ("cat", "dog"))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt", ".pth", ".onnx", ""])
@pytest.mark.parametrize("data", [b"no head", b"", None], ids=["text", "empty", "no file"])
def test_head_files_that_cannot_be_read(tmp_path: Path, suffix: str, data: bytes | None):
    path = tmp_path / f"head{suffix}"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_head(path, ("cat", "dog"))
    assert caught.value.subject == str(path)


@pytest.mark.parametrize("data", [torch.ones(2, 8), [1, 2], {"weight": "ones"}], ids=["a tensor", "a list", "words"])
def test_a_torch_file_of_something_else(tmp_path: Path, data: Any):
    with pytest.raises(DataError, match="weight"):
        read_head(as_pt(tmp_path / "head", data), ("cat", "dog"))


class Marker:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the marker's own open file, in the check at the end
def test_pickled_code_is_never_run(tmp_path: Path):
    path = as_pt(tmp_path / "head", {"weight": Marker(tmp_path / "marker")})
    with pytest.raises(DataError, match="pickled code"):
        read_head(path, ("cat", "dog"))
    assert not (tmp_path / "marker").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "marker").exists(), "the file was harmless: this test proves nothing"

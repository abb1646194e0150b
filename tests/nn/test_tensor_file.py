"""Torch files from strangers: a tensor that claims more than the file holds, or is of an odd kind, is one error."""

from __future__ import annotations

import contextlib
import io
import itertools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pgn_edge.errors import CheckpointError, PgnEdgeError
from pgn_edge.export.head_file import read_head
from pgn_edge.export.upstream_file import read_upstream
from pgn_edge.nn.checkpoint import load_checkpoint, save_checkpoint
from pgn_edge.nn.dino import _read as read_dino
from pgn_edge.nn.tensor_file import load_tensors, save_tensors
from pgn_edge.nn.weight_file import read_weights
from tests.nn.test_checkpoint import make

HUGE = 1 << 33  # elements


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_tensors(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def save(path: Path, value: Any) -> Path:
    torch.save({"plain": 1, "deep": [{"weight": value}]}, path)
    return path


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        (lambda: torch.zeros(1).expand(HUGE), "at most the 4 bytes that are stored for it"),
        (lambda: torch.zeros(4, 1).expand(4, HUGE), "at most the 16 bytes"),
        (lambda: torch.zeros(100).as_strided((50, 51), (1, 1)), "at most the 400 bytes"),
        (lambda: torch.nn.Parameter(torch.zeros(1).expand(HUGE)), "at most the 4 bytes"),
        (lambda: list(torch.zeros(1, 10).expand(9, 10)), "at most 160 bytes in all"),
    ],
    ids=["zero stride", "one zero stride of two", "rows that overlap", "a parameter", "many names of one storage"],
)
def test_a_small_file_whose_tensor_claims_gigabytes_is_refused_before_anything_copies_it(
    tmp_path: Path, claim: Callable[[], Any], message: str
):
    path = save(tmp_path / "bad.pt", claim())
    assert path.stat().st_size < 10_000
    assert message in refused(path)


def test_two_names_for_one_tensor_and_a_view_of_a_part_are_no_fraud(tmp_path: Path):
    weight = torch.arange(12.0).reshape(3, 4)
    save_tensors(tmp_path / "a.pt", {"a": weight, "tied": weight, "part": weight[:, 1:3], "turned": weight.T})
    data = load_tensors(tmp_path / "a.pt")
    assert torch.equal(data["tied"], weight)
    assert torch.equal(data["part"], weight[:, 1:3])
    assert torch.equal(data["turned"], weight.T)


def test_a_compressed_file_that_inflates_to_more_than_it_is_is_refused(tmp_path: Path):
    plain, path = io.BytesIO(), tmp_path / "bomb.pt"
    torch.save({"weight": torch.zeros(1 << 18)}, plain)
    with zipfile.ZipFile(plain) as archive, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as squeezed:
        for name in archive.namelist():
            squeezed.writestr(name, archive.read(name))
    assert path.stat().st_size < 10_000
    assert "the size of the file" in refused(path)


def odd_tensors() -> dict[str, Any]:
    return {
        "sparse": torch.eye(3).to_sparse(),
        "sparse rows": torch.eye(3).to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(torch.ones(3, 3), 0.1, 0, torch.qint8),
        "meta": torch.zeros(3, 3, device="meta"),
        "None": None,
        "a dict": {"weight": torch.ones(3, 3)},
        "a list": [torch.ones(3, 3)],
        "a number": 10**400,
        "a word": "weight",
        "complex": torch.ones(3, 3, dtype=torch.complex64),
        "bool": torch.ones(3, 3, dtype=torch.bool),
        "no dimension": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
        "a parameter": torch.nn.Parameter(torch.ones(3, 3)),
    }


@pytest.mark.filterwarnings("ignore")  # torch warns of the kinds that these tests need
@pytest.mark.parametrize("kind", ["sparse", "sparse rows", "quantized", "meta"])
def test_a_tensor_that_is_not_dense_is_named(tmp_path: Path, kind: str):
    assert kind.split(maxsplit=1)[0] in refused(save(tmp_path / "odd.pt", odd_tensors()[kind]))


@pytest.mark.filterwarnings("ignore")
def test_a_nested_tensor_is_refused(tmp_path: Path):
    refused(save(tmp_path / "odd.pt", torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])))


def test_a_container_that_holds_itself_is_no_endless_loop(tmp_path: Path):
    loop: list[Any] = [torch.ones(2)]
    loop.append(loop)
    torch.save(loop, tmp_path / "loop.pt")
    assert torch.equal(load_tensors(tmp_path / "loop.pt")[0], torch.ones(2))


@pytest.mark.parametrize("read", [load_checkpoint, read_weights, read_upstream])
def test_a_key_of_5000_digits_is_refused_and_not_printed(tmp_path: Path, read: Callable[[Path], Any]):
    torch.save({10**5000: torch.ones(2), "state_dict": 1}, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError):
        read(tmp_path / "bad.pt")


def leaves(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Places of all values inside dicts, the dicts themselves included."""
    if not isinstance(data, dict):
        return [path]
    return [path, *itertools.chain.from_iterable(leaves(value, (*path, key)) for key, value in data.items())]


def put(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    return {**data, path[0]: put(data[path[0]], path[1:], value)}


def upstream() -> dict[str, Any]:
    return {"tl_vectors": torch.ones(4, 8), "model.output_net.2.weight": torch.ones(8, 8)}


def dino() -> dict[str, Any]:
    layers = {f"head.{name}": torch.ones(2, 2) for name in ("mlp.0.weight", "last_layer.weight_g")}
    return {"teacher": {"backbone.cls": torch.ones(2)}, "student": layers}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", ["checkpoint", "weights", "upstream", "head", "dino"])
def test_any_value_in_any_place_of_a_file_is_used_or_refused_in_our_own_words(tmp_path: Path, reader: str):
    path = tmp_path / "edited.pt"
    save_checkpoint(tmp_path / "good.pt", make())
    good, read = {
        "checkpoint": (load_tensors(tmp_path / "good.pt"), load_checkpoint),
        "weights": ({"state_dict": {"module.a": torch.ones(2), "b": torch.ones(3)}}, read_weights),
        "upstream": (upstream(), read_upstream),
        "head": (
            {"weight": torch.ones(2, 3), "bias": torch.ones(2)},
            lambda source: read_head(source, ("cat", "dog")),
        ),
        "dino": (dino(), read_dino),
    }[reader]
    for where, (kind, value) in itertools.product(leaves(good), odd_tensors().items()):
        torch.save(put(good, where, value), path)
        try:
            with contextlib.suppress(PgnEdgeError):
                read(path)
        except Exception as exc:
            raise AssertionError(f"{kind} at {where}") from exc

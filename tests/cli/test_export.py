"""`pgn-edge export` and `pgn-edge export-vit`, as a user calls them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from pgn_edge.bundle import read_bundle
from pgn_edge.contract import EngineFacts
from pgn_edge.errors import PairingError
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.engines import OnnxRuntimeEngine
from pgn_edge.transport import Transport


def test_export_makes_a_bundle_beside_the_checkpoint(call, tiny_checkpoint: Path, use_tiny_backbone, tmp_path: Path):
    checkpoint = tmp_path / "ckpt.pt"
    checkpoint.write_bytes(tiny_checkpoint.read_bytes())
    done = call("export", checkpoint, "--fp16", "--onnx", tmp_path / "pgn.onnx")
    assert done.exit_code == 0, done.output
    for words in ("Certificate of the inversion", "Parity ladder", "onnxruntime fp16", "passed"):
        assert words in done.stdout
    assert "FAILED" not in done.stdout
    bundle = read_bundle(tmp_path / "ckpt.pgn")
    assert bundle.facts.precision == "fp16"
    assert (tmp_path / "pgn.onnx").read_bytes() == bundle.pgn_onnx
    assert done.stderr == ""


def test_export_json_is_one_document(call, tiny_checkpoint: Path, use_tiny_backbone, tiny_pair, tmp_path: Path):
    done = call("export", tiny_checkpoint, "-o", tmp_path / "task.pgn", "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["path"] == str(tmp_path / "task.pgn")
    assert document["bytes"] == (tmp_path / "task.pgn").stat().st_size
    assert document["precision"] == "fp32"
    assert [rung["passed"] for rung in document["parity"]] == [True, True]
    assert document["certificate"]["rank"] == 128
    assert (tmp_path / "task.pgn").read_bytes() == tiny_pair.task.read_bytes()


def test_export_vit_json_is_one_document(call, use_tiny_backbone, tmp_path: Path):
    options = ("--prompts", 8, "--layout", "inset", "-o", tmp_path / "vit.onnx", "--json")
    done = call("export-vit", "builtin", *options)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["bytes"] == (tmp_path / "vit.onnx").stat().st_size
    metadata = {prop.key: prop.value for prop in onnx.load(tmp_path / "vit.onnx").metadata_props}
    facts = EngineFacts.from_metadata(metadata, "here")
    assert document["facts"] == facts.to_json()
    assert facts.geometry == use_tiny_backbone.vit.geometry(8, "inset")
    assert all(rung["passed"] for rung in document["parity"])


def test_what_stays_float32_is_told_with_the_reason(call, use_tiny_backbone, tmp_path: Path):
    done = call("export-vit", "builtin", "--fp16", "-o", tmp_path / "vit.onnx")
    assert done.exit_code == 0, done.output
    for words in ("Kept in float32", "vit/Add", "position table", "16 prompts"):
        assert words in done.stdout


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_export_vit_in_other_precisions(call, use_tiny_backbone, tmp_path: Path, precision: str):
    done = call("export-vit", "builtin", f"--{precision}", "-o", tmp_path / "vit.onnx", "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["facts"]["precision"] == precision
    assert [rung["rung"] for rung in document["parity"]] == ["onnxruntime fp32", f"onnxruntime {precision}"]
    assert all(rung["passed"] for rung in document["parity"])


def test_auto_prompts_and_a_fixed_batch(call, use_tiny_backbone, tmp_path: Path):
    options = ("--prompts", "auto", "--batch", 2, "-o", tmp_path / "vit.onnx", "--json")
    done = call("export-vit", "builtin", *options)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["facts"]["geometry"]["prompts"] == 16
    shape = onnx.load(tmp_path / "vit.onnx").graph.input[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == [2, 3, 80, 64]


def test_export_with_every_option(call, tiny_checkpoint: Path, use_tiny_backbone, tmp_path: Path):
    done = call("export", tiny_checkpoint, "--bf16", "--simplify", "--ridge", "-o", tmp_path / "task.pgn", "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["precision"] == read_bundle(tmp_path / "task.pgn").facts.precision == "bf16"
    assert document["certificate"]["ridge"] is not None
    assert [rung["passed"] for rung in document["parity"]] == [True, True, True]


def test_a_stock_engine_that_takes_pixels(call, use_tiny_backbone, tmp_path: Path):
    done = call("export-vit", "builtin", "--input", "uint8", "--prompts", 0, "-o", tmp_path / "vit.onnx")
    assert done.exit_code == 0, done.output
    assert "canvas 64 x 64 uint8" in done.stdout


def test_behind_a_lossy_transport_the_golden_pair_is_what_came_out(call, pixel_pair, use_tiny_backbone, tmp_path: Path):
    path = tmp_path / "task.pgn"
    done = call("export", pixel_pair.checkpoint, "--uint8", "--transport", "jpeg:30", "-o", path, "--json")
    assert done.exit_code == 0, done.output
    document, bundle = json.loads(done.stdout), read_bundle(path)
    assert document["facts"] == bundle.facts.to_json()
    assert (bundle.facts.canvas, bundle.facts.transport) == ("uint8", "jpeg:30")
    assert document["certificate"]["proof"].startswith("fp32: levels clamped to 0..255")
    assert document["parity"][0]["rung"] == "torch, prompts of 8 bits"
    engine = OnnxRuntimeEngine(pixel_pair.vit, "vit", threads=1)
    canvas = np.concatenate([bundle.golden.images, bundle.golden.prompt_rows], axis=1)
    carried = np.stack([Transport.parse("jpeg:30").carry(image) for image in canvas])
    seen, unseen = (engine.infer({"canvas": array})["embedding"] for array in (carried, canvas))
    size = np.abs(seen).max()
    np.testing.assert_allclose(bundle.golden.embedding, seen, rtol=0, atol=1e-4 * size)
    assert np.abs(unseen - seen).max() > 1e-2 * size, "the transport changes nothing here"
    with pytest.raises(PairingError, match=r"transport: expected jpeg:30 .*got lossless"):
        Runtime(pixel_pair.vit, {"a": path})


# Refusals.


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def text(path: Path, good: bytes) -> None:
    path.write_text("no checkpoint")


def empty(path: Path, good: bytes) -> None:
    path.write_bytes(b"")


def truncated(path: Path, good: bytes) -> None:
    path.write_bytes(good[: len(good) // 2])


def a_pickle(path: Path, good: bytes) -> None:
    path.write_bytes(pickle.dumps(Bomb(path.with_name("exploded"))))


def code_among_tensors(path: Path, good: bytes) -> None:
    torch.save({"format": "pgn-edge checkpoint", "schema": 1, "state": Bomb(path.with_name("exploded"))}, path)


def foreign_tensors(path: Path, good: bytes) -> None:
    torch.save({"conv1.weight": torch.zeros(3)}, path)


def missing(path: Path, good: bytes) -> None:
    path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    "spoil",
    [text, empty, truncated, a_pickle, code_among_tensors, foreign_tensors, missing],
    ids=lambda spoil: spoil.__name__.replace("_", " "),
)
def test_a_checkpoint_that_is_none(
    refusal, tiny_checkpoint: Path, tmp_path: Path, spoil: Callable[[Path, bytes], None]
):
    path = tmp_path / "ckpt.pt"
    spoil(path, tiny_checkpoint.read_bytes())
    line = refusal("export", path, "-o", tmp_path / "task.pgn")
    assert line.startswith(f"pgn-edge: {path}: expected")
    assert not (tmp_path / "exploded").exists()


def test_a_checkpoint_of_another_vit(refusal, tiny_checkpoint: Path, tmp_path: Path):
    # Here `builtin` is the real one.
    assert "fingerprint" in refusal("export", tiny_checkpoint, "-o", tmp_path / "task.pgn")


def test_a_transport_without_bytes(refusal, pixel_pair, tmp_path: Path):
    output = ("-o", tmp_path / "task.pgn")
    assert "--uint8 too" in refusal("export", pixel_pair.checkpoint, "--transport", "jpeg:75", *output)
    assert "jpeg:QUALITY" in refusal("export", pixel_pair.checkpoint, "--uint8", "--transport", "gif", *output)


def test_a_bundle_that_cannot_be_written(refusal, tiny_checkpoint: Path, use_tiny_backbone, tmp_path: Path):
    output = tmp_path / "missing" / "task.pgn"
    assert refusal("export", tiny_checkpoint, "-o", output).startswith(f"pgn-edge: {output}: ")


def test_an_engine_that_cannot_be_written(refusal, use_tiny_backbone, tmp_path: Path):
    output = tmp_path / "missing" / "vit.onnx"
    assert refusal("export-vit", "builtin", "--prompts", 0, "-o", output).startswith(f"pgn-edge: {output}: ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(("resnet50",), "expected builtin, open_clip", id="unknown backbone"),
        pytest.param(("builtin:large",), "leave it out", id="a tag for builtin"),
        pytest.param(("builtin", "--weights", "x.pt"), "leave it out", id="weights for builtin"),
        pytest.param(("builtin", "--layout", "inset", "--prompts", "64"), "at most 56", id="no room for the image"),
        pytest.param(("builtin", "--layout", "inset", "--prompts", "5"), "use 8", id="half a row"),
    ],
)
def test_export_vit_refuses(refusal, tmp_path: Path, arguments: tuple[str, ...], says: str):
    assert says in refusal("export-vit", *arguments, "-o", tmp_path / "vit.onnx")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("export",), id="no checkpoint"),
        pytest.param(("export", "a.pt", "b.pt"), id="two checkpoints"),
        pytest.param(("export", "a.pt", "--fp16", "--bf16"), id="two precisions"),
        pytest.param(("export-vit", "builtin", "--fp16", "--int8"), id="two precisions of a ViT"),
        pytest.param(("export-vit", "builtin", "--prompts", "-1"), id="negative prompts"),
        pytest.param(("export-vit", "builtin", "--prompts", "many"), id="prompts in words"),
        pytest.param(("export-vit", "builtin", "--batch", "0"), id="a batch of none"),
        pytest.param(("export-vit", "builtin", "--input", "int8"), id="an input of another type"),
    ],
)
def test_wrong_usage_is_status_2(call, arguments: tuple[str, ...]):
    done = call(*arguments)
    assert done.exit_code == 2
    assert "Usage: " in done.stderr

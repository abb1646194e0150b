"""Canvases of 8 bits from end to end: the PGN engine writes pixels, and the ViT engine normalises them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from pgn_edge.bundle import Bundle, read_bundle, write_bundle
from pgn_edge.contract import EngineFacts
from pgn_edge.errors import EngineError, PairingError
from pgn_edge.export.graph import finish, fix_batch
from pgn_edge.nn.checkpoint import load_checkpoint
from pgn_edge.nn.prompted import embed
from pgn_edge.nn.vit import Backbone
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.engines import OnnxRuntimeEngine
from pgn_edge.runtime.pairing import check_facts, check_tensors
from pgn_edge.transport import Transport
from tests.hostile import restated


@pytest.fixture(scope="module")
def bundle(pixel_pair) -> Bundle:
    return read_bundle(pixel_pair.task)


@pytest.fixture
def forged(bundle: Bundle, tmp_path: Path) -> Callable[..., Path]:
    """The bundle with other fields."""

    def write(**fields: Any) -> Path:
        write_bundle(tmp_path / "forged.pgn", dataclasses.replace(bundle, **fields))
        return tmp_path / "forged.pgn"

    return write


def vit_facts(path: Path) -> EngineFacts:
    return EngineFacts.from_metadata(OnnxRuntimeEngine(path, str(path), threads=1).metadata, str(path))


def frames(count: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return (rng.integers(0, 128, (count, 1, 1, 3)) + rng.integers(0, 128, (count, 64, 64, 3))).astype(np.uint8)


@pytest.mark.parametrize("batch", [None, 2], ids=["a free batch", "a fixed batch"])
def test_it_answers_as_torch_did(pixel_pair, use_tiny_backbone: Backbone, tmp_path: Path, batch: int | None):
    vit = pixel_pair.vit
    if batch:
        model, vit = finish(fix_batch(onnx.load(vit), batch), vit_facts(vit)), tmp_path / "vit.onnx"
        onnx.save(model, vit)
    checkpoint = load_checkpoint(pixel_pair.checkpoint)
    images_rgb = frames(3)
    with torch.no_grad():
        image = torch.from_numpy(checkpoint.preprocess.normalise(images_rgb))
        # What an 8-bit canvas holds: with the rounding that the engine makes.
        expected = embed(use_tiny_backbone.vit, checkpoint.pgn, checkpoint.geometry, image, Transport.parse("png"))
    with Runtime(vit, {"a": pixel_pair.task}, canvases=True) as runtime:
        results = runtime.infer_batch([("a", image[:, :, ::-1].copy()) for image in images_rgb])
        alone = runtime.infer("a", images_rgb[2][:, :, ::-1].copy())
    for result, image_rgb, wanted in zip(results, images_rgb, expected.numpy(), strict=True):
        assert (result.canvas.dtype, result.canvas.shape, result.degraded) == (np.uint8, (80, 64, 3), "")
        np.testing.assert_array_equal(result.canvas[:64], image_rgb)
        assert len(np.unique(result.canvas[64:])) > 50
        np.testing.assert_allclose(result.embedding, wanted, rtol=0, atol=1e-3 * np.abs(wanted).max())
    np.testing.assert_array_equal(alone.canvas, results[2].canvas)


def test_a_canvas_is_a_quarter_of_the_bytes(pixel_pair, tiny_pair):
    sizes = []
    for path in (pixel_pair.vit, tiny_pair.vit):
        spec = OnnxRuntimeEngine(path, str(path), threads=1).inputs["canvas"]
        sizes.append(np.zeros([size or 1 for size in spec.shape], spec.dtype).nbytes)
    assert sizes[0] * 4 == sizes[1] == 4 * 3 * 80 * 64


# What does not belong together.


def test_a_canvas_of_another_type(pixel_pair, tiny_pair):
    with pytest.raises(PairingError, match=r"canvas type: expected uint8 .*got float32 .*ViT with --input uint8"):
        Runtime(tiny_pair.vit, {"a": pixel_pair.task})
    with pytest.raises(PairingError, match=r"canvas type: expected float32 .*got uint8 .*task with --uint8"):
        Runtime(pixel_pair.vit, {"a": tiny_pair.task})


@pytest.mark.parametrize(
    ("task", "vit", "says"),
    [
        ("jpeg:75", "lossless", "expected jpeg:75 .*got lossless .*export the task without --transport"),
        ("lossless", "webp:80", "expected lossless .*got webp:80 .*export the task with --uint8 --transport webp:80"),
        ("jpeg:75", "jpeg:80", "expected jpeg:75 .*got jpeg:80 .*with --uint8 --transport jpeg:80"),
    ],
)
def test_another_transport(pixel_pair, bundle: Bundle, task: str, vit: str, says: str):
    ours = dataclasses.replace(vit_facts(pixel_pair.vit), transport=vit)
    theirs = dataclasses.replace(bundle.facts, transport=task)
    with pytest.raises(PairingError, match=f"task a: transport: {says}"):
        check_facts(ours, theirs, "a")
    check_facts(ours, dataclasses.replace(bundle.facts, transport=vit), "a")


def test_another_normalisation(pixel_pair, tiny_pair, bundle: Bundle, tmp_path: Path):
    preprocess = dataclasses.replace(bundle.facts.preprocess, std=(0.4, 0.5, 0.5))
    path = tmp_path / "other.pgn"
    write_bundle(path, restated(bundle, preprocess=preprocess))
    with pytest.raises(PairingError, match=r"normalisation: expected mean .*0\.4.*without --uint8"):
        Runtime(pixel_pair.vit, {"a": path})
    # Of floats the task's own will do.
    floats = dataclasses.replace(bundle.facts, preprocess=preprocess, canvas="float32")
    check_facts(vit_facts(tiny_pair.vit), floats, "a")


def test_an_engine_that_is_not_of_the_type_that_it_says(pixel_pair, tiny_pair):
    for path, canvas in ((pixel_pair.vit, "float32"), (tiny_pair.vit, "uint8")):
        engine = OnnxRuntimeEngine(path, "vit", threads=1)
        check_tensors(engine, vit_facts(path))
        with pytest.raises(EngineError, match=r"vit: canvas: expected (float32|uint8)"):
            check_tensors(engine, dataclasses.replace(vit_facts(path), canvas=canvas))


# The golden pair.


@pytest.mark.parametrize("levels", [1, 2])
def test_a_pixel_may_lie_one_level_away_and_no_further(pixel_pair, bundle: Bundle, forged, levels: int):
    rows = bundle.golden.prompt_rows.copy()
    assert (rows.dtype, rows.shape) == (np.uint8, (4, 16, 64, 3))
    level = int(rows[0, 0, 0, 0])
    rows[0, 0, 0, 0] = level + levels if level < 128 else level - levels
    path = forged(golden=dataclasses.replace(bundle.golden, prompt_rows=rows))
    if levels == 1:
        Runtime(pixel_pair.vit, {"a": path}).close()
    else:
        with pytest.raises(PairingError, match="golden prompt rows of the canvas"):
            Runtime(pixel_pair.vit, {"a": path})


def test_an_image_that_is_one_level_off(pixel_pair, bundle: Bundle, forged):
    model = onnx.load_model_from_string(bundle.pgn_onnx)
    (join,) = (node for node in model.graph.node if node.op_type == "Concat")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1), "one"))
    model.graph.node.insert(
        len(model.graph.node) - 2, onnx.helper.make_node("Sub", [join.input[0], "one"], ["another"])
    )
    join.input[0] = "another"
    with pytest.raises(PairingError, match=r"image part of the canvas: expected error at most 0\.0001, got (1|255)"):
        Runtime(pixel_pair.vit, {"a": forged(pgn_onnx=model.SerializeToString())})

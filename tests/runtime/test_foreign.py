"""Engines that pgn-edge did not export, unmodified, with the facts that a probe wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import pgn_edge.nn.backbones
from pgn_edge.contract import EngineFacts
from pgn_edge.errors import EngineError, PairingError, PgnEdgeError
from pgn_edge.export.task import export_task
from pgn_edge.nn.checkpoint import load_checkpoint, save_checkpoint
from pgn_edge.nn.pgn import PGN, PgnConfig
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.engines import FakeEngine, ForeignEngine, TensorSpec, open_engine
from pgn_edge.runtime.engines.facts_file import read_facts_file, write_facts_file
from pgn_edge.runtime.probe import ProbeOptions, run_probe

COLUMNS = 8  # patches across the tiny ViT


@pytest.fixture(scope="module")
def inset_task(tiny_backbone, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task with two prompt rows inside the stock size."""
    folder = tmp_path_factory.mktemp("inset")
    checkpoint = load_checkpoint(tiny_checkpoint)
    torch.manual_seed(5)
    vit = tiny_backbone.vit
    geometry = vit.geometry(2 * COLUMNS, "inset")
    pgn = PGN(PgnConfig("resnet10", geometry.prompts, 32, vit.width, 16)).eval()
    images = checkpoint.golden_images[:, : geometry.content_hw[0]]
    preprocess = replace(checkpoint.preprocess, size_hw=geometry.content_hw)
    inset = replace(checkpoint, geometry=geometry, pgn=pgn, golden_images=images, preprocess=preprocess)
    save_checkpoint(folder / "inset.pt", inset)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pgn_edge.nn.backbones, "_load_builtin", lambda rest, weights: tiny_backbone)
        export_task(folder / "inset.pt", folder / "task.pgn")
    return folder / "task.pgn"


@pytest.fixture
def foreign(tiny_pair, tmp_path: Path) -> Callable[..., Path]:
    """The stock ViT as somebody else exports it: other names, no facts, perhaps other axes or types."""

    def make(axes: str = "NCHW", dtype: int = TensorProto.FLOAT, extra: bool = False) -> Path:
        model = onnx.load(tiny_pair.stock)
        del model.metadata_props[:]
        graph = model.graph
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = ["image_embeds" if name == "embedding" else name for name in names]
        graph.output[0].name = "image_embeds"
        steps = [helper.make_node("Cast", ["pixel_values"], ["cast"], to=TensorProto.FLOAT)]
        perm = [0, 3, 1, 2] if axes == "NHWC" else [0, 1, 2, 3]
        steps.append(helper.make_node("Transpose", ["cast"], ["canvas"], perm=perm))
        for step in reversed(steps):
            graph.node.insert(0, step)
        shape = ["n", 3, 64, 64] if axes == "NCHW" else ["n", 64, 64, 3]
        graph.input[0].CopyFrom(helper.make_tensor_value_info("pixel_values", dtype, shape))
        if extra:
            graph.input.append(helper.make_tensor_value_info("input_ids", TensorProto.INT32, ["n", 7]))
        onnx.save(model, tmp_path / "foreign.onnx")
        return tmp_path / "foreign.onnx"

    return make


def frame() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (80, 70, 3), np.uint8)


def test_an_inset_task_runs_on_the_stock_engine_that_is_the_same_but_for_its_metadata(tiny_pair, inset_task: Path):
    with Runtime(tiny_pair.stock, {"inset": inset_task}) as runtime:
        assert runtime.infer("inset", frame()).label


def test_an_inset_task_is_still_refused_by_an_append_engine(tiny_pair, inset_task: Path):
    with pytest.raises(PairingError, match="canvas"):
        Runtime(tiny_pair.vit, {"inset": inset_task})


def test_an_append_task_is_still_refused_by_a_stock_engine(tiny_pair):
    with pytest.raises(PairingError, match="canvas"):
        Runtime(tiny_pair.stock, {"append": tiny_pair.task})


@pytest.mark.parametrize(
    ("axes", "dtype", "extra"),
    [
        pytest.param("NCHW", TensorProto.FLOAT, False, id="other names"),
        pytest.param("NHWC", TensorProto.DOUBLE, False, id="other axes and float64"),
        pytest.param("NCHW", TensorProto.FLOAT, True, id="another input"),
    ],
)
def test_an_inset_task_runs_on_an_unmodified_foreign_engine_by_the_facts_that_probe_wrote(
    tiny_pair, inset_task: Path, foreign, axes: str, dtype: int, extra: bool
):
    engine = foreign(axes, dtype, extra)
    facts = engine.with_name("vit.facts.json")
    report = run_probe(engine, ProbeOptions(reference=tiny_pair.stock, facts_file=facts))
    assert report.refusal is None
    line = f"pgn-edge probe --engine {engine} --reference STOCK -o vit.facts.json"
    assert line in report.settings.commands
    with Runtime(facts, {"inset": inset_task}) as runtime, Runtime(tiny_pair.stock, {"inset": inset_task}) as own:
        found, wanted = (each.infer("inset", frame()) for each in (runtime, own))
        np.testing.assert_allclose(found.embedding, wanted.embedding, atol=1e-4)
        assert len(runtime.infer_batch([("inset", frame()), ("inset", frame())])) == 2


def test_a_foreign_engine_may_be_proven_by_the_task_itself(inset_task: Path, foreign):
    engine = foreign()
    facts = engine.with_name("vit.facts.json")
    assert run_probe(engine, ProbeOptions(task=inset_task, facts_file=facts)).refusal is None
    with Runtime(facts, {"inset": inset_task}) as runtime:
        assert runtime.infer("inset", frame()).label


def test_no_facts_are_written_for_a_backbone_that_is_not_proven(foreign, tmp_path: Path):
    report = run_probe(foreign(), ProbeOptions(facts_file=tmp_path / "vit.facts.json"))
    assert "--reference" in str(report.refusal)
    assert not (tmp_path / "vit.facts.json").exists()


@pytest.fixture
def written(tiny_pair, foreign) -> Path:
    engine = foreign()
    facts = engine.with_name("vit.facts.json")
    run_probe(engine, ProbeOptions(reference=tiny_pair.stock, facts_file=facts))
    return facts


def test_facts_of_another_file_are_refused(written: Path):
    model = onnx.load(written.with_name("foreign.onnx"))
    model.doc_string = "another"
    onnx.save(model, written.with_name("foreign.onnx"))
    with pytest.raises(EngineError, match=r"expected sha256 .* by .*vit\.facts\.json"):
        open_engine(written)


def test_engine_and_facts_move_together(written: Path, tmp_path: Path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in (written, written.with_name("foreign.onnx")):
        path.rename(moved / path.name)
    open_engine(moved / written.name).close()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param({"format": "other"}, "engine facts", id="another format"),
        pytest.param({"input": {"name": "pixel_values", "axes": "CHW"}}, "NCHW or NHWC", id="axes"),
        pytest.param({"input": {"name": "pixels", "axes": "NCHW"}}, "input 'pixels'", id="no such input"),
        pytest.param({"output": 3}, "names of tensors", id="a number as a name"),
        pytest.param({"facts": {}}, "no pgn_edge facts", id="no facts"),
        pytest.param({"engine": "missing.onnx"}, "missing.onnx", id="no engine"),
        pytest.param({"engine": "vit.facts.json"}, "sha256", id="itself"),
    ],
)
def test_damaged_facts_are_refused_in_one_line(written: Path, change: dict[str, Any], says: str):
    written.write_text(json.dumps(json.loads(written.read_text()) | change))
    with pytest.raises(EngineError, match=says):
        open_engine(written)


@pytest.mark.parametrize("text", ["", "[1]", "{", '"text"'])
def test_a_facts_file_that_is_none_is_refused(tmp_path: Path, text: str):
    (tmp_path / "vit.facts.json").write_text(text)
    with pytest.raises(EngineError, match=r"vit\.facts\.json"):
        open_engine(tmp_path / "vit.facts.json")


def test_facts_have_the_schema_of_our_own_engines(written: Path, tiny_pair):
    own = EngineFacts.from_metadata({p.key: p.value for p in onnx.load(tiny_pair.stock).metadata_props}, "stock")
    assert EngineFacts.from_json(json.loads(written.read_text())["facts"], "facts") == own


def test_the_facts_of_a_served_model_hold_its_address(written: Path, tmp_path: Path):
    file = read_facts_file(written)
    address = "triton+http://localhost:1/vit"
    write_facts_file(tmp_path / "served.facts.json", address, file.tensors, file.facts)
    served = read_facts_file(tmp_path / "served.facts.json")
    assert (served.engine, served.sha256, served.served) == (address, "", True)
    assert (served.tensors, served.facts) == (file.tensors, file.facts)


def test_a_plan_that_the_facts_name_needs_no_sidecar_and_no_other_plan_is_loaded_for_it(written: Path, tmp_path: Path):
    file, plan = read_facts_file(written), tmp_path / "foreign.engine"
    plan.write_bytes(b"a plan")
    write_facts_file(tmp_path / "plan.facts.json", str(plan), file.tensors, file.facts)
    with pytest.raises(PgnEdgeError) as caught:  # TensorRT, or a GPU, is missing where these tests run
        open_engine(tmp_path / "plan.facts.json")
    assert "sidecar" not in str(caught.value)
    plan.write_bytes(b"another plan")
    with pytest.raises(EngineError, match="expected sha256"):
        open_engine(tmp_path / "plan.facts.json")


@pytest.mark.parametrize(
    ("shape", "batch"),
    [
        pytest.param((3, 64, 64), 1, id="no batch axis"),
        pytest.param((2, 3, 64, 64), 2, id="a fixed batch"),
        pytest.param((None, 3, 64, 64), None, id="a free batch with a limit"),
    ],
)
def test_frames_go_through_a_foreign_engine_in_the_parts_that_it_takes(
    written: Path, tiny_pair, inset_task: Path, shape: tuple[int | None, ...], batch: int | None
):
    file, own = read_facts_file(written), open_engine(tiny_pair.stock)
    seen = []

    def answer(feeds: Any) -> dict[str, np.ndarray]:
        pixels = feeds["pixel_values"]
        seen.append(pixels.shape)
        tokens = own.infer({"canvas": pixels.reshape(-1, 3, 64, 64)})["embedding"]
        return {"image_embeds": tokens[0] if pixels.ndim == 3 else np.stack([tokens, 0 * tokens], axis=1)}

    floats = np.dtype(np.float32)
    output = TensorSpec((128,) if len(shape) == 3 else (batch, None, 128), floats)
    most = 2 if batch is None else None
    engine = FakeEngine({"pixel_values": TensorSpec(shape, floats, most)}, {"image_embeds": output}, answer)
    with Runtime(tiny_pair.stock, {"inset": inset_task}) as stock:
        wanted = stock.infer("inset", frame()).embedding
    with Runtime(ForeignEngine(engine, file), {"inset": inset_task}) as runtime:
        results = runtime.infer_batch([("inset", frame())] * 3)
    for result in results:
        np.testing.assert_allclose(result.embedding, wanted, atol=1e-4)
    assert {shape[0] if len(shape) == 4 else 1 for shape in seen} <= {1, 2}

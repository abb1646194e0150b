"""What inspection says of a file is what the file's own readers find in it."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from pgn_edge.bundle import read_bundle, write_bundle
from pgn_edge.contract import EngineFacts
from pgn_edge.errors import BundleError, CheckpointError, EngineError, PgnEdgeError
from pgn_edge.export.inspection import inspect_file
from pgn_edge.export.inspection_diff import diff
from pgn_edge.export.inspection_graph import read_graph
from pgn_edge.nn.checkpoint import load_checkpoint, save_checkpoint
from pgn_edge.sidecar import Sidecar, read_sidecar, sidecar_path, write_sidecar


@pytest.fixture(scope="module")
def files(tiny_pair, tiny_vit_fp16: Path, tiny_checkpoint: Path) -> dict[str, Path]:
    return {"task": tiny_pair.task, "vit": tiny_pair.vit, "vit fp16": tiny_vit_fp16, "checkpoint": tiny_checkpoint}


@pytest.fixture
def plan(tiny_pair, tmp_path: Path) -> Path:
    """Bytes that no backend wrote, vouched for by their sidecar: a reader that parsed them would fail."""
    path = tmp_path / "task.plan"
    path.write_bytes(b"no plan of any backend")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    facts = read_bundle(tiny_pair.task).facts
    write_sidecar(path, Sidecar(digest, "ab" * 32, "tensorrt-rtx", "1.2.3", ("sm_86", "sm_120"), (1, 1, 8), facts))
    return path


def sections(path: Path) -> dict:
    return dict(inspect_file(path).sections)


# Each kind of file, against what its own reader says.


@pytest.mark.parametrize("name", ["task", "task_fp16"])
def test_a_bundle(tiny_pair, name: str):
    path = getattr(tiny_pair, name)
    bundle, found = read_bundle(path), inspect_file(path)
    assert (found.kind, found.size_bytes, found.notes) == ("bundle", path.stat().st_size, ())
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    shown = found.sections
    assert shown["name"] == bundle.name
    assert {**shown["facts"], "geometry": bundle.facts.geometry.to_json()} == bundle.facts.to_json()
    assert shown["certificate"] == bundle.certificate
    assert shown["certificate"]["condition_limit"] >= shown["certificate"]["condition"]
    assert [rung["rung"] for rung in shown["parity"]] == [rung["rung"] for rung in bundle.parity]
    assert shown["labels"] == list(bundle.head.labels)
    assert (shown["head"]["kind"], shown["head"]["width"]) == ("text", bundle.head.weight.shape[1])
    assert shown["golden"] == {"frames": 4, "top1": [bundle.head.labels[i] for i in bundle.golden.top1]}
    assert shown["provenance"] == bundle.provenance
    assert shown["pgn"]["onnx_sha256"] == hashlib.sha256(bundle.pgn_onnx).hexdigest()
    about = bundle.profile.to_json()
    usage = json.dumps(about.pop("usage")).encode()
    assert shown["pgn"]["profile"] == {**about, "library": 32, "usage_sha256": hashlib.sha256(usage).hexdigest()}
    assert list(shown["graph"]["outputs"]) == ["canvas", "coefficients"]


def test_the_geometry_says_where_the_prompts_go(tiny_pair):
    geometry = sections(tiny_pair.task)["facts"]["geometry"]
    assert (geometry["image_hw"], geometry["patch"], geometry["prompts"]) == ([64, 64], 8, 16)
    assert (geometry["grid_hw"], geometry["rows"], geometry["spare"]) == ([8, 8], 2, 0)
    assert (geometry["content_hw"], geometry["canvas_hw"]) == ([64, 64], [80, 64])


def test_an_onnx_of_ours(tiny_pair):
    model, found = onnx.load(tiny_pair.vit), sections(tiny_pair.vit)
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    facts = EngineFacts.from_metadata(metadata, "here")
    assert {**found["facts"], "geometry": facts.geometry.to_json()} == facts.to_json()
    graph, arrays = found["graph"], [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    assert graph["inputs"] == {"canvas": {"type": "float32", "shape": ["batch", 3, 80, 64]}}
    assert graph["outputs"] == {"embedding": {"type": "float32", "shape": ["batch", 128]}}
    assert graph["opset"] == {"ai.onnx": 20}
    assert graph["nodes"] == Counter(node.op_type for node in model.graph.node)
    assert graph["parameters"] == sum(array.size for array in arrays if array.dtype == np.float32)
    for name, entry in graph["initializers"].items():
        sizes = [array.nbytes for array in arrays if array.dtype.name == name]
        assert entry == {"tensors": len(sizes), "bytes": sum(sizes)}
    largest = sorted((array.nbytes for array in arrays), reverse=True)[:5]
    assert [entry["bytes"] for entry in graph["largest"].values()] == largest


@pytest.mark.parametrize("source", ["vit", "vit fp16"])
def test_the_types_that_arithmetic_runs_in(files: dict[str, Path], source: str):
    found, nodes = sections(files[source])["graph"]["arithmetic"], onnx.load(files[source]).graph.node
    heavy = Counter(node.op_type for node in nodes if node.op_type in {"Conv", "Gemm", "MatMul"})
    assert {name: sum(types.values()) for name, types in found.items()} == heavy
    types = {name for types in found.values() for name in types}
    assert "float16" in types if source == "vit fp16" else types == {"float32"}


def test_types_of_quantised_and_bfloat16_arithmetic():
    def value(name: str, kind: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, [2, 2])

    weight = numpy_helper.from_array(np.ones((2, 2), np.int8), "w")
    scale = numpy_helper.from_array(np.float32(1), "s")
    nodes = [
        helper.make_node("MatMulInteger", ["u", "w"], ["i"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"]),
        helper.make_node("MatMul", ["f", "d"], ["m"]),
        helper.make_node("MatMul", ["b", "b"], ["n"]),
    ]
    inputs = [value("u", TensorProto.UINT8), value("f", TensorProto.FLOAT), value("b", TensorProto.BFLOAT16)]
    outputs = [value("i", TensorProto.INT32), value("m", TensorProto.FLOAT), value("n", TensorProto.BFLOAT16)]
    model = helper.make_model(helper.make_graph(nodes, "mixed", inputs, outputs, [weight, scale]))
    graph, _ = read_graph(model.SerializeToString(), "here")
    assert graph["arithmetic"] == {
        "MatMul": {"bfloat16": 1, "float32 x int8": 1},
        "MatMulInteger": {"uint8 x int8": 1},
    }
    assert graph["initializers"] == {"int8": {"tensors": 1, "bytes": 4}, "float32": {"tensors": 1, "bytes": 4}}


def test_a_plan_is_described_by_its_sidecar_alone(plan: Path):
    found, sidecar = inspect_file(plan), read_sidecar(plan)
    assert (found.kind, found.sha256) == ("plan", sidecar.plan_sha256)
    assert set(found.sections) == {"facts", "plan"}
    assert found.sections["plan"] == {
        "onnx_sha256": "ab" * 32,
        "backend": "tensorrt-rtx",
        "backend_version": "1.2.3",
        "targets": ["sm_86", "sm_120"],
        "batch": [1, 1, 8],
        "version_compatible": False,
        "source": "",
        "options": [],
    }
    assert found.sections["facts"]["fingerprint"] == sidecar.facts.fingerprint


def test_a_plan_that_was_compiled(tiny_pair, tmp_path: Path):
    pytest.importorskip("tensorrt_rtx", reason="plans are built by tensorrt_rtx: pip install 'pgn-edge[rtx]'")
    from pgn_edge.export.compile import CompileOptions, compile_plan

    report = compile_plan(tiny_pair.task, tmp_path / "task.plan", CompileOptions(targets=("sm_86",)))
    found = inspect_file(report.path)
    assert (found.kind, found.size_bytes) == ("plan", report.size_bytes)
    assert found.sections["plan"]["onnx_sha256"] == sections(tiny_pair.task)["pgn"]["onnx_sha256"]


def test_a_checkpoint(tiny_checkpoint: Path):
    found, checkpoint = inspect_file(tiny_checkpoint), load_checkpoint(tiny_checkpoint)
    assert found.kind == "checkpoint"
    assert found.sections["facts"]["fingerprint"] == checkpoint.fingerprint
    pgn = found.sections["pgn"]
    assert (pgn["generator"], pgn["prompts"], pgn["library"]) == ("resnet10", 16, 32)
    assert pgn["parameters"] == sum(tensor.numel() for tensor in checkpoint.pgn.parameters())
    assert found.sections["golden"] == {"frames": 24}
    assert found.sections["provenance"] == {"data": "noise", "seed": 1}


def test_a_foreign_onnx_shows_its_tensors_only(tmp_path: Path):
    path = tmp_path / "foreign.onnx"
    path.write_bytes(foreign())
    found = inspect_file(path)
    assert "not exported by pgn-edge" in found.notes[0]
    tensor = {"type": "float32", "shape": ["n", 3]}
    assert found.sections == {"graph": {"inputs": {"x": tensor}, "outputs": {"y": tensor}, "opset": {"ai.onnx": 20}}}


NUMERICS = {"kept_float32": [{"node": "/head/MatMul", "reason": "range", "max_abs": 7e4, "rounding": None}]}


def test_numerics_are_shown_where_a_bundle_has_them(tiny_pair, tmp_path: Path):
    for name, numerics in {"with": NUMERICS, "without": {}}.items():
        write_bundle(tmp_path / name, replace(read_bundle(tiny_pair.task), numerics=numerics))
    assert sections(tmp_path / "with")["numerics"] == NUMERICS
    assert "numerics" not in sections(tmp_path / "without")


def test_numerics_are_shown_where_a_graph_has_them(tiny_vit_fp16: Path, tmp_path: Path):
    model = onnx.load(tiny_vit_fp16)
    kept = {prop.key: prop.value for prop in model.metadata_props if prop.key != "pgn_edge.numerics"}
    for name, metadata in {"with": {**kept, "pgn_edge.numerics": json.dumps(NUMERICS)}, "without": kept}.items():
        del model.metadata_props[:]
        helper.set_model_props(model, metadata)
        (tmp_path / name).write_bytes(model.SerializeToString())
    assert sections(tmp_path / "with")["numerics"] == NUMERICS
    assert "numerics" not in sections(tmp_path / "without")


# Content decides, not the name.


@pytest.mark.parametrize(
    ("source", "name", "kind"),
    [
        pytest.param("task", "vit.onnx", "bundle", id="a bundle called .onnx"),
        pytest.param("task", "task.plan", "bundle", id="a bundle called .plan"),
        pytest.param("vit", "task.pgn", "onnx", id="an ONNX called .pgn"),
        pytest.param("vit", "engine", "onnx", id="an ONNX without a suffix"),
        pytest.param("checkpoint", "ckpt.zip", "checkpoint", id="a checkpoint called .zip"),
    ],
)
def test_content_decides(files: dict[str, Path], tmp_path: Path, source: str, name: str, kind: str):
    shutil.copy(files[source], tmp_path / name)
    assert inspect_file(tmp_path / name).kind == kind


def test_a_sidecar_makes_a_plan_of_any_name(plan: Path, tmp_path: Path):
    shutil.copy(plan, tmp_path / "engine.onnx")
    shutil.copy(sidecar_path(plan), tmp_path / "engine.onnx.json")
    assert inspect_file(tmp_path / "engine.onnx").kind == "plan"


def test_another_json_beside_an_onnx_is_no_sidecar(tiny_pair, tmp_path: Path):
    shutil.copy(tiny_pair.vit, tmp_path / "vit.onnx")
    (tmp_path / "vit.onnx.json").write_text('{"accuracy": 0.9}')
    assert inspect_file(tmp_path / "vit.onnx").kind == "onnx"


# Files that are refused.


def foreign() -> bytes:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "foreign", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def half(path: Path) -> bytes:
    return path.read_bytes()[: path.stat().st_size // 2]


def flipped(path: Path) -> bytes:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    return bytes(data)


def unreadable_facts(path: Path) -> bytes:
    model = onnx.load(path)
    for prop in model.metadata_props:
        prop.value = "{" if prop.key == "pgn_edge.geometry" else prop.value
    return model.SerializeToString()


def names_that_are_no_text(path: Path) -> bytes:
    return path.read_bytes().replace(b"LayerNormalization", b"LayerNormalizatio\xff")


def operators_only(path: Path) -> bytes:
    return onnx.ModelProto(ir_version=10, opset_import=[helper.make_opsetid("", 20)]).SerializeToString()


@pytest.mark.parametrize(
    ("spoil", "source", "error", "says"),
    [
        pytest.param(half, "task", BundleError, "a zip of the members", id="half a bundle"),
        pytest.param(flipped, "task", BundleError, "CRC|sha256", id="a bundle with a changed byte"),
        pytest.param(half, "vit", EngineError, "a whole ONNX model", id="half an ONNX"),
        pytest.param(
            unreadable_facts,
            "vit",
            EngineError,
            r"pgn_edge\.\w+: expected a JSON document",
            id="an ONNX with damaged facts",
        ),
        pytest.param(names_that_are_no_text, "vit", EngineError, "a whole ONNX model", id="an ONNX with damaged names"),
        pytest.param(operators_only, "vit", EngineError, "a whole ONNX model", id="an ONNX without a graph"),
        pytest.param(half, "checkpoint", CheckpointError, "a whole torch file", id="half a checkpoint"),
    ],
)
def test_damaged_files(
    files: dict[str, Path],
    tmp_path: Path,
    spoil: Callable[[Path], bytes],
    source: str,
    error: type[PgnEdgeError],
    says: str,
):
    inspect_file(files[source])
    path = tmp_path / "file"
    path.write_bytes(spoil(files[source]))
    with pytest.raises(error, match=says) as caught:
        inspect_file(path)
    assert str(path) in str(caught.value)


def test_a_foreign_torch_file(tmp_path: Path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="weight"):
        inspect_file(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        pytest.param("a.txt", b"words", "none of these", id="text"),
        pytest.param("a.onnx", b"", "an empty file", id="empty"),
        pytest.param("a.onnx", b"words", "a whole ONNX model", id="text that calls itself ONNX"),
        pytest.param("a.plan", b"words", "a plan with its sidecar", id="a plan without sidecar"),
        pytest.param("missing.pgn", None, "No such file", id="no such file"),
        pytest.param(".", None, "a folder", id="a folder"),
    ],
)
def test_files_that_are_none_of_these(tmp_path: Path, name: str, data: bytes | None, says: str):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(EngineError, match=says) as caught:
        inspect_file(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_a_zip_of_something_else(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "photos.pgn", "w") as archive:
        archive.writestr("photo.png", b"x")
    with pytest.raises(EngineError, match="none of these"):
        inspect_file(tmp_path / "photos.pgn")


def test_a_plan_that_its_sidecar_does_not_vouch_for(plan: Path):
    plan.write_bytes(plan.read_bytes() + b"!")
    with pytest.raises(EngineError, match="sha256"):
        inspect_file(plan)


# What nobody writes, and a file may hold all the same.


def strict(document: object) -> object:
    """Through JSON and back, where NaN and Infinity are no JSON."""
    return json.loads(json.dumps(document, allow_nan=False))


def test_values_that_are_not_json(tiny_checkpoint: Path, tmp_path: Path):
    deep: dict = {}
    for _ in range(100):
        deep = {"deeper": deep}
    provenance = {"loss": float("nan"), "best": float("inf"), "weights": torch.zeros(3), "deep": deep, 7: (1, None)}
    save_checkpoint(tmp_path / "odd.pt", replace(load_checkpoint(tiny_checkpoint), provenance=provenance))
    found = inspect_file(tmp_path / "odd.pt")
    shown = strict(found.to_json())["provenance"]
    assert (shown["loss"], shown["best"], shown["weights"], shown["7"]) == ("nan", "inf", "Tensor", [1, None])
    assert diff(found, found) == ()

"""What stands in an exported file, and what must not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxsim
import pytest
from onnx import TensorProto, helper, numpy_helper

from pgn_edge.bundle import read_bundle
from pgn_edge.contract import EngineFacts
from pgn_edge.export.graph import OPSET, finish, fix_batch
from pgn_edge.export.parity import run_onnx
from pgn_edge.geometry import Geometry
from pgn_edge.preprocess import Preprocess

ENGINES: dict[str, Callable] = {
    "vit": lambda pair, fp16: onnx.load(pair.vit),
    "vit fp16": lambda pair, fp16: onnx.load(fp16),
    "stock": lambda pair, fp16: onnx.load(pair.stock),
    "pgn": lambda pair, fp16: onnx.load_model_from_string(read_bundle(pair.task).pgn_onnx),
    "pgn fp16": lambda pair, fp16: onnx.load_model_from_string(read_bundle(pair.task_fp16).pgn_onnx),
}


@pytest.fixture(params=ENGINES, scope="module")
def engine(request: pytest.FixtureRequest, tiny_pair, tiny_vit_fp16: Path) -> tuple[str, onnx.ModelProto]:
    return request.param, ENGINES[request.param](tiny_pair, tiny_vit_fp16)


def sizes(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_it_passes_the_full_check(engine: tuple[str, onnx.ModelProto]):
    onnx.checker.check_model(engine[1], full_check=True)


def test_opset(engine: tuple[str, onnx.ModelProto]):
    assert [(o.domain, o.version) for o in engine[1].opset_import if o.domain in ("", "ai.onnx")] == [("", OPSET)]
    assert {node.domain for node in engine[1].graph.node} <= {""}, "TensorRT knows no other domain"


def test_inputs_and_outputs_by_their_names(engine: tuple[str, onnx.ModelProto]):
    name, model = engine
    values = [*model.graph.input, *model.graph.output]
    canvas = [64, 64] if name == "stock" else [80, 64]
    if name.startswith("pgn"):
        expected = [("image", TensorProto.UINT8, [64, 64, 3]), ("canvas", TensorProto.FLOAT, [3, *canvas])]
        expected.append(("coefficients", TensorProto.FLOAT, [16, 32]))  # the canvas stays first: others read it so
    else:
        expected = [("canvas", TensorProto.FLOAT, [3, *canvas]), ("embedding", TensorProto.FLOAT, [128])]
    for value, (label, kind, shape) in zip(values, expected, strict=True):
        assert value.name == label
        assert value.type.tensor_type.elem_type == kind
        assert sizes(value)[1:] == shape
        assert isinstance(sizes(value)[0], str), "the batch is not free"
    assert len({sizes(value)[0] for value in values}) == 1


def test_the_pgn_casts_before_anything_else(engine: tuple[str, onnx.ModelProto]):
    name, model = engine
    if name.startswith("pgn"):
        assert [node.op_type for node in model.graph.node if "image" in node.input] == ["Cast"]


def test_metadata_survive_the_file(engine: tuple[str, onnx.ModelProto], tiny_backbone):
    name, model = engine
    facts = EngineFacts.from_metadata({prop.key: prop.value for prop in model.metadata_props}, "here")
    assert facts.role == name.split()[0].replace("stock", "vit")
    assert facts.precision == ("fp16" if "fp16" in name else "fp32")
    assert facts.fingerprint == tiny_backbone.vit.fingerprint()
    assert facts.geometry == tiny_backbone.vit.geometry(0 if name == "stock" else 16)
    assert (facts.opset, facts.output) == (OPSET, model.graph.output[0].name)


def test_nothing_of_this_machine_is_in_the_file(engine: tuple[str, onnx.ModelProto]):
    data = engine[1].SerializeToString()
    traces = [b".py", b"site-packages", b"Traceback", b"stack_trace", b"nn_module", b"pkg.torch", os.getcwd().encode()]
    traces.append(str(Path.home()).encode() + b"/")
    assert [trace for trace in traces if trace in data] == []


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_batch(engine: tuple[str, onnx.ModelProto], batch: int):
    model = engine[1]
    given = model.graph.input[0]
    rng = np.random.default_rng(0)
    if given.name == "image":
        frames = rng.integers(0, 256, (5, *sizes(given)[1:]), np.uint8)
    else:
        frames = rng.standard_normal((5, *sizes(given)[1:])).astype(np.float32)
    together = run_onnx(model, frames[:batch])
    alone = np.concatenate([run_onnx(model, frames[i : i + 1]) for i in range(batch)])
    tolerance = 2e-2 if "fp16" in engine[0] else 1e-5
    np.testing.assert_allclose(together, alone, rtol=0, atol=tolerance * np.abs(alone).max())


def test_constant_folding_has_nothing_left_to_do(engine: tuple[str, onnx.ModelProto]):
    graph = engine[1].graph
    known = {tensor.name for tensor in graph.initializer}
    assert [node.name for node in graph.node if all(name in known for name in node.input if name)] == []
    assert [node.name for node in graph.node if node.op_type in {"Constant", "Identity", "Dropout"}] == []
    read = {name for node in graph.node for name in node.input}
    assert known <= read, "a constant that nobody reads"


def test_onnxsim_finds_nothing_to_remove(engine: tuple[str, onnx.ModelProto]):
    simpler, checked = onnxsim.simplify(engine[1])
    assert checked
    assert len(simpler.graph.node) >= len(engine[1].graph.node)


def test_each_shape_is_known_but_for_the_batch(engine: tuple[str, onnx.ModelProto]):
    model = onnx.shape_inference.infer_shapes(engine[1], strict_mode=True, data_prop=True)
    for value in model.graph.value_info:
        assert all(isinstance(size, int) and size > 0 for size in sizes(value)[1:]), value.name


def test_a_pgn_holds_its_own_data(engine: tuple[str, onnx.ModelProto]):
    assert {tensor.data_location for tensor in engine[1].graph.initializer} == {TensorProto.DEFAULT}


def test_a_fixed_batch_leaves_no_size_open(tiny_pair):
    fixed = fix_batch(onnx.load(tiny_pair.vit), 3)
    onnx.checker.check_model(fixed, full_check=True)
    values = (*fixed.graph.value_info, *fixed.graph.input, *fixed.graph.output)
    assert {size for value in values for size in sizes(value) if isinstance(size, str)} == set()
    frames = np.random.default_rng(0).standard_normal((3, *sizes(fixed.graph.input[0])[1:]), np.float32)
    free = run_onnx(onnx.load(tiny_pair.vit), frames)
    np.testing.assert_allclose(run_onnx(fixed, frames), free, rtol=0, atol=1e-6)


FACTS = EngineFacts("vit", "toy", "ab" * 32, Geometry((8, 8), 8, 0), Preprocess((8, 8)), "fp32", OPSET, "embedding")


def gossiping_model() -> onnx.ModelProto:
    """A model with something private in every place that holds free text."""
    secret = "/somewhere/private.py"
    weight = numpy_helper.from_array(np.ones(1, np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1]) for name in ("canvas", "embedding"))
    node = helper.make_node("Add", ["canvas", "w"], ["embedding"], name="add", doc_string=secret)
    graph = helper.make_graph([node], "main_graph", [x], [y], [weight], doc_string=secret)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], doc_string=secret, ir_version=10)
    model.producer_version = secret
    for holder in (model, graph, node, x, y, weight):
        holder.metadata_props.add(key="trace", value=secret)
    for holder in (model.graph, model.graph.node[0], model.graph.input[0], model.graph.initializer[0]):
        holder.metadata_props.add(key="trace", value=secret)
    for info in (model.graph.input[0], model.graph.output[0], model.graph.initializer[0]):
        info.doc_string = secret
    return model


def test_finish_drops_what_others_wrote():
    model = gossiping_model()
    assert b"private" in model.SerializeToString()
    assert b"private" not in finish(model, FACTS).SerializeToString()
    assert EngineFacts.from_metadata({prop.key: prop.value for prop in model.metadata_props}, "here") == FACTS


def test_finish_refuses_a_broken_graph():
    model = gossiping_model()
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises((onnx.checker.ValidationError, onnx.shape_inference.InferenceError)):
        finish(model, FACTS)

"""Strongly typed fp16: which node computes in what, and that the result stays close."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pgn_edge.bundle import read_bundle
from pgn_edge.errors import ExportError
from pgn_edge.export.graph import OPSET
from pgn_edge.export.parity import run_onnx
from pgn_edge.export.precision import HEAVY, readers, to_half

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
SENSITIVE = {"Softmax", "LayerNormalization", "ReduceMean"}
RNG = np.random.default_rng(0)


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor, as onnx itself infers them, strictly."""
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    graph = model.graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        kinds[value.name] = value.type.tensor_type.elem_type
    return kinds


def kinds_of(model: onnx.ModelProto, node: onnx.NodeProto) -> set[int]:
    known = types(model)
    return {known[name] for name in (*node.input, *node.output) if known.get(name) in (FLOAT, HALF)}


def toy(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: list[int | str]) -> onnx.ModelProto:
    """x -> y through `nodes`."""
    values = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    x = helper.make_tensor_value_info("x", FLOAT, shape)
    y = helper.make_tensor_value_info("y", FLOAT, None)
    graph = helper.make_graph(nodes, "toy", [x], [y], values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def mlp() -> onnx.ModelProto:
    """Norm, linear, Gelu, linear, softmax, and a residual add on the way."""
    width, rng = 8, np.random.default_rng(1)
    nodes = [
        helper.make_node("LayerNormalization", ["x", "g", "b"], ["n"], name="norm"),
        helper.make_node("MatMul", ["n", "w1"], ["h"], name="first"),
        helper.make_node("Gelu", ["h"], ["a"], name="gelu"),
        helper.make_node("MatMul", ["a", "w2"], ["m"], name="second"),
        helper.make_node("Add", ["x", "m"], ["r"], name="residual"),
        helper.make_node("Softmax", ["r"], ["y"], name="softmax"),
    ]
    constants = {
        "g": np.ones(width, np.float32),
        "b": np.zeros(width, np.float32),
        "w1": rng.standard_normal((width, 16)).astype(np.float32) / 3,
        "w2": rng.standard_normal((16, width)).astype(np.float32) / 3,
    }
    return toy(nodes, constants, ["batch", width])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param("norm", FLOAT, id="norm stays float32"),
        pytest.param("first", HALF, id="linear in fp16"),
        pytest.param("gelu", HALF, id="what follows an fp16 linear is fp16"),
        pytest.param("second", HALF, id="second linear in fp16"),
        pytest.param("residual", FLOAT, id="the residual stream stays float32"),
        pytest.param("softmax", FLOAT, id="softmax stays float32"),
    ],
)
def test_each_node_of_a_block(name: str, kind: int):
    model = to_half(mlp(), "fp16")
    onnx.checker.check_model(model, full_check=True)
    node = next(node for node in model.graph.node if node.name == name)
    assert kinds_of(model, node) == {kind}


def test_the_result_stays_close():
    frames = RNG.standard_normal((16, 8)).astype(np.float32)
    exact, half = run_onnx(mlp(), frames), run_onnx(to_half(mlp(), "fp16"), frames)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, exact, rtol=0, atol=2e-3)
    assert np.abs(half - exact).max() > 0, "nothing was rounded: nothing is fp16"


def test_the_original_is_left_alone():
    model = mlp()
    before = model.SerializeToString()
    to_half(model, "fp16")
    assert model.SerializeToString() == before


def test_kept_nodes_stay_float32():
    model = to_half(mlp(), "fp16", keep={"first"})
    nodes = {node.name: node for node in model.graph.node}
    assert kinds_of(model, nodes["first"]) == {FLOAT}
    assert kinds_of(model, nodes["second"]) == {HALF}


def test_a_constant_shared_by_both_precisions():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="half"),
        helper.make_node("MatMul", ["x", "w"], ["k"], name="full"),
        helper.make_node("Add", ["h", "k"], ["y"], name="sum"),
    ]
    model = toy(nodes, {"w": RNG.standard_normal((4, 4)).astype(np.float32)}, ["batch", 4])
    half = to_half(model, "fp16", keep={"full"})
    onnx.checker.check_model(half, full_check=True)
    assert {tensor.data_type for tensor in half.graph.initializer} == {FLOAT, HALF}
    frames = RNG.standard_normal((3, 4)).astype(np.float32)
    np.testing.assert_allclose(run_onnx(half, frames), run_onnx(model, frames), atol=2e-2)


def test_an_output_that_another_node_reads_too():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"], name="linear"),
        helper.make_node("Relu", ["y"], ["unused"], name="reader"),
    ]
    half = to_half(toy(nodes, {"w": np.eye(4, dtype=np.float32)}, ["batch", 4]), "fp16")
    onnx.checker.check_model(half, full_check=True)
    assert half.graph.output[0].type.tensor_type.elem_type == FLOAT
    np.testing.assert_array_equal(run_onnx(half, np.ones((1, 4), np.float32)), np.ones((1, 4)))


@pytest.mark.parametrize("value", [7e4, -7e4], ids=["above", "below"])
def test_a_constant_beyond_fp16_is_refused(value: float):
    model = toy(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="linear")],
        {"w": np.full((4, 4), value, np.float32)},
        ["batch", 4],
    )
    with pytest.raises(ExportError, match="65504"):
        to_half(model, "fp16")


def test_a_large_constant_that_stays_float32_is_no_fault():
    model = toy(
        [helper.make_node("Add", ["x", "w"], ["y"], name="shift")], {"w": np.full(4, 7e4, np.float32)}, ["batch", 4]
    )
    np.testing.assert_array_equal(run_onnx(to_half(model, "fp16"), np.zeros((1, 4), np.float32)), np.full((1, 4), 7e4))


def test_readers():
    assert readers(mlp(), "x") == {"norm", "residual"}


# The two engines that ship.


@pytest.fixture(scope="module", params=["vit", "pgn"])
def engine(request: pytest.FixtureRequest, tiny_pair, tiny_vit_fp16: Path) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The float32 and the fp16 form of one engine."""
    if request.param == "vit":
        return onnx.load(tiny_pair.vit), onnx.load(tiny_vit_fp16)
    bundles = (read_bundle(tiny_pair.task), read_bundle(tiny_pair.task_fp16))
    exact, half = (onnx.load_model_from_string(bundle.pgn_onnx) for bundle in bundles)
    return exact, half


def test_sensitive_nodes_of_an_engine_are_float32(engine):
    known = types(engine[1])
    nodes = [node for node in engine[1].graph.node if node.op_type in SENSITIVE]
    assert nodes
    assert {known[name] for node in nodes for name in (node.input[0], node.output[0])} == {FLOAT}


def test_nodes_of_an_engine_compute_in_what_the_file_says(engine):
    half = engine[1]
    known = types(half)
    numerics = next(json.loads(prop.value) for prop in half.metadata_props if prop.key == "pgn_edge.numerics")
    kept = {entry["node"] for entry in numerics["kept_float32"]}
    assert kept <= {node.name for node in half.graph.node}
    heavy = [node for node in half.graph.node if node.op_type in HEAVY]
    assert len([node for node in heavy if node.name not in kept]) > 5
    for node in half.graph.node:
        if node.name in kept:
            assert {known[name] for name in (*node.input, *node.output)} <= {FLOAT, TensorProto.INT64}, node.name
        elif node in heavy:
            assert {known[name] for name in (*node.input, *node.output)} == {HALF}, node.name


def test_inputs_and_outputs_of_an_engine_keep_their_types(engine):
    exact, half = engine
    for first, second in ((exact.graph.input, half.graph.input), (exact.graph.output, half.graph.output)):
        assert [v.SerializeToString() for v in first] == [v.SerializeToString() for v in second]


def test_fp16_halves_the_file(engine):
    exact, half = (len(model.SerializeToString()) for model in engine)
    assert half < 0.65 * exact

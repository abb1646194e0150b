"""What flows through a graph, and which nodes 16 bits would spoil."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pgn_edge.export.graph import OPSET
from pgn_edge.export.parity import run_onnx
from pgn_edge.export.precision import to_half
from pgn_edge.export.ranges import HEADROOM, keep_by_range, measure

FP16_MAX = 65504.0
ALL = ("one", "relu", "two")


def chain(first: float, second: float) -> onnx.ModelProto:
    """x -> x * first -> that * second, as two products with diagonal matrices, each followed by a Relu."""
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"], name="one"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("MatMul", ["b", "second"], ["y"], name="two"),
    ]
    constants = {"first": first * np.eye(4, dtype=np.float32), "second": second * np.eye(4, dtype=np.float32)}
    values = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])
    graph = helper.make_graph(nodes, "chain", [given], [result], values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


BATCH = np.random.default_rng(0).uniform(1, 2, (40, 4)).astype(np.float32)


def test_ranges_are_those_of_numpy():
    seen = measure(chain(3, 5), BATCH, ["x", "a", "y", "first", "nowhere"])
    assert set(seen) == {"x", "a", "y"}, "constants and unknown names are not measured"
    for name, scale in (("x", 1), ("a", 3), ("y", 15)):
        values = np.float32(scale) * BATCH
        assert seen[name].max_abs == pytest.approx(np.abs(values).max(), rel=1e-6)
        error = np.linalg.norm(values.astype(np.float16).astype(np.float64) - values)
        assert seen[name].rounding == pytest.approx(error / np.linalg.norm(values.astype(np.float64)), rel=1e-3)


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        pytest.param(3, 5, {}, id="nothing to fear"),
        pytest.param(9e3, 1e-3, dict.fromkeys(ALL, "range"), id="large in the middle, within headroom"),
        pytest.param(5e4, 1e-4, dict.fromkeys(ALL, "range"), id="overflow in the middle"),
        pytest.param(1e-5, 1.0, dict.fromkeys(ALL, "underflow"), id="digits lost at zero"),
        pytest.param(1.0, 3e4, {"two": "range"}, id="large at the end only"),
    ],
)
def test_nodes_around_a_spoilt_tensor_are_kept(first: float, second: float, kept: dict[str, str]):
    assert {node.node: node.reason for node in keep_by_range(chain(first, second), BATCH)} == kept


def test_the_headroom_is_what_it_says():
    largest = float(BATCH.max())
    below, above = (factor * FP16_MAX / HEADROOM / largest for factor in (0.99, 1.01))
    assert not [node for node in keep_by_range(chain(1.0, below), BATCH) if node.reason == "range"]
    assert [node.node for node in keep_by_range(chain(1.0, above), BATCH)] == ["two"]


def test_all_zero_is_no_fault():
    assert keep_by_range(chain(1.0, 1.0), np.zeros((2, 4), np.float32)) == ()


def test_not_a_number_is_kept():
    assert {node.node for node in keep_by_range(chain(1.0, 1.0), np.full((2, 4), np.nan, np.float32))} == set(ALL)


@pytest.mark.parametrize(("first", "second"), [(5e4, 1e-4), (1e-7, 1e4)], ids=["overflow", "underflow"])
def test_what_is_kept_is_what_naive_fp16_spoils(first: float, second: float):
    model = chain(first, second)
    exact = run_onnx(model, BATCH)[:, 0]  # the matrices are diagonal, and zero times Inf is no fault of the first

    def error(keep: list[str]) -> float:
        half = run_onnx(to_half(model, "fp16", keep), BATCH)[:, 0]
        return float(np.abs(half / exact - 1).max())

    assert not error([]) < 5e-3
    assert error([node.node for node in keep_by_range(model, BATCH)]) < 5e-3


def test_an_entry_is_plain_json():
    entry = keep_by_range(chain(5e4, 1e-4), BATCH)[0].to_json()
    assert entry["node"] == "one"
    assert entry["max_abs"] == pytest.approx(5e4 * float(BATCH.max()), rel=1e-6)
    assert entry["rounding"] is None, "infinity is no JSON"
    nan = keep_by_range(chain(1.0, 1.0), np.full((2, 4), np.nan, np.float32))[0]
    assert json.loads(json.dumps(nan.to_json()), parse_constant=pytest.fail)["max_abs"] is None

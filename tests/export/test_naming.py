"""Names in exported graphs say where a node comes from."""

from __future__ import annotations

from collections import Counter

import onnx
import pytest

from pgn_edge.bundle import read_bundle


@pytest.fixture(scope="module", params=["vit", "pgn"])
def graph(request: pytest.FixtureRequest, tiny_pair) -> onnx.GraphProto:
    if request.param == "vit":
        return onnx.load(tiny_pair.vit).graph
    return onnx.load_model_from_string(read_bundle(tiny_pair.task).pgn_onnx).graph


def test_nodes_are_called_after_their_module(graph: onnx.GraphProto):
    for node in graph.node:
        path, _, kind = node.name.rpartition("/")
        assert kind.split("_")[0] == node.op_type
        assert path == graph.name or path.startswith(f"{graph.name}."), node.name


def test_each_name_is_taken_once(graph: onnx.GraphProto):
    outputs = [name for node in graph.node for name in node.output]
    for names in ([node.name for node in graph.node], outputs, [tensor.name for tensor in graph.initializer]):
        assert [name for name, count in Counter(names).items() if count > 1] == []


def test_no_constant_is_only_numbered(graph: onnx.GraphProto):
    numbered = [tensor.name for tensor in graph.initializer if tensor.name.startswith(("val_", "_", "onnx::"))]
    assert numbered == []


def test_weights_of_linear_layers_carry_their_layers_name(tiny_pair):
    vit = onnx.load(tiny_pair.vit).graph
    names = {tensor.name for tensor in vit.initializer}
    for layer in ("0.qkv", "0.out", "0.mlp.0", "1.query", "1.key_value", "1.mlp.2"):
        assert f"vit.body.blocks.{layer}/MatMul.weight" in names
    pgn = onnx.load_model_from_string(read_bundle(tiny_pair.task).pgn_onnx).graph
    assert {"pixels", "scale", "shift", "pgn.generator.head.weight"} <= {tensor.name for tensor in pgn.initializer}

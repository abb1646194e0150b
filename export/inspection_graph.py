"""What an ONNX graph is made of: tensors, nodes, weights, and the types that its arithmetic runs in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import onnx
from onnx import TensorProto

from pgn_edge.errors import EngineError

# Where the time of a ViT goes; what runs in which type is decided by these.
ARITHMETIC = frozenset(
    {"Conv", "ConvInteger", "Gemm", "MatMul", "MatMulInteger", "MatMulNBits", "QLinearConv", "QLinearMatMul"}
)
WEIGHT_INPUT = {"QLinearConv": 3, "QLinearMatMul": 3}  # the others have activations and weights side by side
LARGEST = 5
NO_WEIGHTS = frozenset({"int64", "bool", "string"})  # shapes, indices and switches


def read_graph(data: bytes, source: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Take stock of a graph without running it or reading external data.

    Args:
        data: an ONNX model as bytes.
        source: for messages.

    Returns:
        A JSON object, and the model's metadata.

    Raises:
        EngineError: no whole ONNX model.
    """
    try:
        model = onnx.load_model_from_string(data)
    except Exception as exc:
        # protobuf's DecodeError has another home in each protobuf release.
        raise _damaged(source, f"{exc}".split("\n")[0]) from exc
    if not model.opset_import or not model.graph.output:
        raise _damaged(source, "a model without operators or outputs")
    if not all(isinstance(text, str) for text in _texts(model)):
        raise _damaged(source, "names that are no text")
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    graph, tensors = model.graph, model.graph.initializer
    given = {tensor.name for tensor in tensors}
    return {
        "inputs": {value.name: _value(value) for value in graph.input if value.name not in given},
        "outputs": {value.name: _value(value) for value in graph.output},
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "parameters": sum(_count(t) for t in tensors if type_name(t.data_type) not in NO_WEIGHTS),
        "external": _external(model),
        "activation": _activation(graph),
        "nodes": _counted(node.op_type for node in graph.node),
        "arithmetic": _arithmetic(model),
        "initializers": _by_type(tensors),
        "largest": {
            tensor.name: {"type": type_name(tensor.data_type), "shape": list(tensor.dims), "bytes": _bytes(tensor)}
            for tensor in sorted(tensors, key=_bytes, reverse=True)[:LARGEST]
        },
    }, metadata


def type_name(element_type: int) -> str:
    """The name that numpy gives to an ONNX element type, `unknown` for those that onnx does not know."""
    if element_type not in TensorProto.DataType.values() or element_type == TensorProto.UNDEFINED:
        return "unknown"
    name: str = TensorProto.DataType.Name(element_type).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _texts(model: onnx.ModelProto) -> Iterator[object]:
    """Every name that is shown: protobuf gives bytes where a damaged one is no UTF-8."""
    graph = model.graph
    values = (*graph.input, *graph.output)
    for named in (*values, *graph.initializer):
        yield named.name
    for node in graph.node:
        yield node.op_type
    for value in values:
        yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
    yield from (entry.domain for entry in model.opset_import)
    for prop in model.metadata_props:
        yield from (prop.key, prop.value)


def _damaged(source: str, got: str) -> EngineError:
    return EngineError(
        source, expected="a whole ONNX model", got=got, do="copy the file again, or export it again with pgn-edge"
    )


def _value(value: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    shape = [dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else "?") for dim in tensor.shape.dim]
    return {"type": type_name(tensor.elem_type), "shape": shape}


def _count(tensor: TensorProto) -> int:
    return math.prod(tensor.dims)


def _bytes(tensor: TensorProto) -> int:
    if tensor.raw_data:
        return len(tensor.raw_data)
    try:
        return _count(tensor) * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except KeyError:  # of a type that onnx does not know
        return 0


def _by_type(tensors: Iterable[TensorProto]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for tensor in tensors:
        entry = found.setdefault(type_name(tensor.data_type), {"tensors": 0, "bytes": 0})
        entry["tensors"] += 1
        entry["bytes"] += _bytes(tensor)
    return dict(sorted(found.items(), key=lambda item: -item[1]["bytes"]))


def _arithmetic(model: onnx.ModelProto) -> dict[str, dict[str, int]]:
    """Nodes by operator, and by the types of activations and weights; one name where the two are the same."""
    types = _types(model)
    found: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type not in ARITHMETIC:
            continue
        operands = [*node.input, *[""] * 4]  # a damaged node may lack some
        pair = [types.get(operands[i], "unknown") for i in (0, WEIGHT_INPUT.get(node.op_type, 1))]
        found.setdefault(node.op_type, []).append(" x ".join(dict.fromkeys(pair)))
    return {name: _counted(found[name]) for name in sorted(found)}


def _types(model: onnx.ModelProto) -> dict[str, str]:
    """Element type of each tensor; behind a DequantizeLinear, that of what is stored."""
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # of a graph that onnx's C++ refuses with whatever it has: what is stated must do
        graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input and node.output:
            types[node.output[0]] = types.get(node.input[0], TensorProto.UNDEFINED)
    return {name: type_name(value) for name, value in types.items()}


def _external(model: onnx.ModelProto) -> list[str]:
    """Names of the files beside the graph that hold weights, sorted."""
    tensors = [*model.graph.initializer]
    for node in model.graph.node:
        tensors += [attribute.t for attribute in node.attribute if attribute.HasField("t")]
    entries = (entry for tensor in tensors for entry in tensor.external_data)
    return sorted({entry.value for entry in entries if entry.key == "location"})


def _activation(graph: onnx.GraphProto) -> str:
    """Activation of the MLPs: QuickGELU is x * sigmoid(1.702 x), SiLU the same without the number; empty for others."""
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    found = []
    for node in graph.node:
        if node.op_type == "Gelu":
            tanh = any(attribute.s == b"tanh" for attribute in node.attribute)
            found.append("GELU (tanh)" if tanh else "GELU")
        elif node.op_type == "Sigmoid" and node.input:
            found.append("QuickGELU" if made_by.get(node.input[0]) == "Mul" else "SiLU")
    return " and ".join(dict.fromkeys(found))


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))

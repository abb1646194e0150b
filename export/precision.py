"""Precision written into the graph: strongly typed fp16 or bf16, one form for every TensorRT, checkable on a CPU.

Arithmetic that gains from 16 bits runs in them; LayerNormalization, Softmax, reductions and everything on the float32
residual stream stay float32. Nodes that only move data keep the type of what they move.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pgn_edge.contract import Precision
from pgn_edge.errors import ExportError
from pgn_edge.export.certificate import FP16_MAX

HEAVY = frozenset({"Conv", "Gemm", "MatMul"})
# These follow their inputs: 16 bits where all of them have 16, float32 where one has not.
FOLLOW = frozenset(
    {
        "Add",
        "Concat",
        "Div",
        "Expand",
        "Flatten",
        "Gather",
        "Gelu",
        "Identity",
        "MaxPool",
        "Mul",
        "Pad",
        "Relu",
    }
    | {"Reshape", "Sigmoid", "Slice", "Split", "Squeeze", "Sub", "Transpose", "Unsqueeze"}
)
TYPES: dict[Precision, tuple[int, type]] = {
    "fp16": (TensorProto.FLOAT16, np.float16),
    "bf16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
}


def to_half(model: onnx.ModelProto, precision: Precision, keep: Collection[str] = ()) -> onnx.ModelProto:
    """A strongly typed 16-bit copy of a float32 model; its inputs and outputs keep their types.

    Args:
        model: float32.
        precision: `fp16` or `bf16`.
        keep: names of nodes that stay float32 whatever they are.

    Raises:
        ExportError: a constant is too large for fp16.
    """
    model = onnx.shape_inference.infer_shapes(model)
    writer = _Writer(model, precision, frozenset(keep))
    for node in model.graph.node:
        writer.add(node)
    writer.close()
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.initializer[:], result.graph.value_info[:]
    result.graph.node.extend(writer.nodes)
    result.graph.initializer.extend(writer.initializers.values())
    return result


def readers(model: onnx.ModelProto, tensor: str) -> frozenset[str]:
    """Names of the nodes that compute with a tensor; one that only asks for its shape does not."""
    return frozenset(node.name for node in model.graph.node if tensor in node.input and node.op_type != "Shape")


class _Writer:
    """Walks the graph in order and knows the type that each tensor has by now."""

    def __init__(self, model: onnx.ModelProto, precision: Precision, keep: frozenset[str]) -> None:
        graph = model.graph
        self.name, self.keep = precision, keep
        self.half, self.dtype = TYPES[precision]
        self.opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        self.outputs = {value.name for value in graph.output}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        values = (*graph.value_info, *graph.input, *graph.output)
        self.was = {value.name: value.type.tensor_type.elem_type for value in values}
        self.was |= {name: tensor.data_type for name, tensor in self.constants.items()}
        self.now = dict(self.was)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}

    def add(self, node: onnx.NodeProto) -> None:
        half = self._is_half(node)
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(node.input):
            if name:
                copy.input[index] = self._constant(name, half) if name in self.constants else self._cast(name, half)
        for name in node.output:
            if half and self.was.get(name) == TensorProto.FLOAT:
                self.now[name] = self.half
        self.nodes.append(copy)

    def close(self) -> None:
        """Graph outputs are float32 under their own names."""
        for name in self.outputs:
            if self.now[name] != self.half:
                continue
            inner = f"{name}_{self.name}"
            for node in self.nodes:
                node.input[:] = [inner if value == name else value for value in node.input]
                node.output[:] = [inner if value == name else value for value in node.output]
            self.nodes.append(_cast_node(inner, name, TensorProto.FLOAT))

    def _is_half(self, node: onnx.NodeProto) -> bool:
        if node.name in self.keep or not _takes(node.op_type, self.half, self.opset):
            return False
        if node.op_type in HEAVY:
            return True
        moving = [n for n in node.input if n and n not in self.constants and self.was.get(n) == TensorProto.FLOAT]
        if node.op_type not in FOLLOW or not moving:
            return False
        return all(self.now[name] == self.half for name in moving)

    def _constant(self, name: str, half: bool) -> str:
        tensor = self.constants[name]
        if not half or tensor.data_type != TensorProto.FLOAT:
            self.initializers[name] = tensor
            return name
        narrow = f"{name}_{self.name}"
        if narrow not in self.initializers:
            values = numpy_helper.to_array(tensor)
            if self.name == "fp16" and np.abs(values).max(initial=0) > FP16_MAX:
                raise ExportError(
                    "fp16",
                    expected=f"constants within ±{FP16_MAX:g}",
                    got=f"{np.abs(values).max():.3g} in {name}",
                    do="export without --fp16",
                )
            data = values.astype(self.dtype).tobytes()
            self.initializers[narrow] = helper.make_tensor(narrow, self.half, values.shape, data, raw=True)
        return narrow

    def _cast(self, name: str, half: bool) -> str:
        wanted = self.half if half else TensorProto.FLOAT
        if self.was.get(name) != TensorProto.FLOAT or self.now[name] == wanted:
            return name
        cast = f"{name}_as_{self.name if half else 'fp32'}"
        if cast not in self.now:
            self.now[cast] = wanted
            self.nodes.append(_cast_node(name, cast, wanted))
        return cast


@cache
def _takes(op_type: str, kind: int, opset: int) -> bool:
    """Whether ONNX allows this type as an operator's first input; Conv has bf16 only from opset 22 on."""
    schema = onnx.defs.get_schema(op_type, opset)
    name = f"tensor({TensorProto.DataType.Name(kind).lower()})"
    allowed = {rule.type_param_str: rule.allowed_type_strs for rule in schema.type_constraints}
    return not schema.inputs or name in allowed.get(schema.inputs[0].type_str, (schema.inputs[0].type_str,))


def _cast_node(source: str, target: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=to)

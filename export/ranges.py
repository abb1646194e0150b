"""Which nodes fp16 would spoil: decided by what flows through them, on golden and on adversarial inputs.

A 16-bit tensor spoils a graph in two ways: values beyond 65,504 become Inf, and values near zero lose their digits.
Both are measured on the float32 graph, tensor by tensor, and the nodes around a spoilt tensor stay float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pgn_edge.export.certificate import FP16_MAX
from pgn_edge.export.parity import open_session, pieces
from pgn_edge.export.precision import FOLLOW, HEAVY

HEADROOM = 4.0  # other inputs than those that were measured may be this much larger
ROUNDING_LIMIT = 2.0**-10  # relative; plain fp16 rounding stays below 2^-11, so beyond this digits were lost at zero


@dataclass(frozen=True)
class Kept:
    """A node that stays float32 in a 16-bit graph.

    Args:
        node: its name.
        reason: in a few words.
        max_abs: largest magnitude at its inputs and outputs.
        rounding: root mean square relative error that rounding to 16 bits would make there; infinite for overflow.
    """

    node: str
    reason: str
    max_abs: float
    rounding: float

    def to_json(self) -> dict[str, Any]:
        """A JSON object for manifests; null where a number is not finite."""
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Range:
    """What was seen of one tensor.

    Args:
        max_abs: largest magnitude.
        rounding: relative error of fp16 rounding, root of the summed squares; infinite where it overflows.
    """

    max_abs: float
    rounding: float

    @property
    def reason(self) -> str:
        """Why fp16 will not do; empty where it will."""
        if not self.max_abs * HEADROOM <= FP16_MAX:
            return "range"
        return "" if self.rounding <= ROUNDING_LIMIT else "underflow"


def keep_by_range(model: onnx.ModelProto, batch: np.ndarray) -> tuple[Kept, ...]:
    """Nodes of a float32 graph with one input that fp16 would spoil.

    Args:
        model: float32, its nodes named.
        batch: inputs to measure on, golden and adversarial.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    candidates = [node for node in model.graph.node if node.op_type in HEAVY | FOLLOW]
    ranges = measure(model, batch, [name for node in candidates for name in (*node.input, *node.output)])
    ranges |= {name: _constant_range(numpy_helper.to_array(tensor)) for name, tensor in constants.items()}
    return tuple(_kept(node, ranges) for node in candidates if any(r.reason for r in _around(node, ranges)))


def measure(model: onnx.ModelProto, batch: np.ndarray, tensors: list[str]) -> dict[str, Range]:
    """Ranges of float32 tensors that the graph computes or is given; other names are left out.

    Args:
        model: float32.
        batch: for its one input.
        tensors: names.
    """
    typed = onnx.shape_inference.infer_shapes(model)
    graph = typed.graph
    values = (*graph.value_info, *graph.input, *graph.output)
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    names = [name for name in dict.fromkeys(tensors) if name in floats]
    del graph.output[:]
    for index, name in enumerate(names):
        graph.node.extend(_probe(name, index))
        scalars = (f"probe_{index}_{what}" for what in ("max", "error", "energy"))
        graph.output.extend(helper.make_tensor_value_info(scalar, TensorProto.FLOAT, []) for scalar in scalars)
    # For the fp16 Casts of the probes `open_session` writes out every rounding and leaves optimisation off, which is
    # wanted: an optimiser may drop a probe's pair of Casts, and the error that it measures would be zero. All other
    # tensors are float32, so nothing that is measured was rounded on its way.
    session = open_session(typed)
    feed = session.get_inputs()[0].name
    seen = np.array([session.run(None, {feed: part}) for part in pieces(batch)], np.float64)  # (parts, 3 * tensors)
    largest = seen[:, 0::3].max(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        rounding = np.sqrt(seen[:, 1::3].sum(axis=0) / seen[:, 2::3].sum(axis=0))
    rounding = np.where(largest == 0, 0, rounding)
    return {name: Range(float(top), float(error)) for name, top, error in zip(names, largest, rounding, strict=True)}


def _probe(name: str, index: int) -> Iterator[onnx.NodeProto]:
    """Nodes that reduce a tensor to three scalars: largest magnitude, energy of the fp16 error, energy."""

    def node(kind: str, source: tuple[str, ...], target: str, **attributes: int) -> onnx.NodeProto:
        inputs = [f"probe_{index}_{part}" if part else name for part in source]
        return helper.make_node(kind, inputs, [f"probe_{index}_{target}"], **attributes)

    yield node("Abs", ("",), "abs")
    yield node("ReduceMax", ("abs",), "max", keepdims=0)
    yield node("Cast", ("",), "half", to=TensorProto.FLOAT16)
    yield node("Cast", ("half",), "back", to=TensorProto.FLOAT)
    yield node("Sub", ("back", ""), "difference")
    yield node("ReduceSumSquare", ("difference",), "error", keepdims=0)
    yield node("ReduceSumSquare", ("",), "energy", keepdims=0)


def _constant_range(values: np.ndarray) -> Range:
    top = float(np.abs(values).max(initial=0))
    with np.errstate(over="ignore"):
        error = np.linalg.norm(values.astype(np.float16).astype(np.float64) - values)
    energy = np.linalg.norm(values.astype(np.float64))
    return Range(top, float(error / energy) if energy else 0.0)


def _around(node: onnx.NodeProto, ranges: dict[str, Range]) -> list[Range]:
    return [ranges[name] for name in (*node.input, *node.output) if name in ranges]


def _kept(node: onnx.NodeProto, ranges: dict[str, Range]) -> Kept:
    around = _around(node, ranges)
    reason = next(r.reason for r in around if r.reason)
    return Kept(node.name, reason, max(r.max_abs for r in around), max(r.rounding for r in around))

"""What 16 bits do to prompt tokens, and to any graph: roundings computed on a CPU as a GPU makes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pgn_edge.contract import Precision
from pgn_edge.export.inversion import Projection, relative_error, singular_factors
from pgn_edge.export.precision import TYPES

UNIT: dict[Precision, float] = {"fp16": 2.0**-11, "bf16": 2.0**-9}  # unit roundoff
HALVES = dict(TYPES.values())  # ONNX type -> numpy type
ALLOWED = 2.0  # a product of two rounded factors is off by about as much as this many roundings of one


def token_limit(precision: Precision) -> float:
    """Relative error of prompt tokens up to which canvas arithmetic may be 16 bits: no worse than any other product."""
    return ALLOWED * UNIT[precision]


@dataclass(frozen=True)
class Mixing:
    """The PGN's last product, where prompts become pixels.

    Args:
        projection: of the ViT, in float32.
        coefficients: c (M, K, N) on the golden frames.
        pixels: L (N, 3P²).
    """

    projection: Projection
    coefficients: np.ndarray
    pixels: np.ndarray

    def error(self, precision: Precision) -> float:
        """Relative error of the prompt tokens where this product is computed in 16 bits; NaN where it overflows.

        Pixels are rounded one by one, but tokens are what counts: a projection that is ill-conditioned asks for large
        pixels that nearly cancel, and what is left of them then drowns in the rounding.
        """
        exact = self.coefficients.astype(np.float64) @ self.pixels
        with np.errstate(invalid="ignore"):  # Inf times zero
            rounded = _round(_round(self.coefficients, precision) @ _round(self.pixels, precision), precision)
            return relative_error(exact @ self.projection.weight.T, rounded @ self.projection.weight.T)


def projection_error(weight: np.ndarray, precision: Precision) -> float:
    """Relative error of prompt tokens where the ViT reads its canvas and projects it in 16 bits.

    Which tokens the tasks will use nobody knows yet; the worse of two kinds counts: tokens that point anywhere, and
    tokens in the weakest tenth of the directions that the projection reaches.

    Args:
        weight: W (d, 3P²) float64.
        precision: of canvas and projection.
    """
    left, sigma, right = singular_factors(weight)
    reached = int((sigma > sigma[0] * 1e-12).sum())
    draws = np.random.default_rng(0).standard_normal((64, reached))
    weak = np.where(np.arange(reached) >= reached - max(reached // 10, 1), draws, 0)
    errors = []
    for directions in (draws, weak):
        pixels = (directions / sigma[:reached]) @ right[:reached]
        rounded = _round(pixels, precision) @ _round(weight, precision).T
        errors.append(relative_error(directions @ left[:, :reached].T, rounded))
    return max(errors)


def has_half(model: onnx.ModelProto) -> bool:
    """Whether any constant or cast of the graph is fp16 or bf16."""
    return any(t.data_type in HALVES for t in model.graph.initializer) or any(_narrows(n) for n in model.graph.node)


def emulate_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 graph that computes what a strongly typed 16-bit graph does on a GPU.

    Sums are float32, as tensor cores have them, and every tensor that was fp16 or bf16 is rounded to it where it is
    made. A CPU runtime that is given the typed graph itself computes in float32 and leaves roundings out, overflow
    included: it would find nothing wrong with a graph that fails on the device.
    """
    typed = onnx.shape_inference.infer_shapes(model)
    kinds = {value.name: value.type.tensor_type.elem_type for value in typed.graph.value_info}
    nodes: list[onnx.NodeProto] = []
    for node in typed.graph.node:
        if _narrows(node):
            node.attribute[0].i = TensorProto.FLOAT
        nodes.append(node)
        for index, name in enumerate(node.output):
            if kinds.get(name) in HALVES:
                node.output[index] = f"{name}/exact"
                nodes.append(helper.make_node("Cast", [f"{name}/exact"], [f"{name}/half"], to=kinds[name]))
                nodes.append(helper.make_node("Cast", [f"{name}/half"], [name], to=TensorProto.FLOAT))
    result = onnx.ModelProto()
    result.CopyFrom(typed)
    del result.graph.node[:], result.graph.initializer[:], result.graph.value_info[:]
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(_widened(tensor) for tensor in typed.graph.initializer)
    return result


def _narrows(node: onnx.NodeProto) -> bool:
    return node.op_type == "Cast" and node.attribute[0].i in HALVES


def _widened(tensor: TensorProto) -> TensorProto:
    if tensor.data_type not in HALVES:
        return tensor
    values = np.frombuffer(tensor.raw_data, HALVES[tensor.data_type]).reshape(tuple(tensor.dims))
    return numpy_helper.from_array(values.astype(np.float32), tensor.name)


def _round(array: np.ndarray, precision: Precision) -> np.ndarray:
    """To the nearest value of `precision`, as float64; beyond its range infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(array, np.float64).astype(TYPES[precision][1]).astype(np.float64)

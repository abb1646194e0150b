"""The proof that a PGN engine's canvas holds legal RGB, read from the graph that ships.

Between the clamp of the prompts and the canvas nothing may stand but what moves values or rounds them to integers, in
float32, and the image, which is uint8, comes to them in levels too. So every level is within 0..255, whatever the
coefficients are. On a canvas of floats one multiplication and one addition with constants follow. Both are rounded to
the nearest value, which keeps order where the scale is positive: the results lie between those of levels 0 and 255,
which are the results for the pixels 0 and 255 of an image.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from pgn_edge.errors import ExportError
from pgn_edge.export.deployed import LEVELS
from pgn_edge.preprocess import Preprocess

PROOF = "levels clamped to 0..255 in float32, then only moved, rounded and normalised as the image is"
MOVES = frozenset({"Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
WHOLE = frozenset({TensorProto.FLOAT, TensorProto.UINT8})  # types that hold all of 0..255 exactly


def require_legal(model: onnx.ModelProto, preprocess: Preprocess) -> None:
    """Prove that no value of a PGN engine's canvas is outside legal RGB, for any coefficients.

    Args:
        model: of a task with a pixel space, in any precision.
        preprocess: what its normalisation must be, where the canvas is float32.

    Raises:
        ExportError: the proof does not go through.
    """
    graph = _Graph(model)
    last = graph.made_by["canvas"]
    if last.op_type == "Cast":
        graph.levels(last)
        return
    mul = graph.made_by.get(last.input[0])
    if last.op_type != "Add" or mul is None or mul.op_type != "Mul":
        raise _unproven(f"{last.op_type} {last.name}")
    for node, side in zip((mul, last), preprocess.affine(), strict=True):
        if not np.array_equal(graph.constant(node, 1), side) or graph.constant(node, 1).dtype != side.dtype:
            raise _unproven(f"other constants in {node.name}")
    graph.levels(graph.node(mul.input[0]))


class _Graph:
    """A graph seen from its canvas upwards."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.made_by = {name: node for node in model.graph.node for name in node.output}
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.image = model.graph.input[0]

    def node(self, name: str) -> onnx.NodeProto:
        if name not in self.made_by:
            raise _unproven(f"{name}, which no node makes")
        return self.made_by[name]

    def constant(self, node: onnx.NodeProto, index: int) -> np.ndarray:
        """An input that is stored in the file."""
        if len(node.input) <= index or node.input[index] not in self.constants:
            raise _unproven(f"{node.op_type} {node.name} without a constant")
        return np.asarray(numpy_helper.to_array(self.constants[node.input[index]]))

    def levels(self, node: onnx.NodeProto) -> None:
        """Prove that what a node gives lies within 0..255."""
        if node.op_type == "Clip":
            bounds = [self.constant(node, index) for index in (1, 2)]
            if any(bound.dtype != np.float32 for bound in bounds) or [*map(float, bounds)] != [0.0, LEVELS]:
                raise _unproven(f"{node.name} between {bounds[0]} and {bounds[1]}")
            self.mixture(self.node(node.input[0]))
            return
        if node.op_type == "Pad":  # with zeros, where nothing else is given
            if len(node.input) > 2 and node.input[2] and self.constant(node, 2) != 0:
                raise _unproven(f"{node.name} with {self.constant(node, 2)}")
        elif node.op_type == "Cast":
            if node.attribute[0].i not in WHOLE:
                raise _unproven(f"{node.name} to 16 bits")
        elif node.op_type not in MOVES | {"Concat", "Round"}:
            raise _unproven(f"{node.op_type} {node.name} behind the clamp")
        for name in node.input if node.op_type == "Concat" else node.input[:1]:
            if name != self.image.name or self.image.type.tensor_type.elem_type != TensorProto.UINT8:
                self.levels(self.node(name))

    def mixture(self, node: onnx.NodeProto) -> None:
        """Prove that finite coefficients of 0 or more give no NaN, which no clamp would make legal."""
        if node.op_type != "MatMul":
            return
        library = self.constant(node, 1)
        if library.dtype != np.float32 or not (library.min() >= 0 and library.max() <= LEVELS):
            raise _unproven(f"a library of {library.dtype} from {library.min():.6g} to {library.max():.6g}")


def _unproven(got: str) -> ExportError:
    return ExportError("canvas", expected=PROOF, got=got, do="export without --simplify, or report this graph")

"""Toy encoders as ONNX graphs whose every property is known, for a probe to find out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from pgn_edge.preprocess import Preprocess

PATCH, SIDE, WIDTH, OUT = 8, 32, 24, 16
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}
Treatment = Literal["read", "ignored", "cropped", "resized", "declared", "refused"]


@dataclass(frozen=True)
class Toy:
    """A patch projection, positions, a nonlinearity, a mean over patches and a linear map.

    Args:
        layout: of the input.
        dtype: of the input.
        order: of the channels that it expects.
        inside: normalisation that it does itself, of levels 0 to 255; None for values that come normalised.
        taller: what becomes of a canvas with more rows; `declared` has fixed sizes, `refused` says so when it runs.
        half: computes in float16.
        unit: gives vectors of length 1.
        batch: fixed, or a name.
        seed: of the weights; another is another backbone.
        width: of the answer.
    """

    layout: Literal["NCHW", "NHWC"] = "NCHW"
    dtype: str = "float32"
    order: Literal["RGB", "BGR"] = "RGB"
    inside: Preprocess | None = None
    taller: Treatment = "declared"
    half: bool = False
    unit: bool = False
    batch: int | str = "n"
    seed: int = 0
    width: int = OUT


class _Graph:
    """Collects nodes and constants."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, array: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output


def encoder(toy: Toy = Toy(), name: str = "pixels", answer: str = "features") -> bytes:
    """The graph of a toy, input `name` and output `answer`."""
    graph = _Graph()
    x = graph.node("Cast", name, to=TensorProto.FLOAT)
    if toy.layout == "NHWC":
        x = graph.node("Transpose", x, perm=[0, 3, 1, 2])
    if toy.order == "BGR":
        x = graph.node("Gather", x, graph.constant([2, 1, 0], np.int64), axis=1)
    if toy.inside is not None:
        scale, shift = toy.inside.affine()
        x = graph.node("Add", graph.node("Mul", x, graph.constant(scale[None])), graph.constant(shift[None]))
    x = _taller(graph, x, toy)
    y = _encode(graph, x, toy)
    if toy.unit:
        y = graph.node("LpNormalization", y, axis=1)
    graph.node("Cast", y, output=answer, to=TensorProto.FLOAT)
    sides: tuple[Any, Any] = (SIDE, SIDE) if toy.taller == "declared" else ("h", "w")
    shape = [toy.batch, 3, *sides] if toy.layout == "NCHW" else [toy.batch, *sides, 3]
    made = helper.make_graph(
        graph.nodes,
        "toy",
        [helper.make_tensor_value_info(name, TYPES[toy.dtype], shape)],
        [helper.make_tensor_value_info(answer, TensorProto.FLOAT, [toy.batch, toy.width])],
        graph.constants,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def _taller(graph: _Graph, x: str, toy: Toy) -> str:
    """What is done to a canvas of another height before the encoder sees it."""
    if toy.taller == "resized":
        sizes = graph.node(
            "Concat", graph.node("Shape", x, start=0, end=2), graph.constant([SIDE, SIDE], np.int64), axis=0
        )
        return graph.node("Resize", x, "", "", sizes, mode="linear")
    if toy.taller == "ignored":
        starts, ends, axes = (graph.constant(value, np.int64) for value in ([0, 0], [SIDE, SIDE], [2, 3]))
        return graph.node("Slice", x, starts, ends, axes)
    if toy.taller == "cropped":
        size = graph.node("Shape", x, start=2, end=4)
        spare = graph.node("Sub", size, graph.constant([SIDE, SIDE], np.int64))
        start = graph.node("Div", spare, graph.constant([2, 2], np.int64))
        end = graph.node("Add", start, graph.constant([SIDE, SIDE], np.int64))
        return graph.node("Slice", x, start, end, graph.constant([2, 3], np.int64))
    return x


def _encode(graph: _Graph, x: str, toy: Toy) -> str:
    random = np.random.default_rng(toy.seed)
    dtype = np.float16 if toy.half else np.float32
    if toy.half:
        x = graph.node("Cast", x, to=TensorProto.FLOAT16)
    # Smoothed filters: as in a ViT, noise of single pixels moves a token less than colour and shape do.
    filters = random.normal(0, 1 / PATCH, (WIDTH, 3, PATCH, PATCH))
    filters[: WIDTH // 2] += random.normal(0, 0.3, (WIDTH // 2, 3, 1, 1))
    x = graph.node("Conv", x, graph.constant(filters / PATCH, dtype), strides=[PATCH, PATCH])
    rows = 4 * SIDE // PATCH if toy.taller == "read" else SIDE // PATCH
    tables = random.normal(0, 1, (2, 1, WIDTH, 4 * SIDE // PATCH, SIDE // PATCH))[:, :, :, :rows]
    positions, gates = (graph.constant(table, dtype) for table in tables)
    if toy.taller == "read":
        height = graph.node("Shape", x, start=2, end=3)
        first, axis = graph.constant([0], np.int64), graph.constant([2], np.int64)
        positions, gates = (graph.node("Slice", table, first, height, axis) for table in (positions, gates))
    # Each position weighs what it sees, as attention does: a mean alone could not tell a resized picture from itself.
    x = graph.node("Mul", graph.node("Tanh", graph.node("Add", x, positions)), gates)
    x = graph.node("Flatten", graph.node("GlobalAveragePool", x))
    return graph.node("MatMul", x, graph.constant(random.normal(0, 1, (WIDTH, toy.width)), dtype))


def reference(toy: Toy, preprocess: Preprocess) -> bytes:
    """The same backbone as pgn-edge exports it: input `canvas`, normalised, with facts."""
    import onnx

    from pgn_edge.contract import EngineFacts
    from pgn_edge.geometry import Geometry

    model = onnx.load_from_string(encoder(Toy(seed=toy.seed, width=toy.width), "canvas", "embedding"))
    geometry = Geometry((SIDE, SIDE), PATCH, 0)
    facts = EngineFacts("vit", "toy", "0" * 64, geometry, preprocess, "fp32", 20, "embedding")
    onnx.helper.set_model_props(model, facts.to_metadata())
    return model.SerializeToString()

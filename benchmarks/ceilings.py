"""What this machine can reach at all: the products of a graph, one by one, large square ones, and plain copying."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from pgn_edge.errors import EngineError
from pgn_edge.extras import import_onnxruntime

onnxruntime = import_onnxruntime()

SQUARE = 1024
COPY_BYTES = 2**27  # more than any cache holds


def _conv(inputs: list[np.ndarray], output: np.ndarray, node: onnx.NodeProto) -> int:
    return int(output.size * prod(inputs[1].shape[1:]))


def _matmul(inputs: list[np.ndarray], output: np.ndarray, node: onnx.NodeProto) -> int:
    return int(output.size * inputs[0].shape[-1])


def _gemm(inputs: list[np.ndarray], output: np.ndarray, node: onnx.NodeProto) -> int:
    turned = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return int(output.size * inputs[0].shape[0 if turned else 1])


def _attention(inputs: list[np.ndarray], output: np.ndarray, node: onnx.NodeProto) -> int:
    query, key, value = inputs[:3]  # each (B, n, d)
    return int(query.shape[0] * query.shape[1] * key.shape[1] * (query.shape[2] + value.shape[2]))


COUNTED: dict[str, Callable[[list[np.ndarray], np.ndarray, onnx.NodeProto], int]] = {
    "Conv": _conv,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "Gemm": _gemm,
    "MultiHeadAttention": _attention,
}
# They multiply too, and would be left out of the count without a word.
UNCOUNTED = ("Attention", "ConvInteger", "ConvTranspose", "Einsum", "FusedMatMul", "QLinearConv", "QLinearMatMul")


@dataclass(frozen=True, eq=False)
class Product:
    """One kind of product in a graph.

    Args:
        name: operator and shapes.
        count: how often the graph has it.
        multiply_adds: of one of them.
        integers: whether it multiplies 8-bit integers.
        model: the node alone, as a graph; constant inputs inside.
        feeds: its other inputs, as they were in the graph.
    """

    name: str
    count: int
    multiply_adds: int
    integers: bool
    model: onnx.ModelProto
    feeds: Mapping[str, np.ndarray]


def products_of(path: Path, feeds: Mapping[str, np.ndarray]) -> list[Product]:
    """The products of a graph, counted while it runs: shapes are what they are then, not what a formula says.

    Args:
        path: an ONNX file.
        feeds: its inputs.

    Raises:
        EngineError: the graph has a product that is not counted here.
    """
    model = onnx.load(path)
    foreign = [node.op_type for node in model.graph.node if node.op_type in UNCOUNTED]
    if foreign:
        raise EngineError(path.name, expected=f"products among {sorted(COUNTED)}", got=foreign[0], do="count it too")
    nodes = [node for node in model.graph.node if node.op_type in COUNTED]
    values = _watch(model, nodes, feeds)
    constants = {value.name for value in model.graph.initializer}
    kinds: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        kinds.setdefault(_kind(node, values, constants), []).append(node)
    return [_product(name, same, values, constants, model) for name, same in kinds.items()]


def _watch(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], feeds: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Every tensor that the nodes read or write."""
    values = {value.name: onnx.numpy_helper.to_array(value) for value in model.graph.initializer} | dict(feeds)
    names = dict.fromkeys(name for node in nodes for name in (*node.input, *node.output) if name and name not in values)
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return values | dict(zip(names, _session(watched, 0).run(list(names), dict(feeds)), strict=True))


def _kind(node: onnx.NodeProto, values: Mapping[str, np.ndarray], constants: set[str]) -> str:
    shapes = ["x".join(map(str, values[name].shape)) + "*" * (name in constants) for name in node.input[:2]]
    return f"{node.op_type} {' . '.join(shapes)}"


def _product(
    name: str,
    same: list[onnx.NodeProto],
    values: Mapping[str, np.ndarray],
    constants: set[str],
    model: onnx.ModelProto,
) -> Product:
    node = same[0]
    inputs, output = [values[each] for each in node.input if each], values[node.output[0]]
    kept = [value for value in model.graph.initializer if value.name in node.input]
    feeds = {each: values[each] for each in dict.fromkeys(node.input) if each and each not in constants}
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info(each, *_type(value)) for each, value in feeds.items()],
        [helper.make_tensor_value_info(node.output[0], *_type(output))],
        kept,
    )
    alone = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    multiply_adds = COUNTED[node.op_type](inputs, output, node)
    return Product(name, len(same), multiply_adds, node.op_type == "MatMulInteger", alone, feeds)


def square_products(seed: int) -> Iterator[Product]:
    """Large square products, float32 and 8-bit: what the machine reaches where nothing is in the way."""
    rng, shape = np.random.default_rng(seed), (SQUARE, SQUARE)
    yield _square("MatMul", rng.standard_normal(shape, np.float32), rng.standard_normal(shape, np.float32))
    yield _square("MatMulInteger", rng.integers(0, 256, shape, np.uint8), rng.integers(-128, 128, shape, np.int8))


def _square(kind: str, left: np.ndarray, right: np.ndarray) -> Product:
    integers = kind == "MatMulInteger"
    graph = helper.make_graph(
        [helper.make_node(kind, ["a", "b"], ["c"])],
        "square",
        [helper.make_tensor_value_info("a", *_type(left))],
        [helper.make_tensor_value_info("c", *_type(left.astype(np.int32) if integers else left))],
        [onnx.numpy_helper.from_array(right, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Product(f"{kind} {SQUARE}x{SQUARE} . {SQUARE}x{SQUARE}*", 0, SQUARE**3, integers, model, {"a": left})


def call_of(product: Product, threads: int) -> Callable[[], Any]:
    """A call that runs one product on ONNX Runtime."""
    session = _session(product.model, threads)
    names, feeds = [value.name for value in session.get_outputs()], dict(product.feeds)
    return lambda: session.run(names, feeds)


def whole_call(path: Path, feeds: Mapping[str, np.ndarray], threads: int) -> Callable[[], Any]:
    """A call that runs a whole graph under the conditions of its products."""
    session, fed = _session(onnx.load(path), threads), dict(feeds)
    return lambda: session.run(None, fed)


def copier(threads: int) -> Callable[[], Any]:
    """A call that copies `COPY_BYTES` with all threads; it reads them once, and writes them once."""
    source = np.ones((threads, COPY_BYTES // threads), np.uint8)
    target = np.zeros_like(source)
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(np.copyto, target, source))


def _session(model: onnx.ModelProto, threads: int) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    # Dozens of sessions take turns within milliseconds: the threads of one would spin into the turns of the others.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])


def _type(value: np.ndarray) -> tuple[int, tuple[int, ...]]:
    return helper.np_dtype_to_tensor_dtype(value.dtype), value.shape

"""Graphs and bundles that the tests write by hand: small good ones, and ones that a stranger might send.

`write_bundle` refuses to write what a device would refuse, so hostile bundles are packed here, with right hashes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper

from pgn_edge.bundle import Bundle, write_bundle
from pgn_edge.contract import EngineFacts
from pgn_edge.onnx_wire import read_model

Change = Callable[[ModelProto], object]


def toy_graph(facts: EngineFacts) -> bytes:
    """The least PGN engine: the normalised image over prompt rows of 0.5, or of the level 127."""
    geometry, by_vit = facts.geometry, facts.canvas == "uint8"
    rows = geometry.rows * geometry.patch
    scale, shift = facts.preprocess.affine()
    constants: dict[str, Any] = {"scale": scale, "shift": shift, "rest": np.float32(127 if by_vit else 0.5)}
    cast = helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT)
    if by_vit:
        constants["pads"] = np.array([0, 0, 0, 0, 0, rows, 0, 0], np.int64)
        nodes = [
            cast,
            helper.make_node("Pad", ["pixels", "pads", "rest"], ["levels"]),
            helper.make_node("Cast", ["levels"], ["canvas"], to=TensorProto.UINT8),
        ]
    else:
        constants["pads"] = np.array([0, 0, 0, 0, 0, 0, rows, 0], np.int64)
        nodes = [
            cast,
            helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("Mul", ["planes", "scale"], ["scaled"]),
            helper.make_node("Add", ["scaled", "shift"], ["x"]),
            helper.make_node("Pad", ["x", "pads", "rest"], ["canvas"]),
        ]
    height, width = geometry.canvas_hw
    shape = ["batch", height, width, 3] if by_vit else ["batch", 3, height, width]
    kind = TensorProto.UINT8 if by_vit else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "pgn",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", *geometry.content_hw, 3])],
        [helper.make_tensor_value_info("canvas", kind, shape)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", facts.opset)], ir_version=10)
    return state(model, facts)


def state(model: ModelProto, facts: EngineFacts) -> bytes:
    """The model with these facts in its metadata."""
    del model.metadata_props[:]
    helper.set_model_props(model, facts.to_metadata())
    data: bytes = model.SerializeToString()
    return data


def restated(bundle: Bundle, **changes: Any) -> Bundle:
    """The bundle with other facts, which its graph states too."""
    facts = dataclasses.replace(bundle.facts, **changes)
    return dataclasses.replace(bundle, facts=facts, pgn_onnx=state(onnx.load_from_string(bundle.pgn_onnx), facts))


def changed(data: bytes, change: Change) -> bytes:
    """A graph after a change of the model."""
    model = onnx.load_from_string(data)
    change(model)
    changed_data: bytes = model.SerializeToString()
    return changed_data


def write_unchecked(path: Path, bundle: Bundle) -> Path:
    """Write a bundle as somebody would who has no gate."""
    with patch("pgn_edge.bundle.check_graph"):
        write_bundle(path, bundle)
    return path


def members(path: Path) -> dict[str, bytes]:
    """The members of a bundle by name."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(parts: Mapping[str, bytes], edit: Callable[[dict[str, Any]], object] = lambda manifest: None) -> bytes:
    """A bundle of any members, its manifest edited, sizes and hashes right."""
    manifest = json.loads(parts["manifest.json"])
    for name, entry in manifest["members"].items():
        entry["sha256"], entry["bytes"] = hashlib.sha256(parts[name]).hexdigest(), len(parts[name])
    edit(manifest)
    return zipped({**parts, "manifest.json": json.dumps(manifest).encode()})


def zipped(parts: Mapping[str, bytes]) -> bytes:
    """A zip as `write_bundle` makes it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


def as_seen_by_onnx(message: Any) -> dict[str, Any]:
    """The same form as `read_model` gives."""
    seen: dict[str, Any] = {}
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            seen[descriptor.name] = list(value) if descriptor.is_repeated else value
        elif descriptor.is_repeated:
            seen[descriptor.name] = [as_seen_by_onnx(each) for each in value]
        else:
            seen[descriptor.name] = as_seen_by_onnx(value)
    if isinstance(message, onnx.AttributeProto) and "s" in seen:
        seen["s"] = seen["s"].decode()
    return seen


def assert_read_alike(data: bytes) -> None:
    """The reader of the gate and the onnx package find the same in a graph."""
    assert as_seen_by_onnx(onnx.load_from_string(data)) == read_model(data)


# Graphs that a stranger might send. Each change is made to a good graph.


def _external(tensor: TensorProto, location: str = "secret.bin") -> TensorProto:
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value=location)
    return tensor


def _floats(name: str = "data") -> TensorProto:
    return numpy_helper.from_array(np.zeros(4, np.float32), name)


def _branch(tensor: TensorProto) -> GraphProto:
    output = helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, [4])
    return helper.make_graph([], "branch", [], [output], [tensor])


def external_initializer(model: ModelProto) -> None:
    """A weight that is a file of the device."""
    _external(model.graph.initializer[0])


def external_constant(model: ModelProto) -> None:
    """The value of a Constant node that is a file of the device."""
    node = helper.make_node("Constant", [], ["stolen"], value=_floats())
    _external(node.attribute[0].t)
    model.graph.node.insert(0, node)


def external_sparse(model: ModelProto, part: str = "values") -> None:
    """The values or the indices of a sparse initializer that are a file of the device."""
    sparse = model.graph.sparse_initializer.add(dims=[8])
    sparse.values.CopyFrom(_floats("stolen"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(4), "at"))
    _external(getattr(sparse, part))


def external_in_branch(model: ModelProto) -> None:
    """A file of the device inside a branch of If."""
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    branches = {"then_branch": _branch(_external(_floats("a"))), "else_branch": _branch(_floats("b"))}
    model.graph.node.insert(0, helper.make_node("If", ["always"], ["stolen"], **branches))


def external_in_function(model: ModelProto) -> None:
    """A file of the device inside a function."""
    node = helper.make_node("Constant", [], ["y"], value=_floats())
    _external(node.attribute[0].t)
    opset = helper.make_opsetid("", 20)
    model.functions.append(helper.make_function("ours", "Steal", [], ["y"], [node], [opset]))


def external_in_training(model: ModelProto) -> None:
    """A file of the device in the training information."""
    info = model.training_info.add()
    info.initialization.CopyFrom(_branch(_external(_floats())))


def external_in_tensor_list(model: ModelProto) -> None:
    """A file of the device in an attribute that lists tensors."""
    attribute = AttributeProto(name="tensors", type=AttributeProto.TENSORS)
    attribute.tensors.append(_external(_floats()))
    model.graph.node[0].attribute.append(attribute)


def loop_for_ever(model: ModelProto) -> None:
    """A Loop whose condition is always true."""
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["again"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("n", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, None),
        ],
    )
    last = graph.node[-1]
    last.output[0] = "before"
    graph.node.append(helper.make_node("Loop", ["", "always", "before"], ["canvas"], body=body))


def loop_on_black(model: ModelProto) -> None:
    """A Loop that ends at once unless the picture is black."""
    loop_for_ever(model)
    graph = model.graph
    pixels = graph.node[0].output[0]
    graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "half"))
    graph.initializer.append(numpy_helper.from_array(np.array([0, 1, 2, 3]), "every_axis"))
    loop = graph.node[-1]
    graph.node.remove(loop)
    graph.node.extend(
        [
            helper.make_node("ReduceMax", [pixels, "every_axis"], ["brightest"], keepdims=0),
            helper.make_node("Less", ["brightest", "half"], ["dark"]),
        ]
    )
    loop.input[1] = "dark"
    body = loop.attribute[0].g
    body.node[0].input[0] = "dark"
    graph.node.append(loop)


def huge_constant(model: ModelProto) -> None:
    """750 million floats in one node."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([750_000_000]), "many"))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["many"], ["flood"]))


def huge_expand(model: ModelProto) -> None:
    """The same with an operator of the list."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([750_000_000]), "many"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1), "one_float"))
    model.graph.node.append(helper.make_node("Expand", ["one_float", "many"], ["flood"]))


def huge_pad(model: ModelProto) -> None:
    """A padding to two billion rows, of which a slice takes the canvas."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0, 1 << 30, 0]), "wide"))
    model.graph.node.append(helper.make_node("Pad", ["canvas", "wide"], ["flood"]))


def doubling_chain(model: ModelProto) -> None:
    """Thirty concatenations, each twice as long as the one before."""
    model.graph.node.extend(
        helper.make_node("Concat", [name, name], [f"twice{step}"], axis=2)
        for step, name in enumerate(["canvas", *(f"twice{step}" for step in range(29))])
    )


def endless_products(model: ModelProto) -> None:
    """Products of the same matrix, more of them than any generator needs."""
    size = 1024
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((size, size), np.float32), "square"))
    model.graph.node.extend(
        helper.make_node("MatMul", [name, "square"], [f"product{step}"])
        for step, name in enumerate(["square", *(f"product{step}" for step in range(1500))])
    )


def batch_squared(model: ModelProto) -> None:
    """A product of the batch with itself: harmless for one frame, enormous for a hundred."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 1]), "column"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, -1]), "row"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 3]), "all_but_batch"))
    model.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["canvas", "all_but_batch"], ["means"], keepdims=0),
            helper.make_node("Reshape", ["means", "column"], ["standing"]),
            helper.make_node("Reshape", ["means", "row"], ["lying"]),
            helper.make_node("MatMul", ["standing", "lying"], ["square"]),
        ]
    )


def foreign_operator(model: ModelProto) -> None:
    """An operator of another domain."""
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.node.append(helper.make_node("EPContext", ["canvas"], ["more"], domain="com.microsoft"))


def runtime_settings(model: ModelProto) -> None:
    """Session options in the metadata, which ONNX Runtime can be told to follow."""
    model.metadata_props.add(key="ort_config", value='{"session_options": {"enable_profiling": 1}}')


EXTERNAL: dict[str, Change] = {
    "an initializer": external_initializer,
    "the value of a Constant": external_constant,
    "the values of a sparse initializer": external_sparse,
    "the indices of a sparse initializer": lambda model: external_sparse(model, "indices"),
    "a branch of If": external_in_branch,
    "a function": external_in_function,
    "training information": external_in_training,
    "an attribute of tensors": external_in_tensor_list,
}
GREEDY: dict[str, Change] = {
    "a Loop without end": loop_for_ever,
    "a Loop without end on black frames": loop_on_black,
    "a ConstantOfShape of 3 GB": huge_constant,
    "an Expand to 3 GB": huge_expand,
    "a Pad to a billion rows": huge_pad,
    "concatenations that double": doubling_chain,
    "products without end": endless_products,
    "a product of the batch with itself": batch_squared,
    "an operator of another domain": foreign_operator,
    "settings for the runtime": runtime_settings,
}

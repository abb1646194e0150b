"""The gate for graphs in bundles: it sees what the onnx package sees, and refuses what export would not write."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from pgn_edge.bundle import Bundle, read_bundle, write_bundle
from pgn_edge.contract import EngineFacts
from pgn_edge.errors import BundleError
from pgn_edge.geometry import Geometry
from pgn_edge.graph_gate import check_graph
from pgn_edge.graph_shapes import OTHER_FORMS, RULES, infer
from pgn_edge.graph_tensor import ShapeError, Tensor
from pgn_edge.onnx_wire import MESSAGES, REFUSED, WireError, read_model
from pgn_edge.preprocess import Preprocess
from tests.hostile import (
    EXTERNAL,
    GREEDY,
    Change,
    as_seen_by_onnx,
    assert_read_alike,
    changed,
    pack,
    state,
    toy_graph,
)

FACTS = EngineFacts("pgn", "builtin", "ab" * 32, Geometry((16, 16), 8, 3), Preprocess((16, 16)), "fp32", 20, "canvas")
GOOD = toy_graph(FACTS)


def refused(data: bytes, facts: EngineFacts = FACTS) -> str:
    with pytest.raises(BundleError) as caught:
        check_graph(data, facts, "task.pgn: pgn.onnx")
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith("task.pgn: pgn.onnx: expected ")
    assert len(message) < 700
    return message


# What is refused.


@pytest.mark.parametrize("where", EXTERNAL)
def test_a_file_of_the_device_is_refused_wherever_a_graph_names_it(where: str):
    data = changed(GOOD, EXTERNAL[where])
    assert b"secret.bin" in data
    message = refused(data)
    hidden = {"external data", "a sparse initializer", "a graph inside a node", "a function", "training information"}
    assert any(
        f"got {what}, which export never writes" in message for what in hidden | {"a list of tensors inside a node"}
    )


@pytest.mark.parametrize("what", GREEDY)
def test_a_graph_that_would_take_all_time_or_memory_is_refused(what: str):
    refused(changed(GOOD, GREEDY[what]))


def test_a_stranger_learns_nothing_new_from_a_bundle_with_a_right_hash(
    refusal: Callable[[bytes], str], parts: dict[str, bytes]
):
    parts["pgn.onnx"] = changed(parts["pgn.onnx"], EXTERNAL["an initializer"])
    assert "external data" in refusal(pack(parts))


def test_export_writes_no_bundle_that_a_device_would_refuse(tmp_path: Path, bundle: Bundle):
    forged = dataclasses.replace(bundle, pgn_onnx=changed(bundle.pgn_onnx, GREEDY["an Expand to 3 GB"]))
    with pytest.raises(BundleError, match="Expand"):
        write_bundle(tmp_path / "task.pgn", forged)
    assert not (tmp_path / "task.pgn").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"backbone": "another"}, "backbone", id="backbone"),
        pytest.param({"fingerprint": "cd" * 32}, "fingerprint", id="fingerprint"),
        pytest.param({"opset": 21}, "opset 20, while the manifest says 21", id="opset"),
        pytest.param({"precision": "fp16"}, "precision fp16", id="precision"),
        pytest.param({"transport": "jpeg:75"}, "transport", id="transport"),
        pytest.param({"geometry": Geometry((16, 16), 8, 4)}, "geometry", id="geometry"),
        pytest.param({"preprocess": Preprocess((16, 16), "squash")}, "fit='squash'", id="fit"),
        pytest.param({"preprocess": Preprocess((16, 16), mean=(0.5, 0.5, 0.5))}, "mean", id="normalisation"),
        pytest.param({"preprocess": Preprocess((12, 12))}, "size_hw=(12, 12)", id="size"),
    ],
)
def test_a_manifest_that_contradicts_its_graph_is_refused(changes: dict[str, Any], says: str):
    assert says in refused(GOOD, dataclasses.replace(FACTS, **changes))


def test_frames_resized_to_another_size_than_the_image_on_the_canvas_are_refused():
    facts = dataclasses.replace(FACTS, preprocess=Preprocess((12, 12)))
    message = refused(state(onnx.load_from_string(GOOD), facts), facts)
    assert "expected frames resized to (16, 16), the image on the canvas, got a preprocessing to (12, 12)" in message


def test_16_bit_numbers_in_a_graph_that_says_fp32_are_refused():
    def cast(model: ModelProto) -> None:
        model.graph.node.append(helper.make_node("Cast", ["canvas"], ["half"], to=TensorProto.FLOAT16))

    assert "fp32" in refused(changed(GOOD, cast))
    facts = dataclasses.replace(FACTS, precision="fp16")
    check_graph(state(onnx.load_from_string(changed(GOOD, cast)), facts), facts, "here")


def rename(model: ModelProto) -> None:
    model.graph.output[0].name = model.graph.node[-1].output[0] = "picture"


def free_size(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "height"


def second_input(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def override(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, [3, 1, 1]))


def smaller_canvas(model: ModelProto) -> None:
    pads = next(tensor for tensor in model.graph.initializer if tensor.name == "pads")
    pads.CopyFrom(numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0, 8, 0]), "pads"))


def claims_more(model: ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 1 << 40


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(rename, id="another name for the canvas"),
        pytest.param(free_size, id="an image of any height"),
        pytest.param(second_input, id="a second input"),
        pytest.param(override, id="a weight that a caller may replace"),
        pytest.param(smaller_canvas, id="a canvas without all its slots"),
        pytest.param(claims_more, id="a weight that claims more than the file holds"),
        pytest.param(lambda model: model.graph.node.pop(), id="an output that nothing gives"),
        pytest.param(lambda model: model.graph.ClearField("input"), id="no input"),
        pytest.param(lambda model: model.ClearField("opset_import"), id="no operators"),
        pytest.param(lambda model: model.ClearField("metadata_props"), id="no facts"),
        pytest.param(lambda model: model.metadata_props.append(model.metadata_props[0]), id="a fact twice"),
        pytest.param(lambda model: model.graph.initializer.append(model.graph.initializer[0]), id="a weight twice"),
        pytest.param(lambda model: model.graph.node.append(model.graph.node[-1]), id="a tensor that two nodes give"),
        pytest.param(lambda model: model.graph.node.reverse(), id="nodes in the wrong order"),
    ],
)
def test_a_graph_of_another_form_is_refused(change: Change):
    refused(changed(GOOD, change))


# Two parsers, one reading.


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


HIDDEN = changed(GOOD, EXTERNAL["an initializer"])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        # protobuf merges a message that stands twice: the second graph would add nodes and weights to the first.
        pytest.param(GOOD + field(7, b""), "graph of a model twice", id="an empty second graph"),
        pytest.param(GOOD + HIDDEN, "twice", id="a second model behind the first"),
        pytest.param(GOOD + varint(8) + b"\x0a", "ir_version of a model twice", id="a number twice"),
        pytest.param(GOOD + field(99, b"x"), "field 99 of a model", id="an unknown field"),
        pytest.param(GOOD + b"\xbb\x06\xbc\x06", "wire type 3", id="a group"),
        pytest.param(b"\x88\x00\x0a" + GOOD[2:], "more bytes than it needs", id="a field number in too many bytes"),
        pytest.param(b"\x08\x8a\x00" + GOOD[2:], "more bytes than it needs", id="a number in too many bytes"),
        pytest.param(b"\x08" + b"\xff" * 9 + b"\x7f", "more bytes than it needs", id="a number beyond 64 bits"),
        pytest.param(b"\x08" + b"\xff" * 12, "more than 64 bits", id="a number without end"),
        pytest.param(GOOD[:-1], "more bytes than there are", id="cut short"),
        pytest.param(GOOD + b"\x08", "cut off", id="a field without its value"),
        pytest.param(b"\x0d\x00\x00\x00\x00" + GOOD[2:], "wire type 5", id="a number of another wire type"),
        pytest.param(GOOD + field(2, b"\xff"), "", id="a name that is no text"),
        pytest.param(b"", "", id="nothing"),
        pytest.param(b"no graph at all", "", id="text"),
        pytest.param(field(7, field(1, field(5, field(6, field(1, b""))))) + GOOD, "a graph inside a node", id="depth"),
    ],
)
def test_bytes_that_two_parsers_might_read_in_two_ways_are_refused(data: bytes, says: str):
    assert says in refused(data)


def test_a_flood_of_fields_ends_early():
    with pytest.raises(WireError, match="more than 200000 fields"):
        read_model(field(14, b"") * 300_000)


FIELDS = {
    "model": onnx.ModelProto,
    "opset": onnx.OperatorSetIdProto,
    "entry": onnx.StringStringEntryProto,
    "graph": onnx.GraphProto,
    "node": onnx.NodeProto,
    "attribute": onnx.AttributeProto,
    "tensor": onnx.TensorProto,
    "value": onnx.ValueInfoProto,
    "type": onnx.TypeProto,
    "tensor type": onnx.TypeProto.Tensor,
    "shape": onnx.TensorShapeProto,
    "dimension": onnx.TensorShapeProto.Dimension,
}


def test_every_field_has_the_name_and_the_kind_that_onnx_gives_it():
    assert FIELDS.keys() == MESSAGES.keys()
    for message, known in MESSAGES.items():
        described = FIELDS[message].DESCRIPTOR.fields_by_number
        for number, field_here in known.items():
            there = described[number]
            assert there.name == field_here.name
            assert there.is_repeated == field_here.repeated
            if field_here.kind == "message":
                assert there.message_type.full_name == FIELDS[field_here.message].DESCRIPTOR.full_name
    for message, number in REFUSED:
        assert number not in MESSAGES[message]
        assert number in FIELDS[message].DESCRIPTOR.fields_by_number or (message, number) == ("model", 26)


def test_the_reader_sees_what_the_onnx_package_sees():
    assert_read_alike(GOOD)


@given(st.data())
def test_a_damaged_graph_is_refused_or_read_as_the_onnx_package_reads_it(data: st.DataObject):
    damaged = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        kind, at = data.draw(st.sampled_from(["flip", "drop", "double"])), data.draw(st.integers(0, len(damaged) - 1))
        length = data.draw(st.integers(1, 40))
        if kind == "flip":
            damaged[at] ^= data.draw(st.integers(1, 255))
        elif kind == "drop":
            del damaged[at : at + length]
        else:
            damaged[at:at] = damaged[at : at + length]
    try:
        mine = read_model(bytes(damaged))
    except WireError:
        return
    assert as_seen_by_onnx(onnx.load_from_string(bytes(damaged))) == mine


# Shapes and work.


def test_the_rules_give_the_shapes_that_onnx_infers():
    """Each operator of the list once, against the shape inference of the onnx package."""
    cases: list[tuple[str, list[Any], dict[str, Any]]] = [
        ("Conv", [(2, 4, 9, 8), (6, 2, 3, 5)], {"group": 2, "pads": [1, 2, 0, 1], "strides": [2, 1]}),
        ("Conv", [(1, 3, 20, 20), (4, 3, 3, 3), (4,)], {"dilations": [2, 3], "kernel_shape": [3, 3]}),
        ("MaxPool", [(1, 3, 9, 9)], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ("AveragePool", [(1, 3, 9, 10)], {"kernel_shape": [2, 5], "strides": [2, 5], "count_include_pad": 1}),
        ("GlobalAveragePool", [(2, 3, 5, 7)], {}),
        ("MatMul", [(2, 1, 4, 3), (5, 3, 6)], {}),
        ("Gemm", [(4, 3), (5, 3), (5,)], {"transB": 1}),
        ("Gemm", [(3, 4), (3, 5)], {"transA": 1}),
        ("Add", [(2, 1, 3), (4, 1)], {}),
        ("Where", [(2, 1), (1, 3), (2, 3)], {}),
        ("Softmax", [(2, 3, 4)], {"axis": -1}),
        ("Clip", [(2, 3), (), ()], {}),
        ("Transpose", [(2, 3, 4)], {"perm": [2, 0, 1]}),
        ("Reshape", [(2, 3, 4), [-1, 6]], {"allowzero": 1}),
        ("Reshape", [(2, 3, 4), [0, -1]], {}),
        ("Flatten", [(2, 3, 4)], {"axis": 2}),
        ("Squeeze", [(2, 1, 3, 1), [1, -1]], {}),
        ("Unsqueeze", [(2, 3), [0, -1]], {}),
        ("Expand", [(2, 1), [3, 1, 4]], {}),
        ("Concat", [(2, 3), (2, 5)], {"axis": -1}),
        ("Slice", [(9, 8), [1, -3], [7, 1 << 62], [0, 1], [2, 1]], {}),
        ("Pad", [(2, 3), [0, 1, 2, 3]], {"mode": "constant"}),
        ("ReduceMean", [(2, 3, 4), [1, -1]], {"keepdims": 0}),
        ("Shape", [(2, 3, 4)], {"start": 1, "end": 3}),
        ("Identity", [(2, 3)], {}),
        ("Relu", [(2, 3)], {}),
    ]
    for kind, given_inputs, attributes in cases:
        inputs, names, constants = [], [], []
        for index, each in enumerate(given_inputs):
            names.append(f"in{index}")
            if isinstance(each, list):
                inputs.append(Tensor((len(each),), TensorProto.INT64, tuple(each)))
                constants.append(numpy_helper.from_array(np.array(each, np.int64), names[-1]))
            else:
                inputs.append(Tensor(each, TensorProto.BOOL if kind == "Where" and not index else TensorProto.FLOAT))
        infos = [
            helper.make_tensor_value_info(name, tensor.kind, tensor.shape)
            for name, tensor in zip(names, inputs, strict=True)
            if tensor.values is None
        ]
        graph = helper.make_graph([helper.make_node(kind, names, ["y"], **attributes)], "one", infos, [], constants)
        graph.output.append(onnx.ValueInfoProto(name="y"))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
        value = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph.output[0]
        expected = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        found = infer(kind, inputs, attributes)
        assert found.tensor.shape == expected, kind
        assert found.tensor.kind == value.type.tensor_type.elem_type, kind
        assert found.work >= 1


@pytest.mark.parametrize("kind", sorted(RULES))
@pytest.mark.parametrize(
    "inputs",
    [
        [],
        [None],
        [Tensor((), TensorProto.FLOAT)],
        [Tensor((1 << 40, 1 << 40), TensorProto.FLOAT)] * 3,
        [Tensor((2, 3), TensorProto.FLOAT), Tensor((2,), TensorProto.INT64, (-7, 1 << 62))],
    ],
    ids=["nothing", "left out", "a number", "enormous", "wild sizes"],
)
def test_a_rule_gives_a_bounded_shape_or_refuses(kind: str, inputs: list[Any]):
    wild: list[dict[str, Any]] = [{}, {"axis": 99, "perm": [5], "to": -1, "kernel_shape": [0], "value": None}]
    wild.append({"kernel_shape": [1 << 62] * 2, "pads": [1 << 62] * 4, "axis": "x", "perm": 1, "group": 0})
    for attributes in wild:
        try:
            outcome = infer(kind, inputs, attributes)
        except ShapeError:
            continue
        assert all(1 <= size < 1 << 31 for size in outcome.tensor.shape)


def test_the_list_of_operators_is_the_one_in_the_docs():
    text = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| operators |"))
    assert {word.strip("` ") for word in line.split("|")[2].split(",")} == set(RULES) - OTHER_FORMS
    line = next(line for line in text.splitlines() if line.startswith("| other forms |"))
    assert {word.strip("` ") for word in line.split("|")[2].split(",")} == OTHER_FORMS


def test_a_whole_bundle_passes(tmp_path: Path, bundle: Bundle):
    write_bundle(tmp_path / "task.pgn", bundle)
    assert read_bundle(tmp_path / "task.pgn").pgn_onnx == bundle.pgn_onnx

"""Around the quantiser: it may fail in words of its own, and it leaves nothing behind."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pgn_edge.errors import ExportError
from pgn_edge.export.int8 import to_int8


def product() -> onnx.ModelProto:
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy"}
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "weight")
    node = helper.make_node("MatMul", ["x", "weight"], ["y"], name="product")
    graph = helper.make_graph([node], "product", [values["x"]], [values["y"]], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def no_operators() -> onnx.ModelProto:
    model = product()
    del model.opset_import[:]
    return model


def cut_off() -> onnx.ModelProto:
    model = product()
    model.graph.initializer[0].raw_data = b""
    return model


@pytest.fixture(params=[logging.NOTSET, logging.INFO, logging.ERROR], ids=["all", "above INFO", "above ERROR"])
def silenced(request: pytest.FixtureRequest) -> Iterator[int]:
    """The level up to which the user has turned logging off."""
    before = logging.root.manager.disable
    logging.disable(request.param)
    yield request.param
    logging.disable(before)


def test_logging_stays_as_the_user_has_it(silenced: int):
    assert {node.op_type for node in to_int8(product()).graph.node} >= {"MatMulInteger"}
    assert logging.root.manager.disable == silenced


def test_logging_stays_as_the_user_has_it_after_a_failure(silenced: int):
    with pytest.raises(ExportError):
        to_int8(no_operators())
    assert logging.root.manager.disable == silenced


def test_weights_have_seven_bits():
    # Two products of uint8 with these fit into the 16 bits that x86 without VNNI adds them in.
    (weight,) = (
        values for values in map(numpy_helper.to_array, to_int8(product()).graph.initializer) if values.ndim == 2
    )
    assert weight.dtype == np.int8
    assert 0 < np.abs(weight).max() <= 64


def test_it_does_not_talk(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]):
    to_int8(product())
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("spoilt", [no_operators(), cut_off()], ids=["no opset", "cut off"])
def test_a_failure_of_the_quantiser_is_one_line(spoilt: onnx.ModelProto):
    with pytest.raises(ExportError, match=r"^int8: expected a graph .*; export without --int8$") as caught:
        to_int8(spoilt)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.__cause__ is not None
    assert type(caught.value.__cause__).__name__ in str(caught.value)


def test_the_graph_that_was_given_stays_as_it_was():
    model = product()
    before = model.SerializeToString()
    to_int8(model)
    assert model.SerializeToString() == before

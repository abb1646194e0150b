"""What 16 bits do to prompt tokens; bf16 on a machine without it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pgn_edge.export.graph import OPSET
from pgn_edge.export.inversion import Projection, invert_library
from pgn_edge.export.parity import run_onnx
from pgn_edge.export.precision import to_half
from pgn_edge.export.rounding import Mixing, emulate_half, has_half, projection_error, token_limit

RNG = np.random.default_rng(0)


def projection(width: int, pixels: int, decades: float) -> Projection:
    """Singular values that fall evenly over so many decades."""
    left = np.linalg.qr(RNG.standard_normal((width, width)))[0]
    right = np.linalg.qr(RNG.standard_normal((pixels, width)))[0]
    weight = (left * np.logspace(0, -decades, width)) @ right.T
    return Projection(weight, np.zeros(width), np.zeros((4, width)))


def mixing(decades: float, scale: float = 1.0) -> Mixing:
    taken = projection(64, 192, decades)
    inversion = invert_library(taken, scale * RNG.standard_normal((16, 64)))
    return Mixing(taken, RNG.dirichlet(np.ones(16), (5, 4)), inversion.pixels)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_good_projection_forgives_rounding(precision: str):
    assert mixing(0).error(precision) < token_limit(precision)
    assert projection_error(projection(64, 192, 0).weight, precision) < token_limit(precision)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_three_decades_do_not(precision: str):
    assert mixing(3).error(precision) > 3 * token_limit(precision)
    assert projection_error(projection(64, 192, 3).weight, precision) > 3 * token_limit(precision)


@given(st.floats(0, 4))
def test_the_worse_the_projection_the_larger_the_error(decades: float):
    better, worse = (mixing(value).error("fp16") for value in (decades, decades + 1))
    assert not better >= 2 * worse  # five decades may overflow, and NaN is the largest error of all


def test_the_error_by_hand():
    case = mixing(2)
    exact = case.coefficients @ case.pixels
    product = case.coefficients.astype(np.float16).astype(float) @ case.pixels.astype(np.float16).astype(float)
    tokens, rounded = (x @ case.projection.weight.T for x in (exact, product.astype(np.float16).astype(float)))
    assert case.error("fp16") == pytest.approx(np.linalg.norm(rounded - tokens) / np.linalg.norm(tokens))


def test_pixels_that_overflow_are_beyond_every_limit():
    assert not mixing(3, scale=1e6).error("fp16") <= token_limit("fp16")


def linear(width: int = 32) -> onnx.ModelProto:
    weight = RNG.standard_normal((width, width)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="one"),
        helper.make_node("MatMul", ["h", "w"], ["y"], name="two"),
    ]
    given_, result = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", width]) for n in "xy")
    graph = helper.make_graph(nodes, "linear", [given_], [result], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


@pytest.mark.parametrize(
    ("precision", "dtype", "step"), [("fp16", np.float16, 2**-10), ("bf16", ml_dtypes.bfloat16, 2**-7)]
)
def test_a_run_is_what_numpy_rounds_at_each_step(precision: str, dtype: type, step: float):
    model = linear()
    x = RNG.standard_normal((7, 32)).astype(np.float32)
    weight = numpy_helper.to_array(model.graph.initializer[0])

    def rounded(array: np.ndarray) -> np.ndarray:
        return array.astype(dtype).astype(np.float32)

    expected = rounded(rounded(rounded(x) @ rounded(weight)) @ rounded(weight))
    typed = to_half(model, precision)
    onnx.checker.check_model(typed, full_check=True)
    assert has_half(typed)
    assert not has_half(model)
    # Sums in another order may fall on the other side of a rounding, now and then.
    got = run_onnx(typed, x)
    assert (got == expected).mean() > 0.98
    np.testing.assert_allclose(got, expected, rtol=step, atol=20 * step)
    assert np.abs(got - run_onnx(model, x)).max() > 0, "nothing was rounded"


@pytest.mark.parametrize(("precision", "kind"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
def test_the_emulation_only_casts_to_16_bits(precision: str, kind: int):
    emulated = emulate_half(to_half(linear(), precision))
    onnx.checker.check_model(emulated, full_check=True)
    typed = onnx.shape_inference.infer_shapes(emulated, strict_mode=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in typed.graph.value_info}
    for node in emulated.graph.node:
        if node.op_type != "Cast":
            assert kind not in {kinds.get(name) for name in (*node.input, *node.output)}


def test_convolutions_stay_float32_in_bf16():
    # ONNX has bf16 convolutions from opset 22 on, which TensorRT 10.3 does not read.
    weight = numpy_helper.from_array(RNG.standard_normal((4, 3, 2, 2)).astype(np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv")
    given_ = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, 7, 7])
    graph = helper.make_graph([node], "conv", [given_], [result], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    assert not has_half(to_half(model, "bf16"))

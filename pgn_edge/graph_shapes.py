"""What each operator of a PGN engine gives: its shape, its type and its work, computed before a runtime sees the graph.

The operators are those that export writes. The last six are other forms of them, which releases of torch's exporter
choose in their place. Each one is bounded: no operator here repeats a graph, and none fills a tensor of a size that is
not checked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pgn_edge.graph_moves import (
    cast_rule,
    concat_rule,
    constant_rule,
    expand_rule,
    flatten_rule,
    identity_rule,
    pad_rule,
    reshape_rule,
    shape_rule,
    slice_rule,
    squeeze_rule,
    transpose_rule,
    unsqueeze_rule,
)
from pgn_edge.graph_tensor import (
    BOOL,
    MOST_AXES,
    Attributes,
    Inputs,
    Outcome,
    Rule,
    ShapeError,
    Tensor,
    axis_of,
    broadcast,
    given_input,
    moved,
    optional_sizes,
)

LONGEST = 1 << 31  # of one axis, and of any stride, padding or kernel


def infer(op_type: str, inputs: Inputs, attributes: Attributes) -> Outcome:
    """Apply the rule of an operator.

    Args:
        op_type: Name of the operator, one of `RULES`.
        inputs: Its inputs in order; None for one that is left out.
        attributes: Its attributes by name.

    Raises:
        ShapeError: The inputs do not fit, or they would give an empty or enormous tensor.
    """
    try:
        outcome = RULES[op_type][0](inputs, attributes)
    except ShapeError:
        raise
    except (IndexError, TypeError, AttributeError, ZeroDivisionError, KeyError, ValueError) as exc:
        raise ShapeError("inputs or attributes that do not fit") from exc
    shape = outcome.tensor.shape
    if len(shape) > MOST_AXES or not all(1 <= size < LONGEST for size in shape):
        raise ShapeError(f"an output of shape {shape}"[:120])
    return outcome


def _elementwise(inputs: Inputs, attributes: Attributes) -> Outcome:
    first = given_input(inputs, 0)
    given = [tensor for tensor in inputs if tensor is not None]
    return moved(first, broadcast(*given))


def _unary(inputs: Inputs, attributes: Attributes) -> Outcome:
    first = given_input(inputs, 0)
    return moved(first, first.shape)


def _clip(inputs: Inputs, attributes: Attributes) -> Outcome:
    if any(tensor is not None and tensor.count != 1 for tensor in inputs[1:]):
        raise ShapeError("bounds that are not single numbers")
    return moved(given_input(inputs, 0), given_input(inputs, 0).shape)


def _less(inputs: Inputs, attributes: Attributes) -> Outcome:
    shape = broadcast(given_input(inputs, 0), given_input(inputs, 1))
    return Outcome(Tensor(shape, BOOL), math.prod(shape))


def _where(inputs: Inputs, attributes: Attributes) -> Outcome:
    chosen = given_input(inputs, 1)
    return moved(chosen, broadcast(given_input(inputs, 0), chosen, given_input(inputs, 2)))


def _softmax(inputs: Inputs, attributes: Attributes) -> Outcome:
    given = given_input(inputs, 0)
    axis_of(attributes.get("axis", -1), len(given.shape))
    return moved(given, given.shape)


def _reduce_mean(inputs: Inputs, attributes: Attributes) -> Outcome:
    given = given_input(inputs, 0)
    if attributes.get("noop_with_empty_axes", 0):
        raise ShapeError("a mean that may be none")
    rank = len(given.shape)
    gone = {axis_of(axis, rank) for axis in optional_sizes(inputs, 1, range(rank))}
    keep = attributes.get("keepdims", 1)
    shape = [1 if axis in gone else size for axis, size in enumerate(given.shape) if keep or axis not in gone]
    return Outcome(Tensor(tuple(shape), given.kind), given.count)


def _matmul(inputs: Inputs, attributes: Attributes) -> Outcome:
    left, right = given_input(inputs, 0), given_input(inputs, 1)
    if min(len(left.shape), len(right.shape)) < 2 or left.shape[-1] != right.shape[-2]:
        raise ShapeError(f"a product of {left.shape} and {right.shape}"[:120])
    around = broadcast(Tensor(left.shape[:-2], 0), Tensor(right.shape[:-2], 0)) if _batched(left, right) else ()
    shape = (*around, left.shape[-2], right.shape[-1])
    return Outcome(Tensor(shape, left.kind), math.prod(shape) * left.shape[-1])


def _batched(left: Tensor, right: Tensor) -> bool:
    return max(len(left.shape), len(right.shape)) > 2


def _gemm(inputs: Inputs, attributes: Attributes) -> Outcome:
    left, right = given_input(inputs, 0).shape, given_input(inputs, 1).shape
    rows, inner = reversed(left) if attributes.get("transA", 0) else left
    inner_too, columns = reversed(right) if attributes.get("transB", 0) else right
    product = Tensor((rows, columns), given_input(inputs, 0).kind)
    more = [tensor for tensor in inputs[2:] if tensor is not None]
    if inner != inner_too or broadcast(product, *more) != product.shape:
        raise ShapeError(f"a product of {left} and {right}"[:120])
    return Outcome(product, rows * columns * inner)


def _conv(inputs: Inputs, attributes: Attributes) -> Outcome:
    given, weight = given_input(inputs, 0), given_input(inputs, 1)
    group = attributes.get("group", 1)
    batch, channels, *sizes = given.shape
    outside, inside, *kernel = weight.shape
    if group < 1 or inside * group != channels or outside % group or attributes.get("kernel_shape", kernel) != kernel:
        raise ShapeError(f"a convolution of {given.shape} with {weight.shape}"[:120])
    shape = (batch, outside, *_windows(sizes, kernel, attributes))
    return Outcome(Tensor(shape, given.kind), math.prod(shape) * inside * math.prod(kernel))


def _pool(inputs: Inputs, attributes: Attributes) -> Outcome:
    given = given_input(inputs, 0)
    batch, channels, *sizes = given.shape
    kernel = attributes["kernel_shape"]
    shape = (batch, channels, *_windows(sizes, kernel, attributes))
    return Outcome(Tensor(shape, given.kind), math.prod(shape) * math.prod(kernel))


def _global_pool(inputs: Inputs, attributes: Attributes) -> Outcome:
    given = given_input(inputs, 0)
    batch, channels, *sizes = given.shape
    return Outcome(Tensor((batch, channels, *[1] * len(sizes)), given.kind), given.count)


def _windows(sizes: Sequence[int], kernel: Sequence[int], attributes: Attributes) -> list[int]:
    """Positions of a window along each axis."""
    rank = len(sizes)
    ones = [1] * rank
    strides, dilations = attributes.get("strides", ones), attributes.get("dilations", ones)
    pads = attributes.get("pads", [0] * (2 * rank))
    lengths = {len(kernel), len(strides), len(dilations), len(pads) // 2}
    numbers = [*kernel, *strides, *dilations]
    plain = attributes.get("auto_pad", "NOTSET") == "NOTSET" and attributes.get("ceil_mode", 0) == 0
    if not plain or lengths != {rank} or len(pads) % 2 or rank == 0:
        raise ShapeError("a window of another form")
    if not all(1 <= number < LONGEST for number in numbers) or not all(0 <= pad < LONGEST for pad in pads):
        raise ShapeError("a window of impossible sizes")
    positions = []
    for axis, size in enumerate(sizes):
        before, after = pads[axis], pads[axis + rank]
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        if max(before, after) >= reach:
            raise ShapeError("a padding that is wider than its window")
        positions.append((size + before + after - reach) // strides[axis] + 1)
    return positions


# Rule of each operator, and the attributes that export writes.
RULES: Mapping[str, tuple[Rule, frozenset[str]]] = {
    "Add": (_elementwise, frozenset()),
    "AveragePool": (
        _pool,
        frozenset({"auto_pad", "ceil_mode", "count_include_pad", "dilations", "kernel_shape", "pads", "strides"}),
    ),
    "Cast": (cast_rule, frozenset({"to"})),
    "Clip": (_clip, frozenset()),
    "Concat": (concat_rule, frozenset({"axis"})),
    "Conv": (_conv, frozenset({"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"})),
    "Expand": (expand_rule, frozenset()),
    "Gemm": (_gemm, frozenset({"alpha", "beta", "transA", "transB"})),
    "Less": (_less, frozenset()),
    "MatMul": (_matmul, frozenset()),
    "MaxPool": (
        _pool,
        frozenset({"auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"}),
    ),
    "Mul": (_elementwise, frozenset()),
    "Pad": (pad_rule, frozenset({"mode"})),
    "ReduceMean": (_reduce_mean, frozenset({"keepdims", "noop_with_empty_axes"})),
    "Relu": (_unary, frozenset()),
    "Reshape": (reshape_rule, frozenset({"allowzero"})),
    "Round": (_unary, frozenset()),
    "Shape": (shape_rule, frozenset({"start", "end"})),
    "Sigmoid": (_unary, frozenset()),
    "Slice": (slice_rule, frozenset()),
    "Softmax": (_softmax, frozenset({"axis"})),
    "Squeeze": (squeeze_rule, frozenset()),
    "Sub": (_elementwise, frozenset()),
    "Transpose": (transpose_rule, frozenset({"perm"})),
    "Where": (_where, frozenset()),
    "Constant": (constant_rule, frozenset({"value"})),
    "Div": (_elementwise, frozenset()),
    "Flatten": (flatten_rule, frozenset({"axis"})),
    "GlobalAveragePool": (_global_pool, frozenset()),
    "Identity": (identity_rule, frozenset()),
    "Unsqueeze": (unsqueeze_rule, frozenset()),
}
OTHER_FORMS = frozenset({"Constant", "Div", "Flatten", "GlobalAveragePool", "Identity", "Unsqueeze"})

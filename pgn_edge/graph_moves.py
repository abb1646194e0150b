"""Rules of the operators that move values, cut them out or ask for sizes."""

from __future__ import annotations

import math

from pgn_edge.graph_tensor import (
    INT64,
    ITEM_BYTES,
    MOST_AXES,
    MOST_SIZES,
    Attributes,
    Inputs,
    Outcome,
    ShapeError,
    Tensor,
    axis_of,
    broadcast,
    given_input,
    moved,
    optional_sizes,
    sizes_of,
)


def identity_rule(inputs: Inputs, attributes: Attributes) -> Outcome:
    """The tensor itself."""
    first = given_input(inputs, 0)
    return moved(first, first.shape, first.values)


def cast_rule(inputs: Inputs, attributes: Attributes) -> Outcome:
    """Another element type."""
    given, kind = given_input(inputs, 0), attributes["to"]
    if kind not in ITEM_BYTES:
        raise ShapeError(f"a cast to element type {kind}")
    values = given.values if kind == INT64 else None
    return Outcome(Tensor(given.shape, kind, values), given.count)


def constant_rule(inputs: Inputs, attributes: Attributes) -> Outcome:
    """A tensor of the file."""
    tensor: Tensor = attributes["value"]
    return Outcome(tensor, tensor.count)


def shape_rule(inputs: Inputs, attributes: Attributes) -> Outcome:
    """Sizes of some axes."""
    given = given_input(inputs, 0)
    end = attributes.get("end", len(given.shape))
    sizes = given.shape[attributes.get("start", 0) : end]
    return Outcome(Tensor((len(sizes),), INT64, sizes), len(sizes))


def transpose_rule(inputs: Inputs, attributes: Attributes) -> Outcome:
    """Axes in another order."""
    given = given_input(inputs, 0)
    rank = len(given.shape)
    order = attributes.get("perm", list(reversed(range(rank))))
    if sorted(order) != list(range(rank)):
        raise ShapeError(f"an order of axes {order}")
    return moved(given, [given.shape[axis] for axis in order])


def reshape_rule(inputs: Inputs, attributes: Attributes) -> Outcome:
    """Another shape of as many values."""
    given, wanted = given_input(inputs, 0), list(sizes_of(inputs, 1))
    if attributes.get("allowzero", 0) != 1 and 0 in wanted:
        wanted = [size or given.shape[axis] for axis, size in enumerate(wanted)]
    if wanted.count(-1) > 1 or any(size < -1 or size == 0 for size in wanted):
        raise ShapeError(f"a shape {wanted}"[:120])
    if -1 in wanted:
        rest = -math.prod(wanted)
        wanted[wanted.index(-1)] = given.count // rest
    if math.prod(wanted) != given.count:
        raise ShapeError(f"{given.count} values in a shape {wanted}"[:120])
    return moved(given, wanted, given.values)


def flatten_rule(inputs: Inputs, attributes: Attributes) -> Outcome:
    """Two axes in place of all."""
    given, axis = given_input(inputs, 0), attributes.get("axis", 1)
    if not 0 <= axis <= len(given.shape):
        raise ShapeError(f"axis {axis}")
    return moved(given, (math.prod(given.shape[:axis]), math.prod(given.shape[axis:])))


def squeeze_rule(inputs: Inputs, attributes: Attributes) -> Outcome:
    """Axes of length 1 left out."""
    given = given_input(inputs, 0)
    ones = [axis for axis, size in enumerate(given.shape) if size == 1]
    gone = {axis_of(axis, len(given.shape)) for axis in optional_sizes(inputs, 1, ones)}
    if any(given.shape[axis] != 1 for axis in gone):
        raise ShapeError("an axis that is longer than 1")
    kept = [size for axis, size in enumerate(given.shape) if axis not in gone]
    return moved(given, kept, given.values)


def unsqueeze_rule(inputs: Inputs, attributes: Attributes) -> Outcome:
    """Axes of length 1 put in."""
    given, axes = given_input(inputs, 0), sizes_of(inputs, 1)
    rank = len(given.shape) + len(axes)
    if rank > MOST_AXES:
        raise ShapeError(f"{rank} axes")
    new = {axis_of(axis, rank) for axis in axes}
    if len(new) != len(axes):
        raise ShapeError("one axis twice")
    old = iter(given.shape)
    shape = [1 if axis in new else next(old) for axis in range(rank)]
    return moved(given, shape, given.values)


def expand_rule(inputs: Inputs, attributes: Attributes) -> Outcome:
    """Axes of length 1 repeated."""
    given, wanted = given_input(inputs, 0), sizes_of(inputs, 1)
    return moved(given, broadcast(given, Tensor(wanted, INT64)))


def concat_rule(inputs: Inputs, attributes: Attributes) -> Outcome:
    """Tensors side by side."""
    tensors = [given_input(inputs, index) for index in range(len(inputs))]
    first = tensors[0]
    axis = axis_of(attributes["axis"], len(first.shape))
    beside = {(*tensor.shape[:axis], *tensor.shape[axis + 1 :]) for tensor in tensors}
    if len(beside) > 1 or len({len(tensor.shape) for tensor in tensors}) > 1:
        raise ShapeError("parts of different sizes")
    values: tuple[int, ...] | None = ()
    for tensor in tensors:
        values = None if values is None or tensor.values is None else (*values, *tensor.values)
    if len(first.shape) > 1 or (values is not None and len(values) > MOST_SIZES):
        values = None
    total = sum(tensor.shape[axis] for tensor in tensors)
    return moved(first, (*first.shape[:axis], total, *first.shape[axis + 1 :]), values)


def slice_rule(inputs: Inputs, attributes: Attributes) -> Outcome:
    """A part of some axes."""
    given, starts, ends = given_input(inputs, 0), sizes_of(inputs, 1), sizes_of(inputs, 2)
    axes = optional_sizes(inputs, 3, range(len(starts)))
    steps = optional_sizes(inputs, 4, [1] * len(starts))
    if not len(starts) == len(ends) == len(axes) == len(steps) or min(steps, default=1) < 1:
        raise ShapeError("a slice of other lengths, or backwards")
    shape = list(given.shape)
    values = given.values
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        at = axis_of(axis, len(shape))
        part = slice(start, end, step)
        shape[at] = len(range(*part.indices(given.shape[at])))
        values = values[part] if values is not None and len(shape) == 1 else None
    return moved(given, shape, values)


def pad_rule(inputs: Inputs, attributes: Attributes) -> Outcome:
    """A margin of constants around."""
    given, pads = given_input(inputs, 0), sizes_of(inputs, 1)
    if attributes.get("mode", "constant") != "constant":
        raise ShapeError("a padding with anything but a constant")
    rank = len(given.shape)
    axes = [axis_of(axis, rank) for axis in optional_sizes(inputs, 3, range(rank))]
    if len(pads) != 2 * len(axes) or len(set(axes)) != len(axes) or min(pads) < 0:
        raise ShapeError(f"paddings {pads}"[:120])
    shape = list(given.shape)
    for index, axis in enumerate(axes):
        shape[axis] += pads[index] + pads[index + len(axes)]
    return moved(given, shape)

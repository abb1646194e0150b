"""What is known of a tensor before its graph runs, and what the rules of all operators share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FLOAT, UINT8, INT64, BOOL, FLOAT16, BFLOAT16 = 1, 2, 7, 9, 10, 16  # TensorProto.DataType
ITEM_BYTES: Mapping[int, int] = {FLOAT: 4, UINT8: 1, INT64: 8, BOOL: 1, FLOAT16: 2, BFLOAT16: 2}
MOST_SIZES = 64  # values of an int64 tensor that may be sizes, axes or paddings
MOST_AXES = 8

Attributes = Mapping[str, Any]


class ShapeError(ValueError):
    """A node whose inputs and attributes do not fit, or that export would not write."""


@dataclass(frozen=True)
class Tensor:
    """What is known of a tensor.

    Args:
        shape: Sizes of its axes.
        kind: Element type, as TensorProto.DataType counts them.
        values: Its values, where it is a short int64 tensor that the batch size or the file determines.
    """

    shape: tuple[int, ...]
    kind: int
    values: tuple[int, ...] | None = None

    @property
    def count(self) -> int:
        """Number of its values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Outcome:
    """The output of a node.

    Args:
        tensor: The tensor.
        work: Multiplications, comparisons or copies that it takes.
    """

    tensor: Tensor
    work: int


Inputs = Sequence[Tensor | None]
Rule = Callable[[Inputs, Attributes], Outcome]


def given_input(inputs: Inputs, index: int) -> Tensor:
    """An input that must be there."""
    tensor = inputs[index]
    if tensor is None:
        raise ShapeError("an input that is left out")
    return tensor


def sizes_of(inputs: Inputs, index: int) -> tuple[int, ...]:
    """Values of an input that the file determines."""
    values = given_input(inputs, index).values
    if values is None:
        raise ShapeError("sizes that only a run would tell")
    return values


def optional_sizes(inputs: Inputs, index: int, default: Sequence[int]) -> tuple[int, ...]:
    """Values of an input, or a default where it is left out."""
    if index >= len(inputs) or inputs[index] is None:
        return tuple(default)
    return sizes_of(inputs, index)


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    if not -rank <= axis < rank:
        raise ShapeError(f"axis {axis} of {rank}")
    return axis % rank


def moved(tensor: Tensor, shape: Sequence[int], values: tuple[int, ...] | None = None) -> Outcome:
    """The same values in another shape or place."""
    moved = Tensor(tuple(shape), tensor.kind, values)
    return Outcome(moved, moved.count)


def broadcast(*tensors: Tensor) -> tuple[int, ...]:
    """Shape of tensors that are combined value by value."""
    rank = max(len(tensor.shape) for tensor in tensors)
    shape = []
    for axis in range(-rank, 0):
        sizes = {tensor.shape[axis] for tensor in tensors if len(tensor.shape) >= -axis}
        sizes.discard(1)
        if len(sizes) > 1:
            raise ShapeError(f"sizes {sorted(sizes)} side by side")
        shape.append(sizes.pop() if sizes else 1)
    return tuple(shape)

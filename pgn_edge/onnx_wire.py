"""Reads the bytes of an ONNX graph without the onnx package, and refuses every byte that export does not write.

Two parsers may read one file in two ways: a field that stands twice, a number in more bytes than it needs, a field that
one of them does not know. Such a file is refused here, so a runtime finds in a graph what this module found in it, and
nothing else. External data, graphs inside nodes, functions and sparse tensors are fields that export never writes.

Source: protobuf.dev, "Encoding"; github.com/onnx/onnx, `onnx/onnx.proto`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

MOST_FIELDS = 200_000  # of one file; a deep generator has 10,000
MOST_VARINT_BYTES = 10
MOST_INT32 = (1 << 31) - 1
SIGN_BIT, WRAP = 1 << 63, 1 << 64

Kind = Literal["int", "float", "bytes", "text", "message"]
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
WIRE: Mapping[Kind, int] = {"int": VARINT, "float": FIXED32, "bytes": LENGTH, "text": LENGTH, "message": LENGTH}


class WireError(ValueError):
    """Bytes that are no ONNX graph, or hold a field that export does not write."""


@dataclass(frozen=True)
class Field:
    """One field of a protobuf message.

    Args:
        name: Name of the field in onnx.proto.
        kind: Type of its values.
        repeated: Whether the field may stand more than once.
        message: Name of the message in `MESSAGES`, for the kind `message`.
        most: Largest value of a number that a parser keeps in fewer than 64 bits; None for all of 64 bits.
    """

    name: str
    kind: Kind
    repeated: bool = False
    message: str = ""
    most: int | None = None


def _many(name: str, message: str) -> Field:
    return Field(name, "message", True, message)


# The fields that export writes. A message that is not here, and a field that is not here, is refused.
MESSAGES: Mapping[str, Mapping[int, Field]] = {
    "model": {
        1: Field("ir_version", "int"),
        2: Field("producer_name", "text"),
        3: Field("producer_version", "text"),
        6: Field("doc_string", "text"),
        7: Field("graph", "message", message="graph"),
        8: _many("opset_import", "opset"),
        14: _many("metadata_props", "entry"),
    },
    "opset": {1: Field("domain", "text"), 2: Field("version", "int")},
    "entry": {1: Field("key", "text"), 2: Field("value", "text")},
    "graph": {
        1: _many("node", "node"),
        2: Field("name", "text"),
        5: _many("initializer", "tensor"),
        10: Field("doc_string", "text"),
        11: _many("input", "value"),
        12: _many("output", "value"),
        13: _many("value_info", "value"),
    },
    "node": {
        1: Field("input", "text", True),
        2: Field("output", "text", True),
        3: Field("name", "text"),
        4: Field("op_type", "text"),
        5: _many("attribute", "attribute"),
        6: Field("doc_string", "text"),
        7: Field("domain", "text"),
    },
    "attribute": {
        1: Field("name", "text"),
        2: Field("f", "float"),
        3: Field("i", "int"),
        4: Field("s", "text"),
        5: Field("t", "message", message="tensor"),
        7: Field("floats", "float", True),
        8: Field("ints", "int", True),
        20: Field("type", "int", most=14),
    },
    "tensor": {
        1: Field("dims", "int", True),
        2: Field("data_type", "int", most=MOST_INT32),
        7: Field("int64_data", "int", True),
        8: Field("name", "text"),
        9: Field("raw_data", "bytes"),
        12: Field("doc_string", "text"),
    },
    "value": {1: Field("name", "text"), 2: Field("type", "message", message="type"), 3: Field("doc_string", "text")},
    "type": {1: Field("tensor_type", "message", message="tensor type")},
    "tensor type": {1: Field("elem_type", "int", most=MOST_INT32), 2: Field("shape", "message", message="shape")},
    "shape": {1: _many("dim", "dimension")},
    "dimension": {1: Field("dim_value", "int"), 2: Field("dim_param", "text")},
}

# Fields whose number alone would tell a reader nothing.
REFUSED: Mapping[tuple[str, int], str] = {
    ("model", 20): "training information",
    ("model", 25): "a function",
    ("model", 26): "a device configuration",
    ("graph", 14): "a quantisation annotation",
    ("graph", 15): "a sparse initializer",
    ("attribute", 6): "a graph inside a node",
    ("attribute", 10): "a list of tensors inside a node",
    ("attribute", 11): "graphs inside a node",
    ("attribute", 21): "a reference to a function's attribute",
    ("attribute", 22): "a sparse tensor",
    ("attribute", 23): "sparse tensors",
    ("tensor", 3): "a tensor in segments",
    ("tensor", 13): "external data",
    ("tensor", 14): "external data",
}


def read_model(data: bytes) -> dict[str, Any]:
    """Read an ONNX model.

    Args:
        data: Bytes of the file.

    Returns:
        The fields of the model by their names in onnx.proto: a list for a repeated field, a dictionary for a message.
        Fields that are absent are not in it. Tensor data are views of `data`.

    Raises:
        WireError: The bytes are no such message, or they hold a field that export does not write.
    """
    return _Reader().message("model", memoryview(data))


class _Reader:
    """Reads nested messages; the table of messages has no cycle, so the depth is bounded."""

    def __init__(self) -> None:
        self.fields = 0

    def message(self, name: str, data: memoryview) -> dict[str, Any]:
        known = MESSAGES[name]
        found: dict[str, Any] = {}
        for number, wire, value in self._fields(data):
            field = known.get(number)
            if field is None:
                got = REFUSED.get((name, number), f"field {number} of a {name}")
                raise WireError(f"{got}, which export never writes")
            if field.repeated:
                found.setdefault(field.name, []).extend(self._values(field, wire, value))
            elif field.name in found:
                raise WireError(f"{field.name} of a {name} twice")
            else:
                (found[field.name],) = self._values(field, wire, value, single=True)
        return found

    def _values(self, field: Field, wire: int, value: Any, single: bool = False) -> list[Any]:
        if wire == WIRE[field.kind]:
            return [self._value(field, value)]
        # Numbers of a repeated field may stand in one packed block.
        if wire == LENGTH and field.kind in ("int", "float") and not single:
            return self._packed(field, value)
        raise WireError(f"{field.name} of wire type {wire}")

    def _value(self, field: Field, value: Any) -> Any:
        if field.kind == "message":
            return self.message(field.message, value)
        if field.kind == "text":
            try:
                return bytes(value).decode("utf-8")
            except UnicodeDecodeError as exc:
                raise WireError(f"{field.name} that is not UTF-8") from exc
        if field.kind == "float":
            return struct.unpack("<f", value)[0]
        if field.most is not None and value > field.most:
            raise WireError(f"{field.name} {value}")
        return _signed(value) if field.kind == "int" else value

    def _packed(self, field: Field, block: memoryview) -> list[Any]:
        values: list[Any] = []
        position = 0
        while position < len(block):
            self._count()
            raw: Any
            if field.kind == "float":
                raw, position = _fixed(block, position, 4)
            else:
                raw, position = _varint(block, position)
            values.append(self._value(field, raw))
        return values

    def _fields(self, data: memoryview) -> Iterator[tuple[int, int, Any]]:
        """Number, wire type and raw value of each field."""
        position, end = 0, len(data)
        while position < end:
            self._count()
            key, position = _varint(data, position)
            number, wire = key >> 3, key & 7
            value: Any
            if wire == VARINT:
                value, position = _varint(data, position)
            elif wire == LENGTH:
                size, position = _varint(data, position)
                value, position = _slice(data, position, size)
            elif wire in (FIXED32, FIXED64):
                value, position = _fixed(data, position, 4 if wire == FIXED32 else 8)
            else:
                raise WireError(f"wire type {wire}")
            yield number, wire, value

    def _count(self) -> None:
        self.fields += 1
        if self.fields > MOST_FIELDS:
            raise WireError(f"more than {MOST_FIELDS} fields")


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """An unsigned number of 64 bits in the fewest bytes, and the position after it."""
    value = 0
    for count in range(MOST_VARINT_BYTES):
        if position >= len(data):
            raise WireError("a number that is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            if (byte == 0 and count) or value >= WRAP:
                raise WireError("a number in more bytes than it needs")
            return value, position
    raise WireError("a number of more than 64 bits")


def _signed(value: int) -> int:
    return value - WRAP if value & SIGN_BIT else value


def _slice(data: memoryview, position: int, size: int) -> tuple[memoryview, int]:
    if size > len(data) - position:
        raise WireError("a field that claims more bytes than there are")
    return data[position : position + size], position + size


def _fixed(data: memoryview, position: int, size: int) -> tuple[bytes, int]:
    part, position = _slice(data, position, size)
    return bytes(part), position

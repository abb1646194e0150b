"""Pickles of plain values and uint8 arrays, read without `pickle`: nothing that a file names is ever called.

The opcodes are taken apart by the standard library's `pickletools`, which only reads them. The few that make numbers,
text, tuples, lists, dicts and uint8 arrays are carried out here; every other one is refused.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pgn_edge.errors import DataError

SIZE_LIMIT_BYTES = 256 << 20  # the largest that is published, CIFAR-100's training images, has 155 MB

_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_FIXED_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}
# Under the names that old and new releases of numpy and of Python write.
_NAMES = {
    "numpy.core.multiarray _reconstruct": "array",
    "numpy._core.multiarray _reconstruct": "array",
    "numpy ndarray": "kind",
    "numpy dtype": "dtype",
    "_codecs encode": "bytes",
}


def read_pickle(path: Path) -> dict[str, Any]:
    """Read a pickled dict of plain values and at most one uint8 array, with text for keys.

    Args:
        path: pickle of protocol 0 to 4 by Python 2 or 3; Python 2's strings are read as Latin-1.

    Raises:
        DataError: it cannot be read, is too large or damaged, or holds anything else.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(SIZE_LIMIT_BYTES + 1)
    except OSError as exc:
        raise _refuse(path, exc.strerror or str(exc)) from exc
    if len(data) > SIZE_LIMIT_BYTES:
        raise _refuse(path, f"more than {SIZE_LIMIT_BYTES >> 20} MiB")
    try:
        return _plain(_Reader().run(data))
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as exc:
        raise _refuse(path, str(exc) or type(exc).__name__) from exc


def _plain(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ValueError(f"a {type(found).__name__}")
    # One array under many keys would be one copy for each.
    if sum(isinstance(value, _Array) for value in found.values()) > 1:
        raise ValueError("more than one array")
    return {_text(key): value.pixels() if isinstance(value, _Array) else value for key, value in found.items()}


class _Name:
    """Stands for one of the names of `_NAMES`, which are compared and never called."""

    def __init__(self, role: str) -> None:
        self.role = role


class _Array:
    """An array whose state has come, or is to come."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = (0,)
        self.data: str | bytes = b""

    def fill(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        if not (isinstance(kind, _Name) and kind.role == "uint8" and fortran in (0, False)):
            raise ValueError("an array that is not uint8 in C order")
        if not all(isinstance(side, int) and side >= 0 for side in shape) or math.prod(shape) != len(data):
            raise ValueError(f"{len(data)} bytes for an array of shape {shape}")
        self.shape, self.data = tuple(shape), data

    def pixels(self) -> np.ndarray:
        raw = self.data.encode("latin-1") if isinstance(self.data, str) else self.data
        return np.frombuffer(raw, np.uint8).reshape(self.shape)


class _Reader:
    """The stack and the memo of one pickle."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._builders: dict[str, Callable[[], None]] = {
            "MARK": lambda: self._marks.append(len(self._stack)),
            "EMPTY_LIST": lambda: self._stack.append([]),
            "EMPTY_DICT": lambda: self._stack.append({}),
            "TUPLE": lambda: self._stack.append(tuple(self._above_mark())),
            "LIST": lambda: self._stack.append(self._above_mark()),
            "DICT": lambda: self._stack.append(_pairs(self._above_mark())),
            "APPEND": lambda: self._extend([self._stack.pop()]),
            "APPENDS": lambda: self._extend(self._above_mark()),
            "SETITEM": lambda: self._update(self._take(2)),
            "SETITEMS": lambda: self._update(self._above_mark()),
            "MEMOIZE": lambda: self._put(len(self._memo)),
            "STACK_GLOBAL": lambda: self._name(" ".join(self._take(2))),
            "REDUCE": self._reduce,
            "BUILD": self._build,
            "PROTO": lambda: None,
            "FRAME": lambda: None,
            "STOP": lambda: None,
        }

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            self._step(opcode.name, argument)
        return self._stack.pop()

    def _step(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self._stack.append(argument)
        elif name in _PUTS:
            self._put(int(argument))
        elif name in _GETS:
            self._stack.append(self._memo[int(argument)])
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _FIXED_TUPLES:
            self._stack.append(tuple(self._take(_FIXED_TUPLES[name])))
        elif name == "GLOBAL":
            self._name(argument)
        elif name in self._builders:
            self._builders[name]()
        else:
            raise ValueError(f"the opcode {name}")

    def _take(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise ValueError("a value that was never written")
        taken = self._stack[-count:]
        del self._stack[-count:]
        return taken

    def _above_mark(self) -> list[Any]:
        mark = self._marks.pop()
        taken = self._stack[mark:]
        del self._stack[mark:]
        return taken

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _extend(self, values: list[Any]) -> None:
        self._stack[-1].extend(values)

    def _update(self, values: list[Any]) -> None:
        self._stack[-1].update(_pairs(values))

    def _name(self, name: str) -> None:
        if name not in _NAMES:
            raise ValueError(f"the name {name.replace(' ', '.')}")
        self._stack.append(_Name(_NAMES[name]))

    def _reduce(self) -> None:
        called, arguments = self._take(2)
        role = called.role if isinstance(called, _Name) else ""
        if role == "array":
            self._stack.append(_Array())
        elif role == "dtype" and _text(arguments[0]) == "u1":
            self._stack.append(_Name("uint8"))
        elif role == "bytes" and _text(arguments[1]) in ("latin1", "latin-1"):
            self._stack.append(arguments[0])  # as text: a copy for each call would let a small file fill the memory
        else:
            raise ValueError("a call, or an array that is not uint8")

    def _build(self) -> None:
        target, state = self._take(2)
        if isinstance(target, _Array):
            target.fill(state)
        elif not (isinstance(target, _Name) and target.role == "uint8"):  # what follows a dtype is its byte order
            raise ValueError("an object of another class")
        self._stack.append(target)


def _pairs(values: list[Any]) -> dict[str | bytes, Any]:
    # Only text: the hash of tuples that hold one another a million deep would break the interpreter.
    if not all(isinstance(key, str | bytes) for key in values[::2]):
        raise ValueError("a key that is not text")
    return dict(zip(values[::2], values[1::2], strict=True))


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _refuse(path: Path, got: str) -> DataError:
    return DataError(
        str(path),
        expected="a pickled dict of plain values and one uint8 array, and nothing else",
        got=got,
        do="fetch the data set again from its home",
    )

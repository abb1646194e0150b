"""Tensors of a TorchScript archive, read without running the program inside it.

`torch.jit.load` runs code from the file, and `torch.load` refuses it. The archive is a zip: `data.pkl` names the
tensors in pickle's notation, and each storage is a member of its own. This module interprets the few operations that
torch's writer uses. It imports nothing and calls nothing that the file names: a class becomes an empty `Module`, a call
becomes a tuple.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from pgn_edge.errors import CheckpointError

MOST_INDEX_BYTES = 64 << 20  # data.pkl; that of CLIP ViT-L/14 has less than 1 MB
TYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
}
MARK = object()


@dataclass(frozen=True)
class ScriptFile:
    """Contents of a TorchScript archive.

    Args:
        tensors: Dense tensors by the path of their attribute, for example `visual.conv1.weight`.
        quick_gelu: Whether the program computes QuickGELU (True) or GELU (False); None where it shows neither.
    """

    tensors: dict[str, Tensor]
    quick_gelu: bool | None


@dataclass
class Module:
    """Object of the archive, with its attributes."""

    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Name:
    """Class or function that the file names; only the name is kept."""

    text: str


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a zip with a program beside its tensors."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return any(_inner(name) == "data.pkl" for name in names) and any(_inner(name).startswith("code/") for name in names)


def read_torchscript(path: Path) -> ScriptFile:
    """Read the tensors of a TorchScript archive.

    Args:
        path: Path of the archive; its members must be stored, not compressed, as torch writes them.

    Raises:
        CheckpointError: a damaged archive, or one with parts that torch's writer does not write.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {_inner(info.filename): info for info in archive.infolist()}
            _require_stored(path, members)
            root = _Reader(path, archive, members).read()
            program = b"".join(archive.read(info) for name, info in members.items() if _is_source(name))
    except (zipfile.BadZipFile, KeyError, ValueError, IndexError, TypeError, RuntimeError, OverflowError) as exc:
        # Damaged bytes can lead the interpreter to any of these.
        _refuse(path, f"{type(exc).__name__}: {exc}".split("\n")[0][:200], exc)
    # QuickGELU is x * sigmoid(1.702 x); tracing may have moved the number to the constants.
    activation = None if b"torch.sigmoid" not in program else True
    return ScriptFile(dict(_tensors(root)), False if b"torch.gelu" in program else activation)


class _Reader:
    """Interpreter of `data.pkl`."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> None:
        self.path, self.archive, self.members = path, archive, members
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Tensor] = {}

    def read(self) -> Any:
        """The object that the file holds."""
        info = self.members["data.pkl"]
        if info.file_size > MOST_INDEX_BYTES:
            _refuse(self.path, f"an index of {info.file_size} bytes")
        for code, argument, _ in pickletools.genops(self.archive.read(info)):
            self._step(code.name, argument)
        return self.stack[-1]

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in CONSTANTS:
            stack.append(CONSTANTS[name]())
        elif name in VALUES:
            stack.append(argument)
        elif name == "GLOBAL":
            stack.append(_Name(argument.replace(" ", ".")))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name in TAKEN:
            count = TAKEN[name]
            items = stack[len(stack) - count :] if count else self._to_mark()
            del stack[len(stack) - count :]
            self._gather(name, items)
        elif name not in ("PROTO", "STOP"):
            _refuse(self.path, f"the operation {name}")

    def _to_mark(self) -> list[Any]:
        at = len(self.stack) - 1 - next(i for i, value in enumerate(reversed(self.stack)) if value is MARK)
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def _gather(self, name: str, items: list[Any]) -> None:
        """Operations on several values, which have left the stack."""
        stack = self.stack
        if name.startswith("TUPLE"):
            stack.append(tuple(items))
        elif name.startswith("APPEND"):
            stack[-1].extend(items)
        elif name.startswith("SETITEM"):
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name == "BUILD":
            if isinstance(stack[-1], Module) and isinstance(items[0], dict):
                stack[-1].attributes.update(items[0])
        else:
            stack.append(self._made(*items))

    def _made(self, what: Any, arguments: Any) -> Any:
        """The tensor or the empty module that the file asks for; all other calls stay values."""
        if not isinstance(what, _Name):
            return arguments
        if what.text == "torch._utils._rebuild_tensor_v2":
            return self._tensor(*arguments[:4])
        if what.text.startswith("__torch__."):
            return Module()
        return {} if what.text == "collections.OrderedDict" else arguments

    def _storage(self, described: Any) -> Tensor:
        """The numbers of one storage, (n,)."""
        kind, key = described[1], str(described[2])
        if key not in self.storages:
            dtype = TYPES[kind.text.rpartition(".")[2]]
            data = bytearray(self.archive.read(self.members[f"data/{key}"]))
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self.storages[key]

    def _tensor(self, storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        if not isinstance(storage, Tensor) or min((offset, *size, *stride), default=0) < 0:
            _refuse(self.path, "a tensor without a storage or with a negative size")
        if math.prod(size) > storage.numel():  # Steps that overlap would let a copy of it grow without end.
            _refuse(self.path, f"a tensor of {size} in {storage.numel()} stored numbers")
        return storage.as_strided(size, stride, offset)  # torch checks the bounds


# Operations on several values, with how many; 0 for all values since the last mark.
TAKEN = {
    **{"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "TUPLE": 0},
    **{"APPEND": 1, "APPENDS": 0, "SETITEM": 2, "SETITEMS": 0},
    **{"BUILD": 1, "NEWOBJ": 2, "REDUCE": 2},
}
CONSTANTS: dict[str, Callable[[], Any]] = {
    "MARK": lambda: MARK,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
VALUES = frozenset(("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINSTRING"))


def _tensors(root: Any) -> Iterator[tuple[str, Tensor]]:
    """Tensors of all modules by path, each module once."""
    seen: set[int] = set()
    left: list[tuple[str, Any]] = [("", root)]
    while left:
        path, value = left.pop()
        if isinstance(value, Tensor):
            yield path, value
        elif isinstance(value, Module) and id(value) not in seen:
            seen.add(id(value))
            left.extend((f"{path}.{name}" if path else name, each) for name, each in value.attributes.items())


def _inner(name: str) -> str:
    """Name of a member without the archive's own folder."""
    return name.partition("/")[2]


def _is_source(name: str) -> bool:
    return name.startswith("code/") and name.endswith(".py")


def _require_stored(path: Path, members: dict[str, zipfile.ZipInfo]) -> None:
    size_bytes = path.stat().st_size
    # Source texts are compressed; they are small, and the tensors are not compressed.
    claimed = sum(info.file_size for name, info in members.items() if not name.startswith("code/"))
    sources = sum(info.file_size for name, info in members.items() if name.startswith("code/"))
    if claimed > size_bytes or sources > MOST_INDEX_BYTES:
        _refuse(path, f"parts of {claimed + sources} bytes in a file of {size_bytes}")


def _refuse(path: Path, got: str, cause: Exception | None = None) -> NoReturn:
    raise CheckpointError(
        str(path),
        expected="a whole TorchScript archive, as torch.jit.save writes it",
        got=got,
        do="copy the file again, or pass safetensors, or a .pt with the model's state_dict alone",
    ) from cause

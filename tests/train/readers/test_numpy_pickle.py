"""Pickles of others: what CIFAR's hold is read as `pickle` would, and nothing that a file names is called."""

from __future__ import annotations

import builtins
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgn_edge.errors import DataError
from pgn_edge.train.data.readers import numpy_pickle
from pgn_edge.train.data.readers.numpy_pickle import read_pickle

PIXELS = np.arange(2 * 300, dtype=np.uint8).reshape(2, 300)
BATCH = {
    "data": PIXELS,
    "labels": [3, 70_000, -1],
    "filenames": ["leptodactylus_s_000004.png", "a" * 300],
    "batch_label": "training batch 1 of 5",
    "nested": {"size": (32, 32.5, None, True, ()), "long": 1 << 70},
}


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def text(value: Any) -> Any:
    """Python 2's strings come back as text."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, dict):
        return {text(key): text(item) for key, item in value.items()}
    return type(value)(map(text, value)) if isinstance(value, list | tuple) else value


def require_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    np.testing.assert_array_equal(found.pop("data"), expected.pop("data"), strict=True)
    assert found == expected


def test_reads_what_python_2_wrote(tmp_path: Path, python2_pickle: Callable[[Any], bytes]):
    data = python2_pickle(BATCH)
    require_same(read_pickle(write(tmp_path / "batch", data)), text(pickle.loads(data, encoding="bytes")))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_reads_what_pickle_writes(tmp_path: Path, protocol: int):
    data = pickle.dumps(BATCH, protocol)
    require_same(read_pickle(write(tmp_path / "batch", data)), pickle.loads(data))


class Call:
    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> tuple:
        return self.reduced


def hostile(command: str) -> dict[str, bytes]:
    system = b"cos\nsystem\n"
    string = b"U" + bytes([len(command)]) + command.encode()
    return {
        "os.system": pickle.dumps({"data": Call(os.system, command)}, 2),
        "os.system by STACK_GLOBAL": pickle.dumps({"data": Call(os.system, command)}, 4),
        "eval": pickle.dumps({"data": Call(builtins.eval, f"__import__('os').system({command!r})")}, 2),
        "getattr": pickle.dumps({"data": Call(builtins.getattr, PIXELS, "tofile")}, 2),
        "numpy name not on the list": pickle.dumps({"data": Call(np.fromfile, "/etc/passwd")}, 2),
        "numpy.load": pickle.dumps({"data": Call(np.load, "x.npy", None, True)}, 2),
        "INST": b"(" + string + b"ios\nsystem\n.",
        "OBJ": b"(" + system + string + b"o.",
        "NEWOBJ": b"\x80\x02" + system + string + b"\x85\x81.",
        "EXT1": b"\x80\x02\x82\x01.",
        "PERSID": b"P" + command.encode() + b"\n.",
        "name left on the stack": b"\x80\x02}U\x04datacos\nsystem\ns.",
        "BUILD of a dict": b"\x80\x02}}U\x01aK\x01sb.",
    }


@pytest.mark.parametrize("which", list(hostile("")))
def test_hostile_pickle_runs_nothing(tmp_path: Path, which: str):
    marker = tmp_path / "ran"
    path = write(tmp_path / "batch", hostile(f"touch {marker}")[which])
    with pytest.raises(DataError, match="plain values and one uint8 array, and nothing else"):
        read_pickle(path)
    assert not marker.exists()


def test_hostile_pickles_would_have_run(tmp_path: Path):
    marker = tmp_path / "ran"
    pickle.loads(hostile(f"touch {marker}")["os.system"])
    assert marker.exists()


@pytest.mark.parametrize(
    ("value", "got"),
    [
        pytest.param({"data": PIXELS.astype(np.float32)}, "not uint8", id="floats"),
        pytest.param({"data": np.array([{}, []], object)}, "not uint8", id="array of objects"),
        pytest.param({"data": np.asfortranarray(PIXELS)}, "not uint8 in C order", id="Fortran order"),
        pytest.param({"data": Call(np.ndarray, (1 << 50,))}, "a call", id="array of a petabyte"),
        pytest.param({f"{n}": PIXELS for n in range(9)}, "more than one array", id="one array, many copies"),
        pytest.param({((),): 1}, "a key that is not text", id="nested tuples as a key"),
        pytest.param([PIXELS], "a list", id="no dict"),
        pytest.param({1, 2}, "EMPTY_SET|__builtin__.set", id="a set"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_other_contents_are_refused(tmp_path: Path, value: Any, got: str, protocol: int):
    path = write(tmp_path / "batch", pickle.dumps(value, protocol))
    with pytest.raises(DataError, match=got):
        read_pickle(path)


def test_shape_that_is_not_its_bytes_is_refused(tmp_path: Path):
    data = pickle.dumps({"data": PIXELS}, 2).replace(struct.pack("<H", 300), struct.pack("<H", 301))
    with pytest.raises(DataError, match=r"600 bytes for an array of shape \(2, 301\)"):
        read_pickle(write(tmp_path / "batch", data))


def test_huge_memo_index_and_length_take_no_memory(tmp_path: Path):
    sparse = b"\x80\x02}r" + b"\xff\xff\xff\xff" + b"U\x01aK\x01s."
    assert read_pickle(write(tmp_path / "memo", sparse)) == {"a": 1}
    long = b"\x80\x04}U\x01a\x8e" + struct.pack("<Q", 1 << 60) + b"abc"
    with pytest.raises(DataError, match="only 3"):
        read_pickle(write(tmp_path / "length", long))


def test_truncated_pickle_is_refused_at_every_byte(tmp_path: Path, python2_pickle: Callable[[Any], bytes]):
    data = python2_pickle({"data": PIXELS[:, :40], "labels": [1, 2]})
    for size in range(len(data)):
        with pytest.raises(DataError):
            read_pickle(write(tmp_path / "batch", data[:size]))


def test_file_over_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path / "batch", pickle.dumps(BATCH, 2))
    monkeypatch.setattr(numpy_pickle, "SIZE_LIMIT_BYTES", 100)
    with pytest.raises(DataError, match="more than 0 MiB"):
        read_pickle(path)

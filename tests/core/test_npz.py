"""Arrays from bytes that nobody vouches for."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgn_edge.errors import BundleError
from pgn_edge.npz import npz_arrays, npz_bytes

ARRAYS = {
    "float": np.arange(6, dtype=np.float32).reshape(2, 3),
    "byte": np.arange(5, dtype=np.uint8),
    "word": np.array("text"),
    "empty": np.zeros((0, 4), np.int64),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
}


class Marker:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def npy(header: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """A .npy file with any header, its length field right."""
    text = header.encode("latin1")
    size = len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + size + text + body


def npz(member: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr("a.npy", member)
    return out.getvalue()


def header(descr: str = "'<f4'", order: str = "False", shape: str = "(2,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


def test_round_trip():
    copy = npz_arrays(npz_bytes(ARRAYS), "here")
    assert copy.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert copy[name].dtype == array.dtype
        np.testing.assert_array_equal(copy[name], array)


def test_numpy_reads_it_too():
    with np.load(io.BytesIO(npz_bytes(ARRAYS)), allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["float"], ARRAYS["float"])


def test_the_same_arrays_give_the_same_bytes():
    assert npz_bytes(ARRAYS) == npz_bytes({name: array.copy(order="K") for name, array in ARRAYS.items()})


def test_objects_are_not_written():
    with pytest.raises(BundleError, match="Python objects"):
        npz_bytes({"a": np.array([{}], dtype=object)})


def test_a_pickle_is_never_loaded(tmp_path: Path):
    marker = tmp_path / "marker"
    out = io.BytesIO()
    np.savez(out, a=np.array([Marker(marker)], dtype=object))
    with pytest.raises(BundleError):
        npz_arrays(out.getvalue(), "here")
    assert not marker.exists()
    with np.load(io.BytesIO(out.getvalue()), allow_pickle=True) as archive:
        archive["a"]
    assert marker.exists(), "the file was harmless: this test proves nothing"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"no zip", id="text"),
        pytest.param(npz(b"no npy"), id="member is no .npy"),
        pytest.param(npz(b""), id="empty member"),
        pytest.param(npz(npy(header(), b"\0" * 8), zipfile.ZIP_DEFLATED), id="compressed"),
        pytest.param(npz(pickle.dumps([1])), id="a bare pickle"),
        pytest.param(npz(npy(header(), b"\0" * 4)), id="claims more than there is"),
        pytest.param(npz(npy(header(), b"\0" * 12)), id="claims less than there is"),
        pytest.param(npz(npy(header(shape="(10**9,)"), b"\0" * 8)), id="shape is an expression"),
        pytest.param(npz(npy(header(shape="(1000000000000,)"), b"\0" * 8)), id="claims terabytes"),
        pytest.param(npz(npy(header(shape="(-1, -2)"), b"\0" * 8)), id="negative sides that multiply to fit"),
        pytest.param(npz(npy(header("'V0'", shape=f"({10**30},)"))), id="many items of no size"),
        pytest.param(npz(npy(header("'|O'", shape="(1,)"), b"\0" * 8)), id="objects"),
        pytest.param(npz(npy(header("'nonsense'"), b"\0" * 8)), id="unknown dtype"),
        pytest.param(npz(npy(header("'<f4,('"), b"\0" * 8)), id="dtype that does not parse"),
        pytest.param(npz(npy(header("(" * 300), b"\0" * 8)), id="deeply nested header"),
        pytest.param(npz(npy("{'descr': '''", b"\0" * 8)), id="unfinished string in the header"),
        pytest.param(npz(npy("[1, 2]\n", b"\0" * 8)), id="header is a list"),
        pytest.param(npz(npy("{}\n", b"\0" * 8)), id="header without fields"),
        pytest.param(npz(npy(header(), b"\0" * 8, b"\x02\x00")), id="version 2"),
        pytest.param(npz(npy(header(shape="2L,"), b"\0" * 8)), id="header of Python 2"),
    ],
)
def test_what_is_not_ours_is_refused(data: bytes):
    with pytest.raises(BundleError, match=r"^here: expected plain arrays"):
        npz_arrays(data, "here")


GOOD_MEMBER = npy(header(shape="(2, 3)"), np.arange(6, dtype=np.float32).tobytes())


@given(st.lists(st.tuples(st.integers(0, len(GOOD_MEMBER) - 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_a_changed_byte_under_a_right_checksum_is_refused_or_read(flips: list[tuple[int, int]]):
    member = bytearray(GOOD_MEMBER)
    for offset, flip in flips:
        member[offset] ^= flip
    try:
        arrays = npz_arrays(npz(bytes(member)), "here")
    except BundleError:
        return
    assert arrays["a"].nbytes <= len(member)


@given(st.text("{}()[]'\",:0123456789-<>|fiUVOMm LeTrudescrshapfortran_order\n\\", max_size=80))
def test_any_header_is_refused_or_read(text: str):
    message = "here: nothing to say"
    try:
        npz_arrays(npz(npy(text, b"\0" * 8)), "here")
    except BundleError as exc:
        message = str(exc)
    assert message.startswith("here: ")
    assert len(message.splitlines()) == 1

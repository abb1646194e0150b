"""Arrays in and out of bytes: .npz without pickle, without compression, and with every size checked first."""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from pgn_edge.errors import BundleError
from pgn_edge.stored_zip import read_stored

# What numpy writes for plain little-endian arrays. Anything else would reach numpy's parser for headers of Python 2,
# which warns, and raises whatever the tokenizer raises.
HEADER = re.compile(
    rb"\{'descr': '[<|][biufcU][1-9]\d{0,3}', 'fortran_order': (?:True|False), 'shape': \((?:\d{1,12},? ?)*\), \} *\n"
)


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """`arrays` as an uncompressed .npz; the same arrays give the same bytes.

    Raises:
        BundleError: an array holds Python objects.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            try:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
            except ValueError as exc:
                raise _bad(name, "an array of Python objects") from exc
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())
    return out.getvalue()


def npz_arrays(data: bytes, source: str) -> dict[str, np.ndarray]:
    """Read what `npz_bytes` wrote, from a file that nobody vouches for.

    No pickle is loaded, and no array is allocated whose header claims more bytes than the member has.

    Raises:
        BundleError: not an .npz, compressed members, Python objects, or headers that lie about sizes.
    """
    try:
        members = read_stored(io.BytesIO(data))
        return {name.removesuffix(".npy"): _array(member, source) for name, member in members.items()}
    except (ValueError, EOFError, OSError, OverflowError, NotImplementedError, RuntimeError) as exc:
        raise _bad(source, f"{type(exc).__name__}: {exc}") from exc


def user_npz_arrays(data: bytes, source: str) -> dict[str, np.ndarray]:
    """Read an .npz that a user's own program wrote, as `numpy.savez` does; with the checks of `npz_arrays`.

    NumPy writes members with the size fields of large files, which bundles must not have. Only a user's own file is
    read here, and a bundle never is.

    Raises:
        BundleError: not an .npz, compressed members, Python objects, or headers that lie about sizes.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            stored = all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
            if not stored:
                raise _bad(source, "compressed members, as from numpy.savez_compressed")
            members = {info.filename: archive.read(info) for info in archive.infolist()}
        return {name.removesuffix(".npy"): _array(member, source) for name, member in members.items()}
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, OverflowError, NotImplementedError, RuntimeError) as exc:
        raise _bad(source, f"{type(exc).__name__}: {exc}") from exc


def _array(member: bytes, source: str) -> np.ndarray:
    file = io.BytesIO(member)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise _bad(source, f".npy version {version}")
    if not HEADER.fullmatch(member[10 : 10 + int.from_bytes(member[8:10], "little")]):
        raise _bad(source, "a .npy header of another form")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(member) - file.tell():
        raise _bad(source, f"a header of {dtype} {shape} over {len(member)} bytes")
    file.seek(0)
    array: np.ndarray[Any, Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _bad(source: str, got: str) -> BundleError:
    return BundleError(source, expected="plain arrays in an uncompressed .npz", got=got, do="export it again")

"""Fingerprints are written into files: their definition may never drift."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from pgn_edge.fingerprint import sha256_file, vit_fingerprint

FIXED = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array([0.5, -0.25], np.float32)]
GOLDEN = "9ba5539a5d090fbfd9379d2fe2b64184e180888588e192f72ff35030f3f9cc2b"


def test_golden_digest():
    assert vit_fingerprint(FIXED) == GOLDEN


def test_by_hand():
    digest = hashlib.sha256()
    for array in FIXED:
        digest.update(repr(array.shape).encode() + array.astype("<f4").tobytes())
    assert vit_fingerprint(FIXED) == digest.hexdigest()


@pytest.mark.parametrize(
    "arrays",
    [
        pytest.param([array.astype(np.float64) for array in FIXED], id="float64"),
        pytest.param([array.astype(">f4") for array in FIXED], id="big-endian"),
        pytest.param([np.asfortranarray(array) for array in FIXED], id="Fortran order"),
        pytest.param([np.repeat(array, 2, axis=-1)[..., ::2] for array in FIXED], id="strided"),
    ],
)
def test_storage_does_not_matter(arrays: list[np.ndarray]):
    assert vit_fingerprint(arrays) == GOLDEN


@pytest.mark.parametrize(
    "arrays",
    [
        pytest.param([FIXED[0].reshape(3, 2), FIXED[1]], id="another shape"),
        pytest.param(FIXED[::-1], id="another order"),
        pytest.param(FIXED[:1], id="one fewer"),
        pytest.param([FIXED[0], np.nextafter(FIXED[1], np.float32(1))], id="one last bit"),
        pytest.param([np.concatenate([a.ravel() for a in FIXED])], id="another cut of the same numbers"),
    ],
)
def test_content_matters(arrays: list[np.ndarray]):
    assert vit_fingerprint(arrays) != GOLDEN


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1], ids=str)
def test_files_in_pieces(tmp_path: Path, size: int):
    data = np.random.default_rng(size).bytes(size)
    path = tmp_path / "file"
    path.write_bytes(data)
    assert sha256_file(path) == hashlib.sha256(data).hexdigest()

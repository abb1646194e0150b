"""What identifies a frozen ViT, and hashes of files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np


def vit_fingerprint(arrays: Iterable[np.ndarray]) -> str:
    """sha256 over W, b, E and the pre-norm, each as little-endian float32 in C order.

    Shapes are hashed too, so that no two different cuts of the same numbers agree.
    """
    digest = hashlib.sha256()
    for array in arrays:
        data = np.ascontiguousarray(array, dtype="<f4")
        digest.update(repr(data.shape).encode())
        digest.update(data.tobytes())
    return digest.hexdigest()


def weights_sha256(tensors: Mapping[str, np.ndarray]) -> str:
    """sha256 over all weights of a model, by sorted names: two epochs of one model never share it.

    Args:
        tensors: Arrays by name; each is hashed with its name and shape as little-endian float32 in C order.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        data = np.ascontiguousarray(tensors[name], dtype="<f4")
        digest.update(f"{name} {data.shape}\n".encode())
        digest.update(data.data)
    return digest.hexdigest()


def sha256_file(path: str | Path) -> str:
    """sha256 of a file's bytes as 64 hexadecimal digits, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()

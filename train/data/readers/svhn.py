"""SVHN, house numbers cut to 32 x 32: one MATLAB file for each split."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pgn_edge.labels import load_labels
from pgn_edge.train.data.dataset import Parts
from pgn_edge.train.data.readers.files import damaged, find_folder
from pgn_edge.train.data.readers.mat import read_mat
from pgn_edge.train.data.samples import Arrays

LAYOUT = "svhn/ with train_32x32.mat and test_32x32.mat"


def read(root: Path) -> Parts:
    """Read SVHN's cropped digits, without the extra images.

    Args:
        root: holds `svhn`, or the two files.

    Raises:
        DataError: a file is missing, damaged, or of another shape.

    Source: Netzer et al., "Reading Digits in Natural Images with Unsupervised Feature Learning", 2011.
    """
    files = "train_32x32.mat", "test_32x32.mat"
    folder = find_folder(root, ("svhn", "SVHN", "."), files, LAYOUT)
    train, test = (_arrays(folder / name, part) for name, part in zip(files, ("train", "test"), strict=True))
    return Parts(load_labels("svhn"), train, test)


def _arrays(path: Path, part: str) -> Arrays:
    found = read_mat(path, ("X", "y"), LAYOUT)
    images, digits = found["X"], found["y"].reshape(-1)
    if images.dtype != np.uint8 or images.shape != (32, 32, 3, len(digits)):
        raise damaged(
            path, "X of (32, 32, 3, n) uint8, and n labels y", f"{images.shape} {images.dtype}, {len(digits)}"
        )
    wrong = np.flatnonzero((digits < 0) | (digits > 10))
    if len(wrong):
        raise damaged(path, "labels from 1 to 10", f"{digits[wrong[0]]} for image {wrong[0]}")
    labels = digits.astype(np.int64) % 10  # the digit 0 is stored as 10
    return Arrays(np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels, f"svhn/{part}")

"""Oxford Flowers 102: numbered JPEG files, labels and split in MATLAB files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pgn_edge.labels import load_labels
from pgn_edge.train.data.dataset import Parts
from pgn_edge.train.data.readers.files import damaged, find_folder, find_part, listed, namer
from pgn_edge.train.data.readers.mat import read_mat
from pgn_edge.train.data.readers.split_json import read_split
from pgn_edge.train.data.samples import Files

LAYOUT = (
    "flowers-102/ with jpg/image_00001.jpg …, imagelabels.mat and setid.mat (or split_zhou_OxfordFlowers.json for both)"
)
SPLIT = "split_zhou_OxfordFlowers.json"


def read(root: Path) -> Parts:
    """Read Flowers 102: CoOp's split where its file lies there, else the official one, with `tstid` as the test.

    Args:
        root: holds `flowers-102`, `flowers102` or `oxford_flowers`, or is it.

    Raises:
        DataError: a file is missing or damaged, or an image is listed that does not exist.

    Source: Nilsback and Zisserman, "Automated Flower Classification over a Large Number of Classes", 2008.
    """
    folder = find_folder(root, ("flowers-102", "flowers102", "oxford_flowers", "."), ("imagelabels.mat", SPLIT), LAYOUT)
    images = find_part(folder, ("jpg", "images"), LAYOUT)
    if (folder / SPLIT).is_file():
        return read_split(folder / SPLIT, images, namer("flowers102"))
    labels = _column(folder / "imagelabels.mat", "labels", len(load_labels("flowers102")))
    train, validation, test = (
        _files(images, labels, _column(folder / "setid.mat", part, len(labels))) for part in ("trnid", "valid", "tstid")
    )
    return Parts(load_labels("flowers102")[: labels.max()], train, test, validation)


def _column(path: Path, name: str, highest: int) -> np.ndarray:
    """Numbers from 1 to `highest`."""
    numbers = read_mat(path, (name,), LAYOUT)[name].reshape(-1)
    wrong = numbers[(numbers < 1) | (numbers > highest)] if numbers.dtype.kind in "iuf" else numbers[:1]
    if len(wrong) or not len(numbers):
        raise damaged(path, f"{name!r} from 1 to {highest}", str(wrong[0])[:80] if len(wrong) else "none")
    return numbers.astype(np.int64)


def _files(images: Path, labels: np.ndarray, numbers: np.ndarray) -> Files:
    return listed(images, [(f"image_{number:05d}.jpg", int(labels[number - 1]) - 1) for number in numbers])

"""CIFAR-10 and CIFAR-100 in the Python version: pickled batches of 32 x 32 images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pgn_edge.train.data.dataset import Parts
from pgn_edge.train.data.readers.files import damaged, find_folder, find_part
from pgn_edge.train.data.readers.numpy_pickle import read_pickle
from pgn_edge.train.data.samples import Arrays

SIDE = 32


@dataclass(frozen=True)
class Release:
    """What the two data sets call their files and what stands in them."""

    name: str
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    class_names: str
    labels: str

    @property
    def layout(self) -> str:
        """Where the files are looked for."""
        return f"{self.folder}/ with {', '.join((*self.train, self.test, self.meta))}"


CIFAR10 = Release(
    name="cifar10",
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
    meta="batches.meta",
    class_names="label_names",
    labels="labels",
)
CIFAR100 = Release(
    name="cifar100",
    folder="cifar-100-python",
    train=("train",),
    test="test",
    meta="meta",
    class_names="fine_label_names",
    labels="fine_labels",
)


def read_cifar10(root: Path) -> Parts:
    """Read CIFAR-10.

    Args:
        root: holds `cifar-10-batches-py`, or is it.

    Raises:
        DataError: a file is missing, damaged, or holds more than images and labels.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """
    return _read(root, CIFAR10)


def read_cifar100(root: Path) -> Parts:
    """Read CIFAR-100 with its 100 fine labels.

    Args:
        root: holds `cifar-100-python`, or is it.

    Raises:
        DataError: as `read_cifar10`.
    """
    return _read(root, CIFAR100)


def _read(root: Path, release: Release) -> Parts:
    places = (release.folder, f"{release.name}/{release.folder}", release.name, ".")
    folder = find_folder(root, places, (release.meta, release.test), release.layout)
    meta = find_part(folder, (release.meta,), release.layout)
    names = read_pickle(meta).get(release.class_names)
    if not isinstance(names, list) or not names:
        raise damaged(meta, f"class names under {release.class_names!r}", "none")
    labels = tuple(_text(name).replace("_", " ") for name in names)
    train = [_batch(folder, name, release, len(labels)) for name in release.train]
    return Parts(
        labels,
        _arrays(train, f"{release.name}/train"),
        _arrays([_batch(folder, release.test, release, len(labels))], f"{release.name}/test"),
    )


def _batch(folder: Path, name: str, release: Release, classes: int) -> tuple[np.ndarray, list[int]]:
    path = find_part(folder, (name,), release.layout)
    batch = read_pickle(path)
    data, labels = batch.get("data"), batch.get(release.labels)
    if not (isinstance(data, np.ndarray) and isinstance(labels, list) and data.shape == (len(labels), 3 * SIDE**2)):
        raise damaged(path, f"'data' of {3 * SIDE**2} bytes an image, and as many {release.labels!r}", _sizes(batch))
    for index, label in enumerate(labels):
        if not isinstance(label, int) or not 0 <= label < classes:
            raise damaged(path, f"labels from 0 to {classes - 1}", f"{str(label)[:80]} for image {index}")
    return data, labels


def _arrays(batches: list[tuple[np.ndarray, list[int]]], title: str) -> Arrays:
    planes = np.concatenate([data for data, _ in batches]).reshape(-1, 3, SIDE, SIDE)
    labels = np.concatenate([np.array(labels, np.int64) for _, labels in batches])
    return Arrays(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels, title)


def _sizes(batch: dict[str, Any]) -> str:
    kinds = (f"{key}: {getattr(value, 'shape', type(value).__name__)}" for key, value in list(batch.items())[:5])
    return ", ".join(kinds) or "an empty dict"


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)

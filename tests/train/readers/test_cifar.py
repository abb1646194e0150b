"""CIFAR in its pickled batches: planes become pixels, and batches stay in order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgn_edge.errors import DataError
from pgn_edge.train.data.readers.cifar import read_cifar10, read_cifar100

Dump = Callable[[Any], bytes]
NAMES = ["apple", "aquarium_fish", "baby"]


def frames(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def planes(images: np.ndarray) -> np.ndarray:
    """Red, green and blue plane after one another, each row by row, as CIFAR stores them."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2).reshape(len(images), -1))


def write_cifar10(folder: Path, dump: Dump, labels: list[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        batch = {"batch_label": name, "labels": labels, "data": planes(frames(number, len(labels)))}
        (folder / name).write_bytes(dump({**batch, "filenames": [f"x_{n}.png" for n in range(len(labels))]}))
    meta = {"num_cases_per_batch": len(labels), "label_names": ["airplane", "automobile", "bird"], "num_vis": 3072}
    (folder / "batches.meta").write_bytes(dump(meta))


def write_cifar100(folder: Path, dump: Dump) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(("train", "test")):
        batch = {"data": planes(frames(seed, 4)), "fine_labels": [2, 0, 1, 2], "coarse_labels": [0, 0, 1, 0]}
        (folder / name).write_bytes(dump({**batch, "filenames": ["a.png"] * 4, "batch_label": name}))
    (folder / "meta").write_bytes(dump({"fine_label_names": NAMES, "coarse_label_names": ["fruit", "people"]}))


@pytest.mark.parametrize("place", ["cifar-10-batches-py", "cifar10/cifar-10-batches-py", "."])
def test_cifar10_is_five_batches_in_order(tmp_path: Path, python2_pickle: Dump, place: str):
    write_cifar10(tmp_path / "data" / place, python2_pickle, [2, 0, 1])
    parts = read_cifar10(tmp_path / "data")
    assert parts.labels == ("airplane", "automobile", "bird")
    assert parts.validation is None
    assert parts.train.labels.tolist() == [2, 0, 1] * 5
    assert parts.train.labels.dtype == np.int64
    for number in range(15):
        np.testing.assert_array_equal(parts.train.read(number), frames(number // 3, 3)[number % 3], strict=True)
    assert parts.test.labels.tolist() == [2, 0, 1]
    np.testing.assert_array_equal(parts.test.read(1), frames(5, 3)[1])
    assert parts.test.name(1) == "cifar10/test[1]"


def test_cifar100_has_the_fine_labels(tmp_path: Path, python2_pickle: Dump):
    write_cifar100(tmp_path / "cifar-100-python", python2_pickle)
    parts = read_cifar100(tmp_path)
    assert parts.labels == ("apple", "aquarium fish", "baby")
    assert parts.train.labels.tolist() == parts.test.labels.tolist() == [2, 0, 1, 2]
    np.testing.assert_array_equal(parts.train.read(3), frames(0, 4)[3])
    np.testing.assert_array_equal(parts.test.read(3), frames(1, 4)[3])


def test_folder_that_is_missing_says_what_is_expected(tmp_path: Path):
    with pytest.raises(DataError, match=r"cifar-10-batches-py/ with .*test_batch, batches\.meta, got an empty"):
        read_cifar10(tmp_path)
    with pytest.raises(DataError, match="cifar-100-python/ with train, test, meta, got no such folder"):
        read_cifar100(tmp_path / "nowhere")


def test_batch_that_is_missing_is_named(tmp_path: Path, python2_pickle: Dump):
    write_cifar10(tmp_path / "cifar-10-batches-py", python2_pickle, [0, 1, 2])
    (tmp_path / "cifar-10-batches-py/data_batch_3").unlink()
    with pytest.raises(DataError, match="got no data_batch_3"):
        read_cifar10(tmp_path)


def test_label_out_of_range_is_named(tmp_path: Path, python2_pickle: Dump):
    write_cifar10(tmp_path / "cifar-10-batches-py", python2_pickle, [0, 3])
    with pytest.raises(DataError, match="data_batch_1: expected labels from 0 to 2, got 3 for image 1"):
        read_cifar10(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"data": planes(frames(0, 3))}, "3072 bytes an image", id="more images than labels"),
        pytest.param({"data": np.zeros((4, 100), np.uint8)}, r"data: \(4, 100\)", id="another size"),
        pytest.param({"fine_labels": None}, "fine_labels: NoneType", id="no labels"),
    ],
)
def test_batch_of_another_form_is_refused(tmp_path: Path, python2_pickle: Dump, change: dict[str, Any], message: str):
    folder = tmp_path / "cifar-100-python"
    write_cifar100(folder, python2_pickle)
    (folder / "test").write_bytes(python2_pickle({"data": planes(frames(0, 4)), "fine_labels": [0] * 4, **change}))
    with pytest.raises(DataError, match=message):
        read_cifar100(tmp_path)


def test_truncated_batch_is_refused(tmp_path: Path, python2_pickle: Dump):
    write_cifar100(tmp_path, python2_pickle)
    data = (tmp_path / "train").read_bytes()
    (tmp_path / "train").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="train: expected a pickled dict"):
        read_cifar100(tmp_path)


def test_meta_without_names_is_refused(tmp_path: Path, python2_pickle: Dump):
    write_cifar100(tmp_path, python2_pickle)
    (tmp_path / "meta").write_bytes(python2_pickle({"label_names": NAMES}))
    with pytest.raises(DataError, match="'fine_label_names', got none"):
        read_cifar100(tmp_path)

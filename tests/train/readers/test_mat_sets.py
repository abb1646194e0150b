"""SVHN and Flowers 102, whose labels lie in MATLAB files and count from 1."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from pgn_edge.errors import DataError
from pgn_edge.labels import load_labels
from pgn_edge.train.data.readers import flowers102, mat, svhn

DIGITS = np.array([[10], [1], [9], [2]], np.uint8)


def frames(seed: int, count: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3, count), np.uint8)


def write_svhn(folder: Path, digits: np.ndarray = DIGITS) -> None:
    folder.mkdir(exist_ok=True)
    for seed, part in enumerate(("train", "test")):
        file = folder / f"{part}_32x32.mat"
        savemat(file, {"X": frames(seed, len(digits)), "y": digits}, do_compression=True)


@pytest.mark.parametrize("place", ["svhn", "."])
def test_svhn_has_0_where_10_stands(tmp_path: Path, place: str):
    write_svhn(tmp_path / place)
    parts = svhn.read(tmp_path)
    assert parts.labels == tuple("0123456789")
    assert parts.validation is None
    for seed, samples in enumerate((parts.train, parts.test)):
        assert samples.labels.tolist() == [0, 1, 9, 2]
        assert samples.labels.dtype == np.int64
        for index in range(4):
            np.testing.assert_array_equal(samples.read(index), frames(seed)[..., index], strict=True)


def test_svhn_label_out_of_range_is_named(tmp_path: Path):
    write_svhn(tmp_path, np.array([[1], [11]], np.uint8))
    with pytest.raises(DataError, match="expected labels from 1 to 10, got 11 for image 1"):
        svhn.read(tmp_path)


def test_svhn_missing_files_are_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"svhn/ with train_32x32\.mat and test_32x32\.mat, got an empty folder"):
        svhn.read(tmp_path)
    write_svhn(tmp_path)
    (tmp_path / "test_32x32.mat").unlink()
    with pytest.raises(DataError, match=r"got no test_32x32\.mat"):
        svhn.read(tmp_path)


@pytest.mark.parametrize("size", [0, 60, 128, 400, -40])
def test_truncated_mat_is_refused(tmp_path: Path, size: int):
    write_svhn(tmp_path)
    file = tmp_path / "train_32x32.mat"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(DataError, match=r"train_32x32\.mat: expected a MATLAB file with X, y"):
        svhn.read(tmp_path)


def test_mat_of_another_shape_is_refused(tmp_path: Path):
    write_svhn(tmp_path)
    savemat(tmp_path / "train_32x32.mat", {"X": frames(0).transpose(3, 0, 1, 2), "y": DIGITS})
    with pytest.raises(DataError, match=r"got \(4, 32, 32, 3\) uint8, 4"):
        svhn.read(tmp_path)
    savemat(tmp_path / "train_32x32.mat", {"X": frames(0)})
    with pytest.raises(DataError, match=r"with X, y, got X \(32, 32, 3, 4\)"):
        svhn.read(tmp_path)


def test_mat_over_the_limit_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_svhn(tmp_path)
    monkeypatch.setattr(mat, "SIZE_LIMIT", 1000)
    monkeypatch.setattr("scipy.io.loadmat", lambda *_, **__: pytest.fail("inflated"))
    with pytest.raises(DataError, match="with X, y"):
        svhn.read(tmp_path)


def write_flowers(root: Path, pictures, labels: list[int], trnid: list[int]) -> None:
    for number in range(1, len(labels) + 1):
        pictures.write(f"flowers-102/jpg/image_{number:05d}.jpg")
    folder = root / "flowers-102"
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    split = {"trnid": trnid, "valid": [5], "tstid": [6, 2, 4]}
    savemat(folder / "setid.mat", {name: np.array([numbers], np.uint16) for name, numbers in split.items()})


def test_flowers_follow_the_official_split(tmp_path: Path, pictures, listing: Callable):
    write_flowers(tmp_path, pictures, [2, 1, 1, 3, 2, 3], [3, 1])
    parts = listing(flowers102.read, tmp_path)
    assert parts.labels == load_labels("flowers102")[:3]
    where = "flowers-102/jpg/image_0000"
    pictures.check(parts.train, [(f"{where}3.jpg", 0), (f"{where}1.jpg", 1)])
    pictures.check(parts.validation, [(f"{where}5.jpg", 1)])
    pictures.check(parts.test, [(f"{where}6.jpg", 2), (f"{where}2.jpg", 0), (f"{where}4.jpg", 2)])


@pytest.mark.parametrize(
    ("labels", "trnid", "message"),
    [
        pytest.param([2, 1, 1, 3, 2, 103], [1], "'labels' from 1 to 102, got 103", id="label over 102"),
        pytest.param([2, 1, 0, 3, 2, 3], [1], "'labels' from 1 to 102, got 0", id="label 0"),
        pytest.param([2, 1, 1, 3, 2, 3], [7], "'trnid' from 1 to 6, got 7", id="split names an image too many"),
    ],
)
def test_flowers_out_of_range_are_refused(tmp_path: Path, pictures, labels: list[int], trnid: list[int], message: str):
    write_flowers(tmp_path, pictures, labels, trnid)
    with pytest.raises(DataError, match=message):
        flowers102.read(tmp_path)


def test_flowers_missing_files_are_named(tmp_path: Path, pictures):
    with pytest.raises(DataError, match=r"flowers-102/ with jpg/image_00001.jpg …, imagelabels.mat and setid.mat"):
        flowers102.read(tmp_path)
    write_flowers(tmp_path, pictures, [2, 1, 1, 3, 2, 3], [3, 1])
    (tmp_path / "flowers-102/jpg/image_00001.jpg").unlink()
    parts = flowers102.read(tmp_path)
    with pytest.raises(DataError, match=r"image_00001\.jpg: expected an image, got no such file"):
        parts.train.read(1)
    (tmp_path / "flowers-102/setid.mat").unlink()
    with pytest.raises(DataError, match=r"got no setid\.mat"):
        flowers102.read(tmp_path)

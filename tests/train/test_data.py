"""Data sets: the same split on every call, nothing in two splits, and folders that are refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pgn_edge.errors import DataError
from pgn_edge.preprocess import Preprocess
from pgn_edge.train.data import DataSet, Split, load_data
from pgn_edge.train.digits import SPLITS, digit_frames

SMALL = Preprocess((8, 8))
FULL = Preprocess((64, 64))


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load_data("digits", None, FULL)


def splits(data: DataSet) -> dict[str, Split]:
    return {"train": data.train, "validation": data.validation, "test": data.test}


def contents(split: Split) -> set[bytes]:
    return {image.tobytes() for image in split.images}


# Digits.


def test_digits_are_1797_frames_of_real_handwriting(digits: DataSet):
    assert {name: len(split) for name, split in splits(digits).items()} == {
        "train": 1097,
        "validation": 300,
        "test": 400,
    }
    for split in splits(digits).values():
        assert split.images.shape == (len(split), 64, 64, 3)
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int64)
    assert digits.labels == tuple("0123456789")
    assert digits.train.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


def test_digits_splits_are_disjoint_and_hold_every_class(digits: DataSet):
    seen: set[bytes] = set()
    for name, split in splits(digits).items():
        assert set(split.labels.tolist()) == set(range(10)), name
        assert len(contents(split)) == len(split), f"{name} holds one image twice"
        assert not seen & contents(split), name
        seen |= contents(split)


def test_digits_are_the_same_on_every_call(digits: DataSet):
    frames, labels = digit_frames()
    for name, (low, high) in SPLITS.items():
        np.testing.assert_array_equal(frames[low:high], splits(digits)[name].images)
        np.testing.assert_array_equal(labels[low:high], splits(digits)[name].labels)


def test_the_first_digit_is_a_ring_that_stands_out(digits: DataSet):
    image = digits.train.images[0].astype(float)
    centre, ring = image[28:36, 28:36].mean(axis=(0, 1)), image[28:36, 17:20].mean(axis=(0, 1))
    assert np.abs(centre - ring).max() > 40, "a zero is hollow"


def test_digits_take_the_size_that_is_asked_for():
    assert load_data("digits", None, FULL.with_size((48, 64))).test.images.shape == (400, 48, 64, 3)


# Folders of classes.


def fill(folder: Path, classes: dict[str, int], start: int = 0) -> Path:
    """Images of different grey levels, so that each is known by its pixels."""
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (10, 10), (start, index, len(name))).save(folder / name / f"{index:02}.png")
            start += 1
    return folder


def test_a_folder_of_classes_is_cut_once_and_for_all(tmp_path: Path):
    folder = fill(tmp_path / "pets", {"dog": 20, "cat": 10})
    data = load_data("pets", tmp_path, SMALL)
    assert (data.name, data.labels) == ("pets", ("cat", "dog"))
    counts = {name: np.bincount(split.labels).tolist() for name, split in splits(data).items()}
    assert counts == {"train": [7, 14], "validation": [1, 2], "test": [2, 4]}
    groups = [contents(split) for split in splits(data).values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 30
    again = load_data(str(folder), None, SMALL)
    for name, split in splits(again).items():
        np.testing.assert_array_equal(split.images, splits(data)[name].images)


def test_of_two_halves_the_validation_comes_from_train(tmp_path: Path):
    fill(tmp_path / "train", {"cat": 10, "dog": 10})
    fill(tmp_path / "test", {"cat": 5, "dog": 5}, start=100)
    data = load_data(".", tmp_path, SMALL)
    assert [len(split) for split in splits(data).values()] == [18, 2, 10]
    assert data.train.images[..., 0].max() < 100 > data.validation.images[..., 0].max()
    assert data.test.images[..., 0].min() >= 100
    assert not contents(data.train) & contents(data.validation)


def test_three_images_of_a_class_give_one_for_each_split(tmp_path: Path):
    data = load_data(str(fill(tmp_path / "few", {"a": 3, "b": 3})), None, SMALL)
    for split in splits(data).values():
        assert split.labels.tolist() == [0, 1]


def test_other_files_and_hidden_files_are_no_images(tmp_path: Path):
    folder = fill(tmp_path / "mixed", {"a": 4, "b": 4})
    (folder / "a" / "notes.txt").write_text("not an image")
    (folder / "a" / ".hidden.png").write_bytes(b"a system's own file")
    (folder / "readme.md").write_text("beside the classes")
    (folder / ".ipynb_checkpoints").mkdir()
    data = load_data(str(folder), None, SMALL)
    assert sum(len(split) for split in splits(data).values()) == 8


def test_the_folder_that_one_stands_in_has_a_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(fill(tmp_path / "pets", {"a": 3, "b": 3}))
    assert load_data(".", None, SMALL).name == "pets"


def no_classes(folder: Path) -> str:
    folder.mkdir()
    (folder / "image.png").write_bytes(b"beside, not inside a class")
    return "at least two class folders"


def one_class(folder: Path) -> str:
    fill(folder, {"a": 5})
    return "got 1 folders"


def empty_class(folder: Path) -> str:
    fill(folder, {"a": 5, "b": 0})
    return f"{folder / 'b'}: expected at least 3 images, got 0"


def too_few(folder: Path) -> str:
    fill(folder, {"a": 2, "b": 5})
    return f"{folder / 'a'}: expected at least 3 images, got 2"


def undecodable(folder: Path) -> str:
    fill(folder, {"a": 5, "b": 5})
    (folder / "b" / "02.png").write_bytes(b"no image")
    return f"{folder / 'b' / '02.png'}: expected an image"


def half_an_image(folder: Path) -> str:
    fill(folder, {"a": 5, "b": 5})
    path = folder / "a" / "03.png"
    path.write_bytes(path.read_bytes()[:-30])
    return f"{path}: expected an image"


def class_without_test_images(folder: Path) -> str:
    fill(folder / "train", {"a": 5, "b": 5})
    fill(folder / "test", {"a": 5})
    return f"{folder / 'test' / 'b'}: expected at least 3 images, got 0"


def class_that_is_not_trained(folder: Path) -> str:
    fill(folder / "train", {"a": 5, "b": 5})
    fill(folder / "test", {"a": 5, "b": 5, "c": 5})
    return f"{folder / 'test'}: expected the classes of {folder / 'train'}, got 'c'"


def missing(folder: Path) -> str:
    return "expected digits or a folder of classes"


def a_file(folder: Path) -> str:
    folder.write_text("no folder")
    return "expected digits or a folder of classes"


@pytest.mark.parametrize(
    "prepare",
    [
        no_classes,
        one_class,
        empty_class,
        too_few,
        undecodable,
        half_an_image,
        class_without_test_images,
        class_that_is_not_trained,
        missing,
        a_file,
    ],
    ids=lambda prepare: prepare.__name__.replace("_", " "),
)
def test_folders_that_are_refused(tmp_path: Path, prepare: Callable[[Path], str]):
    says = prepare(tmp_path / "data")
    with pytest.raises(DataError) as caught:
        load_data("data", tmp_path, SMALL)
    assert says in str(caught.value)

"""Whether data are those that a run began with: every change that shifts a label or swaps a file is told."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pgn_edge.train.data import Arrays, load_data
from pgn_edge.train.data.identity import difference, identity

Fill = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, fill: Fill) -> Path:
    return fill(tmp_path / "data", {"ant": 6, "bee": 6, "cat": 6})


def told(folder: Path, change: Callable[[Path], object]) -> tuple[str, str] | None:
    before = identity(load_data(str(folder)))
    change(folder)
    return difference(before, identity(load_data(str(folder))))


def a_trained_file(folder: Path) -> Path:
    return Path(load_data(str(folder)).train.name(0))


def test_the_same_data_are_the_same(folder: Path):
    assert told(folder, lambda folder: None) is None


def test_a_class_folder_that_is_renamed_is_told_although_the_number_of_images_stays(folder: Path):
    found = told(folder, lambda folder: (folder / "ant").rename(folder / "dog"))
    assert found == ("class 'ant' in place 1", "'bee'")


def test_a_class_more_is_told(folder: Path, fill: Fill):
    assert told(folder, lambda folder: fill(folder, {"dog": 6})) == ("3 classes", "4")


def test_an_image_more_is_told(folder: Path):
    found = told(folder, lambda folder: shutil.copy(a_trained_file(folder), folder / "cat" / "zz.png"))
    assert found == ("12 training images", "13")


def test_an_image_that_moves_to_another_class_is_told(folder: Path):
    def swap(folder: Path) -> None:
        (folder / "ant" / "00.png").rename(folder / "bee" / "zz.png")
        (folder / "bee" / "00.png").rename(folder / "ant" / "zz.png")

    assert told(folder, swap) == ("the training images that it began with", "other file names")


def test_an_image_that_is_replaced_by_a_longer_one_is_told(folder: Path):
    def grow(folder: Path) -> None:
        with open(a_trained_file(folder), "ab") as file:
            file.write(b"longer")

    assert told(folder, grow) == ("the training images that it began with", "other file sizes")


def test_labels_that_a_csv_changes_are_told(tmp_path: Path, folder: Path):
    rows = [f"data/{name}/{index:02}.png,{name},{split}\n" for name in ("ant", "bee") for index, split in
            enumerate(["train", "train", "val", "test"])]  # fmt: skip
    (tmp_path / "list.csv").write_text("path,label,split\n" + "".join(rows))
    before = identity(load_data("list.csv", tmp_path))
    rows[0], rows[4] = rows[0].replace(",ant", ",bee"), rows[4].replace(",bee", ",ant")
    (tmp_path / "list.csv").write_text("path,label,split\n" + "".join(rows))
    found = difference(before, identity(load_data("list.csv", tmp_path)))
    assert found == ("the training images that it began with", "other labels")


def test_data_that_moved_as_a_whole_are_the_same(tmp_path: Path, folder: Path):
    before = identity(load_data(str(folder)))
    folder.rename(tmp_path / "moved")
    assert difference(before, identity(load_data("moved", tmp_path))) is None


def test_a_file_that_is_not_there_has_no_size_and_no_error(folder: Path):
    data = load_data(str(folder))
    before = identity(data)
    Path(data.train.name(0)).unlink()
    assert difference(before, identity(data)) == ("the training images that it began with", "other file sizes")


def test_pixels_in_memory_are_looked_at(folder: Path):
    data = load_data("digits")
    assert isinstance(data.train, Arrays)
    images = data.train.images.copy()
    images[5, 3, 3, 0] ^= 1
    changed = replace(data, train=Arrays(images, data.train.labels, data.train.title))
    assert difference(identity(data), identity(changed)) is not None
    assert difference(identity(data), identity(load_data("digits"))) is None


def test_a_union_looks_into_each_of_its_sets(tmp_path: Path, folder: Path, fill: Fill):
    fill(tmp_path / "more", {"x": 5, "y": 5})
    before = identity(load_data("data,more", tmp_path))
    path = Path(load_data("more", tmp_path).train.name(0))
    path.write_bytes(path.read_bytes() + b"longer")
    assert difference(before, identity(load_data("data,more", tmp_path))) is not None


@pytest.mark.parametrize("before", [None, {}, "data", {"classes": ["ant"]}])
def test_a_state_without_a_description_is_refused(folder: Path, before: object):
    assert difference(before, identity(load_data(str(folder)))) is not None


def test_labels_of_numpy_make_no_difference():
    data, images = load_data("digits"), np.zeros((2, 1, 1, 3), np.uint8)
    one, other = (Arrays(images, np.array([0, 1], kind), "x") for kind in (np.int64, np.int32))
    assert identity(replace(data, train=one)) == identity(replace(data, train=other))

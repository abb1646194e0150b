"""Folders of classes: cut once and for all, or taken as they are split; and refused by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pgn_edge.errors import DataError
from pgn_edge.left_out import LeftOut, Reason
from pgn_edge.train.data import DataSet, Reading, Samples, load_data

Fill = Callable[..., Path]


def splits(data: DataSet) -> dict[str, Samples]:
    return {"train": data.train, "validation": data.validation, "test": data.test}


def names(samples: Samples) -> list[str]:
    return [samples.name(index) for index in range(len(samples))]


def test_a_folder_of_classes_is_cut_once_and_for_all(tmp_path: Path, fill: Fill):
    folder = fill(tmp_path / "animals", {"dog": 20, "cat": 10})
    data = load_data("animals", tmp_path)
    assert (data.name, data.labels) == ("animals", ("cat", "dog"))
    assert data.spaces[0].template == "a photo of a {}"
    counts = {name: np.bincount(samples.labels).tolist() for name, samples in splits(data).items()}
    assert counts == {"train": [7, 14], "validation": [1, 2], "test": [2, 4]}
    found = [name for samples in splits(data).values() for name in names(samples)]
    assert len(found) == len(set(found)) == 30
    again = load_data(str(folder))
    assert {part: names(samples) for part, samples in splits(again).items()} == {
        part: names(samples) for part, samples in splits(data).items()
    }


def test_each_image_has_the_label_of_its_folder(tmp_path: Path, fill: Fill):
    data = load_data(str(fill(tmp_path / "few", {"one": 4, "three": 4})))
    for samples in splits(data).values():
        for index, label in enumerate(samples.labels):
            assert samples.read(index)[0, 0, 2] == len(data.labels[label])


def test_of_two_halves_the_validation_comes_from_train(tmp_path: Path, fill: Fill):
    fill(tmp_path / "train", {"cat": 10, "dog": 10})
    fill(tmp_path / "test", {"cat": 5, "dog": 5}, start=100)
    data = load_data(".", tmp_path)
    assert [len(samples) for samples in splits(data).values()] == [18, 2, 10]
    assert all("/train/" in name for name in names(data.train) + names(data.validation))
    assert all("/test/" in name for name in names(data.test))
    assert not set(names(data.train)) & set(names(data.validation))


@pytest.mark.parametrize("name", ["validation", "val", "valid"])
def test_a_validation_folder_is_taken_as_it_is(tmp_path: Path, fill: Fill, name: str):
    for part, count in (("train", 3), (name, 2), ("test", 1)):
        fill(tmp_path / part, {"a": count, "b": count})
    data = load_data(".", tmp_path)
    assert [len(samples) for samples in splits(data).values()] == [6, 4, 2]
    assert all(f"/{name}/" in each for each in names(data.validation))


def test_a_class_may_be_called_train(tmp_path: Path, fill: Fill):
    data = load_data(str(fill(tmp_path / "vehicles", {"bus": 3, "car": 3, "train": 3})))
    assert data.labels == ("bus", "car", "train")


def test_three_images_of_a_class_give_one_for_each_split(tmp_path: Path, fill: Fill):
    data = load_data(str(fill(tmp_path / "few", {"a": 3, "b": 3})))
    for samples in splits(data).values():
        assert samples.labels.tolist() == [0, 1]


def test_other_files_and_hidden_files_are_no_images(tmp_path: Path, fill: Fill):
    folder = fill(tmp_path / "mixed", {"a": 4, "b": 4})
    (folder / "a" / "notes.txt").write_text("not an image")
    (folder / "a" / ".hidden.png").write_bytes(b"a system's own file")
    (folder / "readme.md").write_text("beside the classes")
    (folder / ".ipynb_checkpoints").mkdir()
    data = load_data(str(folder))
    assert sum(len(samples) for samples in splits(data).values()) == 8


def test_images_may_lie_deeper_and_behind_links(tmp_path: Path, fill: Fill):
    folder = fill(tmp_path / "deep", {"a": 3})
    fill(folder / "a", {"camera 2": 2})
    fill(tmp_path / "elsewhere", {"b": 5})
    (folder / "b").symlink_to(tmp_path / "elsewhere" / "b")
    (folder / "a" / "broken.png").symlink_to(tmp_path / "nothing.png")
    data = load_data(str(folder))
    assert data.labels == ("a", "b")
    assert sum(len(samples) for samples in splits(data).values()) == 10


def test_an_unreadable_image_is_found_when_it_is_read(tmp_path: Path, fill: Fill):
    folder = fill(tmp_path / "data", {"a": 5, "b": 5})
    bad = folder / "a" / "03.png"
    bad.write_bytes(bad.read_bytes()[:-30])
    data = load_data(str(folder))
    where = {name: (samples, i) for samples in splits(data).values() for i, name in enumerate(names(samples))}
    samples, index = where[str(bad)]
    with pytest.raises(DataError, match=r"03\.png: expected an image"):
        samples.read(index)


def test_formats_are_known_by_their_content(tmp_path: Path, fill: Fill):
    folder = fill(tmp_path / "data", {"a": 3, "b": 3})
    Image.new("RGB", (10, 10), (1, 2, 3)).save(folder / "a" / "00.png", format="TIFF")
    data = load_data(str(folder))
    for samples in splits(data).values():
        for index in range(len(samples)):
            assert samples.read(index).shape == (10, 10, 3)


def test_the_folder_that_one_stands_in_has_a_name_too(tmp_path: Path, fill: Fill, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(fill(tmp_path / "pets", {"a": 3, "b": 3}))
    assert load_data(".").name == "pets"


@pytest.mark.parametrize(
    "spelling",
    [
        ("Train", "Test"),
        ("TRAIN", "TEST"),
        ("training", "testing"),
        ("Training Set", "test_data"),
        ("trainset", "eval"),
        ("train-images", "Evaluation"),
    ],
    ids=" and ".join,
)
def test_splits_in_any_common_spelling_are_not_taken_for_classes(tmp_path: Path, fill: Fill, spelling: tuple[str, str]):
    for name in spelling:
        fill(tmp_path / name, {"cat": 4, "dog": 4})
    data = load_data(".", tmp_path)
    assert data.labels == ("cat", "dog")
    assert all(f"/{spelling[0]}/" in name for name in names(data.train) + names(data.validation))
    assert all(f"/{spelling[1]}/" in name for name in names(data.test))


@pytest.mark.parametrize("name", ["val", "Valid", "dev", "Validation"])
def test_train_and_validation_without_test_is_taken_and_said(tmp_path: Path, fill: Fill, name: str):
    fill(tmp_path / "pets" / "train", {"cat": 10, "dog": 10})
    fill(tmp_path / "pets" / name, {"cat": 3, "dog": 3})
    data = load_data("./pets", tmp_path)
    assert [len(samples) for samples in splits(data).values()] == [18, 2, 6]
    assert all(f"/{name}/" in each for each in names(data.test)), "test images choose nothing"
    assert data.notes == (
        f"pets: there is no test split: {name} is the test split, and a tenth of the training images validates",
    )


def test_a_folder_that_is_cut_says_so_and_one_with_train_and_test_needs_no_note(tmp_path: Path, fill: Fill):
    (note,) = load_data(str(fill(tmp_path / "plain", {"a": 3, "b": 3}))).notes
    assert note == "plain: there are no splits: a fifth of each class is the test split, the same in every run"
    for name in ("train", "test"):
        fill(tmp_path / "split" / name, {"a": 3, "b": 3})
    assert load_data("split", tmp_path).notes == ()


@pytest.mark.parametrize(
    "split_names", [("train_2023", "train_2024"), ("fold1-train", "fold2-test"), ("train", "rest")]
)
def test_folders_that_look_like_splits_and_are_not_understood_are_refused(
    tmp_path: Path, fill: Fill, split_names: tuple[str, ...]
):
    for name in split_names:
        fill(tmp_path / name, {"cat": 3, "dog": 3})
    with pytest.raises(DataError, match=r"classes, or splits .*, got .*; rename .* understood are train: train, trai"):
        load_data(".", tmp_path)


def test_classes_that_hold_the_same_folders_stay_classes(tmp_path: Path, fill: Fill):
    for name in ("good", "cracked"):
        fill(tmp_path / name, {"line 1": 3, "line 2": 3})
    assert load_data(".", tmp_path).labels == ("cracked", "good")


def test_a_folder_beside_the_splits_is_counted(tmp_path: Path, fill: Fill):
    for name in ("train", "test", "unlabelled"):
        fill(tmp_path / name, {"cat": 4, "dog": 4})
    left_out = LeftOut()
    load_data(".", tmp_path, reading=Reading(left_out))
    assert left_out.count(Reason.SUBFOLDER) == 1


def test_copies_that_a_notebook_keeps_are_in_no_split(tmp_path: Path, fill: Fill):
    folder = fill(tmp_path / "data", {"a": 10, "b": 10})
    fill(folder / "a", {".ipynb_checkpoints": 10})
    data = load_data(str(folder))
    assert sum(len(samples) for samples in splits(data).values()) == 20


def test_a_class_of_heic_photographs_says_so(tmp_path: Path, fill: Fill):
    folder = fill(tmp_path / "phone", {"a": 10, "b": 1})
    for index in range(9):
        (folder / "b" / f"{index}.HEIC").write_bytes(b"")
    with pytest.raises(DataError, match=r"b: expected at least 3 images .* got 1 beside 9 pictures in unsup"):
        load_data(str(folder))


def test_an_accent_written_in_two_ways_is_one_class(tmp_path: Path, fill: Fill):
    fill(tmp_path / "train", {"caf\u00e9": 4, "bar": 4})
    fill(tmp_path / "test", {"cafe\u0301": 2, "bar": 2})
    data = load_data(".", tmp_path)
    assert data.labels == ("bar", "caf\u00e9")
    assert len(data.test) == 4
    assert data.test.read(3).shape == (10, 10, 3)
    fill(tmp_path / "train", {"cafe\u0301": 4})
    with pytest.raises(DataError, match="two spellings of 'caf\u00e9' that look the same"):
        load_data(".", tmp_path)


def test_a_class_none_of_whose_images_can_be_read_is_refused_before_training(tmp_path: Path, fill: Fill):
    folder = fill(tmp_path / "data", {"a": 8, "b": 8})
    for path in (folder / "b").iterdir():
        path.write_bytes(b"")
    data, left_out = load_data(str(folder)), LeftOut()
    with pytest.raises(DataError, match=r"data, class b: expected at least one .* got none of \d, .*: an empty file"):
        data.require_readable(left_out)
    assert left_out.count() == 5


def test_one_readable_image_of_each_class_is_enough(tmp_path: Path, fill: Fill):
    folder = fill(tmp_path / "data", {"a": 8, "b": 8})
    data, left_out = load_data(str(folder)), LeftOut()
    Path(data.train.name(0)).write_bytes(b"")
    data.require_readable(left_out)
    assert left_out.count() == 1


def test_white_reaches_the_files_of_a_folder(tmp_path: Path, fill: Fill):
    folder = fill(tmp_path / "data", {"a": 3, "b": 3})
    for path in (folder / "a").iterdir():
        Image.fromarray(np.full((4, 4), 4095, np.uint16)).save(path)
    data = load_data(str(folder), reading=Reading(white=4095))
    assert data.train.read(0).min() == 255


def no_classes(folder: Path, fill: Fill) -> str:
    folder.mkdir()
    (folder / "image.png").write_bytes(b"beside, not inside a class")
    return "at least two class folders"


def one_class(folder: Path, fill: Fill) -> str:
    fill(folder, {"a": 5})
    return "got 1 folders"


def empty_class(folder: Path, fill: Fill) -> str:
    fill(folder, {"a": 5, "b": 0})
    return f"{folder / 'b'}: expected at least 3 images (.png, .jpg,"


def too_few(folder: Path, fill: Fill) -> str:
    fill(folder, {"a": 2, "b": 5})
    return f"{folder / 'a'}: expected at least 3 images"


def one_to_train_and_none_to_validate(folder: Path, fill: Fill) -> str:
    fill(folder / "train", {"a": 1, "b": 5})
    fill(folder / "test", {"a": 5, "b": 5})
    return f"{folder / 'train' / 'a'}: expected at least 2 images"


def class_without_test_images(folder: Path, fill: Fill) -> str:
    fill(folder / "train", {"a": 5, "b": 5})
    fill(folder / "test", {"a": 5})
    return f"{folder / 'test' / 'b'}: expected at least 1 images"


def class_that_is_not_trained(folder: Path, fill: Fill) -> str:
    fill(folder / "train", {"a": 5, "b": 5})
    fill(folder / "test", {"a": 5, "b": 5, "c": 5})
    return f"{folder / 'test'}: expected the classes of {folder / 'train'}, got 'c'"


def class_that_is_only_validated(folder: Path, fill: Fill) -> str:
    for part in ("train", "test"):
        fill(folder / part, {"a": 5, "b": 5})
    fill(folder / "val", {"a": 5, "b": 5, "c": 5})
    return f"{folder / 'val'}: expected the classes of {folder / 'train'}, got 'c'"


def train_alone(folder: Path, fill: Fill) -> str:
    fill(folder / "train", {"a": 5, "b": 5})
    return "expected train, with one test or validation folder or both, got train"


def two_validation_splits(folder: Path, fill: Fill) -> str:
    for part in ("train", "val", "validation", "test"):
        fill(folder / part, {"a": 5, "b": 5})
    return "expected train, with one test or validation folder or both, got test, train, val, validation"


def missing(folder: Path, fill: Fill) -> str:
    return "a folder of classes or a .csv, got"


def a_file(folder: Path, fill: Fill) -> str:
    folder.write_text("no folder")
    return "a folder of classes or a .csv, got"


@pytest.mark.parametrize(
    "prepare",
    [
        no_classes,
        one_class,
        empty_class,
        too_few,
        one_to_train_and_none_to_validate,
        class_without_test_images,
        class_that_is_not_trained,
        class_that_is_only_validated,
        train_alone,
        two_validation_splits,
        missing,
        a_file,
    ],
    ids=lambda prepare: prepare.__name__.replace("_", " "),
)
def test_folders_that_are_refused(tmp_path: Path, fill: Fill, prepare: Callable[[Path, Fill], str]):
    says = prepare(tmp_path / "data", fill)
    with pytest.raises(DataError) as caught:
        load_data("data", tmp_path)
    assert says in str(caught.value)


def test_a_folder_without_rights_is_refused(tmp_path: Path, fill: Fill, monkeypatch: pytest.MonkeyPatch):
    def locked(path: str) -> None:  # the rights themselves do not stop root
        raise PermissionError(13, "Permission denied", path)

    folder = fill(tmp_path / "data", {"a": 3, "b": 3})
    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(DataError, match="data: expected a folder that can be opened, got Permission denied"):
        load_data(str(folder))

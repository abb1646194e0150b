"""What the readers share: names of classes, paths kept as text, and what counts as an image of a class."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgn_edge.errors import DataError
from pgn_edge.labels import DATASETS, load_labels
from pgn_edge.train.data.readers import eurosat, sun397, ucf101
from pgn_edge.train.data.readers.files import Paths, class_folders, class_items, image_names, is_inside, namer

ALIASES = {module.__name__.rpartition(".")[2]: module.ALIASES for module in (eurosat, sun397, ucf101)}


@pytest.mark.parametrize("data", DATASETS)
def test_namer_knows_each_name_of_the_list(data: str):
    names = load_labels(data)
    assert tuple(map(namer(data, ALIASES.get(data)), names)) == names
    assert set(ALIASES.get(data, {}).values()) <= set(names)


@pytest.mark.parametrize(
    ("data", "on_disk", "name"),
    [
        pytest.param("ucf101", "Yo_Yo", "yo-yo", id="hyphen"),
        pytest.param("sun397", "batters_box", "batter's box", id="apostrophe"),
        pytest.param("sun397", "thriftshop", "thrift shop", id="one word on disk"),
        pytest.param("food101", "Pad_Thai", "pad thai", id="capitals"),
        pytest.param("food101", "Dutch_stroopwafel", "dutch stroopwafel", id="not in the list"),
    ],
)
def test_namer_sees_through_how_names_are_written(data: str, on_disk: str, name: str):
    assert namer(data)(on_disk) == name


def test_paths_are_a_sequence_of_paths():
    paths = Paths(Path("images"), ["a/1.jpg", "b/2.jpg", "b/3.jpg"])
    assert list(paths) == [Path("images/a/1.jpg"), Path("images/b/2.jpg"), Path("images/b/3.jpg")]
    assert list(paths[1:]) == [Path("images/b/2.jpg"), Path("images/b/3.jpg")]
    assert (len(paths), paths[-1]) == (3, Path("images/b/3.jpg"))


def test_images_of_a_class_are_files_with_the_suffix_of_an_image(tmp_path: Path):
    for name in ("cat/2.JPEG", "cat/10.png", "cat/.hidden.jpg", "cat/notes.txt", "cat/deep.jpg/1.jpg", "readme.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / ".cache").mkdir()
    assert class_folders(tmp_path, "a tree") == ["cat"]
    assert class_items(tmp_path, {"cat": 4}) == [("cat/10.png", 4), ("cat/2.JPEG", 4)]
    assert image_names(tmp_path / "dog") == []
    with pytest.raises(DataError, match="dog: expected images of this class, got no such folder"):
        class_items(tmp_path, {"dog": 0})


def test_folder_without_classes_shows_the_expected_tree(tmp_path: Path):
    with pytest.raises(DataError, match="expected a tree, got no class folder"):
        class_folders(tmp_path, "a tree")
    with pytest.raises(DataError, match="expected a tree, got No such file"):
        class_folders(tmp_path / "nowhere", "a tree")


@pytest.mark.parametrize("name", ["", "/a.jpg", "../a.jpg", "a/../../b.jpg", "a\0.jpg", "a\n.jpg"])
def test_path_that_leaves_its_folder_is_seen(name: str):
    assert not is_inside(name)
    assert is_inside("a/b..c/1.jpg")

"""CoOp's split files, for the readers that take one, and EuroSAT and RESISC45, which have no official split."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pgn_edge.errors import DataError
from pgn_edge.train.data.readers import dtd, eurosat, flowers102, food101, pets, resisc45, sun397, ucf101

Case = tuple[ModuleType, str, str, list[tuple[str, str, str]]]  # reader, split file, images, (stem, name, label)
CASES: list[Case] = [
    (
        dtd,
        "dtd/split_zhou_DescribableTextures.json",
        "dtd/images",
        [("banded/b", "banded", "banded"), ("polka-dotted/p", "polka-dotted", "polka-dotted")],
    ),
    (
        eurosat,
        "eurosat/split_zhou_EuroSAT.json",
        "eurosat/2750",
        [("AnnualCrop/AnnualCrop_", "Annual Crop Land", "annual crop land"), ("River/River_", "River", "river")],
    ),
    (
        flowers102,
        "oxford_flowers/split_zhou_OxfordFlowers.json",
        "oxford_flowers/jpg",
        [("image_00", "pink primrose", "pink primrose"), ("image_01", "colt's foot", "colt's foot")],
    ),
    (
        food101,
        "food-101/split_zhou_Food101.json",
        "food-101/images",
        [("apple_pie/", "apple_pie", "apple pie"), ("waffles/", "waffles", "waffles")],
    ),
    (
        pets,
        "oxford_pets/split_zhou_OxfordPets.json",
        "oxford_pets/images",
        [("Abyssinian_", "abyssinian", "abyssinian"), ("shiba_inu_", "shiba_inu", "shiba inu")],
    ),
    (
        resisc45,
        "resisc45/resisc45_json.json",
        "resisc45/NWPU-RESISC45",
        [
            ("airplane/a_", "airplane", "airplane"),
            ("dense_residential/d_", "dense_residential", "dense residential"),
        ],
    ),
    (
        sun397,
        "sun397/split_zhou_SUN397.json",
        "sun397/SUN397",
        [("a/abbey/sun_", "abbey", "abbey"), ("t/temple/east_asia/sun_", "east_asia temple", "east asian temple")],
    ),
    (
        ucf101,
        "ucf101/split_zhou_UCF101.json",
        "ucf101/UCF-101-midframes",
        [("Mopping_Floor/v_", "Mopping_Floor", "mopping a floor"), ("Yo_Yo/v_", "Yo_Yo", "yo-yo")],
    ),
]
IDS = [case[0].__name__.rpartition(".")[2] for case in CASES]


def split_of(classes: list[tuple[str, str, str]]) -> dict[str, list[list[Any]]]:
    """Two classes, the second one first; three images of each for training, one for validation and two for test."""
    numbers = {"train": (1, 2, 3), "val": (4,), "test": (5, 6)}
    return {
        part: [[f"{classes[label][0]}{n}.jpg", label, classes[label][1]] for n in which for label in (1, 0)]
        for part, which in numbers.items()
    }


def write_json(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=4))


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_split_file_is_followed(tmp_path: Path, pictures, listing: Callable, case: Case):
    reader, file, images, classes = case
    split = split_of(classes)
    write_json(tmp_path / file, split)
    expected = {part: [(f"{images}/{name}", label) for name, label, _ in rows] for part, rows in split.items()}
    for rows in expected.values():
        for name, _ in rows:
            pictures.write(name)
    parts = listing(reader.read, tmp_path)
    assert parts.labels == tuple(label for _, _, label in classes)
    pictures.check(parts.train, expected["train"])
    pictures.check(parts.validation, expected["val"])
    pictures.check(parts.test, expected["test"])


@pytest.mark.parametrize("reader", [case[0] for case in CASES], ids=IDS)
def test_missing_folder_shows_the_expected_tree(tmp_path: Path, reader: ModuleType):
    with pytest.raises(DataError) as error:
        reader.read(tmp_path)
    assert error.value.expected == reader.LAYOUT
    assert error.value.got == "an empty folder"


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_split_without_images_is_refused(tmp_path: Path, case: Case):
    reader, file, _, classes = case
    write_json(tmp_path / file, split_of(classes))
    with pytest.raises(DataError) as error:
        reader.read(tmp_path)
    assert error.value.expected == reader.LAYOUT
    assert error.value.got.startswith("no ")


def resisc(root: Path, document: Any) -> None:
    (root / "NWPU-RESISC45").mkdir(exist_ok=True)
    write_json(root / "resisc45_json.json", document)
    resisc45.read(root)


def changed(part: str, index: int, entry: Any) -> dict[str, list[Any]]:
    split = split_of([("a/", "airplane", ""), ("b/", "airport", "")])
    split[part][index] = entry
    return split


@pytest.mark.parametrize(
    ("document", "message"),
    [
        pytest.param([1, 2], "no list 'train'", id="no object"),
        pytest.param({"train": [], "test": []}, "no list 'val'", id="part missing"),
        pytest.param({"train": [], "val": [], "test": []}, "got 0 and 0", id="empty"),
        pytest.param(changed("test", 2, ["a/9.jpg", 0]), r"as test\[2\]", id="entry too short"),
        pytest.param(changed("val", 1, ["a/9.jpg", "0", "airplane"]), r"as val\[1\]", id="label is text"),
        pytest.param(changed("val", 1, ["a/9.jpg", True, "airplane"]), r"as val\[1\]", id="label is true"),
        pytest.param(changed("train", 1, ["a/9.jpg", -1, "airplane"]), r"as train\[1\]", id="negative label"),
        pytest.param(
            changed("test", 1, ["a/9.jpg", 7, "harbor"]), "labels 0 to 2 for 3 classes, got label 7", id="gap"
        ),
        pytest.param(
            changed("train", 1, ["a/9.jpg", 1, "harbor"]), "'airport' and 'harbor' for label 1", id="two names"
        ),
        pytest.param(changed("train", 1, ["../9.jpg", 0, "airplane"]), r"as train\[1\]", id="path leaves the folder"),
        pytest.param(changed("train", 1, ["/etc/a.jpg", 0, "airplane"]), r"as train\[1\]", id="absolute path"),
    ],
)
def test_split_of_another_form_is_refused(tmp_path: Path, document: Any, message: str):
    with pytest.raises(DataError, match=message):
        resisc(tmp_path, document)


@pytest.mark.parametrize("data", [b"", b'{"train": [["a/1.jpg", 0,', b"\xff\xfe", b"[" * 200_000], ids=repr)
def test_split_that_is_no_json_is_refused(tmp_path: Path, data: bytes):
    (tmp_path / "NWPU-RESISC45").mkdir()
    (tmp_path / "resisc45_json.json").write_bytes(data)
    with pytest.raises(DataError, match=r"resisc45_json\.json: expected a whole JSON document"):
        resisc45.read(tmp_path)


def test_resisc45_without_its_split_says_where_it_is(tmp_path: Path):
    (tmp_path / "resisc45/NWPU-RESISC45/airport").mkdir(parents=True)
    with pytest.raises(DataError, match=r"resisc45_json\.json from data/resisc45 of .*, got no resisc45_json\.json"):
        resisc45.read(tmp_path)


def test_eurosat_without_a_split_file_is_cut_the_same_way_each_time(tmp_path: Path, pictures, listing: Callable):
    folders = ["AnnualCrop", "Forest", "SeaLake"]
    names = [f"eurosat/2750/{folder}/{folder}_{n}.jpg" for folder in folders for n in range(1, 11)]
    for name in reversed(names):
        pictures.write(name)
    parts = listing(eurosat.read, tmp_path)
    assert parts.labels == ("annual crop land", "forest", "sea or lake")
    assert parts.validation is None
    assert np.bincount(parts.train.labels).tolist() == [7, 7, 7]
    assert np.bincount(parts.test.labels).tolist() == [3, 3, 3]
    listed = [
        (str(Path(samples.name(index)).relative_to(tmp_path)), int(samples.labels[index]))
        for samples in (parts.train, parts.test)
        for index in range(len(samples))
    ]
    assert sorted(listed) == sorted((name, folders.index(name.split("/")[2])) for name in names)
    pictures.check(parts.train, listed[:21])
    again = eurosat.read(tmp_path)
    assert [again.test.name(n) for n in range(9)] == [parts.test.name(n) for n in range(9)]


def test_eurosat_class_without_images_is_named(tmp_path: Path, pictures):
    pictures.write("eurosat/2750/Forest/Forest_1.jpg")
    (tmp_path / "eurosat/2750/River").mkdir()
    (tmp_path / "eurosat/2750/River/notes.txt").write_text("none yet")
    with pytest.raises(DataError, match="River: expected images of this class, got none"):
        eurosat.read(tmp_path)

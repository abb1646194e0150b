"""Food-101, DTD, SUN397, UCF101 and Pets by their official lists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from pgn_edge.errors import DataError
from pgn_edge.labels import load_labels
from pgn_edge.train.data.readers import dtd, food101, pets, sun397, ucf101
from pgn_edge.train.data.readers.files import namer


def write_lists(root: Path, lists: dict[str, list[str]]) -> None:
    for name, lines in lists.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("".join(f"{line}\n" for line in lines))


FOOD = {
    "food-101/meta/classes.txt": ["apple_pie", "baby_back_ribs", "lobster_roll_sandwich"],
    "food-101/meta/train.txt": ["apple_pie/1005649", "lobster_roll_sandwich/7", "baby_back_ribs/14", "apple_pie/2"],
    "food-101/meta/test.txt": ["baby_back_ribs/3", "apple_pie/4", "lobster_roll_sandwich/5"],
}
DTD = {
    "dtd/labels/train1.txt": ["polka-dotted/polka-dotted_0001.jpg", "banded/banded_0002.jpg", "grid/grid_0003.jpg"],
    "dtd/labels/val1.txt": ["grid/grid_0004.jpg", "banded/banded_0005.jpg"],
    "dtd/labels/test1.txt": ["banded/banded_0006.jpg", "grid/grid_0007.jpg", "polka-dotted/polka-dotted_0008.jpg"],
}
SUN = {
    "sun397/ClassName.txt": ["/a/abbey", "/b/bakery/shop", "/t/theater/indoor_procenium", "/t/track/outdoor"],
    "sun397/Training_01.txt": [
        "/t/track/outdoor/sun_aaa.jpg",
        "/a/abbey/sun_bbb.jpg",
        "/b/bakery/shop/sun_ccc.jpg",
        "/t/theater/indoor_procenium/sun_ddd.jpg",
    ],
    "sun397/Testing_01.txt": ["/b/bakery/shop/sun_eee.jpg", "/a/abbey/sun_fff.jpg", "/t/track/outdoor/sun_ggg.jpg"],
}
UCF = {
    "ucf101/ucfTrainTestlist/classInd.txt": ["1 ApplyEyeMakeup", "2 HandstandPushups", "3 WalkingWithDog", "4 YoYo"],
    "ucf101/ucfTrainTestlist/trainlist01.txt": [
        "YoYo/v_YoYo_g08_c01.avi 4",
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1",
        "HandstandPushups/v_HandStandPushups_g08_c02.avi 2",
        "WalkingWithDog/v_WalkingWithDog_g09_c01.avi 3",
    ],
    "ucf101/ucfTrainTestlist/testlist01.txt": [
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
        "HandstandPushups/v_HandStandPushups_g01_c04.avi",
    ],
}
PETS = {
    "oxford_pets/annotations/trainval.txt": [
        "Abyssinian_100 1 1 1",
        "american_bulldog_10 2 2 1",
        "Abyssinian_101 1 1 1",
        "american_pit_bull_terrier_1 3 2 2",
    ],
    "oxford_pets/annotations/test.txt": ["american_bulldog_2 2 2 1", "american_pit_bull_terrier_3 3 2 2"],
}
LISTS = {food101: FOOD, dtd: DTD, sun397: SUN, ucf101: UCF, pets: PETS}


def test_food101_by_its_lists(tmp_path: Path, pictures, listing: Callable):
    write_lists(tmp_path, FOOD)
    at = "food-101/images"
    train = [(f"{at}/apple_pie/1005649.jpg", 0), (f"{at}/lobster_roll_sandwich/7.jpg", 2)]
    train += [(f"{at}/baby_back_ribs/14.jpg", 1), (f"{at}/apple_pie/2.jpg", 0)]
    test = [(f"{at}/baby_back_ribs/3.jpg", 1), (f"{at}/apple_pie/4.jpg", 0), (f"{at}/lobster_roll_sandwich/5.jpg", 2)]
    for name, _ in train + test:
        pictures.write(name)
    parts = listing(food101.read, tmp_path)
    assert parts.labels == ("apple pie", "baby back ribs", "lobster roll sandwich")
    assert parts.validation is None
    pictures.check(parts.train, train)
    pictures.check(parts.test, test)


def test_dtd_by_its_first_split(tmp_path: Path, pictures, listing: Callable):
    write_lists(tmp_path, DTD)
    labels = {"banded": 0, "grid": 1, "polka-dotted": 2}
    parts = {}
    for part in ("train", "val", "test"):
        lines = DTD[f"dtd/labels/{part}1.txt"]
        parts[part] = [(f"dtd/images/{line}", labels[line.split("/")[0]]) for line in lines]
        for name, _ in parts[part]:
            pictures.write(name)
    found = listing(dtd.read, tmp_path)
    assert found.labels == ("banded", "grid", "polka-dotted")
    pictures.check(found.train, parts["train"])
    pictures.check(found.validation, parts["val"])
    pictures.check(found.test, parts["test"])


@pytest.mark.parametrize("tree", ["as published", "lists among the images", "images at the root"])
def test_sun397_by_its_first_partition(tmp_path: Path, pictures, listing: Callable, tree: str):
    lists, images = {
        "as published": ("sun397", "sun397/SUN397"),
        "lists among the images": ("sun397/SUN397", "sun397/SUN397"),
        "images at the root": (".", "SUN397"),
    }[tree]
    write_lists(tmp_path, {name.replace("sun397", lists): lines for name, lines in SUN.items()})
    train = [("t/track/outdoor/sun_aaa", 3), ("a/abbey/sun_bbb", 0), ("b/bakery/shop/sun_ccc", 1)]
    train = [(f"{images}/{name}.jpg", label) for name, label in [*train, ("t/theater/indoor_procenium/sun_ddd", 2)]]
    test = [("b/bakery/shop/sun_eee", 1), ("a/abbey/sun_fff", 0), ("t/track/outdoor/sun_ggg", 3)]
    test = [(f"{images}/{name}.jpg", label) for name, label in test]
    for name, _ in train + test:
        pictures.write(name)
    parts = listing(sun397.read, tmp_path)
    assert parts.labels == ("abbey", "bakery shop", "indoor theater proscenium", "outdoor track")
    pictures.check(parts.train, train)
    pictures.check(parts.test, test)


@pytest.mark.parametrize("folders", ["Apply_Eye_Makeup Handstand_Pushups Walking_With_Dog Yo_Yo", "as the lists"])
def test_ucf101_by_its_first_split(tmp_path: Path, pictures, listing: Callable, folders: str):
    write_lists(tmp_path, UCF)
    own = ["ApplyEyeMakeup", "HandstandPushups", "WalkingWithDog", "YoYo"]
    names = own if folders == "as the lists" else folders.split()
    at = [f"ucf101/UCF-101-midframes/{name}" for name in names]
    train = [(f"{at[3]}/v_YoYo_g08_c01.jpg", 3), (f"{at[0]}/v_ApplyEyeMakeup_g08_c01.jpg", 0)]
    train += [(f"{at[1]}/v_HandStandPushups_g08_c02.jpg", 1), (f"{at[2]}/v_WalkingWithDog_g09_c01.jpg", 2)]
    test = [(f"{at[0]}/v_ApplyEyeMakeup_g01_c01.jpg", 0), (f"{at[1]}/v_HandStandPushups_g01_c04.jpg", 1)]
    for name, _ in train + test:
        pictures.write(name)
    parts = listing(ucf101.read, tmp_path)
    assert parts.labels == ("apply eye makeup", "handstand push-ups", "walking with a dog", "yo-yo")
    pictures.check(parts.train, train)
    pictures.check(parts.test, test)


@pytest.mark.parametrize("place", ["oxford_pets", "oxford-iiit-pet", "."])
def test_pets_by_their_lists(tmp_path: Path, pictures, listing: Callable, place: str):
    write_lists(tmp_path, {name.replace("oxford_pets", place): lines for name, lines in PETS.items()})
    at = Path(place) / "images"
    train = [
        ("Abyssinian_100", 0),
        ("american_bulldog_10", 1),
        ("Abyssinian_101", 0),
        ("american_pit_bull_terrier_1", 2),
    ]
    train = [(f"{at}/{name}.jpg", label) for name, label in train]
    test = [(f"{at}/american_bulldog_2.jpg", 1), (f"{at}/american_pit_bull_terrier_3.jpg", 2)]
    for name, _ in train + test:
        pictures.write(name)
    parts = listing(pets.read, tmp_path)
    assert parts.labels == ("abyssinian", "american bulldog", "american pit bull terrier")
    pictures.check(parts.train, train)
    pictures.check(parts.test, test)


def write_tree(root: Path, reader: ModuleType) -> None:
    """Lists and folders of images, without images."""
    write_lists(root, LISTS[reader])
    folder = (root / next(iter(LISTS[reader]))).relative_to(root).parts[0]
    images = {sun397: "SUN397", ucf101: "UCF-101-midframes"}.get(reader, "images")
    for name in ("banded", "grid", "polka-dotted") if reader is dtd else (".",):
        (root / folder / images / name).mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize("reader", LISTS, ids=lambda reader: reader.__name__.rpartition(".")[2])
def test_missing_folder_shows_the_expected_tree(tmp_path: Path, reader: ModuleType):
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError) as error:
            reader.read(root)
        assert error.value.expected == reader.LAYOUT
        assert "--root" in error.value.do


@pytest.mark.parametrize(
    ("reader", "name"),
    [
        pytest.param(reader, name, id=name)
        for reader, lists in LISTS.items()
        for name in lists
        if not name.endswith("Training_01.txt")  # by this one the folder itself is known
    ],
)
def test_missing_list_is_named(tmp_path: Path, reader: ModuleType, name: str):
    write_tree(tmp_path, reader)
    (tmp_path / name).unlink()
    with pytest.raises(DataError) as error:
        reader.read(tmp_path)
    assert Path(name).name in str(error.value)
    assert error.value.expected == reader.LAYOUT


@pytest.mark.parametrize(
    ("reader", "name", "line", "message"),
    [
        pytest.param(food101, "food-101/meta/test.txt", "soup/1", r"got 'soup/1' in line 4", id="food: class"),
        pytest.param(food101, "food-101/meta/test.txt", "1005649", r"got '1005649' in line 4", id="food: no class"),
        pytest.param(
            dtd, "dtd/labels/val1.txt", "felt/felt_1.jpg", r"got 'felt/felt_1.jpg' in line 3", id="dtd: class"
        ),
        pytest.param(sun397, "sun397/Testing_01.txt", "/z/zoo/a.jpg", r"got '/z/zoo/a.jpg' in line 4", id="sun: class"),
        pytest.param(
            ucf101, "ucf101/ucfTrainTestlist/testlist01.txt", "Nap/v.avi", r"got 'Nap/v.avi'", id="ucf: class"
        ),
        pytest.param(
            ucf101, "ucf101/ucfTrainTestlist/classInd.txt", "6 Nap", r"got '6 Nap'", id="ucf: number left out"
        ),
        pytest.param(
            ucf101, "ucf101/ucfTrainTestlist/testlist01.txt", "YoYo/../a.avi", r"got 'YoYo/..", id="ucf: path"
        ),
        pytest.param(
            pets, "oxford_pets/annotations/test.txt", "pug_1 0 2 1", r"got 'pug_1 0 2 1'", id="pets: number 0"
        ),
        pytest.param(
            pets, "oxford_pets/annotations/test.txt", "pug_1 5 2 1", r"with number 5", id="pets: number left out"
        ),
        pytest.param(
            pets, "oxford_pets/annotations/test.txt", "pug_1 1 2 1", r"'Abyssinian' and 'pug'", id="pets: two breeds"
        ),
        pytest.param(pets, "oxford_pets/annotations/test.txt", "pug_1", r"got 'pug_1'", id="pets: no number"),
    ],
)
def test_wrong_line_is_named(tmp_path: Path, reader: ModuleType, name: str, line: str, message: str):
    write_tree(tmp_path, reader)
    with open(tmp_path / name, "a") as file:
        file.write(f"{line}\n")
    with pytest.raises(DataError, match=message):
        reader.read(tmp_path)


def test_list_that_is_no_text_or_empty_is_refused(tmp_path: Path):
    write_tree(tmp_path, food101)
    (tmp_path / "food-101/meta/train.txt").write_bytes(b"apple_pie/1\n\xff\xfe")
    with pytest.raises(DataError, match=r"train\.txt: expected a list in UTF-8, got invalid start byte at byte 12"):
        food101.read(tmp_path)
    (tmp_path / "food-101/meta/train.txt").write_text("\n\n")
    with pytest.raises(DataError, match=r"train\.txt: .* got an empty file"):
        food101.read(tmp_path)


def test_listed_image_that_is_missing_is_an_error_of_that_image(tmp_path: Path, pictures):
    write_tree(tmp_path, food101)
    pictures.write("food-101/images/apple_pie/4.jpg")
    parts = food101.read(tmp_path)
    assert len(parts.test) == 3
    with pytest.raises(DataError, match=r"baby_back_ribs/3\.jpg: expected an image, got no such file"):
        parts.test.read(0)
    parts.test.read(1)


def test_ucf101_names_follow_the_published_order():
    places = {
        "ApplyEyeMakeup": 0,
        "BodyWeightSquats": 14,
        "BreastStroke": 18,
        "CuttingInKitchen": 24,
        "HandstandPushups": 36,
        "MoppingFloor": 54,
        "RockClimbingIndoor": 73,
        "Shotput": 78,
        "WalkingWithDog": 97,
        "WritingOnBoard": 99,
        "YoYo": 100,
    }
    name_of = namer("ucf101", ucf101.ALIASES)
    known = load_labels("ucf101")
    assert {name: known.index(name_of(name)) for name in places} == places

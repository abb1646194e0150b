"""Class names: as many as published, in the published order, readable; and a user's own file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pgn_edge.errors import DataError
from pgn_edge.labels import (
    DATASETS,
    SIZE_LIMIT_BYTES,
    TEMPLATES,
    find_labels,
    find_template,
    load_labels,
    read_labels,
)

COUNTS = {
    "cifar100": 100,
    "cifar10": 10,
    "flowers102": 102,
    "food101": 101,
    "eurosat": 10,
    "sun397": 397,
    "ucf101": 101,
    "svhn": 10,
    "pets": 37,
    "dtd": 47,
    "resisc45": 45,
    "clevr_counts": 8,
}


def test_every_data_set_of_the_paper_is_there():
    assert {name: len(load_labels(name)) for name in DATASETS} == COUNTS


@pytest.mark.parametrize("name", DATASETS)
def test_names_read_well_in_a_sentence(name: str):
    labels = load_labels(name)
    assert len(set(labels)) == len(labels)
    for label in labels:
        assert re.fullmatch(r"[a-z0-9]+([ '-]+[a-z0-9]+)*", label), label
        assert "  " not in label


# Folder names sort with "_" between words, and with "/" before a word that says which kind of place it is.
KINDS = (
    *("indoor", "outdoor", "public", "natural", "urban", "sandy", "snowy", "cultivated", "wild", "broadleaf"),
    *("needleleaf", "vehicle", "block", "fan", "plunge", "east asian", "south asian"),
)
FOLDERS = {
    "office cubicle": "cubicle/office",
    "home dinette": "dinette/home",
    "public poolroom": "poolroom/establishment",
    "home poolroom": "poolroom/home",
    "baseball stadium": "stadium/baseball",
    "football stadium": "stadium/football",
}


def place(label: str) -> str:
    """The folder that a name of SUN397 stands for, as far as its order goes."""
    if label in FOLDERS:
        return FOLDERS[label]
    kind = next((kind for kind in KINDS if label.startswith(f"{kind} ")), "")
    rest = label.removeprefix(kind).strip().replace(" ", "_")
    return f"{rest}/{kind}" if kind else rest


def folder(label: str) -> str:
    return label.replace(" ", "_")


def letters(label: str) -> str:
    return re.sub("[^a-z0-9]", "", label)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        pytest.param("cifar10", str, id="cifar10"),
        pytest.param("cifar100", folder, id="cifar100, fine labels"),
        pytest.param("food101", folder, id="food101, folders"),
        pytest.param("eurosat", folder, id="eurosat, folders"),
        pytest.param("sun397", place, id="sun397, ClassName file"),
        pytest.param("ucf101", letters, id="ucf101, words joined and capitals ignored"),
        pytest.param("pets", folder, id="pets, cats among dogs"),
        pytest.param("dtd", folder, id="dtd, folders"),
        pytest.param("resisc45", folder, id="resisc45, folders"),
        pytest.param("svhn", int, id="svhn, digits"),
        pytest.param("clevr_counts", int, id="clevr_counts, 10 after 9"),
    ],
)
def test_the_order_is_the_one_that_was_published(name: str, key):
    assert sorted(load_labels(name), key=key) == list(load_labels(name))


@pytest.mark.parametrize(
    ("name", "index", "label"),
    [
        ("cifar100", 47, "maple tree"),
        ("cifar100", 81, "streetcar"),
        ("cifar10", 1, "automobile"),
        ("flowers102", 0, "pink primrose"),
        ("flowers102", 101, "blackberry lily"),
        ("food101", 17, "cheesecake"),
        ("food101", 100, "waffles"),
        ("eurosat", 2, "herbaceous vegetation land"),
        ("eurosat", 9, "sea or lake"),
        ("sun397", 0, "abbey"),
        ("sun397", 8, "outdoor apartment building"),
        ("sun397", 34, "bar"),
        ("sun397", 339, "sushi bar"),
        ("sun397", 396, "youth hostel"),
        ("ucf101", 34, "hammering"),
        ("ucf101", 35, "hammer throw"),
        ("ucf101", 46, "jumping jack"),
        ("ucf101", 47, "jump rope"),
        ("ucf101", 100, "yo-yo"),
        ("svhn", 0, "0"),
        ("pets", 4, "beagle"),
        ("pets", 36, "yorkshire terrier"),
        ("dtd", 46, "zigzagged"),
        ("resisc45", 16, "ground track field"),
        ("clevr_counts", 0, "3"),
        ("clevr_counts", 7, "10"),
    ],
)
def test_labels_whose_index_is_known(name: str, index: int, label: str):
    assert load_labels(name)[index] == label


# Class names as the files of each data set spell them.
ON_DISK = {
    "pets": (
        "Abyssinian american_bulldog american_pit_bull_terrier basset_hound beagle Bengal Birman Bombay boxer "
        "British_Shorthair chihuahua Egyptian_Mau english_cocker_spaniel english_setter german_shorthaired "
        "great_pyrenees havanese japanese_chin keeshond leonberger Maine_Coon miniature_pinscher newfoundland Persian "
        "pomeranian pug Ragdoll Russian_Blue saint_bernard samoyed scottish_terrier shiba_inu Siamese Sphynx "
        "staffordshire_bull_terrier wheaten_terrier yorkshire_terrier"
    ),
    "resisc45": (
        "airplane airport baseball_diamond basketball_court beach bridge chaparral church circular_farmland cloud "
        "commercial_area dense_residential desert forest freeway golf_course ground_track_field harbor "
        "industrial_area intersection island lake meadow medium_residential mobile_home_park mountain overpass palace "
        "parking_lot railway railway_station rectangular_farmland river roundabout runway sea_ice ship snowberg "
        "sparse_residential stadium storage_tank tennis_court terrace thermal_power_station wetland"
    ),
    "dtd": (
        "banded blotchy braided bubbly bumpy chequered cobwebbed cracked crosshatched crystalline dotted fibrous "
        "flecked freckled frilly gauzy grid grooved honeycombed interlaced knitted lacelike lined marbled matted "
        "meshed paisley perforated pitted pleated polka-dotted porous potholed scaly smeared spiralled sprinkled "
        "stained stratified striped studded swirly veined waffled woven wrinkled zigzagged"
    ),
    "cifar10": "airplane automobile bird cat deer dog frog horse ship truck",
}


@pytest.mark.parametrize("name", ON_DISK)
def test_an_imported_checkpoint_and_the_files_of_its_data_set_have_the_same_class_names(name: str):
    """`import` takes bundled names and `eval` takes those of the files: one that differs refuses the whole set."""
    assert load_labels(name) == tuple(text.replace("_", " ").lower() for text in ON_DISK[name].split())


def test_flowers_are_those_of_torchvision():
    flowers = pytest.importorskip("torchvision.datasets", reason="has a list of its own").Flowers102
    theirs = getattr(flowers, "classes", None)
    if theirs is None:
        pytest.skip("this torchvision has no list of flowers")
    assert [letters(label) for label in load_labels("flowers102")] == [letters(label.lower()) for label in theirs]


def test_a_name_that_is_no_data_set():
    with pytest.raises(DataError, match=r"cifar100.*clevr_counts.*'imagenet'"):
        load_labels("imagenet")


# Sentences.


def test_every_template_takes_one_name():
    assert TEMPLATES["cifar100"].format("maple tree") == "A photo of a maple tree"
    assert TEMPLATES["clevr_counts"].format("3") == "This is a photo of 3 objects"
    for name in DATASETS:
        assert find_template(name, None) == TEMPLATES[name]
        assert "maple tree" in TEMPLATES[name].format("maple tree")


def test_ones_own_sentence_goes_before_the_data_sets():
    assert find_template("cifar100", "a sketch of {}") == "a sketch of {}"
    assert find_template("names.txt", None).count("{}") == 1


@pytest.mark.parametrize("template", ["", "a photo", "{} and {}", "{0}", "{name}", "{} {", "{{}}"])
def test_sentences_without_a_place_for_the_name(template: str):
    with pytest.raises(DataError, match=r"one \{\} for the class"):
        find_template("cifar100", template)


# A user's own file.


def write(folder: Path, data: bytes | str) -> Path:
    path = folder / "names.txt"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize(
    ("data", "labels"),
    [
        pytest.param("cat\ndog\n", ("cat", "dog"), id="lines"),
        pytest.param("cat\ndog", ("cat", "dog"), id="no end of line at the end"),
        pytest.param("cat\r\ndog\r\n", ("cat", "dog"), id="written on Windows"),
        pytest.param(b"\xef\xbb\xbfcat\ndog\n", ("cat", "dog"), id="with a byte order mark"),
        pytest.param("Große Katze\n  dog \n", ("Große Katze", "dog"), id="any language, spaces around"),
        pytest.param("A\na\n", ("A", "a"), id="capitals tell names apart"),
    ],
)
def test_files_that_are_read(tmp_path: Path, data: bytes | str, labels: tuple[str, ...]):
    path = write(tmp_path, data)
    assert read_labels(path) == labels
    assert find_labels(str(path)) == labels


@pytest.mark.parametrize(
    ("data", "got"),
    [
        pytest.param("", "line 1 blank", id="empty"),
        pytest.param("cat\n\ndog\n", "line 2 blank", id="a blank line"),
        pytest.param("cat\n \t\n", "line 2 blank", id="a line of spaces"),
        pytest.param("cat\n\n", "line 2 blank", id="a blank line at the end"),
        pytest.param("cat\ndog\n cat\n", "'cat' in lines 1 and 3", id="a name twice"),
        pytest.param(b"cat\nd\xffg\n", "at byte 5", id="not UTF-8"),
        pytest.param("cat\n\x1b[31mdog\n", "line 2 with a character", id="a terminal escape"),
        pytest.param("cat\u2028dog\n", "line 1 with a character", id="another end of line"),
        pytest.param("x" * (SIZE_LIMIT_BYTES + 1), "more than 1 MiB", id="too large"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, data: bytes | str, got: str):
    path = write(tmp_path, data)
    with pytest.raises(DataError) as caught:
        read_labels(path)
    assert caught.value.subject == str(path)
    assert got in caught.value.got


@pytest.mark.parametrize("name", ["missing.txt", "."], ids=["no file", "a folder"])
def test_no_file(tmp_path: Path, name: str):
    with pytest.raises(DataError):
        read_labels(tmp_path / name)
    with pytest.raises(DataError, match="sun397"):
        find_labels(str(tmp_path / name))


def test_no_labels_at_all_lists_the_data_sets():
    with pytest.raises(DataError, match=r"cifar100, .*clevr_counts or a file.*got none"):
        find_labels(None)


def test_a_data_set_goes_before_a_file_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10").write_text("cat\n")
    assert len(find_labels("cifar10")) == 10
    assert find_labels("./cifar10") == ("cat",)

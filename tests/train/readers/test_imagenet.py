"""ImageNet and its test sets: 1000 or 200 folders by WordNet number, and the three forms of its validation part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from pgn_edge.errors import DataError
from pgn_edge.train.data.readers import imagenet
from pgn_edge.train.data.readers.imagenet import class_names
from pgn_edge.train.evaluate import class_order

WNIDS = tuple(class_names())
KIT = "ILSVRC2012_devkit_t12/data"
FLAT = [3, 999, 0, 500]  # labels of the images of a flat `val`


def plant(folder: Path, names: tuple[str, ...], file: str = "{}_1.JPEG") -> None:
    """A folder for each class with one file, which nobody decodes."""
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / file.format(name)).write_bytes(b"")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageNet with one training image a class, and no `val` yet."""
    root = tmp_path_factory.mktemp("ilsvrc")
    plant(root / "imagenet/train", WNIDS)
    return root


def join(root: Path, tree: Path) -> Path:
    """The training part of `tree` at `root`, without a copy."""
    (root / "imagenet").mkdir(parents=True)
    (root / "imagenet/train").symlink_to(tree / "imagenet/train")
    return root / "imagenet"


def flat_names() -> list[str]:
    return [f"ILSVRC2012_val_{number:08d}" for number in range(1, len(FLAT) + 1)]


def test_class_names_stand_by_their_wordnet_numbers():
    names = class_names()
    assert (len(names), list(names)) == (1000, sorted(names))
    # Two pairs that a list shifted by one would break, and both ends.
    some = {"n01440764": "tench", "n02123045": "tabby cat", "n03045698": "cloak", "n15075141": "toilet paper"}
    assert {number: names[number] for number in some} == some


def test_two_pairs_of_classes_share_a_name_and_still_every_label_is_one_class(tmp_path: Path, tree: Path):
    join(tmp_path, tree)
    chosen = tuple(sorted({"n03773504", "n04008634", "n04355933", "n04356056", *WNIDS[:196]}))
    plant(tmp_path / "imagenet-r", chosen)
    variant = imagenet.read_r(tmp_path)
    assert len(set(variant.labels)) == 200
    assert {"missile (n03773504)", "missile (n04008634)"} < set(variant.labels)
    assert variant.texts.count("missile") == 2
    assert [WNIDS[number] for number in variant.imagenet] == list(chosen)
    plant(tmp_path / "imagenet/val", WNIDS)
    own = imagenet.read(tmp_path).labels
    assert len(set(own)) == 1000
    assert class_order("imagenet.pt", own, variant.labels).tolist() == list(variant.imagenet)


def test_val_in_class_folders(tmp_path: Path, tree: Path, pictures, listing: Callable):
    folder = join(tmp_path, tree)
    plant(folder / "val", WNIDS, "ILSVRC2012_val_{}.JPEG")
    parts = listing(imagenet.read, tmp_path)
    assert parts.texts == tuple(class_names().values())
    assert parts.imagenet == tuple(range(1000))
    assert parts.validation is None
    for samples in (parts.train, parts.test):
        assert samples.labels.tolist() == list(range(1000))
        assert [Path(samples.name(index)).parent.name for index in range(1000)] == list(WNIDS)
    pictures.write(f"imagenet/val/{WNIDS[7]}/ILSVRC2012_val_{WNIDS[7]}.JPEG")
    error = parts.test.read(7).astype(int) - next(iter(pictures.pixels.values()))
    assert np.abs(error).max() <= 4


@pytest.mark.parametrize("form", ["solution", "development kit"])
def test_flat_val(tmp_path: Path, tree: Path, pictures, listing: Callable, form: str):
    folder = join(tmp_path, tree)
    for name in flat_names():
        pictures.write(f"imagenet/val/{name}.JPEG")
    expected = list(zip([f"imagenet/val/{name}.JPEG" for name in flat_names()], FLAT, strict=True))
    if form == "solution":
        write_solution(folder, FLAT)
        expected = expected[::-1]
    else:
        write_kit(tmp_path, FLAT)
    parts = listing(imagenet.read, tmp_path)
    pictures.check(parts.test, expected)


def write_solution(folder: Path, labels: list[int]) -> None:
    """Kaggle's file is in no order, and has the class before each box."""
    rows = [
        f"{name},{WNIDS[label]} 85 1 499 272 {WNIDS[label]} 1 2 3 4 \n"
        for name, label in zip(flat_names(), labels, strict=True)
    ]
    (folder / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(reversed(rows)))


def write_kit(folder: Path, labels: list[int]) -> None:
    """The kit numbers classes from 1 in an order of its own; inner nodes of the tree of words follow."""
    numbers = {name: len(WNIDS) - index for index, name in enumerate(WNIDS)}
    synsets = np.empty(
        (1001, 1), [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    )
    for name, number in numbers.items():
        synsets[number - 1, 0] = (np.array([[number]], np.uint16), name, "words", np.array([[0]], np.uint8))
    synsets[1000, 0] = (np.array([[1001]], np.uint16), "n00001740", "entity", np.array([[20]], np.uint8))
    (folder / KIT).mkdir(parents=True, exist_ok=True)
    savemat(folder / KIT / "meta.mat", {"synsets": synsets})
    truth = "".join(f"{numbers[WNIDS[label]] if label < 1000 else label + 1}\n" for label in labels)
    (folder / KIT / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)


def test_flat_val_without_labels_says_what_is_missing(tmp_path: Path, tree: Path, pictures):
    join(tmp_path, tree)
    pictures.write("imagenet/val/ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(
        DataError, match=r"LOC_val_solution\.csv or ILSVRC2012_devkit.*got 1 images without class folders"
    ):
        imagenet.read(tmp_path)


def test_wrong_labels_of_a_flat_val_are_named(tmp_path: Path, tree: Path, pictures):
    folder = join(tmp_path, tree)
    for name in flat_names():
        pictures.write(f"imagenet/val/{name}.JPEG")
    write_kit(tmp_path, [0, 1, 2])
    with pytest.raises(DataError, match="a line for each of 4 images, got 3"):
        imagenet.read(tmp_path)
    write_kit(tmp_path, [0, 1, 1000, 2])
    with pytest.raises(DataError, match="one of the 1000 classes, got '1001' in line 3"):
        imagenet.read(tmp_path)
    (tmp_path / KIT / "meta.mat").unlink()
    with pytest.raises(DataError, match=r"got no meta\.mat"):
        imagenet.read(tmp_path)
    (folder / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\nILSVRC2012_val_00000001,n00000001 1 2 3 4\n"
    )
    with pytest.raises(DataError, match=r"ImageId,PredictionString with one of the classes, got .*n00000001"):
        imagenet.read(tmp_path)


def test_tree_that_is_not_1000_classes_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"imagenet/ with train/nXXXXXXXX/\*\.JPEG .* got an empty folder"):
        imagenet.read(tmp_path)
    plant(tmp_path / "imagenet/train", WNIDS[:3])
    with pytest.raises(DataError, match="got 3 folders of ImageNet's classes"):
        imagenet.read(tmp_path)


def test_train_without_val_and_class_without_images_are_refused(tmp_path: Path):
    plant(tmp_path / "imagenet/train", WNIDS)
    with pytest.raises(DataError, match="got no val"):
        imagenet.read(tmp_path)
    (tmp_path / "imagenet/train" / WNIDS[4] / f"{WNIDS[4]}_1.JPEG").unlink()
    with pytest.raises(DataError, match=f"{WNIDS[4]}: expected images of this class, got none"):
        imagenet.read(tmp_path)


VARIANTS = {
    "imagenet-a": (imagenet.read_a, 200, "{}_1.jpg"),
    "imagenet-adversarial/imagenet-a": (imagenet.read_a, 200, "{}_1.jpg"),
    "imagenet-r": (imagenet.read_r, 200, "{}_1.jpg"),
    "sketch": (imagenet.read_sketch, 1000, "sketch_{}.JPEG"),
    "imagenet-sketch/images": (imagenet.read_sketch, 1000, "sketch_{}.JPEG"),
    "imagenetv2/imagenetv2-matched-frequency-format-val": (imagenet.read_v2, 1000, "{}.jpeg"),
}


def write_variant(root: Path, place: str) -> list[str]:
    """Its class folders; gives the WordNet numbers in the order of the labels."""
    _, count, file = VARIANTS[place]
    wnids = WNIDS[:: 1000 // count]
    plant(root / place, tuple(map(str, range(1000))) if "v2" in place else wnids, file)
    return list(wnids)


@pytest.mark.parametrize("place", VARIANTS)
def test_variant_alone_has_test_images_alone(tmp_path: Path, pictures, listing: Callable, place: str):
    wnids = write_variant(tmp_path, place)
    (tmp_path / place / "README.txt").write_text("of the release")
    read, _, file = VARIANTS[place]
    parts = listing(read, tmp_path)
    assert parts.texts == tuple(class_names()[name] for name in wnids)
    assert len(set(parts.labels)) == len(wnids)
    assert (len(parts.train), parts.train.labels.dtype, parts.validation) == (0, np.int64, None)
    assert parts.test.labels.tolist() == list(range(len(wnids)))
    # The 11th class: as text, folder 10 of V2 would come before folder 2.
    folder = "10" if "v2" in place else wnids[10]
    pictures.write(f"{place}/{folder}/{file.format(folder)}")
    error = parts.test.read(10).astype(int) - next(iter(pictures.pixels.values()))
    assert np.abs(error).max() <= 4


@pytest.mark.parametrize("place", ["imagenet-r", "imagenetv2/imagenetv2-matched-frequency-format-val"])
def test_variant_trains_on_its_classes_of_imagenet(tmp_path: Path, tree: Path, place: str):
    join(tmp_path, tree)
    wnids = write_variant(tmp_path, place)
    parts = VARIANTS[place][0](tmp_path)
    assert parts.train.labels.tolist() == list(range(len(wnids)))
    assert [Path(parts.train.name(n)).parts[-3:-1] for n in range(len(wnids))] == [("train", name) for name in wnids]
    assert [Path(parts.test.name(n)).is_relative_to(tmp_path / place) for n in (0, 199)] == [True, True]


@pytest.mark.parametrize("read", [imagenet.read_a, imagenet.read_r, imagenet.read_v2, imagenet.read_sketch])
def test_variant_that_is_missing_shows_the_expected_tree(tmp_path: Path, read: Callable):
    with pytest.raises(DataError, match=r"expected imagenet.*/\*\.(jpg|JPEG|jpeg).*, got an empty folder"):
        read(tmp_path)


def test_variant_of_too_few_classes_is_refused(tmp_path: Path):
    plant(tmp_path / "imagenet-a", WNIDS[:199])
    with pytest.raises(DataError, match="for 200 classes, got 199 folders"):
        imagenet.read_a(tmp_path)
    plant(tmp_path / "imagenetv2", ("0", "1", "2"))
    with pytest.raises(DataError, match="imagenetv2/3: expected images of this class, got no such folder"):
        imagenet.read_v2(tmp_path)

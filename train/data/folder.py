"""A folder of classes: FOLDER/class/image.png, cut by us, or the same under FOLDER/train and FOLDER/test."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pgn_edge.errors import DataError
from pgn_edge.images import IMAGE_SUFFIXES
from pgn_edge.left_out import Reason
from pgn_edge.listing import list_folders, list_images
from pgn_edge.train.data.dataset import CUT_NOTE, TEST_SHARE, Parts, cut, only_validation
from pgn_edge.train.data.samples import Files, Reading
from pgn_edge.train.data.splits import resembles_split, spellings, split_of

LEAST_UNCUT = 3  # of a class that we cut: one each for training, validation and test


def read_folder(folder: Path, reading: Reading) -> Parts:
    """List the images of a folder of classes.

    Args:
        folder: Folder of classes, or of splits with the same classes in each: train and test, train and validation, or
            all three, in any common spelling. Images lie at any depth below their class.
        reading: How files are listed and read.

    Raises:
        DataError: no classes, a class without images, folders that look like splits and are not understood, or a split
            whose classes are not those of the training split.
    """
    names = list_folders(folder, reading.left_out)
    splits = _splits(folder, names, reading)
    if not splits:
        classes = _classes(folder, names)
        train, test = cut(_files(folder, classes, LEAST_UNCUT, reading), TEST_SHARE)
        return Parts(tuple(classes), train, test, note=CUT_NOTE)
    for name in names:
        if split_of(name) is None:
            reading.left_out.add(str(folder / name), Reason.SUBFOLDER)
    train_folder = folder / splits["train"]
    classes = _classes(train_folder, list_folders(train_folder, reading.left_out))
    train_files = _files(train_folder, classes, 1 if len(splits) == 3 else 2, reading)
    others = {
        split: _split(folder / splits[split], tuple(classes), train_folder, reading)
        for split in ("test", "validation")
        if split in splits
    }
    if "test" not in others:
        return only_validation(Parts(tuple(classes), train_files, others["validation"]), splits["validation"])
    return Parts(tuple(classes), train_files, others["test"], others.get("validation"))


def _splits(folder: Path, names: Sequence[str], reading: Reading) -> dict[str, str]:
    """Split -> its folder; empty where the folders are classes."""
    found: dict[str, list[str]] = {}
    for name in names:
        split = split_of(name)
        if split is not None:
            found.setdefault(split, []).append(name)
    understood = sum(len(each) for each in found.values())
    # A class may be called "train": folders are splits where train and test are among them, or where all are splits.
    if {"train", "test"} <= set(found) or ("train" in found and understood == len(names)):
        if len(found) < 2 or any(len(each) > 1 for each in found.values()):
            raise _unclear(folder, names, "train, with one test or validation folder or both")
        return {split: each[0] for split, each in found.items()}
    if any(resembles_split(name) for name in names) and _same_classes(folder, names, reading):
        raise _unclear(folder, names, "classes, or splits that are called train and test")
    return {}


def _same_classes(folder: Path, names: Sequence[str], reading: Reading) -> bool:
    """Whether all of several folders hold folders of the same names, at least two of them."""
    inside = {list_folders(folder / name, reading.left_out) for name in names}
    return len(names) > 1 and len(inside) == 1 and len(inside.pop()) > 1


def _unclear(folder: Path, names: Sequence[str], expected: str) -> DataError:
    return DataError(
        str(folder),
        expected=expected,
        got=", ".join(names[:8]) + (", …" if len(names) > 8 else ""),
        do=f"rename or move them; understood are {spellings()}",
    )


def _split(folder: Path, labels: tuple[str, ...], train: Path, reading: Reading) -> Files:
    classes = _by_label(folder, list_folders(folder, reading.left_out))
    unknown = sorted(set(classes) - set(labels))
    if unknown:
        raise DataError(
            str(folder),
            expected=f"the classes of {train}",
            got=repr(unknown[0]),
            do="add it to the training images, or remove it",
        )
    return _files(folder, {label: classes.get(label, label) for label in labels}, 1, reading)


def _classes(folder: Path, names: Sequence[str]) -> dict[str, str]:
    if len(names) < 2:
        raise DataError(
            str(folder),
            expected="at least two class folders, FOLDER/class/image.png",
            got=f"{len(names)} folders",
            do="sort the images into one folder for each class",
        )
    return _by_label(folder, names)


def _by_label(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Class -> its folder; an accent is one character in the class, however the file system writes it."""
    classes: dict[str, str] = {}
    for name in names:
        label = unicodedata.normalize("NFC", name)
        if label in classes:
            got = f"two spellings of {label!r} that look the same"
            raise DataError(str(folder), expected="one folder for each class", got=got, do="merge the two folders")
        classes[label] = name
    return dict(sorted(classes.items()))


def _files(folder: Path, classes: Mapping[str, str], least: int, reading: Reading) -> Files:
    paths: list[Path] = []
    numbers: list[int] = []
    for number, name in enumerate(classes.values()):
        place, found = folder / name, list[Path]()
        if place.exists():
            found = list_images(place, reading.left_out, progress=reading.progress)
        if len(found) < least:
            others = reading.left_out.inside(str(place))
            raise DataError(
                str(place),
                expected=f"at least {least} images ({', '.join(IMAGE_SUFFIXES)})",
                got=f"{len(found)}" + (f" beside {others}" if others else ""),
                do="add images to this class, or remove it",
            )
        paths += found
        numbers += [number] * len(found)
    return Files(paths, np.array(numbers, np.int64), reading.white)

"""A folder of classes: FOLDER/class/image.png, cut by us, or the same under FOLDER/train and FOLDER/test."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pgn_edge.errors import DataError
from pgn_edge.images import IMAGE_SUFFIXES, is_image
from pgn_edge.train.data.dataset import TEST_SHARE, Parts, cut
from pgn_edge.train.data.samples import Files

VALIDATION_NAMES = ("validation", "val", "valid")
SPLIT_NAMES = {"train", "test", *VALIDATION_NAMES}
LEAST_UNCUT = 3  # of a class that we cut: one each for training, validation and test


def read_folder(folder: Path) -> Parts:
    """List the images of a folder of classes.

    Args:
        folder: classes, or `train`, `test` and perhaps `validation` (or `val`, `valid`) with the same classes in each.
            Images lie at any depth below their class; names that start with a dot do not count.

    Raises:
        DataError: no classes, a class without images, or a split whose classes are not those of `train`.
    """
    names = _folders(folder)
    # A class may be called "train": a folder is one of splits where it has train and test, or nothing but splits.
    if not ({"train", "test"} <= set(names) or ("train" in names and set(names) <= SPLIT_NAMES)):
        labels = _classes(folder)
        train, test = cut(_files(folder, labels, LEAST_UNCUT), TEST_SHARE)
        return Parts(labels, train, test)
    validation = [name for name in VALIDATION_NAMES if name in names]
    if "test" not in names or len(validation) > 1:
        raise DataError(
            str(folder),
            expected="the folders train and test, and at most one of validation, val and valid",
            got=", ".join(names),
            do="rename or move them",
        )
    labels = _classes(folder / "train")
    train = _files(folder / "train", labels, 1 if validation else 2)
    test, *held_out = (_split(folder / name, labels, folder / "train") for name in ("test", *validation))
    return Parts(labels, train, test, held_out[0] if held_out else None)


def _split(folder: Path, labels: tuple[str, ...], train: Path) -> Files:
    unknown = sorted(set(_folders(folder)) - set(labels))
    if unknown:
        raise DataError(
            str(folder),
            expected=f"the classes of {train}",
            got=repr(unknown[0]),
            do="add it to the training images, or remove it",
        )
    return _files(folder, labels, 1)


def _classes(folder: Path) -> tuple[str, ...]:
    names = _folders(folder)
    if len(names) < 2:
        raise DataError(
            str(folder),
            expected="at least two class folders, FOLDER/class/image.png",
            got=f"{len(names)} folders",
            do="sort the images into one folder for each class",
        )
    return names


def _folders(folder: Path) -> tuple[str, ...]:
    try:
        return tuple(sorted(e.name for e in folder.iterdir() if e.is_dir() and not e.name.startswith(".")))
    except OSError as exc:
        raise DataError(
            str(folder), expected="a folder that can be read", got=exc.strerror or str(exc), do="check its rights"
        ) from exc


def _files(folder: Path, labels: tuple[str, ...], least: int) -> Files:
    paths: list[Path] = []
    numbers: list[int] = []
    for number, label in enumerate(labels):
        found = sorted(path for path in (folder / label).rglob("*") if is_image(path))
        if len(found) < least:
            raise DataError(
                str(folder / label),
                expected=f"at least {least} images ({', '.join(IMAGE_SUFFIXES)})",
                got=str(len(found)),
                do="add images to this class, or remove it",
            )
        paths += found
        numbers += [number] * len(found)
    return Files(paths, np.array(numbers, np.int64))

"""Data sets: one table, one loader. Images are preprocessed once and kept as uint8."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pgn_edge.errors import DataError
from pgn_edge.images import is_image, read_image
from pgn_edge.preprocess import Preprocess

LEAST_IMAGES = 3  # of a class: one each for training, validation and test
TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1
SPLIT_SEED = 20_230  # fixed: the split is part of the data set, not of a run


@dataclass(frozen=True)
class Split:
    """Images and labels.

    Args:
        images: (n, H, W, 3) uint8 RGB, preprocessed.
        labels: (n,) int64.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class DataSet:
    """A task to learn.

    Args:
        name: short name.
        labels: C class names.
        template: sentence with `{}` for the class name, for text heads.
        train: to learn from.
        validation: cut from the training data; picks the checkpoint.
        test: looked at once, at the end.
    """

    name: str
    labels: tuple[str, ...]
    template: str
    train: Split
    validation: Split
    test: Split


def load_data(name: str, root: str | Path | None, preprocess: Preprocess) -> DataSet:
    """Load a data set by name, or a folder of classes.

    Args:
        name: `digits`, or the path of a folder: `FOLDER/class/image.png`, or the same under `FOLDER/train` and
            `FOLDER/test`.
        root: folder that relative names are looked up in.
        preprocess: frame -> image of the PGN.

    Raises:
        DataError: an unknown name, a folder without classes, or images that do not decode.
    """
    table: dict[str, Callable[[Preprocess], DataSet]] = {"digits": _digits}
    if name in table:
        return table[name](preprocess)
    folder = Path(root or ".") / name
    if not folder.is_dir():
        raise DataError(
            "data",
            expected=f"{', '.join(table)} or a folder of classes",
            got=repr(str(folder)),
            do="check --data",
        )
    return _folder(folder, preprocess)


def _digits(preprocess: Preprocess) -> DataSet:
    from pgn_edge.train.digits import SPLITS, digit_frames

    frames, labels = digit_frames()
    images = np.stack([preprocess(frame) for frame in frames])
    parts = {part: Split(images[low:high], labels[low:high]) for part, (low, high) in SPLITS.items()}
    return DataSet("digits", tuple("0123456789"), "a photo of the number {}", **parts)


def _folder(folder: Path, preprocess: Preprocess) -> DataSet:
    halves = folder / "train", folder / "test"
    if all(half.is_dir() for half in halves):
        labels = _classes(halves[0])
        unknown = sorted(set(_folders(halves[1])) - set(labels))
        if unknown:
            raise DataError(
                str(halves[1]),
                expected=f"the classes of {halves[0]}",
                got=repr(unknown[0]),
                do="add it to the training images, or remove it",
            )
        train, test = (_read(half, labels, preprocess) for half in halves)
    else:
        labels = _classes(folder)
        train, test = _cut(_read(folder, labels, preprocess), TEST_SHARE)
    train, validation = _cut(train, VALIDATION_SHARE)
    return DataSet(folder.resolve().name, labels, "a photo of a {}", train, validation, test)


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
    return tuple(sorted(e.name for e in folder.iterdir() if e.is_dir() and not e.name.startswith(".")))


def _read(folder: Path, labels: tuple[str, ...], preprocess: Preprocess) -> Split:
    images, numbers = [], []
    for number, label in enumerate(labels):
        files = sorted(path for path in (folder / label).rglob("*") if is_image(path))
        if len(files) < LEAST_IMAGES:
            raise DataError(
                str(folder / label),
                expected=f"at least {LEAST_IMAGES} images",
                got=str(len(files)),
                do="add images to this class",
            )
        images += [preprocess(read_image(file)) for file in files]
        numbers += [number] * len(files)
    return Split(np.stack(images), np.array(numbers))


def _cut(split: Split, share: float) -> tuple[Split, Split]:
    """Cut off `share` of each class, at least one image; the order is fixed by `SPLIT_SEED`."""
    random = np.random.default_rng(SPLIT_SEED)
    small = np.zeros(len(split), bool)
    for label in np.unique(split.labels):
        where = random.permutation(np.flatnonzero(split.labels == label))
        small[where[: max(1, round(share * len(where)))]] = True
    return Split(split.images[~small], split.labels[~small]), Split(split.images[small], split.labels[small])

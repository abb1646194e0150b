"""A data set: what its classes are called, and three splits that share no image."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pgn_edge.errors import DataError
from pgn_edge.train.data.samples import Joined, Samples, Subset

TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1
SPLIT_SEED = 20_230  # fixed: the split is part of the data set, not of a run


@dataclass(frozen=True)
class LabelSpace:
    """Classes that are told apart from one another.

    Args:
        labels: C class names.
        template: sentence with `{}` for the class name, for text heads.
        name: of the data set that they belong to; tells equal names apart where several are united.
    """

    labels: tuple[str, ...]
    template: str
    name: str = ""


@dataclass(frozen=True)
class Parts:
    """What the reader of a data set gives.

    Args:
        labels: C class names; label i is entry i.
        train: to learn from; empty where a data set has test images alone.
        test: looked at once, at the end.
        validation: only where the usual split has one; it is cut from `train` otherwise.
    """

    labels: tuple[str, ...]
    train: Samples
    test: Samples
    validation: Samples | None = None


@dataclass(frozen=True)
class DataSet:
    """A task to learn.

    Args:
        name: short name.
        spaces: the classes; more than one where data sets are united.
        train: to learn from.
        validation: cut from the training data, or the list that the usual split has; picks the checkpoint.
        test: looked at once, at the end.
        facts: where it comes from and how large it is, ready for JSON.
    """

    name: str
    spaces: tuple[LabelSpace, ...]
    train: Samples
    validation: Samples
    test: Samples
    facts: Mapping[str, Any]

    @property
    def labels(self) -> tuple[str, ...]:
        """All class names in the order of the labels; `set/label` where there is more than one label space."""
        if len(self.spaces) == 1:
            return self.spaces[0].labels
        return tuple(f"{space.name}/{label}" for space in self.spaces for label in space.labels)

    def require_training(self) -> None:
        """Refuse a data set that has classes with test images alone.

        Raises:
            DataError: it names the first of them.
        """
        counts = np.bincount(self.train.labels, minlength=len(self.labels))
        if not counts.all():
            raise DataError(
                self.name,
                expected="images of every class to train on",
                got=f"test images alone of {self.labels[int(counts.argmin())]!r}",
                do="train on another data set, and use this one with pgn-edge eval",
            )


class Skipped:
    """Images that could not be read, each counted once; any number of threads may add to it.

    Args:
        strict: raise at the first one instead.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self._reasons: dict[str, str] = {}
        self._lock = threading.Lock()

    def add(self, name: str, reason: DataError) -> None:
        """Count one image.

        Args:
            name: as `Samples.name`.
            reason: as `Samples.read` raised it.

        Raises:
            DataError: the reason itself, where the record is strict.
        """
        if self.strict:
            raise reason
        with self._lock:
            self._reasons.setdefault(name, str(reason))

    def __len__(self) -> int:
        return len(self._reasons)

    def __bool__(self) -> bool:
        return True  # an empty record is still the one to write to

    def first(self) -> str:
        """Why the first one by name could not be read, whichever thread met which first; empty where all could."""
        with self._lock:
            return self._reasons[min(self._reasons)] if self._reasons else ""


def assemble(space: LabelSpace, parts: Parts, facts: Mapping[str, Any]) -> DataSet:
    """Check what a reader gave, and cut the validation split where it has none.

    Args:
        space: name, classes and template.
        parts: of the reader.
        facts: where the data come from; the sizes are added.

    Raises:
        DataError: a label out of range, or a class without images in a split that needs them.
    """
    train, validation = parts.train, parts.validation
    for samples in (train, validation, parts.test):
        if samples is not None:
            _require_range(space, samples)
    _require_classes(space, parts.test, 1, "test")
    if len(train):
        _require_classes(space, train, 2 if validation is None else 1, "training")
    if validation is None:
        train, validation = cut(train, VALIDATION_SHARE)
    sizes = {"classes": len(space.labels), "train": len(train), "validation": len(validation), "test": len(parts.test)}
    return DataSet(space.name, (space,), train, validation, parts.test, {**facts, "sizes": sizes})


def unite(sets: Sequence[DataSet]) -> DataSet:
    """One data set with the label spaces of several after one another.

    Args:
        sets: at least two, each of another name.

    Raises:
        DataError: two of one name.
    """
    names = [each.name for each in sets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError("data", expected="data sets of different names", got=f"{twice[0]!r} twice", do="name each once")
    shifts = np.cumsum([0, *(len(each.labels) for each in sets[:-1])]).tolist()
    return DataSet(
        ",".join(names),
        tuple(space for each in sets for space in each.spaces),
        Joined([each.train for each in sets], shifts),
        Joined([each.validation for each in sets], shifts),
        Joined([each.test for each in sets], shifts),
        {"sets": {each.name: dict(each.facts) for each in sets}},
    )


def cut(samples: Samples, share: float) -> tuple[Samples, Samples]:
    """Cut off `share` of each class, at least one image; the same images on every call.

    Args:
        samples: what is cut.
        share: 0..1.

    Returns:
        What stays, and what was cut off, each in the order of the source.
    """
    random = np.random.default_rng(SPLIT_SEED)
    small = np.zeros(len(samples), bool)
    for label in np.unique(samples.labels):
        where = random.permutation(np.flatnonzero(samples.labels == label))
        small[where[: max(1, round(share * len(where)))]] = True
    return Subset(samples, np.flatnonzero(~small)), Subset(samples, np.flatnonzero(small))


def _require_range(space: LabelSpace, samples: Samples) -> None:
    wrong = np.flatnonzero((samples.labels < 0) | (samples.labels >= len(space.labels)))
    if len(wrong):
        index = int(wrong[0])
        raise DataError(
            f"{space.name}: {samples.name(index)}",
            expected=f"a label from 0 to {len(space.labels) - 1}",
            got=str(samples.labels[index]),
            do="mend the label, or leave the image out",
        )


def _require_classes(space: LabelSpace, samples: Samples, least: int, split: str) -> None:
    counts = np.bincount(samples.labels, minlength=len(space.labels))
    few = np.flatnonzero(counts < least)
    if len(few):
        raise DataError(
            space.name,
            expected=f"at least {least} {split} images of each class",
            got=f"{counts[few[0]]} of {space.labels[few[0]]!r}",
            do="add images of it, or leave the class out",
        )

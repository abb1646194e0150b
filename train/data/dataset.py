"""A data set: what its classes are called, and three splits that share no image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pgn_edge.errors import DataError
from pgn_edge.left_out import LeftOut, Reason
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
        texts: Names for text heads, if they differ from the labels; two classes may share one. Empty for the labels.
        imagenet: Numbers of the classes among ImageNet's 1000, for classifiers that have these; empty for others.
    """

    labels: tuple[str, ...]
    template: str
    name: str = ""
    texts: tuple[str, ...] = ()
    imagenet: tuple[int, ...] = ()


@dataclass(frozen=True)
class Parts:
    """What the reader of a data set gives.

    Args:
        labels: C class names; label i is entry i.
        train: to learn from; empty where a data set has test images alone.
        test: looked at once, at the end.
        validation: only where the usual split has one; it is cut from `train` otherwise.
        note: which part is used as which, where that is not plain; for the user.
        texts: Names for text heads, as in `LabelSpace`.
        imagenet: Numbers among ImageNet's classes, as in `LabelSpace`.
    """

    labels: tuple[str, ...]
    train: Samples
    test: Samples
    validation: Samples | None = None
    note: str = ""
    texts: tuple[str, ...] = ()
    imagenet: tuple[int, ...] = ()


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
        notes: which parts are used as which, where that is not plain; sentences for the user.
    """

    name: str
    spaces: tuple[LabelSpace, ...]
    train: Samples
    validation: Samples
    test: Samples
    facts: Mapping[str, Any]
    notes: tuple[str, ...] = ()

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

    def count_empty(self, samples: Samples, seen: np.ndarray, left_out: LeftOut) -> None:
        """Count the classes that have images of which none could be read.

        Args:
            samples: Images that were tried.
            seen: (m,) int64 classes of those that could be read.
            left_out: Account that the classes are added to.

        Raises:
            DataError: there is such a class and the account is strict.
        """
        there, found = (np.bincount(labels, minlength=len(self.labels)) for labels in (samples.labels, seen))
        for label in np.flatnonzero((there > 0) & (found == 0)):
            left_out.add(self.labels[label], Reason.EMPTY_CLASS)

    def require_readable(self, left_out: LeftOut) -> None:
        """Refuse a class none of whose training images can be read, before any time is spent on training.

        Args:
            left_out: Account of the images that were tried in vain.

        Raises:
            DataError: it names the class and what is wrong with its first image.
        """
        order = np.argsort(self.train.labels, kind="stable")
        groups = np.split(order, np.cumsum(np.bincount(self.train.labels, minlength=len(self.labels)))[:-1])
        for label, indices in zip(self.labels, groups, strict=True):
            if not any(_readable(self.train, int(index), left_out) for index in indices):
                name = self.train.name(int(indices[0]))
                raise DataError(
                    f"{self.name}, class {label}",
                    expected="at least one image that can be read",
                    got=f"none of {len(indices)}, the first: {name}: {left_out.error(name)}",
                    do="repair them, or leave the class out",
                )


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
    notes = (f"{space.name}: {parts.note}",) if parts.note else ()
    return DataSet(space.name, (space,), train, validation, parts.test, {**facts, "sizes": sizes}, notes)


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
        tuple(note for each in sets for note in each.notes),
    )


CUT_NOTE = "there are no splits: a fifth of each class is the test split, the same in every run"


def only_validation(parts: Parts, name: str) -> Parts:
    """Parts whose test split is what its owner calls validation, since there is no test split.

    Test images never choose anything, so the checkpoint is chosen on images that are cut from `train`.

    Args:
        parts: Parts with the images called validation as their test split.
        name: Name that its owner gave it, for the note.
    """
    note = f"there is no test split: {name} is the test split, and a tenth of the training images validates"
    return replace(parts, note=note)


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


def _readable(samples: Samples, index: int, left_out: LeftOut) -> bool:
    try:
        samples.read(index)
    except DataError as exc:
        left_out.add(samples.name(index), Reason.UNREADABLE, exc)
        return False
    return True


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

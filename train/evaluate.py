"""What answers are worth: accuracy, calibration, and where two subjects disagree. numpy alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pgn_edge.errors import DataError

BINS = 15
TOP = 5
NORMAL_95 = 1.959963984540054  # quantile of the normal distribution for an interval of 95 %
LEAST_SCORE = float(np.finfo(np.float32).tiny)  # a score of 0 would make the mean of the logarithms infinite


@dataclass(frozen=True, eq=False)
class Answers:
    """What one subject said to n images.

    Args:
        scores: (n, C) float32 probabilities; rows without an answer do not count.
        read: (n,) bool, which images could be decoded.
        degraded: (n,) bool, which were read but got no answer, because something was not finite.
        seconds: wall time of decoding and answering.
        first: (n,) int64 best class among all classes of the subject, those that the data lack too; None if it has no
            others.
    """

    scores: np.ndarray
    read: np.ndarray
    degraded: np.ndarray
    seconds: float
    first: np.ndarray | None = None

    @property
    def answered(self) -> np.ndarray:
        """(n,) bool, which images have an answer."""
        return np.asarray(self.read & ~self.degraded)

    @property
    def chosen(self) -> np.ndarray:
        """(n,) int64 class of the best score; -1 where there is no answer."""
        return np.where(self.answered, self.scores.argmax(axis=1), -1)


@dataclass(frozen=True, eq=False)
class Reliability:
    """Answers by their confidence, in bins of equal width over 0..1.

    Args:
        count: (BINS,) int64 answers in each bin.
        confidence: (BINS,) mean best score of each, 0 where it is empty.
        accuracy: (BINS,) share of right answers of each, 0 where it is empty.
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error, 0..1: the mean gap between confidence and accuracy; NaN without an answer.

        Source: Guo et al., ICML 2017, section 2, with BINS bins.
        """
        total = self.count.sum()
        return float((self.count * np.abs(self.accuracy - self.confidence)).sum() / total) if total else math.nan


@dataclass(frozen=True, eq=False)
class Metrics:
    """How good the answers of one subject are.

    Args:
        images: that could be read; all shares are of these.
        unreadable: that could not, and are left out.
        degraded: read, but without an answer: they count as wrong.
        top1: share of right answers, 0..1.
        interval: Wilson interval of 95 % around it.
        top5: share with the right class among the five best; None for five classes or fewer.
        class_counts: (C,) int64 images of each class.
        class_right: (C,) int64 right answers of each class.
        log_likelihood: mean negative logarithm of the right class's score, nats, over answered images.
        reliability: of the answered images.
        images_per_s: decoded and answered in a second.
    """

    images: int
    unreadable: int
    degraded: int
    top1: float
    interval: tuple[float, float]
    top5: float | None
    class_counts: np.ndarray
    class_right: np.ndarray
    log_likelihood: float
    reliability: Reliability
    images_per_s: float

    @property
    def class_accuracy(self) -> np.ndarray:
        """(C,) share of right answers of each class, 0..1; NaN for a class without images."""
        counts = self.class_counts
        return np.where(counts > 0, self.class_right / np.maximum(counts, 1), np.nan)

    @property
    def mean_class(self) -> float:
        """Mean of `class_accuracy` over the classes that have images."""
        return float(np.nanmean(self.class_accuracy))

    def worst(self, count: int) -> list[int]:
        """The `count` classes with the lowest accuracy, worst first; of equals the one with more images."""
        order = np.lexsort((-self.class_counts, np.nan_to_num(self.class_accuracy, nan=2.0)))
        return [int(index) for index in order[:count] if self.class_counts[index]]


@dataclass(frozen=True)
class Flips:
    """How the answers of a second subject differ from those of the first, over images that both could read.

    Args:
        images: compared.
        count: with another answer; no answer is another one.
        broken: right before and wrong now.
        mended: wrong before and right now.
        max_abs: largest difference of two scores where both answered, 0..1; NaN if they never did.
    """

    images: int
    count: int
    broken: int
    mended: int
    max_abs: float


@dataclass(frozen=True, eq=False)
class Routing:
    """Data sets that a subject trained for several of them takes images for.

    Args:
        asked: Names of the S data sets that the images are of.
        sets: Names of the R data sets that the subject was trained for.
        counts: (S, R) int64 answered images by their data set and by that of the best class among all.
        top1: Share of images with the right class among the classes of all data sets, 0..1.
    """

    asked: tuple[str, ...]
    sets: tuple[str, ...]
    counts: np.ndarray
    top1: float

    @property
    def share(self) -> float:
        """Share of answered images that are taken for their own data set, 0..1; NaN without an answer."""
        own = sum(int(self.counts[row, self.sets.index(name)]) for row, name in enumerate(self.asked))
        total = int(self.counts.sum())
        return own / total if total else math.nan


def route(answers: Answers, labels: np.ndarray, own: Sequence[str], wanted: Sequence[str]) -> Routing | None:
    """Count the data set that each image was taken for.

    Args:
        answers: Answers to n images.
        labels: (n,) int64 right classes.
        own: Class names of the subject, `set/class` each if it was trained for several data sets.
        wanted: C class names of the data, as the subject calls them.

    Returns:
        None for a subject of one data set.
    """
    sets = tuple(dict.fromkeys(_set_of(name) for name in own))
    asked = tuple(dict.fromkeys(_set_of(name) for name in wanted))
    if len(sets) < 2 or not set(asked) <= set(sets) or any("/" not in name for name in own):
        return None
    first = answers.chosen if answers.first is None else answers.first
    names = wanted if answers.first is None else own
    counts, right = np.zeros((len(asked), len(sets)), np.int64), 0
    for index in np.flatnonzero(answers.answered):
        truth, answer = wanted[labels[index]], names[first[index]]
        counts[asked.index(_set_of(truth)), sets.index(_set_of(answer))] += 1
        right += truth == answer
    return Routing(asked, sets, counts, right / max(int(answers.read.sum()), 1))


def _set_of(name: str) -> str:
    return name.partition("/")[0]


def measure(answers: Answers, labels: np.ndarray) -> Metrics:
    """Judge the answers of one subject.

    Args:
        answers: to n images.
        labels: (n,) int64 right classes, 0 <= class < C.

    Raises:
        DataError: not one image could be read.
    """
    read, classes = answers.read, answers.scores.shape[1]
    images = int(read.sum())
    if not images:
        raise DataError("images", expected="at least one that can be read", got="none", do="check the files")
    right = answers.chosen[read] == labels[read]
    answered = answers.answered
    likelihood = answers.scores[answered, labels[answered]]
    among = answered & (_rank(answers.scores, labels) < TOP)
    return Metrics(
        images=images,
        unreadable=len(read) - images,
        degraded=int(answers.degraded.sum()),
        top1=float(right.mean()),
        interval=wilson(int(right.sum()), images),
        top5=float(among.sum() / images) if classes > TOP else None,
        class_counts=np.bincount(labels[read], minlength=classes),
        class_right=np.bincount(labels[read][right], minlength=classes),
        log_likelihood=float(-np.log(np.maximum(likelihood, LEAST_SCORE)).mean()) if len(likelihood) else math.nan,
        reliability=reliability(answers, labels),
        images_per_s=images / max(answers.seconds, 1e-9),
    )


def reliability(answers: Answers, labels: np.ndarray) -> Reliability:
    """Sort answers into bins by their confidence; arguments as of `measure`."""
    answered = answers.answered
    confidence = answers.scores[answered].max(axis=1, initial=0).astype(np.float64)
    right = answers.chosen[answered] == labels[answered]
    # A bin holds its upper edge: a confidence of 1 belongs to the last.
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    count = np.bincount(place, minlength=BINS)
    means = (np.bincount(place, values, BINS) / np.maximum(count, 1) for values in (confidence, right))
    return Reliability(count, *means)


def confusion(answers: Answers, labels: np.ndarray) -> np.ndarray:
    """(C, C) int64 counts of answered images by right class and answer; arguments as of `measure`."""
    classes = answers.scores.shape[1]
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels[answers.answered], answers.chosen[answers.answered]), 1)
    return counts


def compare(first: Answers, second: Answers, labels: np.ndarray) -> Flips:
    """What changes from one subject to another; labels as of `measure`."""
    read, both = first.read & second.read, first.answered & second.answered
    before, now, truth = first.chosen[read], second.chosen[read], labels[read]
    gap = np.abs(first.scores[both] - second.scores[both])
    return Flips(
        images=int(read.sum()),
        count=int((before != now).sum()),
        broken=int(((before == truth) & (now != truth)).sum()),
        mended=int(((before != truth) & (now == truth)).sum()),
        max_abs=float(gap.max()) if gap.size else math.nan,
    )


def wilson(right: int, count: int) -> tuple[float, float]:
    """Interval of 95 % for a share of `right` in `count`, 0..1.

    Source: Wilson, JASA 1927; it stays within 0..1 and keeps its width near both ends.
    """
    share, square = right / count, NORMAL_95**2 / count
    middle = share + square / 2
    reach = math.sqrt(share * (1 - share) * square + square**2 / 4)
    return max(0.0, (middle - reach) / (1 + square)), min(1.0, (middle + reach) / (1 + square))


def class_order(subject: str, own: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Which of a subject's classes each class of the data is, by name.

    Args:
        subject: for messages.
        own: class names of the subject; there may be more than the data has.
        wanted: C class names of the data.

    Returns:
        (C,) int64 indices into `own`.

    Raises:
        DataError: a class of the data is missing, or a name stands for two classes.
    """
    if tuple(own) == tuple(wanted):
        return np.arange(len(own))
    index = {label: number for number, label in enumerate(own)}
    missing = next((label for label in wanted if label not in index), None)
    if missing is not None:
        raise DataError(
            subject,
            expected=f"a class {missing!r} as the data have it",
            got=f"{len(own)} classes such as {own[0]!r}",
            do="choose the data that it was trained for",
        )
    unclear = {label for label in wanted if list(own).count(label) > 1}
    if unclear or len(set(wanted)) < len(wanted):
        raise DataError(
            subject, expected="a name of its own for each class", got="one name for two", do="rename one of the two"
        )
    return np.array([index[label] for label in wanted])


def named_by_set(own: Sequence[str], wanted: Sequence[str], data: str) -> tuple[str, ...]:
    """Class names of the data as a subject calls them.

    Args:
        own: Class names of the subject.
        wanted: Class names of the data.
        data: Name of the data set.

    Returns:
        `set/class` each, if the subject was trained for several data sets and has all of these; else `wanted`.
    """
    longer = tuple(f"{data}/{label}" for label in wanted)
    return longer if set(longer) <= set(own) else tuple(wanted)


def of_classes(scores: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Scores of some classes (n, C) from those of all (n, C'); they sum to 1 again where classes were left out.

    Args:
        scores: (n, C') float32 probabilities.
        order: (C,) as `class_order` gives it.
    """
    chosen = scores[:, order]
    if len(order) == scores.shape[1]:
        return np.asarray(chosen)
    return np.asarray(chosen / np.maximum(chosen.sum(axis=1, keepdims=True), LEAST_SCORE))


def _rank(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes stand before the right one (n,); of equal scores the smaller class comes first."""
    own = scores[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    return np.asarray(((scores > own) | ((scores == own) & earlier)).sum(axis=1))

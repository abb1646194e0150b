"""One evaluation: every subject answers the same images, and the answers are judged and compared."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from pgn_edge import __version__
from pgn_edge.cli.eval.subjects import answer, open_subjects
from pgn_edge.left_out import LeftOut
from pgn_edge.progress import Progress, silent
from pgn_edge.runtime.environment import describe_environment
from pgn_edge.train.analysis.features import choose
from pgn_edge.train.data.dataset import DataSet
from pgn_edge.train.data.samples import Reading, Samples
from pgn_edge.train.data.table import load_data
from pgn_edge.train.evaluate import (
    BINS,
    Answers,
    Flips,
    Metrics,
    Routing,
    class_order,
    compare,
    measure,
    named_by_set,
    route,
)

WORST = 3


@dataclass(frozen=True)
class Question:
    """What is asked of every subject.

    Args:
        data: as `load_data` takes it.
        root: folder that it is looked up in.
        split: `test`, `validation` or `train`.
        limit: most images, taken evenly from the whole split; None for all.
        transport: what the canvases of checkpoints go through, as `Transport.parse` takes it; `none` for tokens in the
            place of a canvas; None for what each went through in training.
        white: Value of white in image files of 16 bits a channel; None as for `pgn_edge.images.read_image`.
        strict: whether an image that cannot be read ends the evaluation; else it is left out and counted.
    """

    data: str
    root: str | None = None
    split: str = "test"
    limit: int | None = None
    transport: str | None = None
    white: int | None = None
    strict: bool = False


@dataclass(frozen=True, eq=False)
class Judged:
    """One subject.

    Args:
        path: its file.
        where: what it ran in.
        classes: that its head has; more than the data has where some are left out.
        answers: what it said.
        metrics: what that is worth.
        flips: against the first subject; None for the first.
        routing: Data sets that images were taken for; None for a subject of one data set.
    """

    path: str
    where: str
    classes: int
    answers: Answers
    metrics: Metrics
    flips: Flips | None
    routing: Routing | None = None


@dataclass(frozen=True, eq=False)
class EvalReport:
    """All subjects on one split.

    Args:
        question: what was asked.
        data: the data set.
        samples: the images that were asked about.
        subjects: in the order that they were named.
        left_out: Account of files that did not count.
    """

    question: Question
    data: DataSet
    samples: Samples
    subjects: tuple[Judged, ...]
    left_out: LeftOut


def evaluate(
    paths: Sequence[str],
    question: Question,
    *,
    weights: str | None = None,
    vit: str | None = None,
    options: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> EvalReport:
    """Let subjects answer a split, each with its own preprocessing of the decoded image.

    Args:
        paths: checkpoints and bundles; the others are compared with the first.
        question: which images.
        weights: of the checkpoints' backbone.
        vit: engine for the bundles.
        options: of the Runtime: provider, threads and gpu.
        progress: listener.

    Raises:
        DataError: data that cannot be read, a split without images, or a subject that lacks one of its classes.
        PgnEdgeError: a subject cannot be opened.
    """
    left_out, judged = LeftOut(question.strict), list[Judged]()
    data = load_data(question.data, question.root, reading=Reading(left_out, question.white, progress))
    samples = choose(data, question.split, question.limit)
    with ExitStack() as opened:
        subjects = open_subjects(paths, weights, vit, options or {}, opened, question.transport)
        wanted = [named_by_set(subject.labels, data.labels, data.name) for subject in subjects]
        pairs = zip(subjects, wanted, strict=True)
        orders = [class_order(subject.path, subject.labels, names) for subject, names in pairs]
        for subject, names, order in zip(subjects, wanted, orders, strict=True):
            answers = answer(subject, samples, order, left_out, progress)
            flips = compare(judged[0].answers, answers, samples.labels) if judged else None
            metrics = measure(answers, samples.labels)
            routing = route(answers, samples.labels, subject.labels, names)
            data.count_empty(samples, samples.labels[answers.read], left_out)
            classes = len(subject.labels)
            judged.append(Judged(subject.path, subject.where, classes, answers, metrics, flips, routing))
    return EvalReport(question, data, samples, tuple(judged), left_out)


def document(report: EvalReport) -> dict[str, Any]:
    """All numbers, ready for JSON; what there is none of is null."""
    question = report.question
    return {
        "data": question.data,
        "split": question.split,
        "transport": question.transport,
        "images": len(report.samples),
        "unreadable": report.left_out.count(),
        "first_unreadable": report.left_out.first(),
        "left_out": report.left_out.to_json(),
        "notes": list(report.data.notes),
        "calibration_bins": BINS,
        "labels": list(report.data.labels),
        "subjects": [_subject(judged) for judged in report.subjects],
        "version": __version__,
        "environment": describe_environment(),
    }


def _subject(judged: Judged) -> dict[str, Any]:
    metrics, bins = judged.metrics, judged.metrics.reliability
    return {
        "subject": judged.path,
        "where": judged.where,
        "classes": judged.classes,
        "images": metrics.images,
        "degraded": metrics.degraded,
        "top1": metrics.top1,
        "top1_interval_95": list(metrics.interval),
        "top5": metrics.top5,
        "mean_class_accuracy": metrics.mean_class,
        "class_accuracy": [_number(value) for value in metrics.class_accuracy],
        "class_images": metrics.class_counts.tolist(),
        "calibration_error": _number(bins.error),
        "calibration": {
            "count": bins.count.tolist(),
            "confidence": bins.confidence.tolist(),
            "accuracy": bins.accuracy.tolist(),
        },
        "negative_log_likelihood": _number(metrics.log_likelihood),
        "images_per_s": metrics.images_per_s,
        "flips": None if judged.flips is None else _flips(judged.flips),
        "routing": None if judged.routing is None else _routing(judged.routing),
    }


def _flips(flips: Flips) -> dict[str, Any]:
    return {
        "images": flips.images,
        "count": flips.count,
        "broken": flips.broken,
        "mended": flips.mended,
        "max_abs_score": _number(flips.max_abs),
    }


def _routing(routing: Routing) -> dict[str, Any]:
    return {
        "asked": list(routing.asked),
        "sets": list(routing.sets),
        "counts": routing.counts.tolist(),
        "share": _number(routing.share),
        "top1_among_all_classes": routing.top1,
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None

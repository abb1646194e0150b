"""The tables of an evaluation, and its page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pgn_edge import html
from pgn_edge.cli.eval.predictions import gallery
from pgn_edge.cli.eval.run import WORST, EvalReport, Judged
from pgn_edge.plots import plot_name
from pgn_edge.train.analysis.figures import INK, SECOND, figure, png
from pgn_edge.train.evaluate import BINS, Answers, Reliability, confusion

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LABELS = 40  # classes whose names and counts a confusion matrix has room for
CONFUSED = 20  # pairs of classes that the page names

METRICS_HEADER = (
    *("", "runs in", "images", "top-1", "95 % interval", "top-5", "mean of classes", "calibration error"),
    *("-log likelihood", "no answer", "images/s"),
)
ROUTING_HEADER = ("", "images of", "taken for their own data set", "taken for others")
FLIPS_HEADER = ("", "against the first", "right to wrong", "wrong to right", "max abs of scores")


def metrics_rows(report: EvalReport) -> list[tuple[str, ...]]:
    """A row for each subject, under `METRICS_HEADER`."""
    rows: list[tuple[str, ...]] = []
    for judged in report.subjects:
        metrics = judged.metrics
        low, high = metrics.interval
        rows.append(
            (
                judged.path,
                judged.where,
                str(metrics.images),
                f"{metrics.top1:.2%}",
                f"{low:.1%} to {high:.1%}",
                "" if metrics.top5 is None else f"{metrics.top5:.2%}",
                f"{metrics.mean_class:.2%}",
                _number(metrics.reliability.error, ".4f"),
                _number(metrics.log_likelihood, ".4f"),
                str(metrics.degraded),
                f"{metrics.images_per_s:.0f}",
            )
        )
    return rows


def flips_rows(report: EvalReport) -> list[tuple[str, ...]]:
    """A row for each subject but the first, under `FLIPS_HEADER`."""
    rows: list[tuple[str, ...]] = []
    for judged in report.subjects:
        flips = judged.flips
        if flips is not None:
            share = flips.count / flips.images if flips.images else 0.0
            count = f"{flips.count} of {flips.images} ({share:.2%}) differ"
            gap = _number(flips.max_abs, ".2e")
            rows.append((judged.path, count, str(flips.broken), str(flips.mended), gap))
    return rows


def class_rows(report: EvalReport) -> list[tuple[str, ...]]:
    """A row for each class: its images, and the accuracy of each subject on them."""
    counts = report.subjects[0].metrics.class_counts
    columns = [judged.metrics.class_accuracy for judged in report.subjects]
    return [
        (label, str(counts[index]), *(_number(column[index], ".1%") for column in columns))
        for index, label in enumerate(report.data.labels)
    ]


def class_header(report: EvalReport) -> tuple[str, ...]:
    """Of `class_rows`."""
    return ("class", "images", *(judged.path for judged in report.subjects))


def worst(report: EvalReport, judged: Judged) -> str:
    """The worst classes of a subject in words."""
    metrics, labels = judged.metrics, report.data.labels
    named = [f"{labels[index]} ({metrics.class_accuracy[index]:.1%})" for index in metrics.worst(WORST)]
    return f"{judged.path}: worst classes {', '.join(named)}"


def notes(report: EvalReport) -> list[str]:
    """What the tables do not say: top-1 among the classes of several data sets, and classes left out."""
    lines, classes = [], len(report.data.labels)
    for judged in report.subjects:
        if judged.routing is not None:
            count = judged.classes
            lines.append(f"{judged.path}: top-1 among its {count} classes of all data sets: {judged.routing.top1:.2%}")
    lines += [
        f"{judged.path}: of its {judged.classes} classes it chose among the {classes} of the data"
        for judged in report.subjects
        if judged.classes > classes
    ]
    return lines


def routing_rows(report: EvalReport) -> list[tuple[str, ...]]:
    """Rows under `ROUTING_HEADER`: one for each data set of each subject that was trained for several."""
    rows: list[tuple[str, ...]] = []
    for judged in report.subjects:
        routing = judged.routing
        if routing is None:
            continue
        for name, counts in zip(routing.asked, routing.counts, strict=True):
            total = max(int(counts.sum()), 1)
            others = [f"{other} {count}" for other, count in zip(routing.sets, counts, strict=True) if other != name]
            own = int(counts[routing.sets.index(name)])
            rows.append((judged.path, name, f"{own} of {total} ({own / total:.1%})", ", ".join(others)))
    return rows


def eval_html(report: EvalReport) -> str:
    """The whole page."""
    question = report.question
    parts = [
        html.paragraph(
            f"{len(report.samples)} images of the split {question.split} of {question.data}. Images without an answer "
            "count as wrong. Speed is of decoding and answering together, on this machine."
        ),
        html.table(METRICS_HEADER, metrics_rows(report)),
        *(html.paragraph(line) for line in (*report.data.notes, report.left_out.summary(), *notes(report)) if line),
    ]
    rows = flips_rows(report)
    if rows:
        parts += [html.heading("Against the first subject"), html.table(FLIPS_HEADER, rows)]
    routes = routing_rows(report)
    if routes:
        parts += [html.heading("Data sets told apart"), html.table(ROUTING_HEADER, routes)]
    for judged in report.subjects:
        parts += _pictures(report, judged)
    parts += [html.heading("Accuracy of each class"), html.table(class_header(report), class_rows(report))]
    return html.page(f"pgn-edge eval: {question.data}", parts)


def _pictures(report: EvalReport, judged: Judged) -> list[str]:
    labels, truth = report.data.labels, report.samples.labels
    counts = confusion(judged.answers, truth)
    parts = [
        html.heading(f"{judged.path}, {judged.where}"),
        html.paragraph(worst(report, judged)),
        html.picture(
            png(_reliability(judged.metrics.reliability)),
            f"Reliability in {BINS} bins. The dots stand at the mean confidence of each: on the diagonal, answers are "
            "as right as they are confident, below it they are less. The expected calibration error is the mean "
            "distance, weighted by the counts underneath.",
        ),
        html.picture(
            png(_confusion(counts, labels)),
            "Confusion: rows are the truth, columns the answer; what is off the diagonal is wrong.",
        ),
    ]
    pairs = _confused(counts, judged.answers, labels)
    if pairs:
        parts.append(html.table(("truth", "answer", "images"), pairs))
    return [*parts, *gallery(report, judged)]


def _confused(counts: np.ndarray, answers: Answers, labels: Sequence[str]) -> list[tuple[str, str, str]]:
    """The pairs of classes that are taken for one another most often."""
    wrong = counts * (1 - np.eye(len(counts), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSED]
    places = [divmod(int(place), len(labels)) for place in order]
    return [(labels[row], labels[column], str(wrong[row, column])) for row, column in places if wrong[row, column]]


def _reliability(bins: Reliability) -> Figure:
    drawn = figure(5, 4.6)
    upper, lower = drawn.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges, filled = np.arange(BINS) / BINS, bins.count > 0
    upper.bar(edges[filled], bins.accuracy[filled], 1 / BINS, align="edge", color=INK, edgecolor="white")
    upper.plot([0, 1], [0, 1], color="black", linestyle=":")
    upper.plot(bins.confidence[filled], bins.accuracy[filled], color=SECOND, marker=".", linestyle="none")
    upper.set(ylabel="share of right answers", ylim=(0, 1.02), xlim=(0, 1))
    lower.bar(edges, bins.count, 1 / BINS, align="edge", color=SECOND, edgecolor="white")
    lower.set(xlabel="confidence (score of the answer)", ylabel="images")
    return drawn


def _confusion(counts: np.ndarray, labels: Sequence[str]) -> Figure:
    few = len(labels) <= MOST_LABELS
    side = min(max(4.5, 0.42 * len(labels) + 1.5), 14) if few else 7
    drawn = figure(side, side)
    axes = drawn.subplots()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xlabel="answer", ylabel="truth")
    if few:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
        ticks, names = range(len(labels)), [plot_name(label) for label in labels]
        axes.set(xticks=ticks, yticks=ticks, yticklabels=names)
        long = max(map(len, names)) > 2
        axes.set_xticklabels(names, rotation=90 if long else 0)
    return drawn


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)

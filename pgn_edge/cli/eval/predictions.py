"""What each subject said to each image: a file with a row for every image, and the most confident errors."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pgn_edge import html
from pgn_edge.errors import DataError, OutputError
from pgn_edge.files import atomic_write
from pgn_edge.train.data.samples import Samples
from pgn_edge.train.evaluate import Answers

if TYPE_CHECKING:
    from pgn_edge.cli.eval.run import EvalReport, Judged

SUFFIXES = (".csv", ".jsonl")
TOP = 5  # classes of each row
SHOWN = 24  # errors of each subject on the page
THUMBNAIL = 128  # pixels, the longer side


def require_predictions(path: Path) -> None:
    """Refuse the name of a predictions file before any image is answered.

    Raises:
        OutputError: the suffix is neither .csv nor .jsonl.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(
            str(path), expected="a name that ends in .csv or .jsonl", got=repr(path.suffix), do="choose another name"
        )


def write_predictions(path: Path, report: EvalReport) -> None:
    """Write a row for each subject and image, in the order of the images.

    Args:
        path: File to write, .csv or .jsonl.
        report: Evaluation whose answers are written.

    Raises:
        OutputError: the file cannot be written.
    """
    # Names of files may hold bytes that are no UTF-8: they are written as they are.
    with (
        atomic_write(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        if path.suffix.lower() == ".csv":
            writer = csv.writer(file)
            writer.writerow(_columns(report))
            writer.writerows(_cells(row, min(TOP, len(report.data.labels))) for row in rows(report))
        else:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(report))


def rows(report: EvalReport) -> Iterator[dict[str, Any]]:
    """One JSON object for each subject and image; `predicted`, `right` and `score` are None without an answer."""
    labels, samples = report.data.labels, report.samples
    for judged in report.subjects:
        answers = judged.answers
        for index in range(len(samples)):
            best = _best(answers, index)
            yield {
                "subject": judged.path,
                "path": samples.name(index),
                "status": _status(answers, index),
                "truth": labels[samples.labels[index]],
                "predicted": labels[best[0]] if best else None,
                "right": bool(best[0] == samples.labels[index]) if best else None,
                "score": _score(answers, index, best[0]) if best else None,
                "top": [{"label": labels[each], "score": _score(answers, index, each)} for each in best],
            }


def confident_errors(answers: Answers, truth: np.ndarray, most: int = SHOWN) -> list[int]:
    """Images with a wrong answer, those with the highest score first.

    Args:
        answers: Answers of one subject to n images.
        truth: (n,) int64 right classes.
        most: Number of images, at most.
    """
    wrong = np.flatnonzero(answers.answered & (answers.chosen != truth))
    confidence = answers.scores[wrong].max(axis=1, initial=0)
    return [int(index) for index in wrong[np.argsort(-confidence, kind="stable")][:most]]


def gallery(report: EvalReport, judged: Judged) -> list[str]:
    """The most confident errors of one subject as parts of a page; none where all is right."""
    samples, labels = report.samples, report.data.labels
    pictures = []
    for index in confident_errors(judged.answers, samples.labels):
        small = _thumbnail(samples, index)
        if small is not None:
            best = int(judged.answers.chosen[index])
            score = _score(judged.answers, index, best)
            caption = f"{labels[samples.labels[index]]}, taken for {labels[best]} ({score:.1%}): {samples.name(index)}"
            pictures.append(html.picture(small, caption, width=THUMBNAIL))
    if not pictures:
        return []
    lead = "The wrong answers with the highest scores. Wrong labels and classes that overlap show here first."
    return [html.paragraph(lead), html.gallery(pictures)]


def _thumbnail(samples: Samples, index: int) -> bytes | None:
    try:
        image = Image.fromarray(samples.read(index))
    except DataError:  # it could be read a moment ago
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _status(answers: Answers, index: int) -> str:
    if not answers.read[index]:
        return "unreadable"
    return "degraded" if answers.degraded[index] else "answered"


def _best(answers: Answers, index: int) -> list[int]:
    """The best classes of one image, the best first; none without an answer."""
    if not answers.answered[index]:
        return []
    return [int(each) for each in np.argsort(-answers.scores[index], kind="stable")[:TOP]]


def _score(answers: Answers, index: int, label: int) -> float:
    return float(answers.scores[index, label])


def _columns(report: EvalReport) -> list[str]:
    places = range(2, min(TOP, len(report.data.labels)) + 1)
    others = [name for place in places for name in (f"predicted_{place}", f"score_{place}")]
    return ["subject", "path", "status", "truth", "predicted", "right", "score", *others]


def _cells(row: dict[str, Any], count: int) -> list[Any]:
    first = [row[name] for name in ("subject", "path", "status", "truth", "predicted", "right", "score")]
    others = [value for each in row["top"][1:] for value in (each["label"], each["score"])]
    return [*first, *others, *[None] * (2 * (count - 1) - len(others))]

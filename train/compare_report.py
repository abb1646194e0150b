"""Tables and plots of a series of runs, made from its results: JSON, Markdown and one HTML page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pgn_edge import html
from pgn_edge.files import write_text
from pgn_edge.plots import plot_name
from pgn_edge.train.analysis.figures import GREY, INK, figure, png
from pgn_edge.train.baselines.contenders import CONTENDERS
from pgn_edge.train.evaluate import wilson
from pgn_edge.train.series import Row

FORMAT, SCHEMA = "pgn-edge series", 1
HEADER = (
    *("", "head", "top-1, %", "95 % interval", "trained parameters"),
    *("stored, KiB", "training, s", "learning rate", "validation, %", "runs"),
)
BRIEF = 5  # columns that a terminal has room for
NOTES = (
    "Top-1 on the test split, the mean over seeds. Its interval: for several runs that of the mean by the t "
    "distribution, which holds what the seed changes; for a single run (*) Wilson's for that many test images.",
    "The validation split chose the epoch and, where several were tried, the learning rate, with the first seed. "
    "Test images were looked at once, by what had been chosen.",
    "Parameters are those that training changes; a PGN for all data sets has them once for all, and tells each image "
    "apart among the classes of all.",
    "Stored is what a task adds to the frozen model, as it was trained. Seconds are those of the mean run on the "
    "machine at hand, without the search for a learning rate.",
)


@dataclass(frozen=True)
class Section:
    """A table and its plot.

    Args:
        title: heading.
        rows: of the table, from top to bottom.
    """

    title: str
    rows: tuple[Row, ...]


def write_report(name: str, title: str, sections: Sequence[Section], folder: Path) -> None:
    """Write NAME.json, NAME.md and NAME.html.

    Args:
        name: of the files.
        title: of the page.
        sections: tables.
        folder: that exists.

    Raises:
        OutputError: they cannot be written.
    """
    write_text(folder / f"{name}.json", json.dumps(document(title, sections), indent=2) + "\n")
    write_text(folder / f"{name}.md", markdown(title, sections))
    write_text(folder / f"{name}.html", page(title, sections))


def document(title: str, sections: Sequence[Section]) -> dict[str, Any]:
    """All numbers, as JSON values."""
    tables = [{"title": each.title, "rows": [summary(row) for row in each.rows]} for each in sections]
    return {"format": FORMAT, "schema": SCHEMA, "title": title, "sections": tables}


def summary(row: Row) -> dict[str, Any]:
    """One row in numbers; those of its results are missing where it has none."""
    about = {"name": row.name, "data": row.data, "head": row.head, "runs": len(row.results)}
    if row.problem:
        about |= {"problem": row.problem, "failed": row.failed}
    if not row.results:
        return about
    accuracies, first = [result.accuracy(row.data) for result in row.results], row.results[0]
    right, images = first.right[row.data], first.images[row.data]
    low, high = over_seeds(accuracies) if len(accuracies) > 1 else wilson(right, images)
    return about | {
        "accuracy": float(np.mean(accuracies)),
        "interval": [low, high],
        "interval_of": "seeds" if len(accuracies) > 1 else "test images",
        "accuracies": accuracies,
        "test_images": images,
        "unreadable": first.unreadable,
        "validation": float(np.mean([result.validation for result in row.results])),
        "learning_rate": first.job["schedule"]["lr"] if CONTENDERS[first.job["contender"]].learns else None,
        "searched": dict(first.searched),
        "parameters": first.parameters,
        "stored_bytes": first.stored_bytes,
        "seconds": float(np.mean([result.seconds for result in row.results])),
    }


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """Interval of 95 % for the mean of several runs by the t distribution: what seeds change, on this test split.

    Args:
        values: accuracies of at least two seeds, 0..1.

    Returns:
        Lower and upper end, within 0..1.
    """
    from scipy.stats import t

    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = float(t.ppf(0.975, len(values) - 1)) * error
    return max(0.0, mean - reach), min(1.0, mean + reach)


def markdown(title: str, sections: Sequence[Section]) -> str:
    """The tables for a page of documentation."""
    lines = [f"# {title}"]
    for section in sections:
        numbers = [cells(summary(row)) for row in section.rows]
        table = [HEADER, ("---", "---", *["---:"] * (len(HEADER) - 2)), *numbers]
        lines += ["", f"## {section.title}", *("| " + " | ".join(map(_escape, row)) + " |" for row in table)]
    lines += [line for note in NOTES for line in ("", note)]
    return "\n".join(lines) + "\n"


def page(title: str, sections: Sequence[Section]) -> str:
    """One HTML page with the plots in it."""
    parts = []
    for section in sections:
        numbers = [summary(row) for row in section.rows]
        parts += [html.heading(section.title), html.table(HEADER, [cells(row) for row in numbers])]
        drawn = [row for row in numbers if "accuracy" in row]
        if drawn:
            parts.append(html.picture(_plot(drawn), f"{section.title}: top-1 on the test split with its interval"))
    return html.page(title, [*parts, *map(html.paragraph, NOTES)])


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of `summary` for people to read, in the columns of `HEADER`."""
    problem = row.get("problem", "")
    if "accuracy" not in row:
        return (row["name"], row["head"], problem, *[""] * (len(HEADER) - 3))
    low, high = row["interval"]
    star = "" if row["interval_of"] == "seeds" else "*"
    rate = row["learning_rate"]
    return (
        row["name"],
        row["head"],
        f"{100 * row['accuracy']:.1f}" + (f" ({problem})" if problem else ""),
        f"{100 * low:.1f} to {100 * high:.1f}{star}",
        f"{row['parameters']:,}",
        f"{row['stored_bytes'] / 1024:,.1f}",
        f"{row['seconds']:,.0f}",
        "" if rate is None else f"{rate:g}",
        f"{100 * row['validation']:.1f}",
        str(row["runs"]),
    )


def _plot(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Accuracy of each row with its interval, as PNG."""
    drawn = figure(8, 1.2 + 0.36 * len(rows))
    axes = drawn.subplots()
    middle = np.array([row["accuracy"] for row in rows])
    ends = np.array([row["interval"] for row in rows])
    reach = np.abs(ends.T - middle)
    place = np.arange(len(rows))[::-1]
    axes.errorbar(100 * middle, place, xerr=100 * reach, fmt="o", color=INK, ecolor=GREY, capsize=3)
    axes.set_yticks(place, [plot_name(row["name"]) for row in rows])
    axes.set(xlabel="top-1 accuracy, %", ylim=(-0.6, len(rows) - 0.4))
    axes.grid(axis="x", color="#d9dee3")
    return png(drawn)


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|")

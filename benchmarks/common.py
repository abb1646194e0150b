"""What the benchmarks share: where results go, and how they read."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pgn_edge.files import write_text
from pgn_edge.runtime.bench import Stats

RESULTS = Path(__file__).parent / "results"
HEADER = ("", "p50", "p95", "p99", "mean", "min", "samples")


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the option that every benchmark has: where to write."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--output", type=Path, default=RESULTS, help="folder of the results; default: %(default)s")
    return made


def stats_row(name: str, samples: Sequence[float], digits: int = 2) -> tuple[str, ...]:
    """One row under `HEADER`."""
    stats = Stats.of(samples)
    values = (stats.p50, stats.p95, stats.p99, stats.mean, stats.min)
    return (name, *("-" if value is None else f"{value:.{digits}f}" for value in values), str(stats.count))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column reads from the left."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *rows))


def environment_table(environment: Mapping[str, Any]) -> str:
    """Machine, versions and command as a table."""
    rows = [
        (key.replace("_", " "), "not readable" if value is None else f"`{value}`") for key, value in environment.items()
    ]
    return markdown_table(("environment", "value"), rows)


def write_results(folder: Path, name: str, document: Mapping[str, Any], markdown: str) -> None:
    """Write `<name>.json` with the raw samples and `<name>.md`, and print the latter.

    Raises:
        OutputError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{name}.json", json.dumps(document, indent=1) + "\n")
    write_text(folder / f"{name}.md", markdown)
    print(markdown)

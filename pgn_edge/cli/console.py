"""What the commands share: options, tables, progress bars."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import click

from pgn_edge.progress import Progress

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
weights_option = click.option(
    "--weights",
    type=click.Path(dir_okay=False),
    help="Backbone weights to read instead of downloading them.",
)
fp16_option = click.option("--fp16", is_flag=True, help="Write strongly typed fp16 into the graph.")
layout_option = click.option(
    "--layout",
    type=click.Choice(["append", "inset"]),
    default="append",
    show_default=True,
    help="Prompts under the image, or inside the stock size.",
)


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(document, indent=2))


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; the first column is text, the others are numbers."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))  # a label may hold brackets
    Console().print(table)


@contextmanager
def busy(doing: str) -> Iterator[None]:
    """Turn a spinner on the terminal while nobody knows how long something takes; elsewhere stay silent."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status(doing) if console.is_terminal else nullcontext():
        yield


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on stderr for each step that a library function tells of."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    bars = Bars(*columns, console=Console(stderr=True))
    tasks: dict[str, Any] = {}

    def show(step: str, done: int, total: int, note: str = "") -> None:
        if step not in tasks:
            bars.start()  # not before: a run that fails at once prints its error alone
            tasks[step] = bars.add_task(step, total=total, note="")
        bars.update(tasks[step], completed=done, total=total, note=note)

    try:
        yield show
    finally:
        if tasks:
            bars.stop()

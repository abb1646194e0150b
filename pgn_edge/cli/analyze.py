"""`pgn-edge analyze`."""

from __future__ import annotations

from pathlib import Path

import click

from pgn_edge.cli.console import (
    json_option,
    print_json,
    progress_bar,
    strict_option,
    tell_left_out,
    weights_option,
    white_option,
)
from pgn_edge.left_out import LeftOut


def _numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Library tokens, as in `3,17`."""
    try:
        return tuple(int(part) for part in value.split(",")) if value else ()
    except ValueError as exc:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 3,17", ctx, param) from exc


@click.command()
@click.argument("checkpoint", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--data",
    multiple=True,
    required=True,
    help="A data set's name, a folder of classes or a .csv; give it again to lay several beside each other.",
)
@click.option("--root", type=click.Path(file_okay=False), help="Folder that --data is looked up in.")
@click.option(
    "--split",
    type=click.Choice(["test", "validation", "train", "all"]),
    default="validation",
    show_default=True,
    help="Part of the data, or all of it.",
)
@click.option(
    "--limit", type=click.IntRange(min=2), default=1000, show_default=True, help="Most images of each, taken evenly."
)
@click.option(
    "--tokens",
    metavar="N,N,...",
    callback=_numbers,
    help="Library tokens of the gallery.  [default: the eight most used]",
)
@click.option(
    "--linear-probe",
    "probe_images",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    help="Compare robustness with a linear probe on N training images of each data set.  [default: no probe]",
)
@white_option
@strict_option
@weights_option
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/analysis"),
    show_default=True,
    help="Folder for pictures, numbers and the page.",
)
@json_option
def analyze(
    checkpoint: Path,
    data: tuple[str, ...],
    output: Path,
    as_json: bool,
    strict: bool,
    **given: object,
) -> None:
    """Show what the PGN of a CHECKPOINT does, on a page.

    The page has clusters, tokens, attention and robustness.
    """
    from pgn_edge.train.analysis.report import Looked
    from pgn_edge.train.analysis.report import analyze as run

    left_out = LeftOut(strict)
    with progress_bar() as progress:
        looked = Looked(checkpoint, data, **given)  # type: ignore[arg-type]  # as click parsed
        results = run(looked, output, progress, left_out)
    tell_left_out(left_out, results["notes"])
    if as_json:
        print_json(results)
        return
    count = len(results["pictures"])
    click.echo(f"{output / 'index.html'}: the page with {count} pictures; {output / 'analysis.json'}: the numbers")


COMMANDS = (analyze,)

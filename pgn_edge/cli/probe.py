"""`pgn-edge probe`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgn_edge.cli.console import (
    PixelSize,
    engine_options,
    json_option,
    print_json,
    print_table,
    printable,
    progress_bar,
)

if TYPE_CHECKING:
    from pgn_edge.runtime.probe import Report

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option(
    "--engine",
    required=True,
    metavar="FILE|ADDRESS",
    help="Any .onnx, .plan, served model (triton+http://HOST:PORT/MODEL), or the .toml of an embedding service.",
)
@click.option("--task", type=FILE, help="Bundle whose golden pair it should reproduce.  [default: as a .toml names it]")
@click.option(
    "--reference", type=FILE, help="Stock engine of the backbone that it may be, from export-vit --prompts 0."
)
@click.option("--output", default="", metavar="NAME", help="Engine output with the embedding.  [default: found]")
@click.option(
    "--size", "size_hw", type=PixelSize(), help="Size to try first if it is free.  [default: task's or reference's]"
)
@click.option(
    "--calls",
    "most_calls",
    type=click.IntRange(min=20),
    default=400,
    show_default=True,
    help="Most runs or requests; an engine takes 8 to 60, a service 40 to 160.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the test pictures.")
@engine_options
@click.option(
    "--trust",
    "trusted",
    multiple=True,
    metavar="SHA256",
    help="Load the plan of this sha256 although it has no sidecar. A plan is code: know where it comes from.",
)
@click.option("--html", type=FILE, help="Write a page.")
@click.option(
    "-o", "--facts", "facts_file", type=FILE, help="Write the facts of a foreign engine: a file that --vit takes."
)
@json_option
def probe(engine: str, html: Path | None, as_json: bool, **given: Any) -> None:
    """Find out what an engine takes, to train for it.

    The probe looks at inputs and outputs alone.

    Each finding has a confidence of 0 to 1 and says what it rests on. Colours and backbone need --task or --reference.
    """
    from pgn_edge.files import require_writable, write_text
    from pgn_edge.runtime.engines import EngineOptions
    from pgn_edge.runtime.engines.trial import require_survival
    from pgn_edge.runtime.probe import ProbeOptions, run_probe

    for path in (html, given["facts_file"]):
        if path is not None:
            require_writable(path)
    names = ("provider", "threads", "gpu")
    opened = EngineOptions(**{name: given.pop(name) for name in names}, trusted=frozenset(given.pop("trusted")))
    options = ProbeOptions(engine=opened, **given)
    require_survival(engine, opened, options.size_hw)
    with progress_bar() as progress:
        report = run_probe(engine, options, progress)
    if html is not None:
        write_text(html, report.to_html())
    if as_json:
        print_json(report.to_json())
    else:
        _print_report(report)
    if report.refusal is not None:
        raise report.refusal
    if not as_json:
        for path in filter(None, (html, options.facts_file)):
            click.echo(str(path))


def _print_report(report: Report) -> None:
    rows = [(one.what, one.answer, f"{one.confidence:.2f}", one.evidence) for one in report.findings]
    print_table(f"{report.engine}: {report.calls} calls", ("question", "answer", "confidence", "evidence"), rows)
    for line in report.disagreements:
        click.echo(printable(f"disagreement: {line}"))
    settings = report.settings
    if settings.options:
        print_table("Settings to train for", (), list(settings.options.items()))
    else:
        click.echo("it cannot be adapted as it is:")
    for command in settings.commands:
        click.echo(printable(f"  {command}"))
    for note in settings.notes:
        click.echo(printable(f"note: {note}"))


COMMANDS = (probe,)

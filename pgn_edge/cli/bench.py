"""`pgn-edge bench`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from pgn_edge.cli.console import print_json, print_table


@click.command()
@click.option("--engine", type=click.Path(dir_okay=False, path_type=Path), required=True, help="ViT engine, an .onnx.")
@click.option(
    "--task", type=click.Path(dir_okay=False, path_type=Path), help="Also measure the chain with this bundle."
)
@click.option(
    "--stock",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The same ViT exported with --prompts 0: shows what the prompt slots cost.",
)
@click.option("--samples", type=click.IntRange(min=1), default=200, show_default=True, help="Timed runs of each.")
@click.option("--frame", default="640x480", show_default=True, help="Size WxH of the random frame.")
@click.option(
    "--threads", type=click.IntRange(min=0), default=0, show_default=True, help="Of each engine; 0: all cores."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of frame, inputs and order.")
@click.option("--json", "json_path", type=click.Path(allow_dash=True), help="Write every sample there; - for stdout.")
@click.option("--html", "html_path", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with plots.")
def bench(
    engine: Path, task: Path | None, stock: Path | None, json_path: str | None, html_path: Path | None, **options: Any
) -> None:
    """Measure latency: the bare engine, and with a task the whole chain, all in turns in one run."""
    import json

    from pgn_edge.files import require_writable, write_text
    from pgn_edge.runtime import bench_report as reports
    from pgn_edge.runtime.bench import BenchOptions, run_bench

    frame_hw = _frame_hw(options.pop("frame"))
    for path in (json_path, html_path):
        if path is not None and str(path) != "-":
            require_writable(path)
    if html_path is not None:
        reports.require_matplotlib()
    report = run_bench(
        engine, task=task, stock=stock, options=BenchOptions(frame_hw=frame_hw, **options), progress=_tell
    )
    document = reports.bench_json(report)
    if html_path is not None:
        write_text(html_path, reports.bench_html(report))
    if json_path == "-":
        print_json(document)
        return
    if json_path is not None:
        write_text(json_path, json.dumps(document, indent=2) + "\n")
    print_table("Latency", reports.STATS_HEADER, reports.stats_rows(report))
    print_table("Adaptation tax", reports.TAX_HEADER, reports.tax_rows(report))
    for written in (json_path, html_path):
        if written is not None:
            click.echo(str(written))


def _frame_hw(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise click.BadParameter(f"expected WIDTHxHEIGHT such as 640x480, got {text!r}", param_hint="--frame")
    return int(match[2]), int(match[1])


def _tell(step: str, done: int, total: int, note: str = "") -> None:
    # No live bar: the thread that draws one would take time from the engine that is being measured.
    click.echo(f"{step}: {done} of {total} rounds", err=True)


COMMANDS = (bench,)

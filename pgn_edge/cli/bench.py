"""`pgn-edge bench`."""

from __future__ import annotations

import re
from collections.abc import Mapping
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
    from pgn_edge.runtime.bench import BenchReport
    from pgn_edge.runtime.bench_compare import Comparison
    from pgn_edge.runtime.bench_options import BenchOptions

FILE = click.Path(dir_okay=False, path_type=Path)
RATE = click.FloatRange(min=0, min_open=True)
SERVER_SAMPLES = 1000  # queries at each rate: a p99 rests on 662 at least
FRAMES = 8  # of a query where neither --cameras nor --batch says: as many as MLPerf's multi-stream has


@click.command()
@click.option(
    "--engine",
    "engines",
    metavar="FILE|ADDRESS",
    multiple=True,
    required=True,
    help="Any .onnx, .plan or served model (triton+http://HOST:PORT/MODEL); give it again to measure several side by "
    "side. --task and --stock belong to the first.",
)
@click.option("--task", type=FILE, help="Also measure the chain with this bundle.")
@click.option("--stock", type=FILE, help="The same ViT exported with --prompts 0: shows what the prompt slots cost.")
@click.option(
    "--scenario",
    type=click.Choice(["single-stream", "multi-stream", "server", "offline"]),
    default="single-stream",
    show_default=True,
    help="One frame a query; one of each camera; random arrivals; or full batches for throughput.",
)
@click.option("--qps", type=RATE, help="Queries per second of server.  [default: search the most within --bound-ms]")
@click.option("--bound-ms", type=RATE, help="Bound of the 99th percentile in server.")
@click.option("--cameras", type=click.IntRange(min=1), help=f"Frames of a multi-stream query.  [default: {FRAMES}]")
@click.option("--batch", type=click.IntRange(min=1), help=f"Frames of an offline query.  [default: {FRAMES}]")
@click.option("--samples", type=click.IntRange(min=1), help="Timed queries of each.  [default: 200; server: 1000]")
@click.option("--duration", type=click.FloatRange(min=0, min_open=True), help="Seconds to measure instead.")
@click.option(
    "--warmup",
    type=click.IntRange(min=0),
    help="Rounds before the first sample.  [default: until latencies settle, 200 at most]",
)
@click.option(
    "--frame", default="640x480", show_default=True, help="Size WxH of the random frame, or an image file to send."
)
@click.option("--size", "size_hw", type=PixelSize(), help="Picture size of engines that take any.")
@engine_options
@click.option(
    "--trust",
    "trusted",
    multiple=True,
    metavar="SHA256",
    help="Load the plan of this sha256 although it has no sidecar. A plan is code: know where it comes from.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of frame, inputs and order.")
@click.option(
    "--tasks", type=click.IntRange(min=1), default=10, show_default=True, help="Tasks that the tax is told for."
)
@click.option(
    "--compare", type=FILE, help="An earlier --json-file of the same engines: faster, slower or no difference."
)
@click.option("--fail-if-slower", is_flag=True, help="Exit with 1 where --compare finds a whole query slower.")
@json_option
@click.option("--json-file", type=FILE, help="Write summary and samples as JSON.")
@click.option("--csv", type=FILE, help="Write every sample.")
@click.option("--markdown", type=FILE, help="Write the tables as Markdown.")
@click.option("--html", type=FILE, help="Write a page with plots.")
@click.pass_context
def bench(
    context: click.Context,
    /,
    engines: tuple[str, ...],
    compare: Path | None,
    fail_if_slower: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Measure the latency or throughput of engines.

    With a task the whole chain is measured too. All of them take turns in one run.
    """
    from pgn_edge.runtime.bench import run_bench
    from pgn_edge.runtime.bench_compare import compare as compare_with
    from pgn_edge.runtime.bench_compare import read_earlier
    from pgn_edge.runtime.engines.trial import require_survival

    if fail_if_slower and compare is None:
        raise click.UsageError("--fail-if-slower needs --compare")
    outputs = {name: given.pop(name) for name in ("json_file", "csv", "markdown", "html")}
    task, stock = given.pop("task"), given.pop("stock")
    options = _options(**given)
    if options.frame is not None and task is None:
        raise click.UsageError("--frame FILE needs --task: an engine alone sees no frame")
    _check_outputs(outputs)
    earlier = None if compare is None else read_earlier(compare, options)
    for engine in engines:
        require_survival(engine, options.engine, options.size_hw)
    with progress_bar(live=False) as progress:
        report = run_bench(engines[0], rivals=engines[1:], task=task, stock=stock, options=options, progress=progress)
    comparison = None if earlier is None else compare_with(earlier, report)
    _write(outputs, report, comparison)
    _print(outputs, report, comparison, as_json)
    if fail_if_slower and comparison is not None and comparison.slower:
        click.echo(f"pgn-edge: slower than {compare}", err=True)
        context.exit(1)


def _options(
    *, scenario: Any, cameras: int | None, batch: int | None, duration: float | None, frame: str, **plain: Any
) -> BenchOptions:
    from pgn_edge.runtime.bench_options import BenchOptions

    for name, value, only in (("cameras", cameras, "multi-stream"), ("batch", batch, "offline")):
        if value is not None and scenario != only:
            raise click.UsageError(f"--{name} is for --scenario {only}")
    samples = plain.pop("samples")
    if samples is not None and duration is not None:
        raise click.UsageError("--samples and --duration exclude each other")
    if scenario != "server" and (plain["qps"] or plain["bound_ms"]):
        raise click.UsageError("--qps and --bound-ms are for --scenario server")
    if scenario == "server" and not (plain["qps"] or plain["bound_ms"]):
        raise click.UsageError("--scenario server needs --qps or --bound-ms")
    if samples is not None:
        plain["samples"] = samples
    elif scenario == "server":
        plain["samples"] = SERVER_SAMPLES
    frames = 1 if scenario in ("single-stream", "server") else cameras or batch or FRAMES
    return BenchOptions(scenario=scenario, frames=frames, duration_s=duration, **_frame(frame), **plain)


def _frame(text: str) -> dict[str, Any]:
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is not None:
        return {"frame_hw": (int(match[2]), int(match[1]))}
    if not Path(text).is_file():
        wanted = "WIDTHxHEIGHT such as 640x480, or an image file"
        raise click.BadParameter(f"expected {wanted}, got {text!r}", param_hint="--frame")
    return {"frame": Path(text)}


def _check_outputs(outputs: Mapping[str, Any]) -> None:
    from pgn_edge.files import require_writable
    from pgn_edge.runtime.bench_plots import require_matplotlib

    for path in outputs.values():
        if path is not None:
            require_writable(path)
    if outputs["html"] is not None:
        require_matplotlib()


def _write(outputs: Mapping[str, Any], report: BenchReport, comparison: Comparison | None) -> None:
    import json

    from pgn_edge.files import write_text
    from pgn_edge.runtime import bench_report as reports
    from pgn_edge.runtime.bench_html import bench_html

    document = reports.bench_json(report, comparison)
    made = {
        "json_file": lambda: json.dumps(document, indent=2) + "\n",
        "csv": lambda: reports.bench_csv(report),
        "markdown": lambda: reports.bench_markdown(report, comparison),
        "html": lambda: bench_html(report, comparison),
    }
    for name, path in outputs.items():
        if path is not None:
            write_text(path, made[name]())


def _print(outputs: Mapping[str, Any], report: BenchReport, comparison: Comparison | None, as_json: bool) -> None:
    from pgn_edge.runtime import bench_report as reports

    if as_json:
        print_json(reports.bench_json(report, comparison))
        return
    for section in reports.sections(report, comparison):
        if section.rows:
            print_table(section.title, section.header, section.rows)
        else:
            click.echo(f"{section.title}:")
        for note in section.notes:
            click.echo(printable(note))
        click.echo()
    for path in outputs.values():
        if path is not None:
            click.echo(str(path))


COMMANDS = (bench,)

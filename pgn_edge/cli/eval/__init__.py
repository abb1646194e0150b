"""`pgn-edge eval`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgn_edge.cli.console import (
    engine_options,
    json_option,
    print_json,
    print_table,
    printable,
    progress_bar,
    strict_option,
    tell_left_out,
    weights_option,
    white_option,
)

if TYPE_CHECKING:
    from pgn_edge.cli.eval.run import EvalReport


@click.command("eval")
@click.argument("subjects", nargs=-1, required=True, metavar="SUBJECT...")
@click.option("--data", required=True, help="A data set's name, a folder of classes, a .csv; or several with commas.")
@click.option("--root", type=click.Path(file_okay=False), help="Folder that --data is looked up in.")
@click.option(
    "--split",
    type=click.Choice(["test", "validation", "train", "all"]),
    default="test",
    show_default=True,
    help="Part of the data, or all of it.",
)
@click.option("--limit", type=click.IntRange(min=2), help="Most images, taken evenly from the split.  [default: all]")
@click.option(
    "--transport",
    metavar="CODEC[:QUALITY]|none",
    help="What canvases of checkpoints go through: png, webp:80, jpeg:75, …; none: nothing.  [default: as trained]",
)
@click.option("--vit", help="ViT engine that bundles run on: .onnx, .plan or the address of a served model.")
@white_option
@strict_option
@weights_option
@engine_options
@click.option("--per-class", is_flag=True, help="Print the accuracy of every class.")
@json_option
@click.option(
    "--json-file", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write all numbers as JSON."
)
@click.option(
    "--predictions",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write every answer there, a .csv or .jsonl file.",
)
@click.option("--html", "html_path", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with plots.")
def evaluate(subjects: tuple[str, ...], per_class: bool, as_json: bool, **given: Any) -> None:
    """Measure the accuracy of each SUBJECT on labelled images.

    A SUBJECT is a checkpoint (.pt) or a bundle (.pgn). Each one is compared with the first.
    """
    from pgn_edge.cli.eval.predictions import require_predictions
    from pgn_edge.cli.eval.run import Question, document
    from pgn_edge.cli.eval.run import evaluate as run
    from pgn_edge.files import require_writable
    from pgn_edge.train.analysis.figures import require_matplotlib

    outputs = {name: given.pop(name) for name in ("json_path", "html_path", "predictions")}
    for path in outputs.values():
        if path is not None:
            require_writable(path)
    if outputs["predictions"] is not None:
        require_predictions(outputs["predictions"])
    if outputs["html_path"] is not None:
        require_matplotlib()
    question = Question(**{field.name: given.pop(field.name) for field in fields(Question)})
    weights, vit = given.pop("weights"), given.pop("vit")
    with progress_bar() as progress:
        report = run(subjects, question, weights=weights, vit=vit, options=given, progress=progress)
    _write(report, **outputs)
    tell_left_out(report.left_out, report.data.notes)
    if as_json:
        print_json(document(report))
    else:
        _print(report, per_class)


def _write(report: EvalReport, json_path: Path | None, html_path: Path | None, predictions: Path | None) -> None:
    import json

    from pgn_edge.cli.eval.predictions import write_predictions
    from pgn_edge.cli.eval.report import eval_html
    from pgn_edge.cli.eval.run import document
    from pgn_edge.files import write_text

    if json_path is not None:
        write_text(json_path, json.dumps(document(report), indent=2) + "\n")
    if predictions is not None:
        write_predictions(predictions, report)
    if html_path is not None:
        write_text(html_path, eval_html(report))


def _print(report: EvalReport, per_class: bool) -> None:
    from pgn_edge.cli.eval import report as words

    question = report.question
    rows = words.metrics_rows(report)
    # Turned: a terminal is wide enough for a few subjects, and not for eleven numbers.
    turned = list(zip(words.METRICS_HEADER[1:], *(row[1:] for row in rows), strict=True))
    header = ("", *(row[0] for row in rows))
    print_table(f"{question.data}, {question.split} split", header, turned)
    flips = words.flips_rows(report)
    if flips:
        print_table("Against the first subject", words.FLIPS_HEADER, flips)
    routes = words.routing_rows(report)
    if routes:
        print_table("Data sets told apart", words.ROUTING_HEADER, routes)
    if per_class:
        print_table("Accuracy of each class", words.class_header(report), words.class_rows(report))
    for line in [*(words.worst(report, judged) for judged in report.subjects), *words.notes(report)]:
        click.echo(printable(line))


COMMANDS = (evaluate,)

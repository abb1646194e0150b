"""`pgn-edge import`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgn_edge.cli.console import busy, json_option, print_json, print_table, weights_option

if TYPE_CHECKING:
    from pgn_edge.export.upstream import ImportReport


@click.command("import")
@click.argument("upstream", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--backbone", required=True, help="The frozen ViT that it was trained for.")
@weights_option
@click.option("--labels", help="One of the paper's data sets, or a file with one class name a line.")
@click.option("--template", help="Sentence with {} for the class name, for text heads.  [default: the data set's]")
@click.option(
    "--head",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Trained linear head: weight (C, D) and bias (C,) in .npz, .safetensors or .pt.",
)
@click.option(
    "--images",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of golden images.  [default: synthetic ones]",
)
@click.option("--prompts", type=click.IntRange(min=1), help="Refuse a file with another number of prompts K.")
@click.option("--library", type=click.IntRange(min=1), help="Refuse a file with another library size N.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("ckpt.pt"),
    show_default=True,
)
@json_option
def import_command(
    upstream: Path, output: Path, backbone: str, weights: str | None, as_json: bool, **options: Any
) -> None:
    """Import a PGN of the paper's authors as a checkpoint.

    UPSTREAM is a file that they published.
    """
    from pgn_edge.export.upstream import ImportOptions, import_upstream

    with busy(f"importing {upstream} for {backbone}"):
        report = import_upstream(upstream, output, backbone=backbone, weights=weights, options=ImportOptions(**options))
    if as_json:
        print_json(_document(report))
        return
    config, geometry = report.config, report.geometry
    rows = [
        ("backbone", backbone),
        ("prompts K", str(config.prompts)),
        ("library N", str(config.library)),
        ("token width d", str(config.width)),
        ("parameters", f"{report.parameters:,}"),
        ("layout", geometry.layout),
        ("prompt rows", f"{geometry.rows} of {geometry.grid_hw[1]}, {geometry.spare} spare"),
        ("head", f"{report.head}, {report.classes} classes"),
        ("golden images", str(report.golden)),
    ]
    print_table("Imported PGN", ("", "value"), rows)
    following = ["pgn-edge", "export", str(report.path), *(["--weights", weights] if weights else [])]
    click.echo(f"{report.path}: checkpoint of {upstream.name}; next: {shlex.join(following)}")


def _document(report: ImportReport) -> dict[str, Any]:
    geometry = report.geometry
    return {
        "path": str(report.path),
        "prompts": report.config.prompts,
        "library": report.config.library,
        "width": report.config.width,
        "parameters": report.parameters,
        "geometry": {**geometry.to_json(), "rows": geometry.rows, "spare": geometry.spare},
        "head": {"kind": report.head, "classes": report.classes},
        "golden": report.golden,
    }


COMMANDS = (import_command,)

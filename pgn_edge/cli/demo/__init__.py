"""`pgn-edge demo`."""

from __future__ import annotations

from pathlib import Path

import click

from pgn_edge.cli.console import json_option, print_json, print_table, progress_bar


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/demo"),
    show_default=True,
    help="Folder for everything that it makes.",
)
@click.option(
    "--epochs", type=click.IntRange(min=1), default=8, show_default=True, help="Of each training with the ViT."
)
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
def demo(output: Path, epochs: int, seed: int, as_json: bool) -> None:
    """Go through all steps on embedded data; write a report.

    The steps are train, export, compile, run and bench.
    """
    from pgn_edge.cli.demo.steps import run_demo

    with progress_bar() as progress:
        results = run_demo(output, epochs, seed, progress)
    if as_json:
        print_json(results)
        return
    rows = [(NAMES[key], f"{value:.1%}") for key, value in results["accuracy"].items()]
    print_table("Test split, handwritten digits", ("", "top-1"), rows)
    rungs = [
        (
            rung["rung"],
            f"{rung['max_abs']:.1e}",
            f"{rung['cosine']:.6f}",
            str(rung["top1_flips"]),
            "passed" if rung["passed"] else "FAILED",
        )
        for rung in results["parity"]
    ]
    print_table("Parity ladder", ("rung", "max abs", "cosine", "top-1 flips", ""), rungs)
    click.echo(
        f"{output / 'report.html'}: the report; {output / 'results.json'}: its numbers; {output / 'annotated.mp4'}"
    )


NAMES = {
    "frozen": "frozen ViT alone",
    "linear_probe": "linear probe on it",
    "cnn_alone": "the PGN's CNN alone",
    "constant": "frozen ViT + constant prompts",
    "pgn_torch": "frozen ViT + PGN, torch",
    "pgn_fp32": "frozen ViT + PGN, runtime fp32",
    "pgn_fp16": "frozen ViT + PGN, runtime fp16",
}
COMMANDS = (demo,)

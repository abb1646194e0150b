"""`pgn-edge export` and `pgn-edge export-vit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pgn_edge.cli.console import (
    PromptCount,
    bf16_option,
    busy,
    choose_precision,
    drift_option,
    fp16_option,
    json_option,
    layout_option,
    print_json,
    weights_option,
)
from pgn_edge.cli.tables import print_certificate, print_numerics, print_parity


@click.command()
@click.argument("checkpoint", type=click.Path(dir_okay=False, path_type=Path))
@fp16_option
@bf16_option
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: CHECKPOINT with .pgn")
@click.option("--onnx", "onnx_path", type=click.Path(dir_okay=False), help="Also write the PGN engine as ONNX.")
@click.option(
    "--ridge", is_flag=True, help="For an ill-conditioned projection: smaller pixels, nearly the same tokens."
)
@click.option("--simplify", is_flag=True, help="Run onnxsim over the graph; refused if an output changes.")
@click.option("--uint8", is_flag=True, help="A canvas of 8-bit RGB, which the ViT normalises; for a pixel library.")
@click.option(
    "--transport",
    default="",
    help="What an 8-bit canvas goes through: png, webp, webp:QUALITY or jpeg:QUALITY.  [default: no loss]",
)
@click.option(
    "--positions",
    type=click.Choice(["bicubic", "bilinear"]),
    help="Filter of a stock engine that interpolates its positions.  [default: engine of ours, which does not]",
)
@drift_option
@weights_option
@json_option
def export(checkpoint: Path, output: Path | None, fp16: bool, bf16: bool, as_json: bool, **options: Any) -> None:
    """Export a trained CHECKPOINT as a task bundle.

    The prompt inversion is part of the bundle's graph.
    """
    precision = choose_precision(fp16=fp16, bf16=bf16)
    from pgn_edge.export.task import ExportOptions, export_task

    with busy(f"exporting {checkpoint} and climbing the parity ladder"):
        report = export_task(
            checkpoint, output or checkpoint.with_suffix(".pgn"), ExportOptions(precision=precision, **options)
        )
    certificate = report.certificate.to_json()
    parity = [rung.to_json() for rung in report.parity]
    if as_json:
        print_json(
            {
                "path": str(report.path),
                "bytes": report.size_bytes,
                "precision": report.facts.precision,
                "facts": report.facts.to_json(),
                "certificate": certificate,
                "parity": parity,
                "numerics": dict(report.numerics),
            }
        )
        return
    print_certificate(certificate)
    print_parity(parity)
    print_numerics(report.numerics)
    facts = report.facts
    click.echo(f"{report.path}: {facts.precision} task bundle, {facts.canvas} canvas, {report.size_bytes / 1e6:.2f} MB")


@click.command("export-vit")
@click.argument("backbone")
@click.option("--prompts", type=PromptCount(0), default=16, show_default=True, help="Prompt slots K; 0 for none.")
@layout_option
@fp16_option
@bf16_option
@click.option("--int8", is_flag=True, help="Quantise the linear layers to int8, for CPUs.")
@click.option(
    "--input",
    "canvas",
    type=click.Choice(["float32", "uint8"]),
    default="float32",
    show_default=True,
    help="What it reads: normalised NCHW floats, or NHWC pixels, which it normalises itself.",
)
@click.option("--batch", type=click.IntRange(min=1), help="A fixed batch size.  [default: any]")
@drift_option
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("vit.onnx"),
    show_default=True,
)
@weights_option
@json_option
def export_vit(backbone: str, output: Path, fp16: bool, bf16: bool, int8: bool, as_json: bool, **options: Any) -> None:
    """Export the frozen BACKBONE as an ONNX graph with slots.

    BACKBONE is builtin, open_clip:ARCHITECTURE/TAG, timm:NAME or torchvision:NAME; @SIZE behind it sets the image size.
    """
    precision = choose_precision(fp16=fp16, bf16=bf16, int8=int8)
    from pgn_edge.export.frozen import VitOptions
    from pgn_edge.export.frozen import export_vit as run

    with busy(f"exporting {backbone} and comparing it with torch"):
        report = run(backbone, output, VitOptions(precision=precision, **options))
    graph = report.graph
    parity = [rung.to_json() for rung in graph.parity]
    if as_json:
        print_json(
            {
                "path": str(report.path),
                "bytes": report.size_bytes,
                "facts": graph.facts.to_json(),
                "parity": parity,
                "numerics": dict(graph.numerics),
            }
        )
        return
    print_parity(parity)
    print_numerics(graph.numerics)
    geometry = graph.facts.geometry
    height, width = geometry.canvas_hw
    click.echo(
        f"{report.path}: {graph.facts.precision} ViT engine, {geometry.prompts} prompts, "
        f"canvas {height} x {width} {graph.facts.canvas}, "
        f"{report.size_bytes / 1e6:.2f} MB, fingerprint {graph.facts.fingerprint[:12]}"
    )


COMMANDS = (export, export_vit)

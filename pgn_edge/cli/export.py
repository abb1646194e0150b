"""`pgn-edge export` and `pgn-edge export-vit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgn_edge.cli.console import (
    busy,
    fp16_option,
    json_option,
    layout_option,
    print_json,
    print_table,
    weights_option,
)

if TYPE_CHECKING:
    from pgn_edge.export.parity import Rung


@click.command()
@click.argument("checkpoint", type=click.Path(dir_okay=False, path_type=Path))
@fp16_option
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: CHECKPOINT with .pgn")
@click.option("--onnx", "onnx_path", type=click.Path(dir_okay=False), help="Also write the PGN engine as ONNX.")
@click.option("--allow-drift", is_flag=True, help="Write the bundle although a parity rung failed.")
@weights_option
@json_option
def export(
    checkpoint: Path, output: Path | None, fp16: bool, weights: str | None, as_json: bool, **options: Any
) -> None:
    """Export a trained CHECKPOINT as a task bundle, with the prompt inversion fused in."""
    from pgn_edge.export.task import export_task

    with busy(f"exporting {checkpoint} and climbing the parity ladder"):
        report = export_task(
            checkpoint,
            output or checkpoint.with_suffix(".pgn"),
            precision="fp16" if fp16 else "fp32",
            weights=weights,
            **options,
        )
    certificate = report.certificate.to_json()
    parity = [rung.to_json() for rung in report.parity]
    if as_json:
        print_json(
            {
                "path": str(report.path),
                "bytes": report.size_bytes,
                "precision": report.precision,
                "certificate": certificate,
                "parity": parity,
            }
        )
        return
    rows = [(key, f"{value:.6g}" if isinstance(value, float) else str(value)) for key, value in certificate.items()]
    print_table("Certificate of the inversion", ("", "value"), rows)
    print_parity(report.parity)
    click.echo(f"{report.path}: {report.precision} task bundle, {report.size_bytes / 1e6:.2f} MB")


@click.command("export-vit")
@click.argument("backbone")
@click.option("--prompts", type=click.IntRange(min=0), default=16, show_default=True, help="Prompt slots K.")
@layout_option
@fp16_option
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("vit.onnx"),
    show_default=True,
)
@weights_option
@json_option
def export_vit(backbone: str, output: Path, fp16: bool, as_json: bool, **options: Any) -> None:
    """Export the frozen BACKBONE as one slot-aware ONNX graph."""
    from pgn_edge.export.frozen import export_vit as run

    with busy(f"exporting {backbone} and comparing it with torch"):
        report = run(backbone, output, precision="fp16" if fp16 else "fp32", **options)
    if as_json:
        print_json(
            {
                "path": str(report.path),
                "bytes": report.size_bytes,
                "facts": report.facts.to_json(),
                "parity": [rung.to_json() for rung in report.parity],
            }
        )
        return
    print_parity(report.parity)
    height, width = report.facts.geometry.canvas_hw
    click.echo(
        f"{report.path}: {report.facts.precision} ViT engine, canvas {height} x {width}, "
        f"{report.size_bytes / 1e6:.2f} MB, fingerprint {report.facts.fingerprint[:12]}"
    )


def print_parity(parity: tuple[Rung, ...]) -> None:
    """The ladder as a table."""
    rows = [
        (
            rung.name,
            f"{rung.agreement.max_abs:.2e}",
            f"{rung.agreement.cosine:.6f}",
            f"{rung.agreement.top1_flips} of {rung.agreement.frames}",
            "passed" if rung.passed else "FAILED",
        )
        for rung in parity
    ]
    print_table("Parity ladder", ("rung", "max abs", "cosine", "top-1 flips", ""), rows)


COMMANDS = (export, export_vit)

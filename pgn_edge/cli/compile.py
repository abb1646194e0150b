"""`pgn-edge compile`."""

from __future__ import annotations

from pathlib import Path

import click

from pgn_edge.cli.console import busy, json_option, print_json


@click.command("compile")
@click.argument("source", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--backend", type=click.Choice(["tensorrt-rtx"]), default="tensorrt-rtx", show_default=True)
@click.option("--target", "targets", multiple=True, help="GPU architecture such as sm_86; repeat for several.")
@click.option("--max-batch", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: SOURCE with .plan")
@json_option
def compile_command(
    source: Path, backend: str, targets: tuple[str, ...], max_batch: int, output: Path | None, as_json: bool
) -> None:
    """Compile SOURCE, a vit.onnx or a task.pgn, to a plan with its sidecar. Needs no GPU."""
    from pgn_edge.export.compile import compile_plan

    plan = output or source.with_suffix(".plan")
    with busy(f"compiling {source} with {backend}"):
        report = compile_plan(source, plan, backend=backend, targets=targets, max_batch=max_batch)
    sidecar = report.sidecar
    if as_json:
        print_json(
            {
                "path": str(report.path),
                "bytes": report.size_bytes,
                "sha256": sidecar.plan_sha256,
                "backend": sidecar.backend,
                "backend_version": sidecar.backend_version,
                "targets": list(sidecar.targets),
            }
        )
        return
    click.echo(
        f"{report.path}: {sidecar.backend} {sidecar.backend_version} plan, {report.size_bytes / 1e6:.2f} MB, "
        f"targets {', '.join(sidecar.targets) or 'the default set'}; facts in {report.path}.json"
    )


COMMANDS = (compile_command,)

"""`pgn-edge compile`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgn_edge.cli.console import json_option, print_json, printable, progress_bar

if TYPE_CHECKING:
    from pgn_edge.export.compile import CompileReport

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("compile")
@click.argument("source", type=FILE)
@click.option("--backend", type=click.Choice(["tensorrt-rtx", "tensorrt"]), default="tensorrt-rtx", show_default=True)
@click.option("--target", "targets", multiple=True, help="GPU architecture such as sm_86; repeat for several.")
@click.option("--max-batch", type=click.IntRange(min=1), default=8, show_default=True)
@click.option(
    "--workspace",
    "workspace_mib",
    type=click.IntRange(min=1),
    metavar="MIB",
    help="Most memory for one layer.  [default: all]",
)
@click.option("--timing-cache", type=FILE, help="Measured kernels, read and written.")
@click.option("--version-compatible", is_flag=True, help="A plan that later minor releases load too.")
@click.option("--same-compute-capability", is_flag=True, help="A plan for every GPU of this compute capability.")
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of plans built before.  [default: plans in $PGN_EDGE_CACHE or ~/.cache/pgn-edge]",
)
@click.option("--no-cache", is_flag=True, help="Build, and keep no copy.")
@click.option("--script", type=FILE, help="Write a shell script that compiles on the device, and compile nothing.")
@click.option("-o", "--output", type=FILE, help="Default: SOURCE with .plan")
@json_option
def compile_command(source: Path, script: Path | None, output: Path | None, as_json: bool, **options: Any) -> None:
    """Compile SOURCE to a TensorRT plan with its sidecar.

    SOURCE is a vit.onnx or a task.pgn.

    tensorrt-rtx compiles anywhere and needs no GPU; tensorrt compiles on the device that will run the plan.
    """
    cache, no_cache = options.pop("cache"), options.pop("no_cache")
    if cache is not None and no_cache:
        raise click.UsageError("--cache and --no-cache exclude each other")
    from pgn_edge.export.build_script import write_build_script
    from pgn_edge.export.compile import CompileOptions, compile_plan
    from pgn_edge.files import cache_folder

    plan = output or source.with_suffix(".plan")
    folder = None if no_cache else cache or cache_folder("plans")
    chosen = CompileOptions(**options, cache=folder)
    if script is not None:
        write_build_script(source, script, plan, chosen)
        if as_json:
            print_json({"script": str(script)})
        else:
            click.echo(f"{script}: copy it with {source} to the device and run it there")
        return
    debug = click.get_current_context().find_root().params.get("debug", False)
    with progress_bar() as progress:
        report = compile_plan(source, plan, chosen, progress, _echo if debug else None)
    if as_json:
        print_json(_document(report))
    else:
        click.echo(_sentence(report))


def _echo(line: str) -> None:
    click.echo(printable(line), err=True)


def _document(report: CompileReport) -> dict[str, Any]:
    sidecar = report.sidecar
    return {
        "path": str(report.path),
        "bytes": report.size_bytes,
        "sha256": sidecar.plan_sha256,
        "backend": sidecar.backend,
        "backend_version": sidecar.backend_version,
        "targets": list(sidecar.targets),
        "batch": list(sidecar.batch),
        "cache": report.cache,
    }


def _sentence(report: CompileReport) -> str:
    sidecar = report.sidecar
    cache = {
        "off": "",
        "hit": ", built before",
        "stored": ", kept in the plan cache",
        "not stored": ", not kept in the plan cache, which cannot be written",
    }[report.cache]
    return (
        f"{report.path}: {sidecar.backend} {sidecar.backend_version} plan, {report.size_bytes / 1e6:.2f} MB, "
        f"targets {', '.join(sidecar.targets) or 'the default set'}{cache}; facts in {report.path}.json"
    )


COMMANDS = (compile_command,)

"""`pgn-edge triton-repo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pgn_edge.cli.console import json_option, print_json


@click.command("triton-repo")
@click.argument("source", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    "repository",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Model repository: the folder that holds a folder for each model.",
)
@click.option("--name", default="", help="Of the model.  [default: SOURCE without its suffix]")
@click.option(
    "--max-batch",
    type=click.IntRange(min=1),
    help="Largest batch that requests are joined to.  [default: 8, or what a plan takes]",
)
@click.option(
    "--delay-us",
    type=click.IntRange(min=0),
    default=500,
    show_default=True,
    help="Microseconds that a request waits for others to join it.",
)
@click.option(
    "--instances", type=click.IntRange(min=1), default=1, show_default=True, help="Copies that run side by side."
)
@click.option("--warm-up", is_flag=True, help="Run a sample before the server says that it is ready.")
@click.option("--force", is_flag=True, help="Replace another model of that name.")
@json_option
def triton_repo(source: Path, repository: Path, as_json: bool, **options: Any) -> None:
    """Write a Triton model repository from the engine SOURCE.

    SOURCE is a vit.onnx or a vit.plan.

    A camera then runs with --vit triton+http://HOST:8000/NAME or triton+grpc://HOST:8001/NAME.
    """
    from pgn_edge.runtime.triton_repository import ServingOptions, write_model_folder

    served = write_model_folder(source, repository, ServingOptions(**options))
    if as_json:
        print_json(
            {
                "path": str(served.path),
                "name": served.name,
                "platform": served.platform,
                "max_batch": served.max_batch,
                "facts": served.facts.to_json(),
            }
        )
        return
    batch = f"batches up to {served.max_batch}" if served.max_batch else "a fixed batch"
    click.echo(f"{served.path}: {served.platform}, {batch}; serve it: tritonserver --model-repository={repository}")


COMMANDS = (triton_repo,)

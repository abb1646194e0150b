"""`pgn-edge predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgn_edge.cli.console import engine_options, json_option, print_json, print_table, vit_option

if TYPE_CHECKING:
    from pgn_edge.runtime.result import Result


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@vit_option
@click.option("--task", required=True, help="Task bundle, a .pgn file.")
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="Classes to print.")
@engine_options
@json_option
def predict(images: tuple[str, ...], vit: str, task: str, top: int, as_json: bool, **options: Any) -> None:
    """Classify each IMAGE with one task."""
    from pgn_edge.images import read_image
    from pgn_edge.runtime import Runtime

    name = Path(task).stem
    with Runtime(vit, {name: task}, **options) as runtime:
        results = [runtime.infer(name, read_image(image)[..., ::-1]) for image in images]
    if as_json:
        answers = [{"image": image, **result.to_json(top)} for image, result in zip(images, results, strict=True)]
        print_json({"task": name, "images": answers})
        return
    rows = [
        (image if rank == 0 else "", label, score)
        for image, result in zip(images, results, strict=True)
        for rank, (label, score) in enumerate(_lines(result, top))
    ]
    print_table(f"Task {name}", ("image", "label", "probability"), rows)


def _lines(result: Result, top: int) -> list[tuple[str, str]]:
    """Classes with their probabilities; one line that says why, where there is no answer."""
    if result.degraded:
        return [(f"degraded: {result.degraded} not finite", "-")]
    return [(label, f"{score:.1%}") for label, score in result.top(top)]


COMMANDS = (predict,)

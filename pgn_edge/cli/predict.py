"""`pgn-edge predict`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgn_edge.cli.console import (
    engine_options,
    json_option,
    print_json,
    print_table,
    strict_option,
    tell_left_out,
    vit_option,
    white_option,
)

if TYPE_CHECKING:
    import numpy as np

    from pgn_edge.left_out import LeftOut
    from pgn_edge.runtime.result import Result


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@vit_option
@click.option("--task", required=True, help="Task bundle, a .pgn file.")
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="Classes to print.")
@white_option
@strict_option
@engine_options
@json_option
def predict(
    images: tuple[str, ...], vit: str, task: str, top: int, white: int | None, strict: bool, **options: Any
) -> None:
    """Classify images with one task."""
    from pgn_edge.left_out import LeftOut
    from pgn_edge.runtime import Runtime

    as_json, name, left_out = options.pop("as_json"), Path(task).stem, LeftOut(strict)
    with Runtime(vit, {name: task}, **options) as runtime:
        frames = _readable(images, white, left_out)
        found, interrupted = [], False
        try:
            for image, frame_rgb in frames:
                found.append((image, runtime.infer(name, frame_rgb[..., ::-1])))
        except KeyboardInterrupt:  # the answers so far are printed
            interrupted = True
    tell_left_out(left_out)
    if as_json:
        answers = [{"image": image, **result.to_json(top)} for image, result in found]
        print_json({"task": name, "images": answers, "left_out": left_out.to_json()})
    elif found:
        rows = [
            (image if rank == 0 else "", label, score)
            for image, result in found
            for rank, (label, score) in enumerate(_lines(result, top))
        ]
        print_table(f"Task {name}", ("image", "label", "probability"), rows)
    if interrupted:
        raise KeyboardInterrupt


def _readable(images: Sequence[str], white: int | None, left_out: LeftOut) -> Iterator[tuple[str, np.ndarray]]:
    """Images that can be read, one at a time, and their names.

    Raises:
        DataError: none can be read, or one cannot and the account is strict.
    """
    from pgn_edge.errors import DataError
    from pgn_edge.images import read_image
    from pgn_edge.left_out import Reason

    last = None
    for image in images:
        try:
            frame_rgb = read_image(image, white)
        except DataError as exc:
            last = exc
            left_out.add(image, Reason.UNREADABLE, exc)
            continue
        yield image, frame_rgb
    if last is not None and left_out.count() == len(set(images)):  # the others were answered
        raise last


def _lines(result: Result, top: int) -> list[tuple[str, str]]:
    """Classes with their probabilities; one line that says why, where there is no answer."""
    if result.degraded:
        return [(f"degraded: {result.reason}", "-")]
    return [(label, f"{score:.1%}") for label, score in result.top(top)]


COMMANDS = (predict,)

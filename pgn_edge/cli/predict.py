"""`pgn-edge predict`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgn_edge.cli.console import (
    engine_options,
    json_option,
    print_json,
    printable,
    progress_bar,
    strict_option,
    tell_left_out,
    vit_option,
    white_option,
)
from pgn_edge.progress import Progress, silent

if TYPE_CHECKING:
    import numpy as np

    from pgn_edge.left_out import LeftOut
    from pgn_edge.runtime.result import Result


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@vit_option
@click.option("--task", required=True, help="Task bundle, a .pgn file.")
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="Classes to print.")
@click.option("--jsonl", help="Write one JSON line for each image as soon as it is answered; - is stdout.")
@white_option
@strict_option
@engine_options
@json_option
def predict(images: tuple[str, ...], vit: str, task: str, top: int, jsonl: str | None, **options: Any) -> None:
    """Classify images with one task.

    IMAGE is a file, a folder, a quoted pattern such as 'cats/*.jpg', or the http:// or https:// address of one image.
    @FILE is a list with one of these a line, and - is such a list on stdin. Images that cannot be read are counted.
    """
    from pgn_edge.left_out import LeftOut
    from pgn_edge.runtime import Runtime

    as_json, white, name = options.pop("as_json"), options.pop("white"), Path(task).stem
    if as_json and jsonl == "-":
        raise click.UsageError("--jsonl - and --json both want stdout: choose one")
    left_out = LeftOut(options.pop("strict"))
    found: list[dict[str, Any]] = []
    interrupted = False
    with Runtime(vit, {name: task}, **options) as runtime, _written(jsonl) as write, progress_bar() as progress:
        # Answers on a terminal are their own progress.
        quiet = not as_json and jsonl is None and sys.stdout.isatty()
        try:
            for image, frame_rgb in _readable(images, white, left_out, silent if quiet else progress):
                result = runtime.infer(name, frame_rgb[..., ::-1])
                answer = {"image": image, **result.to_json(top)}
                if as_json:
                    found.append(answer)
                if jsonl is not None:
                    write(json.dumps(answer))
                elif not as_json:
                    click.echo(printable(f"{image}: {_line(result, top)}"))
        except KeyboardInterrupt:  # the answers so far are kept
            interrupted = True
    tell_left_out(left_out)
    if as_json:
        print_json({"task": name, "images": found, "left_out": left_out.to_json()})
    if interrupted:
        raise KeyboardInterrupt


@contextmanager
def _written(path: str | None) -> Iterator[Callable[[str], None]]:
    """A function that writes one line to the file, or to stdout for `-` and for no file."""
    if path in (None, "-"):
        yield click.echo
        return
    from pgn_edge.files import atomic_write

    with atomic_write(str(path)) as temporary, open(temporary, "w", encoding="utf-8") as file:
        yield lambda line: print(line, file=file)


def _readable(
    names: Sequence[str], white: int | None, left_out: LeftOut, progress: Progress
) -> Iterator[tuple[str, np.ndarray]]:
    """Images that can be read, one at a time, and their names.

    Raises:
        DataError: none can be read, or one cannot and the account is strict.
    """
    from pgn_edge.cli.predict_images import find_images, is_endless, read_named, shown
    from pgn_edge.errors import DataError
    from pgn_edge.left_out import Reason

    images: Iterator[str] | list[str] = find_images(names, left_out, progress)
    total = 0
    if not is_endless(names):
        images = list(images)
        total = len(images)
    last, answered = None, False
    for number, image in enumerate(images, 1):
        try:
            frame_rgb = read_named(image, white)
        except DataError as exc:
            last = exc
            left_out.add(shown(image), Reason.UNREADABLE, exc)
            continue
        yield shown(image), frame_rgb
        answered = True
        if total != 1:
            progress("images", number, total or number)
    if last is not None and not answered:
        raise last


def _line(result: Result, top: int) -> str:
    """Classes with their probabilities; the reason where there is no answer."""
    if result.degraded:
        return f"degraded: {result.reason}"
    return ", ".join(f"{label} {score:.1%}" for label, score in result.top(top))


COMMANDS = (predict,)

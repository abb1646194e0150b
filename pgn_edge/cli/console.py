"""What the commands share: options, tables, progress bars."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from pgn_edge.cli.display import Display, current_display, showing
from pgn_edge.progress import Progress

if TYPE_CHECKING:
    from pgn_edge.contract import Precision
    from pgn_edge.left_out import LeftOut

Command = TypeVar("Command", bound=Callable[..., Any])
HEADS = ("auto", "zero-shot", "tuned", "linear", "identity", "frequency", "iterative", "prototypes")
PLAIN_NUMBER = frozenset("0123456789.+-e%")

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")


def _with_key(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """One text for file and key, so that checkpoints and states of runs record both."""
    key = ctx.meta.get("weights_key")
    if key and value is None:
        raise click.UsageError("--weights-key chooses among the weights in a file: give it with --weights FILE")
    return f"{value}#{key}" if key else value


def _keep_key(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    ctx.meta["weights_key"] = value


def weights_option(command: Command) -> Command:
    """Adds the options that name a file of backbone weights: one value, `weights`, with the key behind a #."""
    for option in (
        click.option(
            "--weights-key",
            metavar="KEY",
            is_eager=True,  # before --weights, whose value it completes
            expose_value=False,
            callback=_keep_key,
            help="Part of --weights to read, such as model_ema.",
        ),
        click.option(
            "--weights",
            type=click.Path(dir_okay=False),
            callback=_with_key,
            help="Backbone weights to read, not to download.",
        ),
    ):
        command = option(command)
    return command


fp16_option = click.option("--fp16", is_flag=True, help="Write strongly typed fp16 into the graph.")
bf16_option = click.option("--bf16", is_flag=True, help="Write strongly typed bf16 into the graph.")
drift_option = click.option("--allow-drift", is_flag=True, help="Write the output although a parity rung failed.")
layout_option = click.option(
    "--layout",
    type=click.Choice(["append", "inset"]),
    default="append",
    show_default=True,
    help="Prompts under the image, or inside the stock size.",
)

strict_option = click.option("--strict", is_flag=True, help="Stop at the first lost image, instead of counting it.")
white_option = click.option(
    "--white",
    type=click.IntRange(1, 65_535),
    help="White in files of 16 bits, such as 4095.  [default: 65535, dark files refused]",
)

vit_option = click.option(
    "--vit",
    required=True,
    help="ViT engine: .onnx from export-vit, .plan from compile with the task's plan too, a vit.facts.json from probe, "
    "or a served model: "
    "triton+http://HOST:PORT/MODEL, or https, grpc, grpcs.",
)
_ENGINE_OPTIONS = (
    click.option(
        "--provider",
        type=click.Choice(["cpu", "cuda", "tensorrt"]),
        default="cpu",
        show_default=True,
        help="Of ONNX Runtime, for an .onnx; a .plan brings its own.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="CPU threads of each engine; 0: one for each core.",
    ),
    click.option("--gpu", type=click.IntRange(min=0), default=0, show_default=True, help="Number of the GPU."),
)


def engine_options(command: Command) -> Command:
    """Adds the options that say where engines run: `provider`, `threads` and `gpu`."""
    for option in reversed(_ENGINE_OPTIONS):
        command = option(command)
    return command


class PixelSize(click.ParamType):
    """A height and a width in pixels."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """(height, width)."""
        match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", str(value))
        if match is None:
            self.fail(f"expected HEIGHTxWIDTH such as 224x224, got {value!r}", param, ctx)
        return int(match[1]), int(match[2])


class PromptCount(click.ParamType):
    """A number of prompts, or `auto` for what fills whole rows of the patch grid, near 16."""

    name = "K|auto"

    def __init__(self, least: int) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """A count, or None for `auto`."""
        if str(value).lower() == "auto":
            return None
        return int(click.IntRange(min=self.least).convert(value, param, ctx))


def choose_precision(**asked: bool) -> Precision:
    """The one precision whose flag was given, fp32 if none was.

    Raises:
        click.UsageError: two of them were.
    """
    names = [name for name, wanted in asked.items() if wanted]
    if len(names) > 1:
        raise click.UsageError(f"--{names[0]} and --{names[1]} exclude each other")
    return cast("Precision", names[0]) if names else "fp32"


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    _end_progress()
    click.echo(json.dumps(document, indent=2))


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout whose long words are folded and never cut; columns of numbers stand to the right.

    Args:
        title: above it.
        header: names of the columns; empty for none.
        rows: cells, of which any may come from a file.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(printable(title)), title_justify="left", show_header=bool(header))
    for index in range(len(rows[0])):
        numbers = all(PLAIN_NUMBER.issuperset(row[index]) for row in rows)
        name = escape(printable(header[index])) if header else ""
        table.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row))  # a label may hold brackets
    _end_progress()
    Console().print(table)


def tell_left_out(left_out: LeftOut, notes: Sequence[str] = ()) -> None:
    """Say on stderr what was left out and how the parts of the data are used; nothing where all is plain."""
    for line in (*notes, left_out.summary()):
        if line:
            click.echo(printable(line), err=True)


class _Lines(logging.Handler):
    """Writes each log record as one line to stderr, whichever stream that is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        click.echo(printable(record.getMessage()), err=True)


def show_log() -> None:
    """Let a command show what the library logs: the activation of a backbone, and what was assumed about it."""
    logger = logging.getLogger("pgn_edge")
    if not any(isinstance(handler, _Lines) for handler in logger.handlers):
        logger.addHandler(_Lines())
        logger.setLevel(logging.INFO)


def printable(text: str) -> str:
    """`text` without line breaks and terminal escapes: it comes from files and drivers that nobody vouches for."""
    return "".join(character if character.isprintable() else " " for character in text)


@contextmanager
def busy(doing: str) -> Iterator[None]:
    """Say what is under way while nobody knows how long it takes."""
    with _display() as shown:
        shown.begin(doing)
        try:
            yield
        finally:
            shown.pause()


@contextmanager
def progress_bar(live: bool = True) -> Iterator[Progress]:
    """A bar for each step that a library function tells of; lines where stderr is no terminal.

    Args:
        live: Whether a thread may redraw the bars. A measurement redraws them only when it tells of a step.
    """
    with _display() as shown:
        shown.live = live
        try:
            yield shown
        finally:
            shown.pause()


def _display() -> AbstractContextManager[Display]:
    shown = current_display()
    return showing() if shown is None else nullcontext(shown)


def _end_progress() -> None:
    shown = current_display()
    if shown is not None:
        shown.pause()

"""The command line: each command parses, calls one library function and prints."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import click

from pgn_edge import __version__
from pgn_edge.cli import standard_output
from pgn_edge.cli.console import show_log
from pgn_edge.cli.display import showing
from pgn_edge.documents import PgnEdgeWarning
from pgn_edge.errors import InterruptedRunError, MissingExtraError, PgnEdgeError
from pgn_edge.redact import redact

# What a command needs beyond the base install.
EXTRAS = {
    "demo": "demo",
    "train": "train",
    "eval": "cpu,train",
    "analyze": "train",
    "compare": "train",
    "ablate": "train",
    "export": "cpu,export",
    "export-vit": "cpu,export",
    "import": "export",
    "inspect": "export",
    "compile": "compile,rtx",
}


WIDEST = 60  # characters of a command's short help: it fits into a line of 80 columns
# Of the help, in the order of the work.
SECTIONS = {
    "Start": ("demo", "doctor", "inspect"),
    "Train": ("probe", "train", "compare", "ablate", "import"),
    "Export": ("export", "export-vit", "compile", "triton-repo"),
    "Run": ("predict", "run"),
    "Measure": ("eval", "analyze", "bench"),
}


class _Group(click.Group):
    """Turns every failure into one line on stderr and exit status 1."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the line with --debug at its beginning, wherever the user typed it."""
        end = args.index("--") if "--" in args else len(args)
        plain = [argument for argument in args[:end] if argument != "--debug"]
        debug = ["--debug"] * (len(plain) < end)
        return super().parse_args(ctx, [*debug, *plain, *args[end:]])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands in the order of the work, each with its whole first sentence."""
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(WIDEST)) for name in names])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with showing():
                return super().invoke(ctx)
        except click.ClickException as exc:
            exc.__dict__["message"] = redact(exc.message)  # it may quote an option that holds a password
            raise
        except (click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("pgn-edge: interrupted", err=True)
            ctx.exit(128 + signal.SIGINT)
        except Exception as exc:
            if standard_output.is_lost(exc):
                raise
            if ctx.params["debug"]:
                click.echo(redact(traceback.format_exc()), err=True, nl=False)
                ctx.exit(1)
            click.echo(f"pgn-edge: {' '.join(_message(exc, ctx.invoked_subcommand).split())}", err=True)
            ctx.exit(exc.status if isinstance(exc, InterruptedRunError) else 1)


def _message(exc: Exception, command: str | None) -> str:
    if isinstance(exc, PgnEdgeError):
        return str(exc)
    if isinstance(exc, ModuleNotFoundError) and command in EXTRAS:
        return str(MissingExtraError(str(exc.name), EXTRAS[command]))
    return f"internal error: {type(exc).__name__}: {redact(str(exc))}; run again with --debug and report it"


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "--version", prog_name="pgn-edge")
@click.option("--debug", is_flag=True, help="Show the traceback of an error; at any place in the line.")
def cli(debug: bool) -> None:
    """Adapt one frozen ViT engine to any number of tasks, by its input alone."""
    show_log()


def main() -> None:
    """Entry point of `pgn-edge`."""
    # A polite kill, and the end of a terminal, unwind like an exception, so that temporary files are removed.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # which `nohup` leaves behind
            signal.signal(number, _on_terminate)
    standard_output.prepare()
    warnings.showwarning = partial(_show_warning, warnings.showwarning)
    status: object = 0
    try:
        cli(prog_name="pgn-edge")
    except SystemExit as exc:
        status = exc.code
    except OSError as exc:
        if not standard_output.is_lost(exc):
            raise
        status = standard_output.report(exc)
    code = standard_output.flush(status if isinstance(status, int) else int(status is not None))
    with contextlib.suppress(OSError, AttributeError):  # stderr is None if the caller closed it
        sys.stderr.flush()
    # Every file is closed by now. Python would go on for seconds, taking torch and its compiler apart object by object.
    os._exit(code)


def _show_warning(show: Callable[..., None], message: Warning | str, category: type[Warning], *place: Any) -> None:
    if issubclass(category, PgnEdgeWarning):
        click.echo(f"pgn-edge: warning: {message}", err=True)
    else:
        show(message, category, *place)


def _on_terminate(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGHUP:
        standard_output.leave_terminal()
    raise SystemExit(128 + number)


def _add_commands() -> None:
    from pgn_edge.cli import (
        analyze,
        bench,
        compare,
        compile,
        demo,
        doctor,
        eval,
        export,
        import_checkpoint,
        inspect_file,
        predict,
        probe,
        run,
        train,
        triton_repo,
    )

    modules = (
        *(demo, train, import_checkpoint, export, compile, triton_repo),
        *(compare, eval, analyze, predict, run, bench, probe, inspect_file, doctor),
    )
    for module in modules:
        for command in module.COMMANDS:
            cli.add_command(command)


_add_commands()

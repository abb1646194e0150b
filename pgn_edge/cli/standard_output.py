"""The program's standard output: a full disk or a reader that went away is a plain failure of the command."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from typing import IO, Any, cast

import click

NAME = "standard output"


class _Named(io.FileIO):
    """Raw standard output whose errors carry its name, so that they are told from those of other files."""

    def write(self, data: Any, /) -> int:
        """Write as a file does."""
        try:
            return super().write(data)
        except OSError as exc:
            exc.filename = NAME
            raise


def prepare() -> None:
    """Name the errors of standard output, and occupy descriptors that the caller closed.

    A closed descriptor would go to the next file that is opened, and stray prints would end in that file.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free one, which is this
    stream = cast("IO[str] | None", sys.stdout)
    if isinstance(stream, io.TextIOWrapper) and not stream.isatty():
        raw = _Named(stream.fileno(), "wb", closefd=False)
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(raw), encoding=stream.encoding, errors=stream.errors)


def leave_terminal() -> None:
    """Print into nowhere from now on: the terminal is closed, and each write to it would be an error.

    Files and pipes stay.
    """
    with open(os.devnull, "wb") as nowhere:
        for descriptor in (1, 2):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):  # `isatty` says no to a terminal that is gone
                os.dup2(nowhere.fileno(), descriptor)


def is_lost(error: BaseException) -> bool:
    """Whether an error says that standard output takes no more."""
    return isinstance(error, OSError) and error.filename == NAME


def report(error: OSError) -> int:
    """Say why standard output takes no more, and return the exit status.

    A reader that has seen enough, such as `head`, is no reason for a message.
    """
    if error.errno != errno.EPIPE:
        reason = error.strerror or str(error)
        do = "free some space, or write to another place"
        click.echo(f"pgn-edge: {NAME}: expected a place that takes all lines, got {reason}; {do}", err=True)
    return 1


def flush(status: int) -> int:
    """Write what is still buffered; a command whose output is lost has failed.

    Args:
        status: Exit status so far.

    Returns:
        The exit status.
    """
    try:
        if cast("IO[str] | None", sys.stdout) is not None:
            sys.stdout.flush()
    except OSError as exc:
        return status or report(exc)
    return status

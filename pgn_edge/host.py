"""What every machine is asked in the same way: commands that may fail or hang, and files of the kernel."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

TIMEOUT_S = 20.0  # a driver that is loaded by this very question, or a library on a cold disk, on a small board
MOST_SAID = 200  # characters of somebody else's error


def output_of(command: Sequence[str]) -> tuple[str, str]:
    """What a command wrote to stdout, empty if it failed; and the last line of why it failed."""
    try:
        process = subprocess.Popen(  # noqa: S603  # commands of our own, and no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as exc:
        return "", exc.strerror or str(exc)
    try:
        output, errors = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return "", f"no answer within {TIMEOUT_S:g} s"
    finally:
        if process.returncode is None:  # Ctrl-C does not reach a session of its own either
            os.killpg(process.pid, signal.SIGKILL)  # what it started holds the pipes as well
            process.communicate()
    if process.returncode < 0:
        return "", f"it crashed with {signal.Signals(-process.returncode).name}"
    if process.returncode > 0:
        said = (errors.strip() or output.strip()).decode(errors="replace").splitlines()
        return "", said[-1][:MOST_SAID] if said else f"exit status {process.returncode}"
    return output.decode(errors="replace").strip(), ""


def text_of(path: Path) -> str:
    """What a file says, without the zeros and line breaks around it; empty where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def lines_of(path: Path) -> list[str]:
    """The lines of a file; none where it cannot be read."""
    return text_of(path).splitlines()


def sizes_bytes(path: Path) -> dict[str, int]:
    """The sizes that a file of the kernel states in kB, such as /proc/meminfo and /proc/self/status, in bytes."""
    rows = (line.split() for line in lines_of(path))
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if row[2:] == ["kB"] and row[1].isdecimal()}

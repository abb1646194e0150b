"""Standard output that is full, closed, or a pipe whose reader went away: status 1, and never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = [sys.executable, "-m", "pgn_edge"]
COMMANDS = {"help": ["--help"], "a document": ["doctor", "--json"], "a table": ["inspect", "TASK"]}


def words(name: str, task: Path) -> list[str]:
    return [*PROGRAM, *(str(task) if word == "TASK" else word for word in COMMANDS[name])]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_behind_stdout_is_one_line_and_status_1(tiny_pair, name: str):
    with open("/dev/full", "w") as full:
        done = subprocess.run(words(name, tiny_pair.task), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "pgn-edge: standard output: expected a place that takes all lines, got No space left on device; "
        "free some space, or write to another place\n"
    )


@pytest.mark.parametrize("name", ["a document", "a table"])
def test_a_reader_that_went_away_costs_no_traceback(tiny_pair, name: str):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            words(name, tiny_pair.task), stdout=writing, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("closed", ["1", "0,1,2"])
def test_a_caller_that_closed_the_standard_streams_gets_no_traceback(tiny_pair, closed: str):
    code = f"import os, sys\nfor at in ({closed},): os.close(at)\nos.execv(sys.argv[1], sys.argv[1:])"
    arguments = words("a document", tiny_pair.task)
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr

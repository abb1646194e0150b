"""What a running command shows: a bar on a terminal within 2 s of the start, lines elsewhere."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from pgn_edge.cli.console import busy, print_table, progress_bar
from pgn_edge.cli.display import Display, current_display, showing


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def screen() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def display(screen: io.StringIO, clock: Clock) -> Display:
    console = Console(file=screen, force_terminal=True, width=100)
    shown = Display(console, pytest.fail, clock)
    shown.live = False  # this test draws, and no thread
    return shown


def test_a_terminal_has_a_bar_within_two_seconds_of_a_silent_start(display: Display, screen: io.StringIO, clock: Clock):
    display.tick()
    assert screen.getvalue() == "", "a command that ends at once shows nothing"
    clock.now = 1.5
    display.tick()
    assert "working" in screen.getvalue()
    display.pause()


def test_the_bar_of_a_step_takes_the_place_of_the_waiting_one(display: Display, screen: io.StringIO, clock: Clock):
    clock.now = 2
    display.tick()
    display("train", 3, 10, "loss 0.5")
    screen.truncate(0)
    display.tick()
    display("train", 4, 10)
    display.pause()
    assert "train" in screen.getvalue()
    assert "4/10" in screen.getvalue()
    assert "working" not in screen.getvalue()


def test_after_the_result_is_printed_no_bar_comes_back(display: Display, screen: io.StringIO, clock: Clock):
    display("train", 10, 10)
    display.pause()
    screen.truncate(0)
    clock.now = 60
    display.tick()
    assert screen.getvalue().strip("\0") == ""


def test_without_a_terminal_a_step_is_lines(capsys: pytest.CaptureFixture[str]):
    with showing(), progress_bar() as progress:
        progress("eval", 0, 2)
        progress("eval", 1, 2)
        progress("eval", 2, 2)
    assert capsys.readouterr().err == "pgn-edge: eval: 0 of 2\npgn-edge: eval: 2 of 2\n"


def test_without_a_terminal_a_quick_command_writes_only_its_result(capsys: pytest.CaptureFixture[str]):
    with showing(), busy("exporting"):
        assert current_display() is not None
        print_table("Title", ("a",), [("1",)])
    assert capsys.readouterr().err == ""
    assert current_display() is None


SLOW_TORCH = """
import time
time.sleep(1.9)
raise ModuleNotFoundError("No module named 'torch'", name="torch")
"""


def test_a_command_that_waits_for_torch_says_so_on_a_terminal(tmp_path: Path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(SLOW_TORCH)
    ours, theirs = pty.openpty()
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from pgn_edge.__main__ import main; main()"
    command = [sys.executable, "-c", code, str(tmp_path), "train", "--data", "digits", "-o", str(tmp_path / "c.pt")]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as child:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # Linux's way to say that the other side is closed
                break
            if not part:
                break
            shown += part
        status = child.wait(timeout=60)
    os.close(ours)
    text = shown.decode(errors="replace")
    assert status == 1
    assert "loading torch" in text
    assert "pgn-edge: torch: expected the package to be installed" in text.rstrip().splitlines()[-1], text

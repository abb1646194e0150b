"""Commands that are real scripts, and files of a kernel that may say anything."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pgn_edge import host
from pgn_edge.host import MOST_SAID, lines_of, output_of, sizes_bytes, text_of

Script = Callable[[str], list[str]]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Write a shell script; the command that runs it."""

    def write(text: str) -> list[str]:
        path = tmp_path / "script"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return [str(path)]

    return write


# Commands.


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        pytest.param("echo ' one'; echo two; echo; echo aside >&2", ("one\ntwo", ""), id="what it wrote to stdout"),
        pytest.param("true", ("", ""), id="nothing"),
        pytest.param("printf 'a\\377b'", ("a\ufffdb", ""), id="bytes that are no text"),
        pytest.param("echo $0 $#", ("{command} 0", ""), id="no shell in between"),
        pytest.param("cat", ("", ""), id="it reads, and there is nothing to read"),
        pytest.param("echo first; echo why >&2; echo no driver >&2; exit 9", ("", "no driver"), id="the last line"),
        pytest.param("echo of stdout; exit 9", ("", "of stdout"), id="a failure that is told on stdout"),
        pytest.param("echo half an answer; exit 3", ("", "half an answer"), id="a failure after an answer"),
        pytest.param("exit 3", ("", "exit status 3"), id="a silent failure"),
        pytest.param("kill -SEGV $$", ("", "it crashed with SIGSEGV"), id="a crash"),
    ],
)
def test_what_a_command_says(script: Script, text: str, answer: tuple[str, str]):
    command = script(text)
    assert output_of(command) == (answer[0].format(command=command[0]), answer[1])


def test_arguments_arrive_as_they_are(script: Script):
    assert output_of([*script('printf "%s|" "$@"'), "a b", "$HOME", "*"]) == ("a b|$HOME|*|", "")


def test_a_long_complaint_is_cut(script: Script):
    _, reason = output_of([*script('echo "$1" >&2; exit 1'), "x" * 1000])
    assert reason == "x" * MOST_SAID


def test_a_command_that_is_not_there():
    output, reason = output_of(["no-such-command"])
    assert (output, reason) == ("", "No such file or directory")


def test_a_command_that_cannot_be_run(tmp_path: Path):
    path = tmp_path / "program"
    path.write_bytes(b"\x7fELF no program")
    path.chmod(0o755)
    output, reason = output_of([str(path)])
    assert (output, bool(reason)) == ("", True)


def test_a_command_that_hangs_with_all_that_it_started(script: Script, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(host, "TIMEOUT_S", 0.3)
    assert output_of(script("sleep 60 & sleep 60")) == ("", "no answer within 0.3 s")


def ended(pid: int) -> bool:
    """Whether a process has ended; what nobody waits for stays a zombie."""
    state = text_of(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return not state or state[0] == "Z"


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not condition():
        time.sleep(0.01)
    return condition()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
def test_an_interrupt_ends_the_command_and_all_that_it_started(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def pids() -> list[int]:
        return [int(pid) for pid in text_of(tmp_path / "pids").split()]

    communicate = subprocess.Popen.communicate

    def interrupted(*_: object, **__: object) -> None:
        monkeypatch.setattr(subprocess.Popen, "communicate", communicate)
        assert wait_for(lambda: len(pids()) == 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        output_of(script(f"sleep 60 & echo $! $$ > {tmp_path}/pids; sleep 60"))
    assert wait_for(lambda: all(map(ended, pids())))


# Files.


@pytest.mark.parametrize(
    ("data", "text", "lines"),
    [
        pytest.param(b"performance\n", "performance", ["performance"], id="one value"),
        pytest.param(b"Orin Nano\0", "Orin Nano", ["Orin Nano"], id="a device tree ends with a zero"),
        pytest.param(b"\n a: 1\nb: 2\n\n", "a: 1\nb: 2", ["a: 1", "b: 2"], id="several lines"),
        pytest.param(b"", "", [], id="empty"),
        pytest.param(b"\xffx", "\ufffdx", ["\ufffdx"], id="no text"),
        pytest.param(None, "", [], id="no file"),
    ],
)
def test_what_a_file_says(tmp_path: Path, data: bytes | None, text: str, lines: list[str]):
    path = tmp_path / "file"
    if data is not None:
        path.write_bytes(data)
    assert (text_of(path), lines_of(path)) == (text, lines)


def test_a_folder_says_nothing(tmp_path: Path):
    assert (text_of(tmp_path), lines_of(tmp_path), sizes_bytes(tmp_path)) == ("", [], {})


@pytest.mark.parametrize(
    ("data", "sizes"),
    [
        pytest.param(
            b"MemTotal:        8000000 kB\nMemAvailable:    2000000 kB\nHugePages_Total:       0\n",
            {"MemTotal": 8_192_000_000, "MemAvailable": 2_048_000_000},
            id="meminfo",
        ),
        pytest.param(
            b"Name:\tpython\nPid:\t7\nVmHWM:\t  9999 kB\nVmRSS:\t    2048 kB\n",
            {"VmHWM": 9999 << 10, "VmRSS": 2 << 20},
            id="status",
        ),
        pytest.param(b"\xfe MemTotal: many kB\n\nMemTotal:\nVmRSS: -1 kB\nkB\n", {}, id="garbage"),
        pytest.param(None, {}, id="no file"),
    ],
)
def test_sizes_are_in_bytes(tmp_path: Path, data: bytes | None, sizes: dict[str, int]):
    path = tmp_path / "file"
    if data is not None:
        path.write_bytes(data)
    assert sizes_bytes(path) == sizes

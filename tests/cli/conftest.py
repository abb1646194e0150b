"""Commands called as a user calls them, and the one way in which they may refuse."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from pgn_edge.cli import cli

Call = Callable[..., Result]
Refusal = Callable[..., str]

REACHED: list[str] = []  # hosts off this machine, since the last test began


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    """Audit hook: write down every host that Python code looks up or connects to."""
    host: object = None
    if event in {"socket.getaddrinfo", "socket.gethostbyname"}:
        host = arguments[0]
    elif event in {"socket.connect", "socket.sendto"} and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    if isinstance(host, str | bytes) and not _is_here(host):
        REACHED.append(f"{event} {host!r}")


def _is_here(host: str | bytes) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in {"", "localhost"} or name.endswith(".invalid"):  # a name that nobody can own
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


sys.addaudithook(_watch)


@pytest.fixture(autouse=True)
def reached() -> Iterator[list[str]]:
    """No command reaches a network: weights are not downloaded, and every service that is named runs here."""
    REACHED.clear()
    yield REACHED
    assert REACHED == []


@pytest.fixture
def call() -> Call:
    """Run a command in this process."""
    return lambda *arguments: CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def refusal(call: Call, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Refusal:
    """Run a command that must fail: status 1, one line on stderr, no file made or left. Returns the line."""

    def run(*arguments: object) -> str:
        before = {path: path.stat().st_size for path in tmp_path.rglob("*")}
        capfd.readouterr()
        done = call(*arguments)
        written = done.stderr + capfd.readouterr().err  # Python's stream, and what libraries write past it
        # The head that was found is said before the work begins, and is no part of an error.
        written = "".join(line for line in written.splitlines(keepends=True) if not line.startswith("head for "))
        assert done.exit_code == 1, done.output
        assert done.stdout == ""
        assert written.startswith("pgn-edge: "), written
        assert written.count("\n") == 1, written
        assert "internal error" not in written
        assert {path: path.stat().st_size for path in tmp_path.rglob("*")} == before
        return written

    return run


@pytest.fixture(scope="session")
def class_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the classes 0 and 1, six noisy images each, bright or dark."""
    folder, rng = tmp_path_factory.mktemp("classes"), np.random.default_rng(0)
    for label in (0, 1):
        (folder / str(label)).mkdir()
        for index in range(6):
            image = rng.integers(0, 100, (24, 24, 3)) + 120 * label
            Image.fromarray(image.astype(np.uint8)).save(folder / str(label) / f"{index}.png")
    return folder

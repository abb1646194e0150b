"""Commands called as a user calls them, and the one way in which they may refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from pgn_edge.cli import cli

Call = Callable[..., Result]
Refusal = Callable[..., str]


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

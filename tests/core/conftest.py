"""A machine whose GPUs the test chooses."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pgn_edge import gpu

NvidiaSmi = Callable[[str], None]


@pytest.fixture
def nvidia_smi(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> NvidiaSmi:
    """Put an nvidia-smi on PATH whose body is this shell script; the real driver is silent."""
    folder = tmp_path_factory.mktemp("bin")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(gpu, "ASK_DRIVER", "")

    def install(script: str) -> None:
        path: Path = folder / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    install("exit 9")
    return install

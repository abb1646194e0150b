"""`pgn-edge doctor`, as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from pgn_edge import __version__


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command of that name, for a script to be written in."""
    folder = tmp_path / "bin"
    folder.mkdir()
    path = folder / "nvidia-smi"
    path.touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("COLUMNS", "80")
    return path


GOOD = "#!/bin/sh\necho 'NVIDIA Test GPU, 570.12, 8192 MiB, 8.7'\n"
BROKEN = "#!/bin/sh\necho 'it could not talk to the driver \033[31m' >&2\nexit 9\n"


def test_a_machine_in_order(call, nvidia_smi: Path):
    nvidia_smi.write_text(GOOD)
    done = call("doctor")
    assert (done.exit_code, done.stderr) == (0, ""), done.stdout
    for text in (__version__, metadata.version("numpy"), "NVIDIA Test GPU", "What this machine can do", "train"):
        assert text in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    assert "fault" not in done.stdout


def test_a_fault_is_status_1_and_a_line_that_says_what_to_do(call, nvidia_smi: Path):
    nvidia_smi.write_text(BROKEN)
    done = call("doctor")
    assert (done.exit_code, done.stderr) == (1, "")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("fault: ")]
    assert line.startswith("fault: NVIDIA GPU: it could not talk to the driver")
    assert line.endswith("install the NVIDIA driver")
    assert "\033" not in done.stdout


@pytest.mark.parametrize(("script", "status"), [(GOOD, 0), (BROKEN, 1)], ids=["in order", "a fault"])
def test_json_is_one_document(call, nvidia_smi: Path, script: str, status: int):
    nvidia_smi.write_text(script)
    done = call("doctor", "--json")
    assert (done.exit_code, done.stderr) == (status, "")
    document = json.loads(done.stdout)
    assert document["healthy"] is (status == 0)
    assert document["gpu"][0]["state"] == ("ok" if status == 0 else "fault")
    assert {"machine", "packages", "jobs"} < set(document)
    states = {finding["state"] for name in ("machine", "gpu", "packages", "libraries") for finding in document[name]}
    assert states <= {"ok", "missing", "fault"}


BLOCKED = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnx", "onnxruntime", "cv2", "tensorrt_rtx"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from pgn_edge.cli import main
main()
"""


def test_without_torch_and_onnx_the_doctor_still_comes(nvidia_smi: Path):
    nvidia_smi.write_text(GOOD)
    command = [sys.executable, "-c", BLOCKED, "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["libraries"] == []

"""pgn-edge sends nothing anywhere: no file in the user's home, no look-up, no connection."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
FOLDERS = ("pgn_edge", "train", "export", "runtime", "benchmarks", "examples")
IMPORT = re.compile(r"^\s*(?:import|from) onnxruntime\b", re.MULTILINE)
SWITCH = 'os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")'

COMMANDS = """
import json, sys
from click.testing import CliRunner
from pgn_edge.cli import cli

for arguments in json.loads(sys.argv[1]):
    done = CliRunner().invoke(cli, arguments)
    if done.exit_code != 0:
        raise SystemExit(f"{arguments}: {done.exit_code}: {done.output} {done.stderr}")
"""


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that records look-ups and connections of the process that preloads it."""
    if shutil.which("cc") is None or not sys.platform.startswith("linux"):
        pytest.skip("the recorder is compiled with cc and preloaded by Linux")
    library = tmp_path_factory.mktemp("recorder") / "recorder.so"
    source = Path(__file__).with_name("network_recorder.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def run_recorded(recorder: Path, folder: Path, *arguments: str) -> tuple[list[str], list[str]]:
    """Lines that the recorder wrote, and files that stand in a home that was empty before."""
    home, log = folder / "home", folder / "network.log"
    home.mkdir()
    hidden = ("XDG_", "ORT_DISABLE_TELEMETRY", "PGN_EDGE_CACHE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    environment |= {"HOME": str(home), "LD_PRELOAD": str(recorder), "NETWORK_LOG": str(log)}
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    lines = log.read_text().splitlines() if log.exists() else []
    return lines, sorted(str(path.relative_to(home)) for path in home.rglob("*"))


def test_commands_leave_a_fresh_home_empty_and_resolve_no_name(recorder: Path, tiny_pair, tmp_path: Path):
    image = tmp_path / "image.png"
    Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(image)
    pair = ("--vit", str(tiny_pair.vit), "--task", str(tiny_pair.task))
    commands = [
        ["predict", str(image), *pair],
        ["run", "--source", str(image.parent), *pair, "--jsonl", str(tmp_path / "answers.jsonl")],
        ["bench", "--engine", str(tiny_pair.vit), "--task", str(tiny_pair.task), "--samples", "2"],
        ["doctor"],
        ["inspect", str(tiny_pair.vit)],
    ]
    lines, files = run_recorded(recorder, tmp_path, "-c", COMMANDS, json.dumps(commands))
    assert lines == []
    assert files == []


def test_the_recorder_sees_what_a_command_must_not_do(recorder: Path, tmp_path: Path):
    leak = """
import os, pathlib, socket
pathlib.Path(os.environ["HOME"], "device-id").write_text("1")
try:
    socket.getaddrinfo("telemetry.invalid", 443)
except OSError:
    pass
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("127.0.0.1", 9))
"""
    lines, files = run_recorded(recorder, tmp_path, "-c", leak)
    assert lines == ["getaddrinfo telemetry.invalid", "connect 127.0.0.1"]
    assert files == ["device-id"]


def test_every_import_of_onnx_runtime_switches_its_telemetry_off_first():
    sources = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    texts = {path.relative_to(ROOT): path.read_text() for path in sources}
    bare = {
        str(path)
        for path, text in texts.items()
        for found in IMPORT.finditer(text)
        if SWITCH not in text[: found.start()]
    }
    assert bare == set()
    assert SWITCH in texts[Path("pgn_edge/extras.py")]


def test_the_doctor_asks_onnx_runtime_with_its_telemetry_off():
    from pgn_edge.runtime.probes import CHILD

    assert CHILD.index(SWITCH) < CHILD.index("__import__(name)")


def test_a_setting_of_the_user_stays(monkeypatch: pytest.MonkeyPatch):
    from pgn_edge.extras import import_onnxruntime

    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    import_onnxruntime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"


@pytest.mark.parametrize("name", ["docker/jetson.Dockerfile", "docker/rtx.Dockerfile", "examples/pgn-edge.service"])
def test_containers_and_the_service_switch_telemetry_off(name: str):
    assert "ORT_DISABLE_TELEMETRY=1" in (ROOT / name).read_text()

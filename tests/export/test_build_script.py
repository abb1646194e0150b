"""The script that builds on the device is run for real, with TensorRT-RTX for a device."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pgn_edge.errors import EngineError, OutputError
from pgn_edge.export.build_script import write_build_script
from pgn_edge.export.compile import CompileOptions
from pgn_edge.sidecar import read_sidecar

ODD = '-it\'s $(touch pwned) `x` "y" \\ & ;\nexit 0\n.pgn'


def run(script: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [script],
        cwd="/",
        env={**os.environ, "PYTHON": sys.executable, "PGN_EDGE_CACHE": str(script.parent / "cache"), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture
def script(tiny_pair, tmp_path: Path) -> Path:
    """A folder as it is on the device: a task and its script."""
    shutil.copy(tiny_pair.task_fp16, tmp_path / "task.pgn")
    path = tmp_path / "build.sh"
    write_build_script(tmp_path / "task.pgn", path, "plans/task.plan", CompileOptions())
    return path


@pytest.mark.parametrize("name", ["task.pgn", ODD], ids=["a plain name", "a name that a shell would obey"])
def test_it_builds_beside_itself(tiny_pair, tmp_path: Path, name: str):
    pytest.importorskip("tensorrt_rtx", reason="plans are built by tensorrt_rtx: pip install 'pgn-edge[rtx]'")
    folder = tmp_path / "a device"
    folder.mkdir()
    shutil.copy(tiny_pair.task_fp16, folder / name)
    script = folder / "build it.sh"
    options = CompileOptions(targets=("sm_86",), max_batch=2, workspace_mib=64)
    write_build_script(folder / name, script, f"{name}.plan", options)
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
    done = run(script)
    assert done.returncode == 0, done.stderr
    sidecar = read_sidecar(folder / f"{name}.plan")
    assert (sidecar.source, sidecar.batch, sidecar.targets) == (name, (1, 1, 2), ("sm_86",))
    assert {path.name for path in folder.iterdir()} == {
        *(name, f"{name}.plan", f"{name}.plan.json", "build it.sh", "cache")
    }


def test_it_carries_every_option(tiny_pair, tmp_path: Path):
    options = CompileOptions(
        "tensorrt",
        max_batch=4,
        workspace_mib=512,
        timing_cache=Path("my timings"),
        version_compatible=True,
        same_compute_capability=True,
        cache=tmp_path / "not for the device",
    )
    write_build_script(tiny_pair.vit, tmp_path / "build.sh", "vit.plan", options)
    text = (tmp_path / "build.sh").read_text()
    line = (
        '-m pgn_edge compile "$source" --backend tensorrt --max-batch 4 --workspace 512 '
        "--timing-cache 'my timings' --version-compatible --same-compute-capability -o \"$plan\"\n"
    )
    assert text.endswith(line)
    assert "python3-libnvinfer" in text
    assert "not for the device" not in text
    assert (tmp_path / "build.sh").stat().st_mode & 0o777 == 0o755
    assert subprocess.run(["sh", "-n", tmp_path / "build.sh"], check=False).returncode == 0


def test_another_file_is_not_compiled(script: Path):
    source = script.parent / "task.pgn"
    source.write_bytes(source.read_bytes() + b"\0")
    done = run(script)
    assert (done.returncode, done.stdout) == (1, "")
    assert "has sha256" in done.stderr.splitlines()[-1]
    source.unlink()
    done = run(script)
    assert done.returncode == 1
    assert done.stderr == "build: ./task.pgn is not beside this script; copy it here\n"


@pytest.mark.parametrize(
    ("module", "says"),
    [
        pytest.param("pgn_edge", "-m pip install '.[compile]', in its source", id="pgn-edge"),
        pytest.param("click", "-m pip install click rich", id="the command line"),
        pytest.param("onnx", "-m pip install onnx", id="onnx"),
        pytest.param("tensorrt_rtx", "-m pip install tensorrt-rtx", id="the backend"),
    ],
)
def test_what_is_missing_is_named(script: Path, module: str, says: str):
    blocked = script.parent / "blocked"
    blocked.mkdir()
    (blocked / f"{module}.py").write_text("raise ImportError('not installed')\n")
    done = run(script, PYTHONPATH=str(blocked))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"build: {module.replace('pgn_edge', 'pgn-edge')} is missing; run: " + (
        f"{sys.executable} {says}"
    )


def test_no_python(script: Path):
    done = run(script, PYTHON="python-of-nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("build: no python-of-nowhere; ")


def test_what_is_refused(tiny_pair, tmp_path: Path):
    for source, script, options, error in (
        (tmp_path / "missing.onnx", "build.sh", CompileOptions(), EngineError),
        (tiny_pair.vit, "missing/build.sh", CompileOptions(), OutputError),
        (tiny_pair.vit, "build.sh", CompileOptions("tensorrt", targets=("sm_87",)), EngineError),
    ):
        with pytest.raises(error):
            write_build_script(source, tmp_path / script, "x.plan", options)
    assert not list(tmp_path.iterdir())

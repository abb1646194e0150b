"""What a machine tells of itself, with machines made of real files, real scripts and real child processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pgn_edge import host
from pgn_edge.runtime.probes import Finding, ask_module, jetson, machine, nvidia_gpus


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


# The machine itself.


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        pytest.param("flags\t\t: fpu sse2 avx2 avx512f avx512_vnni amx_int8", "avx2, avx512f, avx512_vnni, amx_int8"),
        pytest.param("Features\t: fp asimd asimdhp asimddp", "asimd, asimdhp, asimddp"),
        pytest.param("flags\t\t: fpu sse2", "none known"),
    ],
    ids=["x86", "ARM", "old"],
)
def test_instruction_sets(tree, tmp_path: Path, cpuinfo: str, expected: str):
    root = tree(tmp_path, {"proc/cpuinfo": f"processor : 0\nmodel name : avx512_fp16 in a name\n{cpuinfo}\n"})
    assert by_name(machine(root))["instruction sets"].value.startswith(expected)


def test_memory_is_in_gigabytes_and_free_is_what_is_available(tree, tmp_path: Path):
    meminfo = "MemTotal:        8000000 kB\nMemFree:          100000 kB\nMemAvailable:    2000000 kB\n"
    found = by_name(machine(tree(tmp_path, {"proc/meminfo": meminfo})))
    assert found["memory"].value == "8.2 GB, of which 2.0 GB free"


@pytest.mark.parametrize(
    "files",
    [{}, {"proc/cpuinfo": b"\xff\x00flags", "proc/meminfo": b"\xfe MemTotal: many kB\n\nMemTotal:\n"}],
    ids=["nothing there", "garbage"],
)
def test_a_system_that_tells_nothing(tree, tmp_path: Path, files: dict[str, bytes]):
    found = by_name(machine(tree(tmp_path, files)))
    assert found["memory"].value == "unknown, of which unknown free"
    assert all(finding.state == "ok" for finding in found.values())


def test_disk_is_that_of_the_folder_and_of_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    found = by_name(machine())
    assert found["disk of this folder"].value.endswith(f"GB free, {tmp_path}")
    assert "GB free" in found["disk for temporary files"].value


def test_a_working_folder_that_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert by_name(machine())["disk of this folder"].state == "fault"


# GPUs.


def test_gpus(tmp_path: Path):
    lines = "NVIDIA A, 570.12, 8192 MiB, 8.6\nNVIDIA B, 570.12, [N/A], 8.7"
    found = nvidia_gpus(str(script(tmp_path / "smi", f"cat <<'END'\n{lines}\nEND")))
    assert [(one.name, one.state) for one in found] == [("NVIDIA GPU 0", "ok"), ("NVIDIA GPU 1", "ok")]
    assert found[0].value == "NVIDIA A, driver 570.12, 8192 MiB, compute capability 8.6"


def test_gpus_are_asked_for_what_is_shown(tmp_path: Path):
    nvidia_gpus(str(script(tmp_path / "smi", f'echo "$@" > {tmp_path}/asked')))
    query = "--query-gpu=name,driver_version,memory.total,compute_cap --format=csv,noheader\n"
    assert (tmp_path / "asked").read_text() == query


def test_no_driver_at_all():
    assert nvidia_gpus("no-such-command") == [Finding("NVIDIA GPU", "missing", "none found")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("echo first; echo no driver >&2; exit 9", "no driver", id="a failure with its reason"),
        pytest.param("echo No devices were found", "No devices were found", id="a sentence instead of a table"),
        pytest.param("true", "no answer", id="nothing"),
        pytest.param("printf '\\377\\000\\n'", "", id="bytes that are no text"),
    ],
)
def test_a_driver_that_does_not_work(tmp_path: Path, text: str, says: str):
    (found,) = nvidia_gpus(str(script(tmp_path / "smi", text)))
    assert found.state == "fault"
    assert says in found.value
    assert "install the NVIDIA driver" in found.do


# Jetson.

ORIN = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n# and more\n",
    "proc/device-tree/model": b"NVIDIA Jetson Orin Nano Developer Kit\x00",
}


def test_a_jetson(tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    commands = tmp_path / "bin"
    commands.mkdir()
    script(commands / "dpkg-query", '[ "$3" = nvidia-jetpack ] && echo 6.2+b77')
    script(commands / "nvpmodel", "echo 'NV Power Mode: MAXN_SUPER'; echo 2")
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
    found = by_name(jetson(tree(tmp_path / "root", ORIN)))
    assert found["board"].value == "NVIDIA Jetson Orin Nano Developer Kit"
    assert found["L4T"].value.startswith("R36 (release), REVISION: 4.3")
    assert (found["JetPack"].state, found["JetPack"].value) == ("ok", "6.2+b77")
    assert found["power mode"].value == "NV Power Mode: MAXN_SUPER 2"


def test_a_jetson_without_its_tools(tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = by_name(jetson(tree(tmp_path / "root", {"etc/nv_tegra_release": b"\xff"})))
    assert found["board"].value == "unknown"
    assert found["JetPack"].state == "missing"
    assert "power mode" not in found


def test_other_machines_are_no_jetson(tmp_path: Path):
    assert jetson(tmp_path) == []


# Libraries that are imported elsewhere.


def test_onnxruntime_tells_its_providers():
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install 'pgn-edge[cpu]'")
    told, reason = ask_module("onnxruntime")
    assert reason == ""
    providers = onnxruntime.get_available_providers()
    assert told == {
        "version": onnxruntime.__version__,
        "providers": providers,
        "opens": {"CPUExecutionProvider": ""},
    }


@pytest.fixture
def library(tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Write the module `tensorrt`, the first that an import finds."""
    monkeypatch.syspath_prepend(tmp_path)
    return lambda text: tree(tmp_path, {"tensorrt.py": text})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(
            "import libnvinfer_that_is_absent", "No module named 'libnvinfer_that_is_absent'", id="no library"
        ),
        pytest.param("import os; os.abort()", "SIGABRT", id="a crash"),
        pytest.param("raise SystemExit('go away')", "go away", id="it leaves"),
        pytest.param("x = 1", "__version__", id="no such library after all"),
        pytest.param("import os; os._exit(0)", "it told nothing", id="it leaves without a word"),
    ],
)
def test_a_library_that_does_not_import(library: Callable[[str], Path], text: str, says: str):
    library(text)
    told, reason = ask_module("tensorrt")
    assert told == {}
    assert says in reason


def test_a_library_that_talks(library: Callable[[str], Path]):
    library("__version__ = '10.3.0'\nprint('a banner without an end', end='')")
    told, reason = ask_module("tensorrt")
    assert (told["version"], reason) == ("10.3.0", "")
    assert set(told) == {"version", "cuda_runtime", "cuda_driver"}


def test_a_library_that_hangs(library: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(host, "TIMEOUT_S", 0.5)
    library("import time; time.sleep(60)")
    assert ask_module("tensorrt") == ({}, "no answer within 0.5 s")

"""A machine made of files, and commands made of scripts."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from pgn_edge.runtime.bench_machine import describe_bench_environment, git_commit, machine_state, throttled


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "proc/cpuinfo": "model name\t: Toy CPU\ncpu MHz\t\t: 999.5\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1800000\n",
        "sys/devices/system/cpu/cpu10/cpufreq/scaling_cur_freq": "600000\n",
        "sys/devices/system/cpu/cpu2/cpufreq/scaling_cur_freq": "1200000\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
        "sys/devices/system/cpu/cpu2/cpufreq/scaling_governor": "performance\n",
        "sys/devices/system/cpu/cpufreq/boost": "1\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "4\n",
        "sys/devices/system/cpu/cpu2/thermal_throttle/core_throttle_count": "5\n",
        "sys/class/thermal/thermal_zone0/type": "x86_pkg_temp\n",
        "sys/class/thermal/thermal_zone0/temp": "48500\n",
        "sys/class/thermal/thermal_zone1/type": "broken\n",
        "sys/class/thermal/thermal_zone1/temp": "n/a\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_state(root: Path):
    state = machine_state(root, "no-such-command")
    assert state["clock_mhz"] == [1800, 1200, 600]  # in the order of the CPUs
    assert state["throttle_events"] == 12
    assert state["temperatures_c"] == {"thermal_zone0 x86_pkg_temp": 48.5}
    assert state["gpus"] is None
    assert len(state["load_average"]) == 3
    json.dumps(state)


def test_a_machine_that_tells_nothing(tmp_path: Path):
    state = machine_state(tmp_path, "no-such-command")
    assert {name for name, value in state.items() if value is not None} <= {"load_average"}
    environment = describe_bench_environment(tmp_path, "no-such-command")
    assert (environment["governors"], environment["gpus"], environment["power_mode"]) == (None, None, None)


def test_clocks_without_cpufreq(root: Path):
    for path in root.rglob("scaling_cur_freq"):
        path.unlink()
    assert machine_state(root, "no-such-command")["clock_mhz"] == [1000]


def test_gpu_state(root: Path):
    command = script(root / "smi", 'echo "1980 MHz, 2619 MHz, 41, 120.5 W, P0, 0x0000000000000004"; echo "garbage"')
    (gpu,) = machine_state(root, command)["gpus"]
    assert (gpu["sm_clock"], gpu["temperature_c"], gpu["throttle_reasons"]) == ("1980 MHz", "41", "0x0000000000000004")
    assert machine_state(root, script(root / "smi", "exit 9"))["gpus"] is None


def test_environment(root: Path):
    environment = describe_bench_environment(root, script(root / "smi", 'echo "Toy GPU, 555.1, 8192 MiB, 8.7"'))
    assert environment["cpu"] == "Toy CPU"
    assert environment["governors"] == ["performance", "schedutil"]
    assert environment["gpus"] == ["Toy GPU, driver 555.1, 8192 MiB, compute capability 8.7"]
    assert environment["opencv"]
    json.dumps(environment)


@pytest.mark.parametrize(
    ("before", "after", "expected"), [(3, 4, True), (3, 3, False), (None, 3, None)], ids=["counted", "calm", "unknown"]
)
def test_throttled(before: int | None, after: int | None, expected: bool | None):
    assert throttled({"throttle_events": before}, {"throttle_events": after}) is expected


def test_git_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit(tmp_path) is None
    identity = {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), *arguments]
        environment = {**os.environ, **identity, "GIT_CONFIG_GLOBAL": os.devnull}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "--quiet", "--message", "one")
    commit = git("rev-parse", "HEAD")
    assert git_commit(tmp_path) == commit
    (tmp_path / "file").write_text("two")
    assert git_commit(tmp_path) == f"{commit}-dirty"

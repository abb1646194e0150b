"""The state of the machine before and after a measurement, as far as it tells."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgn_edge.host import lines_of, output_of, text_of
from pgn_edge.runtime.environment import describe_environment
from pgn_edge.runtime.probes import jetson, nvidia_gpus

CPUS = "sys/devices/system/cpu"
# Names of nvidia-smi's own query, and ours.
GPU_STATE = {
    "clocks.sm": "sm_clock",
    "clocks.mem": "memory_clock",
    "temperature.gpu": "temperature_c",
    "power.draw": "power",
    "pstate": "performance_state",
    "clocks_throttle_reasons.active": "throttle_reasons",
}


def describe_bench_environment(root: Path = Path("/"), nvidia_smi: str = "nvidia-smi") -> dict[str, Any]:
    """What `describe_environment` tells, and what stays as it is during a measurement: GPUs, power mode, git commit.

    Args:
        root: folder that /sys, /proc and /etc are looked up in.
        nvidia_smi: name or path of the command.
    """
    gpus = [found.value for found in nvidia_gpus(nvidia_smi) if found.state == "ok"]
    board = {found.name: found.value for found in jetson(root) if found.state == "ok"}
    return {
        **describe_environment(root),
        "governors": sorted({text for _, text in _cpu_values(root, "cpufreq/scaling_governor")}) or None,
        "gpus": gpus or None,
        "power_mode": board.get("power mode"),
        "jetpack": board.get("JetPack"),
        "git": git_commit(Path.cwd()),
    }


def machine_state(root: Path = Path("/"), nvidia_smi: str = "nvidia-smi") -> dict[str, Any]:
    """Clocks, throttling, temperatures and load right now; None where the machine does not tell.

    Args:
        root: folder that /sys and /proc are looked up in.
        nvidia_smi: name or path of the command.
    """
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    return {
        "load_average": None if load is None else [round(value, 2) for value in load],
        "clock_mhz": _clocks_mhz(root) or None,
        "throttle_events": _throttle_events(root),
        "temperatures_c": _temperatures_c(root) or None,
        "gpus": _gpu_states(nvidia_smi) or None,
    }


def git_commit(folder: Path) -> str | None:
    """Commit of the checkout that `folder` lies in, `-dirty` behind it where files differ; None elsewhere."""
    options = ("--no-optional-locks", "-C", str(folder))
    commit, _ = output_of(["git", *options, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"])
    return commit or None


def throttled(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool | None:
    """Whether the CPU counted throttling events between two states; None where it does not count them."""
    counts = before["throttle_events"], after["throttle_events"]
    return None if None in counts else counts[1] > counts[0]


def _clocks_mhz(root: Path) -> list[int]:
    clocks = [round(int(text) / 1e3) for _, text in _cpu_values(root, "cpufreq/scaling_cur_freq") if text.isdecimal()]
    if clocks:
        return clocks
    lines = lines_of(root / "proc/cpuinfo")
    values = (line.partition(":")[2].strip() for line in lines if line.startswith("cpu MHz"))
    return [round(float(value)) for value in values if value.replace(".", "", 1).isdecimal()]


def _throttle_events(root: Path) -> int | None:
    counters = ("core_throttle_count", "package_throttle_count")
    texts = [text for name in counters for _, text in _cpu_values(root, f"thermal_throttle/{name}")]
    counts = [int(text) for text in texts if text.isdecimal()]
    return sum(counts) if counts else None


def _temperatures_c(root: Path) -> dict[str, float]:
    found = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        text = text_of(zone / "temp")
        if text.removeprefix("-").isdecimal():
            found[f"{zone.name} {text_of(zone / 'type')}".strip()] = int(text) / 1e3
    return found


def _gpu_states(nvidia_smi: str) -> list[dict[str, str]]:
    query = (f"--query-gpu={','.join(GPU_STATE)}", "--format=csv,noheader")
    output, _ = output_of([nvidia_smi, *query])
    rows = [[cell.strip() for cell in line.split(",")] for line in output.splitlines() if line.strip()]
    return [dict(zip(GPU_STATE.values(), row, strict=True)) for row in rows if len(row) == len(GPU_STATE)]


def _cpu_values(root: Path, name: str) -> list[tuple[int, str]]:
    """(number, text) of a file that every CPU has, in the order of the CPUs."""
    files = (root / CPUS).glob(f"cpu[0-9]*/{name}")
    numbered = ((file.relative_to(root / CPUS).parts[0].removeprefix("cpu"), file) for file in files)
    return sorted((int(number), text_of(file)) for number, file in numbered if number.isdecimal())

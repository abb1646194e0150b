"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from pgn_edge import __version__
from pgn_edge.host import lines_of, text_of


def describe_environment(root: Path = Path("/")) -> dict[str, Any]:
    """Machine, versions, clocks, load and command of this process; None where the system does not tell.

    Args:
        root: folder that /sys and /proc are looked up in.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    frequency = root / "sys/devices/system/cpu/cpu0/cpufreq"
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "cpu": _cpu_field(root, "model name") or text_of(root / "proc/device-tree/model") or platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": usable,
        "clock_mhz": _cpu_field(root, "cpu MHz"),
        "governor": text_of(frequency / "scaling_governor") or None,
        "clock_max_khz": text_of(frequency / "scaling_max_freq") or None,
        "load_average": None if load is None else [round(value, 2) for value in load],
        "os": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        # Its metadata, not the module: only the adapter may import it. The two packages hold one module.
        "onnxruntime": _version("onnxruntime") or _version("onnxruntime-gpu"),
        "opencv": _version("opencv-python") or _version("opencv-python-headless"),
        "pgn_edge": __version__,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_field(root: Path, name: str) -> str | None:
    lines = lines_of(root / "proc/cpuinfo")
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)

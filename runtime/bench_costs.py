"""What one more task costs, and what one more ViT engine would: memory and time to load, both measured."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from pgn_edge.host import sizes_bytes
from pgn_edge.runtime.bench_queries import random_feeds
from pgn_edge.runtime.engines import Engine, EngineOptions, open_engine
from pgn_edge.runtime.runtime import Runtime

MORE_TASKS = 5  # whose memory is measured together: one alone may fit into what the process had already
MORE_VITS = 3  # opened one after the other


@dataclass(frozen=True)
class Costs:
    """Costs of loading, measured in this process.

    Args:
        task_load_ms: of each further task: read, verified, opened and held against its golden pair.
        task_memory_bytes: resident memory of one of them, average; None where the system does not tell.
        task_file_bytes: size of the bundle.
        vit_load_ms: of each further ViT engine of the same file: opened, and its first run.
        vit_memory_bytes: resident memory of the first of them; None where the system does not tell.
        vit_file_bytes: size of the engine file.
    """

    task_load_ms: tuple[float, ...]
    task_memory_bytes: float | None
    task_file_bytes: int
    vit_load_ms: tuple[float, ...]
    vit_memory_bytes: float | None
    vit_file_bytes: int

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


def measure_costs(vit: Path, task: Path, options: EngineOptions) -> Costs:
    """Load further engines and further tasks beside what is loaded already, and close them again.

    Args:
        vit: file of the ViT engine.
        task: bundle for it.
        options: as the engines that are measured were opened with.

    Raises:
        EngineError, BundleError, PairingError: as opening a `Runtime` with the task.
    """
    vit_load_ms, task_load_ms = [], []
    engine, spent_ms, vit_memory = _weighed(lambda: _open_and_run(vit, options))
    vit_load_ms.append(spent_ms)
    with Runtime(engine, threads=options.threads, gpu=options.gpu) as runtime:
        runtime.add("first", task)  # what all tasks share is paid here
        before = resident_bytes()
        for index in range(MORE_TASKS):
            start = perf_counter()
            runtime.add(str(index), task)
            task_load_ms.append((perf_counter() - start) * 1e3)
        after = resident_bytes()
    for _ in range(MORE_VITS - 1):
        other, spent_ms, _ = _weighed(lambda: _open_and_run(vit, options))
        other.close()
        vit_load_ms.append(spent_ms)
    return Costs(
        task_load_ms=tuple(task_load_ms),
        task_memory_bytes=None if before is None or after is None else (after - before) / MORE_TASKS,
        task_file_bytes=task.stat().st_size,
        vit_load_ms=tuple(vit_load_ms),
        vit_memory_bytes=vit_memory,
        vit_file_bytes=vit.stat().st_size,
    )


def resident_bytes(status: Path = Path("/proc/self/status")) -> int | None:
    """Resident memory of this process; None where the system does not tell.

    What was freed goes back to the system first, where the C library can do that: what comes next would hide in it.

    Args:
        status: file of the kernel that holds VmRSS in kB.
    """
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)
    return sizes_bytes(status).get("VmRSS")


def _open_and_run(vit: Path, options: EngineOptions) -> Engine:
    engine = open_engine(vit, options)
    try:
        engine.infer(random_feeds(engine, 1, np.random.default_rng(0)))
    except BaseException:
        engine.close()
        raise
    return engine


def _weighed(make: Callable[[], Engine]) -> tuple[Engine, float, float | None]:
    """What `make` makes, its milliseconds, and the resident memory that it added."""
    before, start = resident_bytes(), perf_counter()
    made = make()
    spent_ms = (perf_counter() - start) * 1e3
    after = resident_bytes()
    return made, spent_ms, None if before is None or after is None else float(after - before)

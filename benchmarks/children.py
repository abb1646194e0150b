"""What only a process of its own shows: the first result after its start, and the memory of further tasks."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from common import Rounds

# Each prints the time at each step once its first answer is there.
FIRST_RESULT = {
    "Runtime": """
import json, sys, time
marks = [time.perf_counter()]
import numpy as np
from pgn_edge.runtime import Runtime
marks.append(time.perf_counter())
runtime = Runtime(sys.argv[1], threads=int(sys.argv[3]))
marks.append(time.perf_counter())
runtime.add("task", sys.argv[2])
marks.append(time.perf_counter())
runtime.infer("task", np.full((480, 640, 3), 127, np.uint8))
marks.append(time.perf_counter())
print(json.dumps(marks), flush=True)
""",
    "bare ONNX Runtime": """
import json, sys, time
marks = [time.perf_counter()]
import os
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when ONNX Runtime is imported
import numpy as np
import onnxruntime
marks.append(time.perf_counter())
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[3])
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
marks.append(time.perf_counter())
marks.append(time.perf_counter())
(canvas,) = session.get_inputs()
session.run(None, {canvas.name: np.zeros((1, *canvas.shape[1:]), np.float32)})
marks.append(time.perf_counter())
print(json.dumps(marks), flush=True)
""",
}
STEPS = ("import", "open ViT", "add task", "first infer")

MEMORY = """
import json, sys
import numpy as np
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.bench_costs import resident_bytes
frame = np.full((480, 640, 3), 127, np.uint8)
runtime = Runtime(sys.argv[1], threads=int(sys.argv[3]))
resident = []
for index in range(int(sys.argv[4]) + 1):
    runtime.add(str(index), sys.argv[2])
    runtime.infer(str(index), frame)
    resident.append(resident_bytes())
print(json.dumps(resident))
"""


def first_results(vit: Path, task: Path, threads: int, rounds: Rounds) -> dict[str, dict[str, list[float]]]:
    """Seconds from the start of a process to its first answer, by program and step.

    Args:
        vit: graph that both open.
        task: bundle that the runtime adds.
        threads: 0 takes one for each core.
        rounds: how often each is started, in turns.

    Returns:
        For each program the series `total`, seen from here, `start` of the interpreter, and each of `STEPS`.
    """
    names = ("total", "start", *STEPS)
    seconds: dict[str, dict[str, list[float]]] = {program: {name: [] for name in names} for program in FIRST_RESULT}
    rng = np.random.default_rng(rounds.seed)
    for index in range(rounds.warmup + rounds.samples):
        for program in rng.permutation(list(FIRST_RESULT)):
            total, marks = _first_result(FIRST_RESULT[program], vit, task, threads)
            steps = [late - early for early, late in pairwise(marks)]
            if index >= rounds.warmup:
                for name, value in zip(names, (total, total - sum(steps), *steps), strict=True):
                    seconds[program][name].append(value)
    return seconds


def _first_result(program: str, vit: Path, task: Path, threads: int) -> tuple[float, list[float]]:
    command = [sys.executable, "-c", program, str(vit), str(task), str(threads)]
    start = perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        line = child.stdout.readline()
        total = perf_counter() - start
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command[:2])
    return total, json.loads(line)


def resident_after_tasks(vit: Path, task: Path, threads: int, more: int) -> list[Any]:
    """Resident memory of a process in bytes after each of `more` + 1 tasks was added and answered a frame; the first
    one pays what all of them share.
    """
    command = [sys.executable, "-c", MEMORY, str(vit), str(task), str(threads), str(more)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    resident: list[Any] = json.loads(done.stdout)
    return resident

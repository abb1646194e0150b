"""What an export costs: `pgn-edge export --fp16` with its whole ladder against CLIP ViT-B/32, as a user calls it.

Wall time and peak memory of the command in a process of its own, 32 golden frames, K = 16, N = 256, seeded random
weights read with `--weights`. Targets on 2 cores: 20 s and 3 GB in every run. Then the exported PGN engine against the
ViT engine it feeds, both on ONNX Runtime at 224 px, batch 1, float32, interleaved; target: 3 % of the ViT's median.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from common import (
    CLIP,
    HEADER,
    PROMPTS,
    environment_table,
    markdown_table,
    parser,
    random_clip_task,
    stats_row,
    write_results,
)

from pgn_edge.bundle import read_bundle
from pgn_edge.export.frozen import VitOptions, export_vit
from pgn_edge.extras import import_onnxruntime
from pgn_edge.runtime.environment import describe_environment

onnxruntime = import_onnxruntime()

GOLDEN = 32
SECONDS, GIGABYTES, SHARE = 20.0, 3.0, 0.03


def time_export(weights: Path, checkpoint: Path, output: Path, *flags: str) -> tuple[float, float]:
    """Seconds and peak gigabytes of one `pgn-edge export`.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "pgn_edge", "export", checkpoint, "--weights", weights, "-o", output, *flags]
    start = perf_counter()
    child = os.posix_spawn(sys.executable, [str(part) for part in command], os.environ)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise RuntimeError(f"export ended with status {status}")
    return perf_counter() - start, usage.ru_maxrss * 1024 / 1e9  # Linux counts in KiB


def time_engines(engine: Path, task: Path, samples: int, seed: int) -> dict[str, list[float]]:
    """Milliseconds of each call, PGN and ViT in turn on the same frame."""
    settings = onnxruntime.SessionOptions()
    settings.add_session_config_entry("session.force_spinning_stop", "1")  # else one's threads slow the other's turn
    sources: dict[str, Any] = {"PGN engine": read_bundle(task).pgn_onnx, "ViT engine": str(engine)}
    sessions = {
        name: onnxruntime.InferenceSession(source, settings, providers=["CPUExecutionProvider"])
        for name, source in sources.items()
    }
    image = np.random.default_rng(seed).integers(0, 256, (1, 224, 224, 3), np.uint8)
    (canvas,) = sessions["PGN engine"].run(None, {"image": image})
    feeds = {"PGN engine": {"image": image}, "ViT engine": {"canvas": canvas}}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for index in range(samples + 10):
        for name, session in sessions.items():
            session.run(None, feeds[name])  # untimed: its caches were the other's a moment ago
            start = perf_counter()
            session.run(None, feeds[name])
            if index >= 10:
                times[name].append((perf_counter() - start) * 1e3)
    return times


def _markdown(document: dict[str, Any]) -> str:
    exports, times = document["exports"], document["samples_ms"]
    rows = [(f"run {i + 1}", f"{run['seconds']:.1f}", f"{run['gigabytes']:.2f}") for i, run in enumerate(exports)]
    verdict = "met" if document["passed"] else "MISSED"
    about = " ".join((__doc__ or "").split("\n\n", 1)[1].split())
    parts = [
        f"# What an export costs\n\n{about}\n\n`python benchmarks/export_speed.py`\n",
        markdown_table(("`pgn-edge export --fp16`", "seconds", "peak GB"), rows),
        markdown_table(HEADER, [stats_row(f"{name}, ms", values) for name, values in times.items()]),
        f"The PGN takes {document['share']:.2%} of the ViT's median.\n\n"
        f"Targets: at most {SECONDS:g} s, {GIGABYTES:g} GB and {SHARE:.0%}: **{verdict}**.\n",
        environment_table(document["environment"]),
    ]
    return "\n".join(parts)


def main() -> int:
    """Measure, write, and give exit status 1 where a target is missed."""
    arguments = parser("What an export costs.")
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--samples", type=int, default=200)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    environment = describe_environment()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights, checkpoint = random_clip_task(folder, GOLDEN, options.seed)
        runs = []
        for _ in range(options.runs):
            seconds, gigabytes = time_export(weights, checkpoint, folder / "task.pgn", "--fp16")
            runs.append({"seconds": seconds, "gigabytes": gigabytes})
        print("exporting the ViT", file=sys.stderr)
        export_vit(CLIP, folder / "vit.onnx", VitOptions(PROMPTS, weights=weights))
        time_export(weights, checkpoint, folder / "fp32.pgn")
        times = time_engines(folder / "vit.onnx", folder / "fp32.pgn", options.samples, options.seed)
    share = float(np.median(times["PGN engine"]) / np.median(times["ViT engine"]))
    fast = all(run["seconds"] <= SECONDS and run["gigabytes"] <= GIGABYTES for run in runs)
    document = {
        "benchmark": "export_speed",
        "environment": environment,
        "targets": {"seconds": SECONDS, "gigabytes": GIGABYTES, "share": SHARE},
        "passed": fast and share <= SHARE,
        "exports": runs,
        "share": share,
        "samples_ms": times,
    }
    write_results(options.output, "export_speed", document, _markdown(document))
    return 0 if document["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())

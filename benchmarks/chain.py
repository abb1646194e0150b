"""The whole chain through Runtime.infer against the bare ONNX Runtime session of the same ViT graph.

CLIP ViT-B/32 with 16 prompts and a ResNet10 PGN (K = 16, N = 256), float32, batch 1, seeded random weights. Target: at
most 1.08 times the bare session, medians, interleaved in one run, in every row. The bare session has ONNX Runtime's
default options; each timed call follows an untimed one of its own kind, since that session's idle threads go on
spinning for milliseconds and would slow whatever has the next turn.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    CLIP,
    HEADER,
    PROMPTS,
    Rounds,
    Series,
    environment_table,
    interleave,
    markdown_table,
    parser,
    random_clip_task,
    stats_row,
    write_results,
)

from pgn_edge.errors import EngineError
from pgn_edge.export.frozen import VitOptions, export_vit
from pgn_edge.export.task import ExportOptions, export_task
from pgn_edge.extras import import_onnxruntime
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.environment import describe_environment

onnxruntime = import_onnxruntime()

TARGET = 1.08
GOLDEN = 8
FRAMES_HW = {"chain 224 x 224": (224, 224), "chain 640 x 480": (480, 640)}
BARE = "bare session"


@dataclass(frozen=True)
class Options:
    """Timed calls of each, warm-up rounds, threads of each session (0: one for each core), seed."""

    samples: int
    warmup: int
    threads: int
    seed: int


def export_pair(folder: Path, seed: int) -> tuple[Path, Path]:
    """Export a random ViT and a random task for it, through the same functions as the commands; returns both paths."""
    weights, checkpoint = random_clip_task(folder, GOLDEN, seed)
    engine, task = folder / "vit.onnx", folder / "task.pgn"
    export_vit(CLIP, engine, VitOptions(prompts=PROMPTS, weights=weights))
    export_task(checkpoint, task, ExportOptions(weights=weights))
    return engine, task


def measure(engine: Path, task: Path, options: Options) -> tuple[Series, Series]:
    """Milliseconds of each call by name, and of each stage inside by `<name>: <stage>`."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(str(engine), settings, providers=["CPUExecutionProvider"])
    frames = _frames(options.seed)
    with Runtime(engine, {"chain": task}, threads=options.threads, canvases=True) as runtime:
        canvases = {name: runtime.infer("chain", frame).kept_canvas()[None] for name, frame in frames.items()}
    with Runtime(engine, {"chain": task}, threads=options.threads) as runtime:
        canvas = next(iter(canvases.values()))
        calls: dict[str, Callable[[], Any]] = {BARE: lambda: session.run(["embedding"], {"canvas": canvas})}
        calls |= {name: partial(runtime.infer, "chain", frame) for name, frame in frames.items()}
        samples: Series = {name: [] for name in calls}
        stages: Series = {}
        for name, elapsed_ms, answer in interleave(calls, Rounds(options.samples, options.warmup, options.seed)):
            samples[name].append(elapsed_ms)
            for stage, value in getattr(answer, "timings_ms", {}).items():
                stages.setdefault(f"{name}: {stage}", []).append(value)
        _check(calls, session, canvases)
    return samples, stages


def _frames(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8) for name, size_hw in FRAMES_HW.items()}


def _check(calls: Mapping[str, Callable[[], Any]], session: Any, canvases: Mapping[str, np.ndarray]) -> None:
    """The chain must give, at the end as at the start, what the bare session gives on the canvas that it made then."""
    for name, canvas in canvases.items():
        result = calls[name]()
        (bare,) = session.run(["embedding"], {"canvas": canvas})
        if not np.isfinite(bare).all() or not np.array_equal(bare[0], result.embedding):
            raise EngineError(
                name,
                expected="the embedding of the bare session on the same canvas",
                got=f"a difference of {np.abs(bare[0] - result.embedding).max():.3g}",
                do="a latency of wrong answers means nothing: look for the fault first",
            )


def _ratios(samples: Series) -> dict[str, float]:
    bare = float(np.median(samples[BARE]))
    return {name: float(np.median(samples[name])) / bare for name in FRAMES_HW}


def _markdown(document: Mapping[str, Any]) -> str:
    ratio = document["ratio"]
    rows = [
        (*stats_row(name, series), f"{ratio.get(name, 1.0):.3f}") for name, series in document["samples_ms"].items()
    ]
    stages = [stats_row(name, series, 3) for name, series in document["stages_ms"].items()]
    parts = ["# The whole chain against the bare session\n", f"{__doc__}".strip() + "\n", "Milliseconds:\n"]
    parts += [markdown_table((*HEADER, "x bare"), rows), "Stages of Runtime.infer:\n", markdown_table(HEADER, stages)]
    verdict = "met" if document["passed"] else "MISSED"
    parts += [f"Target: at most {TARGET} x the bare session in every row: **{verdict}**.\n"]
    return "\n".join([*parts, environment_table(document["environment"])])


def main() -> int:
    """Measure, write, and give exit status 1 where the target is missed."""
    arguments = parser("The whole chain against the bare ONNX Runtime session.")
    arguments.add_argument("--samples", type=int, default=200)
    arguments.add_argument("--warmup", type=int, default=10)
    arguments.add_argument("--threads", type=int, default=0)
    arguments.add_argument("--seed", type=int, default=0)
    given = vars(arguments.parse_args())
    output = given.pop("output")
    options = Options(**given)
    environment = describe_environment()
    with tempfile.TemporaryDirectory() as folder:
        print("exporting the ViT and the task", file=sys.stderr)
        engine, task = export_pair(Path(folder), options.seed)
        samples, stages = measure(engine, task, options)
    ratio = _ratios(samples)
    passed = all(value <= TARGET for value in ratio.values())
    document = {
        "benchmark": "chain",
        "environment": environment,
        "options": asdict(options),
        "target": TARGET,
        "passed": passed,
        "ratio": ratio,
        "samples_ms": samples,
        "stages_ms": stages,
    }
    write_results(output, "chain", document, _markdown(document))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

"""Eight cameras of two tasks through the scheduler against one by one, and what batches can gain at all.

Two ViTs with untrained tasks: `builtin` with its weights, and CLIP ViT-B/32 with seeded random weights; float32, noise
of 320 x 240. Each camera has a thread that sends a frame, waits for its answer and sends the next. Target: with CLIP
ViT-B/32 the scheduler answers at least 1.5 times as many frames in the same time. The bare ViT at batch 8 against eight
times batch 1 bounds what batches can gain, and so do the matrix products of its graph alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from ceilings import call_of, products_of
from common import (
    HEADER,
    Rounds,
    Series,
    Target,
    environment_table,
    interleave,
    markdown_table,
    parser,
    stats_row,
    targets_table,
    write_results,
)
from swap_files import FIRST, SECOND, Files, make_files

from pgn_edge.errors import EngineError
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.bench_stats import median_interval
from pgn_edge.runtime.engines import OnnxRuntimeEngine
from pgn_edge.runtime.environment import describe_environment
from pgn_edge.runtime.live.iterator import IteratorSource
from pgn_edge.runtime.scheduler import Batching, Scheduler

SEED = 0
CAMERAS, FRAMES, FRAME_HW = 8, 4, (240, 320)  # FRAMES of each camera in one timed call
LEAST_GAIN, TOLERANCE = 1.5, 1e-3
CLIP_NAME, BUILTIN_NAME = "CLIP ViT-B/32", "builtin"
# What is slow, and what is held against it.
PAIRS = {
    "scheduler": ("one by one", "scheduler"),
    "one infer_batch for each round of cameras": ("one by one", "infer_batch"),
    "ViT alone": ("ViT, 8 x batch 1", "ViT, batch 8"),
    "products of the ViT's graph": ("products, 8 x batch 1", "products, batch 8"),
}
Embeddings = np.ndarray


def chosen(camera: int) -> str:
    """The task of a camera: every other one has the second."""
    return (FIRST, SECOND)[camera % 2]


@contextmanager
def frame_calls(runtime: Runtime, threads: ThreadPoolExecutor) -> Iterator[dict[str, Callable[[], Embeddings]]]:
    """Calls that each answer all frames of all cameras: (CAMERAS, FRAMES, D) embeddings.

    Args:
        runtime: with both tasks.
        threads: one for each camera.
    """
    images = np.random.default_rng(SEED).integers(0, 256, (CAMERAS, FRAMES, *FRAME_HW, 3), dtype=np.uint8)
    with Scheduler(runtime, Batching(max_batch=CAMERAS)) as scheduler:

        def one_by_one() -> Embeddings:
            answers = [
                [runtime.infer(chosen(camera), frame.image_bgr).embedding for frame in IteratorSource(images[camera])]
                for camera in range(CAMERAS)
            ]
            return np.array(answers)

        def in_batches() -> Embeddings:
            rounds = [
                runtime.infer_batch([(chosen(camera), images[camera, index]) for camera in range(CAMERAS)])
                for index in range(FRAMES)
            ]
            return np.array([[results[camera].embedding for results in rounds] for camera in range(CAMERAS)])

        def watch(camera: int) -> list[np.ndarray]:
            return [
                scheduler.submit(str(camera), [(chosen(camera), frame.image_bgr)]).result()[0].embedding
                for frame in IteratorSource(images[camera])
            ]

        def scheduled() -> Embeddings:
            return np.array(list(threads.map(watch, range(CAMERAS))))

        yield {"one by one": one_by_one, "scheduler": scheduled, "infer_batch": in_batches}


def bare_calls(vit: Path, engine: OnnxRuntimeEngine, threads: int) -> dict[str, Callable[[], Any]]:
    """The ViT alone, and the products of its graph alone, at batch 8 and eight times at batch 1."""
    shape = [size or CAMERAS for size in engine.inputs["canvas"].shape]
    canvases = np.random.default_rng(SEED).standard_normal(shape, np.float32)
    products = {
        count: [
            (call_of(product, threads), product.count) for product in products_of(vit, {"canvas": canvases[:count]})
        ]
        for count in (1, CAMERAS)
    }

    def multiply(count: int) -> None:
        for call, times in products[count]:
            for _ in range(times):
                call()

    return {
        "ViT, batch 8": lambda: engine.infer({"canvas": canvases}),
        "ViT, 8 x batch 1": lambda: [engine.infer({"canvas": canvases[i : i + 1]}) for i in range(CAMERAS)],
        "products, batch 8": lambda: multiply(CAMERAS),
        "products, 8 x batch 1": lambda: [multiply(1) for _ in range(CAMERAS)],
    }


def measure(files: Files, given: argparse.Namespace) -> Series:
    """Milliseconds of each call, all in turns; answers of every way must be the same."""
    samples: Series = {}
    engine = OnnxRuntimeEngine(files.vit, str(files.vit), threads=given.threads)
    with (
        Runtime(files.vit, files.bundles, threads=given.threads) as runtime,
        ThreadPoolExecutor(CAMERAS) as threads,
        frame_calls(runtime, threads) as calls,
    ):
        wanted = calls["one by one"]()
        everything = {**calls, **bare_calls(files.vit, engine, given.threads)}
        for name, elapsed_ms, answer in interleave(everything, Rounds(given.samples, given.warmup, SEED)):
            if name in calls and not np.allclose(answer, wanted, atol=TOLERANCE):
                raise EngineError(name, expected="the answers of one by one", got="others", do="report it")
            samples.setdefault(name, []).append(elapsed_ms)
    engine.close()
    return samples


def gains(samples: Series) -> dict[str, dict[str, float | None]]:
    """How many times as fast each way is as what it is held against: median of the rounds, and its 95 % interval."""
    found: dict[str, dict[str, float | None]] = {}
    for name, (slow, fast) in PAIRS.items():
        ratios = np.array(samples[slow]) / np.array(samples[fast])
        low, high = median_interval(ratios) or (None, None)
        found[name] = {"median": float(np.median(ratios)), "low": low, "high": high}
    return found


def _markdown(document: Mapping[str, Any]) -> str:
    parts = ["# Cameras in batches\n", f"{__doc__}", targets_table(document["targets"])]
    for model, found in document["models"].items():
        rows = [
            (name, f"{one['median']:.3f}", "-" if one["low"] is None else f"{one['low']:.3f} to {one['high']:.3f}")
            for name, one in found["gain"].items()
        ]
        parts += [
            f"## {model}\n",
            markdown_table(("times as fast in batches", "median of rounds", "95 % interval"), rows),
            f"Milliseconds; `one by one`, `infer_batch` and `scheduler` answer {CAMERAS * FRAMES} frames.\n",
            markdown_table(HEADER, [stats_row(name, series) for name, series in found["samples_ms"].items()]),
        ]
    return "\n".join([*parts, environment_table(document["environment"])])


def main() -> int:
    """Measure, write, and give exit status 1 where a target is missed."""
    arguments = parser("Throughput of eight cameras through the scheduler against one by one.")
    arguments.add_argument("--samples", type=int, default=15, help="timed rounds; default: %(default)s")
    arguments.add_argument("--warmup", type=int, default=1, help="rounds before them; default: %(default)s")
    arguments.add_argument("--threads", type=int, default=0, help="of each engine; 0: one for each core")
    arguments.add_argument("--small", action="store_true", help="builtin alone: a smoke test")
    given = arguments.parse_args()
    environment = describe_environment()
    models: dict[str, Any] = {}
    for model in (BUILTIN_NAME,) if given.small else (BUILTIN_NAME, CLIP_NAME):
        with TemporaryDirectory() as name:
            samples = measure(make_files(Path(name) / "files", small=model == BUILTIN_NAME), given)
        models[model] = {"gain": gains(samples), "samples_ms": samples}
    held = models[BUILTIN_NAME if given.small else CLIP_NAME]["gain"]["scheduler"]["median"]
    target = Target("throughput of the scheduler over one by one", held, LEAST_GAIN, True, "x")
    document = {
        "benchmark": "batching",
        "environment": environment,
        "targets": [target.to_json()],
        "cameras": CAMERAS,
        "frames": FRAMES,
        "models": models,
    }
    write_results(given.output, "batching", document, _markdown(document))
    return 0 if target.met else 1


if __name__ == "__main__":
    sys.exit(main())

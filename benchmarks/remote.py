"""A ViT on a Triton server against the same ViT in this process, and faults between the two."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from types import ModuleType
from typing import Any

import numpy as np
from common import (
    CLIP,
    HEADER,
    PROMPTS,
    Rounds,
    Target,
    environment_table,
    interleave,
    markdown_table,
    parser,
    random_clip_task,
    stats_row,
    targets_table,
    write_results,
)

from pgn_edge.errors import EngineError
from pgn_edge.export.frozen import VitOptions, export_vit
from pgn_edge.runtime.engines import Engine, OnnxRuntimeEngine, TritonEngine, TritonOptions
from pgn_edge.runtime.environment import describe_environment
from pgn_edge.runtime.retry import Backoff
from pgn_edge.runtime.triton_repository import ServingOptions, write_model_folder

SEED = 0
LOCAL = "in this process"
FAULTS = ("refuse", "reset", "cut", "hang", "garbage")
SHARE = 0.6  # of connections that are spoilt
DEADLINE_S, ATTEMPT_S, LATE_S = 0.25, 0.1, 0.05
MOST_OVERHEAD, TOLERANCE = 15.0, 1e-4
WAYS = {
    "HTTP, shared memory": ("http", True),
    "HTTP": ("http", False),
    "gRPC, shared memory": ("grpc", True),
    "gRPC": ("grpc", False),
}


def _tools() -> ModuleType:
    """The server and the proxy of the tests."""
    path = Path(__file__).parents[1] / "tests/runtime/triton_server.py"
    spec = importlib.util.spec_from_file_location("triton_server", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOLS = _tools()


@contextmanager
def served(vits: Mapping[str, Path], folder: Path) -> Iterator[Any]:
    """A server of some ViTs, by name, each run by ONNX Runtime with one thread."""
    for name, vit in vits.items():
        options = ServingOptions(name, max_batch=1, warm_up=True)
        TOOLS.serve_with_python(write_model_folder(vit, folder / "models", options).path)
    server = TOOLS.TritonServer(TOOLS.install_server(), folder / "models")
    try:
        server.start()
        yield server
    finally:
        server.kill()


def canvas(engine: Engine, seed: int) -> dict[str, np.ndarray]:
    """One canvas of noise."""
    shape = [size or 1 for size in engine.inputs["canvas"].shape]
    return {"canvas": np.random.default_rng(seed).standard_normal(shape, np.float32)}


def overhead(server: Any, vit: Path, rounds: Rounds) -> dict[str, list[float]]:
    """Milliseconds of each way to run one frame, all in turns; every answer is compared."""
    samples: dict[str, list[float]] = {name: [] for name in (LOCAL, *WAYS)}
    with ExitStack() as opened:
        engines: dict[str, Engine] = {LOCAL: OnnxRuntimeEngine(vit, str(vit), threads=1)}
        for name, (protocol, shared) in WAYS.items():
            options = TritonOptions(deadline_s=30, shared_memory=shared)
            engines[name] = TritonEngine(server.url(protocol), options)
        for engine in engines.values():
            opened.callback(engine.close)
        feeds = canvas(engines[LOCAL], SEED)
        wanted = engines[LOCAL].infer(feeds)
        calls = {name: (lambda engine=engine: engine.infer(feeds)) for name, engine in engines.items()}
        for name, elapsed_ms, answer in interleave(calls, rounds):
            if not _same(answer, wanted):
                raise EngineError(name, expected="the answer of this process", got="another", do="report it")
            samples[name].append(elapsed_ms)
    return samples


@dataclass
class Faulted:
    """What became of requests over spoilt connections.

    Args:
        injected: connections that were spoilt, by fault.
        outcomes: requests that were answered, or given up with an error.
        late_ms: how far beyond its deadline each request came back; below 0 before it.
        wrong: answers that were not those of this process.
    """

    injected: Counter[str]
    outcomes: Counter[str]
    late_ms: list[float]
    wrong: int = 0


def faults(server: Any, vit: Path, count: int) -> Faulted:
    """Ask over a proxy until it has spoilt `count` connections, half of them of each protocol."""
    rng, result = random.Random(SEED), Faulted(Counter(), Counter(), [])  # noqa: S311

    def spoil() -> str:
        fault = rng.choice(FAULTS) if rng.random() < SHARE else ""
        if fault:
            result.injected[fault] += 1
        return fault

    local = OnnxRuntimeEngine(vit, str(vit), threads=1)
    for protocol, until in (("http", count // 2), ("grpc", count)):
        proxy = TOOLS.Proxy(server.http_port if protocol == "http" else server.grpc_port)
        options = TritonOptions(
            deadline_s=DEADLINE_S, attempt_s=ATTEMPT_S, breaker_failures=sys.maxsize, backoff=Backoff(4, 0.005)
        )
        engine = TritonEngine(server.url(protocol, "small", proxy.port), options)
        proxy.fault = spoil
        try:
            while result.injected.total() < until:
                proxy.drop()
                _ask(engine, local, result)
                if len(result.late_ms) % 500 == 0:
                    print(f"{result.injected.total()} of {count} faults", file=sys.stderr)
        finally:
            engine.close()
            proxy.close()
    local.close()
    return result


def _ask(engine: Engine, local: Engine, result: Faulted) -> None:
    feeds = canvas(local, len(result.late_ms))
    start = perf_counter()
    try:
        answer = engine.infer(feeds)
    except EngineError:
        answer = None
    result.late_ms.append((perf_counter() - start - DEADLINE_S) * 1e3)
    result.outcomes["answered" if answer else "refused in time"] += 1
    if answer and not _same(answer, local.infer(feeds)):
        result.wrong += 1


def _same(answer: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> bool:
    return all(np.allclose(answer[name], wanted[name], atol=TOLERANCE) for name in wanted)


def _targets(samples: Mapping[str, list[float]], faulted: Faulted) -> list[Target]:
    medians = {name: float(np.median(series)) for name, series in samples.items()}
    best = min(medians[name] for name in WAYS)
    return [
        Target(
            "overhead of the fastest way over this process",
            (best / medians[LOCAL] - 1) * 100,
            MOST_OVERHEAD,
            False,
            "%",
        ),
        Target("latest return beyond the deadline", max(faulted.late_ms), LATE_S * 1e3, False, "ms"),
        Target("wrong answers", faulted.wrong, 0, False, ""),
    ]


def _markdown(document: Mapping[str, Any]) -> str:
    samples, faulted = document["samples_ms"], document["faults"]
    local = np.median(samples[LOCAL])
    rows = [
        (*stats_row(name, series), f"{(np.median(series) / local - 1) * 100:+.1f} %")
        for name, series in samples.items()
    ]
    counts = {**faulted["injected"], **faulted["outcomes"]}
    return "\n".join(
        [
            "# A served ViT\n",
            f"{__doc__} One frame, milliseconds; server and client on one machine. The server is Triton for the CPU,",
            "whose python backend runs the same graph with ONNX Runtime; each side has one thread.\n",
            markdown_table((*HEADER, "over local"), rows),
            f"A proxy spoils connections while requests with a deadline of {DEADLINE_S * 1e3:g} ms go through it.\n",
            markdown_table(("fault or outcome", "count"), [(name, str(number)) for name, number in counts.items()]),
            targets_table(document["targets"]),
            environment_table(document["environment"]),
        ]
    )


def main() -> int:
    """Measure, write, and give exit status 1 where a target is missed."""
    arguments = parser("Overhead of a served ViT, and what faults do to it.")
    arguments.add_argument("--samples", type=int, default=200, help="timed frames of each way")
    arguments.add_argument("--warmup", type=int, default=20, help="rounds before them")
    arguments.add_argument("--faults", type=int, default=10_000, help="spoilt connections")
    arguments.add_argument("--small", action="store_true", help="the builtin ViT in place of CLIP B/32: a smoke test")
    given = arguments.parse_args()
    environment = describe_environment()
    TOOLS.install_client()
    with TemporaryDirectory() as name:
        folder = Path(name)
        small = vit = folder / "small.onnx"
        export_vit("builtin", small, VitOptions(prompts=PROMPTS))
        if not given.small:
            weights, _ = random_clip_task(folder, 1, SEED)
            vit = folder / "vit.onnx"
            export_vit(CLIP, vit, VitOptions(prompts=PROMPTS, weights=weights))
        with served({"vit": vit, "small": small}, folder) as server:
            samples = overhead(server, vit, Rounds(given.samples, given.warmup, SEED))
            faulted = faults(server, small, given.faults)
    targets = _targets(samples, faulted)
    document = {
        "benchmark": "remote",
        "environment": environment,
        "targets": [target.to_json() for target in targets],
        "samples_ms": samples,
        "faults": {
            "deadline_ms": DEADLINE_S * 1e3,
            "injected": dict(faulted.injected),
            "outcomes": dict(faulted.outcomes),
            "wrong": faulted.wrong,
            "late_ms": faulted.late_ms,
        },
    }
    write_results(given.output, "remote", document, _markdown(document))
    return 0 if all(target.met for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())

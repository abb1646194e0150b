"""Latency of an engine, and of the whole chain around it: every engine takes turns in one run, raw samples kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from pgn_edge.contract import PREFIX, EngineFacts
from pgn_edge.errors import EngineError, PairingError
from pgn_edge.progress import Progress, silent
from pgn_edge.runtime.engines import Engine, OrtOptions, TensorSpec, open_engine
from pgn_edge.runtime.environment import describe_environment
from pgn_edge.runtime.runtime import Runtime

STAGES = ("preprocess", "pgn", "vit", "head", "total")
P99_SAMPLES = 100  # with fewer, the 99th percentile is the slowest sample or a guess between two
TASK = "bench"


@dataclass(frozen=True)
class BenchOptions:
    """How to measure.

    Args:
        samples: timed runs of each engine, at least 1.
        warmup: runs of each before the first sample.
        frame_hw: size (h, w) in pixels of the random frame that goes through the chain.
        threads: CPU threads of each engine; 0 takes one for each core.
        seed: of the random frame, the random inputs and the order of turns.
    """

    samples: int = 200
    warmup: int = 10
    frame_hw: tuple[int, int] = (480, 640)
    threads: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1 or min(self.frame_hw) < 1 or min(self.warmup, self.threads, self.seed) < 0:
            raise EngineError(
                "bench options", expected="at least 1 sample and a positive frame", got=str(self), do="choose others"
            )


@dataclass(frozen=True)
class Stats:
    """Summary of one series in milliseconds; `p99` is None below 100 samples."""

    count: int
    p50: float
    p95: float
    p99: float | None
    mean: float
    min: float

    @classmethod
    def of(cls, samples_ms: Sequence[float]) -> Stats:
        """Summarise at least one sample."""
        p50, p95, p99 = (float(value) for value in np.percentile(samples_ms, (50, 95, 99)))
        count = len(samples_ms)
        mean, least = float(np.mean(samples_ms)), float(np.min(samples_ms))
        return cls(count, p50, p95, p99 if count >= P99_SAMPLES else None, mean, least)


@dataclass(frozen=True)
class BenchReport:
    """What `run_bench` measured.

    Args:
        engine: name of the ViT engine.
        task: path of the bundle, if one was given.
        stock: name of the ViT without prompt slots, if one was given.
        options: as asked for.
        devices: device of each engine.
        samples_ms: raw samples by series: `vit`, `stock`, `chain.<stage>`.
        input_bytes: size of what the ViT engine reads for one frame: the canvas.
        environment: machine, versions, load and command.
    """

    engine: str
    task: str | None
    stock: str | None
    options: BenchOptions
    devices: Mapping[str, str]
    samples_ms: Mapping[str, tuple[float, ...]]
    input_bytes: int
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stats(self) -> dict[str, Stats]:
        """Summary of each series."""
        return {name: Stats.of(series) for name, series in self.samples_ms.items()}


def run_bench(
    engine: str | Path | Engine,
    *,
    task: str | Path | None = None,
    stock: str | Path | Engine | None = None,
    options: BenchOptions | None = None,
    progress: Progress = silent,
) -> BenchReport:
    """Measure an engine, the same ViT without prompt slots, and the whole chain with a task.

    Args:
        engine: the ViT engine, from `pgn-edge export-vit`; without `task` and `stock` any `.onnx`. Closed at the end.
        task: a bundle for that engine.
        stock: the same ViT exported with `--prompts 0`. Closed at the end.
        options: how to measure.
        progress: told at most about twenty times, so that nobody's drawing of it disturbs the timing.

    Raises:
        EngineError: an engine cannot be opened or failed, or its outputs are not finite or change from call to call.
        BundleError: the bundle is damaged.
        PairingError: task or stock was not made for this ViT.
    """
    options = options or BenchOptions()
    environment = describe_environment()
    with ExitStack() as stack:
        vit = _open(engine, options, stack)
        facts = _facts(vit)
        plain = None if stock is None else _open(stock, options, stack)
        if plain is not None:
            _check_stock(plain, vit, facts)
        rng = np.random.default_rng(options.seed)
        feeds = random_feeds(vit, rng)
        probes = {"vit": _engine_probe(vit, "vit", feeds)}
        if plain is not None:
            probes["stock"] = _engine_probe(plain, "stock", random_feeds(plain, rng))
        if task is not None:
            runtime = stack.enter_context(Runtime(vit, {TASK: task}, threads=options.threads))
            frame = rng.integers(0, 256, (*options.frame_hw, 3), dtype=np.uint8)
            probes["chain"] = _chain_probe(runtime, frame)
        samples = _take_turns(probes, options, progress)
        devices = {"vit": vit.device} | ({} if plain is None else {"stock": plain.device})
        return BenchReport(
            engine=vit.name,
            task=None if task is None else str(task),
            stock=None if plain is None else plain.name,
            options=options,
            devices=devices,
            samples_ms=samples,
            input_bytes=sum(array.nbytes for array in feeds.values()),
            environment=environment,
        )


def random_feeds(engine: Engine, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random inputs as the engine's specs ask for them, every free size 1: normal floats, any byte, indices 0 or 1."""
    return {name: _random(spec, rng) for name, spec in engine.inputs.items()}


# Runs once; gives the outputs by name, and the milliseconds by series.
_Probe = Callable[[], tuple[Mapping[str, np.ndarray], Mapping[str, float]]]


def _engine_probe(engine: Engine, series: str, feeds: Mapping[str, np.ndarray]) -> _Probe:
    def run() -> tuple[Mapping[str, np.ndarray], Mapping[str, float]]:
        start = perf_counter()
        outputs = engine.infer(feeds)
        return outputs, {series: (perf_counter() - start) * 1e3}

    return run


def _chain_probe(runtime: Runtime, frame_bgr: np.ndarray) -> _Probe:
    def run() -> tuple[Mapping[str, np.ndarray], Mapping[str, float]]:
        result = runtime.infer(TASK, frame_bgr)
        outputs = {"canvas": result.canvas, "embedding": result.embedding, "scores": result.scores}
        return outputs, {f"chain.{stage}": result.timings_ms[stage] for stage in STAGES}

    return run


def _take_turns(
    probes: Mapping[str, _Probe], options: BenchOptions, progress: Progress
) -> dict[str, tuple[float, ...]]:
    order = np.random.default_rng(options.seed)
    names, first = list(probes), {name: probe()[0] for name, probe in probes.items()}
    series: dict[str, list[float]] = {}
    rounds = options.warmup + options.samples
    told = max(rounds // 20, 1)
    for index in range(rounds):
        for turn in order.permutation(len(names)):
            name = names[turn]
            outputs, times = probes[name]()
            _check_outputs(name, outputs, first[name])
            if index >= options.warmup:
                for key, value in times.items():
                    series.setdefault(key, []).append(value)
        if (index + 1) % told == 0 or index + 1 == rounds:
            progress("measure", index + 1, rounds)
    wanted = [*(name for name in names if name != "chain"), *(f"chain.{stage}" for stage in STAGES)]
    return {name: tuple(series[name]) for name in wanted if name in series}


def _check_outputs(probe: str, outputs: Mapping[str, np.ndarray], first: Mapping[str, np.ndarray]) -> None:
    for name, array in outputs.items():
        if not np.isfinite(array).all():
            raise EngineError(
                f"{probe}: {name}", expected="finite outputs", got="NaN or Inf", do="check the engine's precision"
            )
        if not np.array_equal(array, first[name]):
            raise EngineError(
                f"{probe}: {name}",
                expected="the same output for the same input at every call",
                got="another one",
                do="check the device and its memory: a latency of wrong answers means nothing",
            )


def _open(engine: str | Path | Engine, options: BenchOptions, stack: ExitStack) -> Engine:
    if isinstance(engine, str | Path):
        engine = open_engine(engine, OrtOptions(threads=options.threads))
    stack.callback(engine.close)
    return engine


def _facts(engine: Engine) -> EngineFacts | None:
    if not any(key.startswith(PREFIX) for key in engine.metadata):
        return None
    facts = EngineFacts.from_metadata(engine.metadata, engine.name)
    if facts.role != "vit":
        raise EngineError(
            engine.name, expected="a ViT engine", got=f"role {facts.role!r}", do="give a PGN by its bundle: --task"
        )
    return facts


def _check_stock(stock: Engine, vit: Engine, facts: EngineFacts | None) -> None:
    plain = _facts(stock)
    do = "export it with the same backbone and precision: pgn-edge export-vit BACKBONE --prompts 0"
    if plain is None or facts is None:
        source = (stock if plain is None else vit).name
        raise EngineError(f"{source}", expected="an engine exported by pgn-edge", got="no pgn_edge facts", do=do)
    pairs = {
        "ViT fingerprint": (facts.fingerprint, plain.fingerprint),
        "prompts": (0, plain.geometry.prompts),
        "image size": (facts.geometry.image_hw, plain.geometry.image_hw),
        "precision": (facts.precision, plain.precision),
    }
    for what, (wanted, found) in pairs.items():
        if wanted != found:
            raise PairingError(f"stock {stock.name}: {what}", expected=str(wanted), got=str(found), do=do)


def _random(spec: TensorSpec, rng: np.random.Generator) -> np.ndarray:
    shape = tuple(size or 1 for size in spec.shape)
    if spec.dtype.kind == "f":
        return rng.standard_normal(shape).astype(spec.dtype)
    return rng.integers(0, 256 if spec.dtype == np.uint8 else 2, shape).astype(spec.dtype)

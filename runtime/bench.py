"""Latency of engines, and of the whole chain around one: all take turns in one run, raw samples kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from pgn_edge.contract import PREFIX, EngineFacts
from pgn_edge.errors import EngineError, PairingError
from pgn_edge.fingerprint import sha256_file
from pgn_edge.progress import Progress, silent
from pgn_edge.runtime.bench_costs import Costs, measure_costs
from pgn_edge.runtime.bench_machine import describe_bench_environment, machine_state
from pgn_edge.runtime.bench_options import BenchOptions
from pgn_edge.runtime.bench_queries import TASK, CameraFrame, camera_frame, chain_query, engine_query, frame_bytes
from pgn_edge.runtime.bench_rounds import Samples, Warmup, take_turns
from pgn_edge.runtime.bench_server import Clock, Served, SystemClock, serve
from pgn_edge.runtime.bench_stats import Stats
from pgn_edge.runtime.engines import Engine, is_served, open_engine
from pgn_edge.runtime.runtime import Runtime

CLOCK: Clock = SystemClock()  # arrivals of the server scenario go by it


@dataclass(frozen=True)
class Measured:
    """A file or engine that took part.

    Args:
        name: path of the file, address of a served model, or name of the engine.
        device: where it ran; None for a task.
        sha256: of the file; None for a served model, and for an engine that was given open.
        size_bytes: of the file; likewise.
    """

    name: str
    device: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None


@dataclass(frozen=True)
class BenchReport:
    """What `run_bench` measured.

    Args:
        options: as asked for.
        parts: what took part by role: `vit`, `vit.2` and so on, `stock`, `task`.
        samples: by series: `vit`, `vit.2` and so on, `stock`, `chain.<stage>`.
        warmup: what went before them.
        frame_bytes: sizes of one frame by what it is.
        served: Rates of the server scenario by series; empty in the others.
        costs: of one more task and one more ViT; None without a task, or where the ViT engine is no file.
        environment: machine, versions and command.
        machine: its state `before` and `after`.
    """

    options: BenchOptions
    parts: Mapping[str, Measured]
    samples: Samples
    warmup: Warmup
    frame_bytes: Mapping[str, int]
    costs: Costs | None = None
    served: Mapping[str, Served] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def samples_ms(self) -> Mapping[str, tuple[float, ...]]:
        """Raw samples by series."""
        return self.samples.ms

    @cached_property
    def stats(self) -> dict[str, Stats]:
        """Summary of each series."""
        return {name: Stats.of(series) for name, series in self.samples_ms.items()}


def run_bench(
    engine: str | Path | Engine,
    *,
    rivals: Sequence[str | Path | Engine] = (),
    task: str | Path | None = None,
    stock: str | Path | Engine | None = None,
    options: BenchOptions | None = None,
    progress: Progress = silent,
) -> BenchReport:
    """Measure an engine beside others, the same ViT without prompt slots, and the whole chain with a task.

    Args:
        engine: the ViT engine, from `pgn-edge export-vit`, a file or the address of a served model; without `task` and
            `stock` any. Closed at the end.
        rivals: any engines to compare it with, in turns. Closed at the end.
        task: a bundle for `engine`.
        stock: the same ViT as `engine`, exported with `--prompts 0`. Closed at the end.
        options: how to measure.
        progress: Listener, told at most about forty times, so that drawing it does not disturb the timing.

    Raises:
        EngineError: an engine cannot be opened or failed, or its outputs are not finite or change from call to call.
        BundleError: the bundle is damaged.
        PairingError: task or stock was not made for this ViT.
        DataError: the frame's file is no image.
    """
    options = options or BenchOptions()
    rng = np.random.default_rng(options.seed)
    frame = None if task is None else camera_frame(options, rng)
    environment, before = describe_bench_environment(), machine_state()
    with ExitStack() as stack:
        named = {f"vit.{index}": rival for index, rival in enumerate(rivals, 2)}
        given = {"vit": engine, **named, **({} if stock is None else {"stock": stock})}
        engines = _open_all(given, options, stack)
        queries = [engine_query(one, name, options.frames, rng, options.size_hw) for name, one in engines.items()]
        costs = runtime = None
        if task is not None and frame is not None:
            runtime = stack.enter_context(
                Runtime(engines["vit"], {TASK: task}, threads=options.threads, gpu=options.gpu)
            )
            queries.append(chain_query(runtime, frame, options.frames))
            if _is_file(engine):  # before the timing: memory that it frees would blur what is added
                costs = measure_costs(Path(engine), Path(task), options.engine)
        served: Mapping[str, Served] = {}
        if options.scenario == "server":
            samples, warmup, served = serve(queries, options, progress, CLOCK)
        else:
            samples, warmup = take_turns(queries, options, progress)
        return BenchReport(
            options=options if frame is None else replace(options, frame_hw=frame.size_hw),
            parts=_parts(given, engines, task, options.frame),
            samples=samples,
            warmup=warmup,
            frame_bytes=_frame_bytes(engines, frame, options.size_hw),
            costs=costs,
            served=served,
            environment=environment
            if runtime is None or not runtime.notes
            else {**environment, "chain": runtime.notes},
            machine={"before": before, "after": machine_state()},
        )


def _parts(
    given: Mapping[str, str | Path | Engine], engines: Mapping[str, Engine], task: str | Path | None, frame: Path | None
) -> dict[str, Measured]:
    files = {} if task is None else {"task": task} if frame is None else {"task": task, "frame": frame}
    parts = {role: _measured(what, engines[role]) for role, what in given.items()}
    return {**parts, **{role: _measured(what) for role, what in files.items()}}


def _frame_bytes(
    engines: Mapping[str, Engine], frame: CameraFrame | None, size_hw: tuple[int, int] | None
) -> dict[str, int]:
    sizes = {"into the ViT": frame_bytes(engines["vit"], size_hw)}
    if "stock" in engines:
        sizes["into the ViT alone"] = frame_bytes(engines["stock"])
    if frame is not None:
        height, width = frame.size_hw
        sizes |= {"camera frame, encoded": len(frame.data), "camera frame as PNG": frame.png_bytes}
        sizes["camera frame, decoded"] = height * width * 3
    return sizes


def _open_all(given: Mapping[str, str | Path | Engine], options: BenchOptions, stack: ExitStack) -> dict[str, Engine]:
    """Engines by role, closed with the stack, checked for what they are."""
    engines = {role: what for role, what in given.items() if not isinstance(what, str | Path)}
    for opened in engines.values():
        stack.callback(opened.close)
    for role, what in given.items():
        if isinstance(what, str | Path):
            engines[role] = open_engine(what, options.engine)
            stack.callback(engines[role].close)
    engines = {role: engines[role] for role in given}
    facts = {role: _facts(opened) for role, opened in engines.items()}
    if "stock" in engines:
        _check_stock(engines["stock"], engines["vit"], facts["vit"])
    return engines


def _measured(what: str | Path | Engine, engine: Engine | None = None) -> Measured:
    device = None if engine is None else engine.device
    if _is_file(what):
        return Measured(str(what), device, sha256_file(what), Path(what).stat().st_size)
    assert engine is not None
    return Measured(engine.name, device)


def _is_file(what: str | Path | Engine) -> TypeGuard[str | Path]:
    return isinstance(what, str | Path) and not is_served(what)


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

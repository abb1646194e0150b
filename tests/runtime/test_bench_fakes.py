"""Made-up engines: some misbehave, some take known times by a clock that only they move. Nothing here is timed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from pgn_edge.errors import EngineError
from pgn_edge.runtime import Runtime, bench_queries, bench_rounds
from pgn_edge.runtime.bench import run_bench
from pgn_edge.runtime.bench_compare import compare, read_earlier, rival_verdicts
from pgn_edge.runtime.bench_costs import _weighed
from pgn_edge.runtime.bench_options import BenchOptions
from pgn_edge.runtime.bench_queries import TASK, camera_frame, chain_query
from pgn_edge.runtime.bench_report import bench_json
from pgn_edge.runtime.engines import FakeEngine, OnnxRuntimeEngine, TensorSpec

FAST = BenchOptions(samples=3, warmup=1)


def fake(function: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]], **options: object) -> FakeEngine:
    spec = {"x": TensorSpec((None, 2), np.dtype(np.float32))}
    return FakeEngine(spec, {"y": spec["x"]}, function, **options)  # type: ignore[arg-type]


# Engines that misbehave.


def test_outputs_that_are_not_finite() -> None:
    engine = fake(lambda feeds: {"y": feeds["x"] * np.nan})
    with pytest.raises(EngineError, match="finite"):
        run_bench(engine, options=FAST)
    assert engine.closed


def test_a_chain_whose_frames_are_degraded(tiny_pair) -> None:
    real = OnnxRuntimeEngine(tiny_pair.vit, "vit", 1)
    broken = False

    def run(feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return {name: array * np.nan if broken else array for name, array in real.infer(feeds).items()}

    with Runtime(FakeEngine(real.inputs, real.outputs, run, metadata=real.metadata), {TASK: tiny_pair.task}) as runtime:
        query = chain_query(runtime, camera_frame(FAST, np.random.default_rng(0)), 1)
        query.run()
        broken = True
        with pytest.raises(EngineError, match="expected finite outputs, got NaN or Inf: embedding"):
            query.run()


def test_outputs_that_change() -> None:
    calls = iter(range(100))
    engine = fake(lambda feeds: {"y": feeds["x"] + next(calls)})
    with pytest.raises(EngineError, match="the same output"):
        run_bench(engine, options=FAST)


def test_an_engine_that_hands_out_one_buffer_is_still_checked() -> None:
    buffer = np.zeros((1, 2), np.float32)
    engine = fake(lambda feeds: {"y": np.add(buffer, 1, out=buffer)})
    with pytest.raises(EngineError, match="the same output"):
        run_bench(engine, options=FAST)


def test_engine_that_fails_midway_is_closed() -> None:
    engine = fake(dict, fail_at=frozenset({3}))
    with pytest.raises(EngineError, match="failure on cue"):
        run_bench(engine, options=FAST)
    assert engine.closed


def test_sizes_that_are_free_beside_the_batch() -> None:
    spec = {"x": TensorSpec((None, 3, None, None), np.dtype(np.float32))}
    engine = FakeEngine(spec, spec, dict)
    with pytest.raises(EngineError, match="sizes are fixed"):
        run_bench(engine, options=FAST)
    assert engine.closed


# Engines that take known times, by a clock that only they move.


class Clock:
    """Stands still until an engine works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def engine(self, milliseconds: Callable[[], float], **options: object) -> FakeEngine:
        def work(feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            self.now += milliseconds() / 1e3
            return {"y": feeds["x"]}

        return fake(work, **options)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (bench_queries, bench_rounds):
        monkeypatch.setattr(module, "perf_counter", made)
    return made


def noisy(median_ms: float, seed: int) -> Callable[[], float]:
    rng = np.random.default_rng(seed)
    return lambda: median_ms * float(np.exp(0.05 * rng.standard_normal()))


def test_latencies_are_those_of_the_engines(clock: Clock) -> None:
    engines = [clock.engine(lambda: 2.0), clock.engine(lambda: 3.0)]
    report = run_bench(engines[0], rivals=engines[1:], options=BenchOptions(samples=5, warmup=0))
    assert report.samples_ms == {"vit": pytest.approx([2.0] * 5), "vit.2": pytest.approx([3.0] * 5)}
    both = sorted(zip(*report.samples.starts_s.values(), strict=True))
    assert [min(pair) for pair in both] == pytest.approx([0.0, 0.005, 0.010, 0.015, 0.020])
    assert {a < b for a, b in both} == {True, False}  # turns in changing order


def test_thirty_percent_is_found_side_by_side_and_against_a_file(clock: Clock, tmp_path: Path) -> None:
    options = BenchOptions(samples=60, warmup=0)
    rivals = [clock.engine(noisy(3.9, 1)), clock.engine(noisy(3.0, 2)), clock.engine(noisy(2.1, 3))]
    first = run_bench(clock.engine(noisy(3.0, 0)), rivals=rivals, options=options)
    assert [v.word for v in rival_verdicts(first)] == ["slower", "no difference", "faster"]
    (tmp_path / "before.json").write_text(json.dumps(bench_json(first)))
    again = run_bench(clock.engine(noisy(3.9, 4)), options=options)
    found = compare(read_earlier(tmp_path / "before.json", options), again)
    assert [(v.series, v.word) for v in found.verdicts] == [("vit", "slower")]


def test_warm_up_lasts_until_latencies_settle(clock: Clock) -> None:
    # The window of rounds 21 to 30 is the first whose median is 2.
    cold = iter([50.0, 20.0, 10.0, 5.0] + [4.0] * 20)
    report = run_bench(clock.engine(lambda: next(cold, 2.0)), options=BenchOptions(samples=3))
    assert (report.warmup.rounds, report.warmup.settled) == (
        50,
        True,
    )
    assert report.samples_ms["vit"] == pytest.approx([2.0] * 3)


def test_warm_up_gives_up_and_says_so(clock: Clock) -> None:
    growing = iter(range(1, 1000))
    report = run_bench(clock.engine(lambda: 1.1 ** next(growing)), options=BenchOptions(samples=3))
    assert (report.warmup.rounds, report.warmup.settled) == (200, False)


def test_a_duration_instead_of_a_count(clock: Clock) -> None:
    told = []
    options = BenchOptions(duration_s=1.0, warmup=2)
    report = run_bench(clock.engine(lambda: 30.0), options=options, progress=lambda *what: told.append(what))
    assert len(report.samples_ms["vit"]) == 34
    assert told[-1][:3] == ("measured seconds", 1, 1)


def test_frames_of_a_query_go_through_a_free_batch_at_once(clock: Clock) -> None:
    sizes = []
    engine = fake(lambda feeds: {"y": feeds["x"]})
    engine.infer = lambda feeds: sizes.append(len(feeds["x"])) or {"y": feeds["x"]}  # type: ignore[method-assign]
    run_bench(engine, options=BenchOptions(samples=2, warmup=0, scenario="multi-stream", frames=3))
    assert sizes == [3, 3, 3]


def test_frames_of_a_query_go_through_a_fixed_batch_in_turns(clock: Clock) -> None:
    spec = {"x": TensorSpec((2, 2), np.dtype(np.float32))}

    def work(feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        clock.now += 1e-3
        return feeds

    engine = FakeEngine(spec, spec, work)
    report = run_bench(engine, options=BenchOptions(samples=2, warmup=0, scenario="offline", frames=5))
    assert report.samples_ms["vit"] == pytest.approx([3.0, 3.0])
    assert report.frame_bytes["into the ViT"] == 2 * 4


def test_what_an_engine_reports_of_itself_is_kept(clock: Clock) -> None:
    engine = clock.engine(lambda: 2.0)
    engine.timings_ms = {"host_to_device": 0.25}  # type: ignore[attr-defined]
    report = run_bench(engine, options=BenchOptions(samples=2, warmup=0))
    assert report.samples_ms["vit.host_to_device"] == (0.25, 0.25)


# Engines that take memory.


def test_memory_that_an_engine_takes_is_seen() -> None:
    held = []
    engine, _, added = _weighed(lambda: held.append(np.ones(64 << 20, np.uint8)) or fake(dict))
    assert added is None or 60 << 20 < added < 90 << 20
    engine.close()


# Pictures without a batch axis, and pictures of any size.


def counted(shape: tuple[int | None, ...], seen: list[tuple[int, ...]]) -> FakeEngine:
    def answer(feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        seen.append(feeds["x"].shape)
        return {"y": np.zeros(2, np.float32)}

    spec = {"x": TensorSpec(shape, np.dtype(np.float32))}
    return FakeEngine(spec, {"y": TensorSpec((2,), np.dtype(np.float32))}, answer)


@pytest.mark.parametrize(
    ("shape", "calls"),
    [
        pytest.param((3, 32, 32), 6, id="C,H,W"),
        pytest.param((32, 32, 3), 6, id="H,W,C"),
        pytest.param((1, 3, 32, 32), 6, id="a batch of one"),
        pytest.param((3, 3, 32, 32), 2, id="a batch of three"),
        pytest.param((3, 50, 64), 6, id="not square"),
        pytest.param((2, 50, 64), 3, id="a batch of sequences"),
    ],
)
def test_a_picture_of_three_axes_is_one_frame_and_not_a_batch(shape: tuple[int, ...], calls: int) -> None:
    seen: list[tuple[int, ...]] = []
    report = run_bench(counted(shape, seen), options=BenchOptions(samples=1, warmup=0, scenario="offline", frames=6))
    assert len(seen) % calls == 0
    assert set(seen) == {shape}
    per_frame = int(np.prod(shape)) * 4 // (6 // calls)
    assert report.frame_bytes["into the ViT"] == per_frame


def test_a_query_of_pictures_without_a_batch_axis_calls_once_a_frame() -> None:
    seen: list[tuple[int, ...]] = []
    query = bench_queries.engine_query(counted((3, 8, 8), seen), "vit", 8, np.random.default_rng(0))
    query.run()
    assert len(seen) == 8


@pytest.mark.parametrize("shape", [(None, 3, None, None), (None, None, None, 3), (3, None, None), (None, None, 3)])
def test_an_engine_that_takes_any_picture_size_is_measured_at_the_size_that_is_named(
    shape: tuple[int | None, ...],
) -> None:
    seen: list[tuple[int, ...]] = []
    with pytest.raises(EngineError, match="--size 224x224"):
        run_bench(counted(shape, seen), options=FAST)
    report = run_bench(counted(shape, seen), options=BenchOptions(samples=1, warmup=0, size_hw=(6, 4)))
    assert {tuple(sorted(each)) for each in seen} <= {(1, 3, 4, 6), (3, 4, 6)}
    assert report.frame_bytes["into the ViT"] == 3 * 6 * 4 * 4
    assert bench_json(report)["options"]["size_hw"] == [6, 4]

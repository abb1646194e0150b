"""The Server scenario by a clock that only the engine and the arrivals move. Nothing here is timed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from pgn_edge.errors import DataError, EngineError
from pgn_edge.runtime import bench
from pgn_edge.runtime.bench import BenchReport, run_bench
from pgn_edge.runtime.bench_compare import read_earlier
from pgn_edge.runtime.bench_options import BenchOptions
from pgn_edge.runtime.bench_report import bench_json, bench_markdown
from pgn_edge.runtime.bench_server import LEAST_QUERIES, STEPS, SystemClock, arrivals
from pgn_edge.runtime.engines import FakeEngine, TensorSpec

COUNT = 700


class Clock:
    """Moves on when an engine works, and when somebody waits."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def now(self) -> float:
        return self.time_s

    def wait_until(self, time_s: float) -> None:
        self.time_s = max(self.time_s, time_s)

    def engine(self, service_ms: Callable[[], float]) -> FakeEngine:
        def work(feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            self.time_s += service_ms() / 1e3
            return {"y": feeds["x"]}

        spec = {"x": TensorSpec((None, 2), np.dtype(np.float32))}
        return FakeEngine(spec, {"y": spec["x"]}, work)


def options(**changes: object) -> BenchOptions:
    return BenchOptions(**{"samples": COUNT, "warmup": 0, "scenario": "server", **changes})  # type: ignore[arg-type]


def waited(qps: float, service_s: float, seed: int = 0) -> np.ndarray:
    """Latencies in ms of one line with a constant time of service, by Lindley's recursion."""
    arrivals_s = arrivals(qps, COUNT, seed)
    free_s, latencies = 0.0, []
    for arrival_s in arrivals_s:
        free_s = max(free_s, arrival_s) + service_s
        latencies.append((free_s - arrival_s) * 1e3)
    return np.array(latencies)


def run(clock: Clock, engines: list[FakeEngine], chosen: BenchOptions) -> BenchReport:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "CLOCK", clock)
        return run_bench(engines[0], rivals=engines[1:], options=chosen)


def measured(clock: Clock, *service_ms: float, **changes: object) -> BenchReport:
    return run(clock, [clock.engine(lambda ms=ms: ms) for ms in service_ms], options(**changes))


def test_arrivals_are_poisson_at_the_stated_rate_and_the_same_for_the_same_seed():
    times = arrivals(200.0, 20_000, 3)
    gaps = np.diff(times, prepend=0.0)
    assert gaps.min() > 0
    np.testing.assert_allclose([gaps.mean(), gaps.std()], 1 / 200, rtol=0.03)
    np.testing.assert_array_equal(times, arrivals(200.0, 20_000, 3))
    np.testing.assert_allclose(times, 2 * arrivals(400.0, 20_000, 3))


@pytest.mark.parametrize("qps", [5.0, 80.0, 99.0])
def test_a_latency_begins_with_the_arrival_and_holds_the_time_in_the_line(qps: float):
    report = measured(Clock(), 10.0, qps=qps)
    np.testing.assert_allclose(report.samples_ms["vit"], waited(qps, 0.010), rtol=1e-6)
    np.testing.assert_allclose(report.samples.starts_s["vit"], arrivals(qps, COUNT, 0))
    assert report.served["vit"].qps == qps


def test_a_slow_answer_delays_the_queries_behind_it_and_not_their_arrival():
    clock, calls = Clock(), iter(range(10**6))
    engine = clock.engine(lambda: 5000.0 if next(calls) == 51 else 1.0)  # one run goes before the measured ones
    report = run(clock, [engine], options(qps=100.0))
    late = np.array(report.samples_ms["vit"]) > 100
    assert late.sum() > 300, "five seconds of arrivals stood in the line"


def test_the_largest_rate_within_the_bound_is_found():
    report = measured(Clock(), 10.0, bound_ms=40.0)
    served = report.served["vit"]
    assert len(served.tried) == STEPS
    assert np.percentile(waited(served.qps, 0.010), 99) <= 40.0
    assert np.percentile(waited(served.qps + 100 / 2**STEPS * 1.01, 0.010), 99) > 40.0
    np.testing.assert_allclose(report.samples_ms["vit"], waited(served.qps, 0.010), rtol=1e-6)


def test_a_bound_below_the_time_of_one_answer_is_met_at_no_rate():
    report = measured(Clock(), 10.0, bound_ms=9.0)
    assert report.served["vit"].qps == 0
    assert not any(one.met for one in report.served["vit"].tried)
    assert "exceeds 9 ms at every rate" in bench_markdown(report)


def test_a_rate_may_be_judged_by_a_bound():
    (fine,), (over,) = (measured(Clock(), 10.0, qps=qps, bound_ms=40.0).served["vit"].tried for qps in (20.0, 99.0))
    assert (fine.met, over.met) == (True, False)


def test_each_engine_has_a_line_of_its_own_and_the_report_says_what_it_reaches():
    report = measured(Clock(), 10.0, 5.0, bound_ms=40.0)
    assert report.served["vit.2"].qps > 1.8 * report.served["vit"].qps
    document = json.loads(json.dumps(bench_json(report)))
    assert document["server"]["vit"]["qps"] == report.served["vit"].qps
    assert (document["rivals"], document["adaptation_tax"]) == ([], [])
    page = bench_markdown(report)
    assert "queries per second" in page
    assert "There is no queue" not in page


def test_a_duration_counts_by_the_rate():
    assert len(measured(Clock(), 1.0, qps=100.0, duration_s=7.0).samples_ms["vit"]) == 700


@pytest.mark.parametrize("changes", [{"samples": LEAST_QUERIES - 1}, {"duration_s": 1.0}])
def test_too_few_queries_for_a_p99_are_refused(changes: dict[str, object]):
    with pytest.raises(EngineError, match=f"at least {LEAST_QUERIES} queries"):
        measured(Clock(), 1.0, qps=100.0, **changes)


@pytest.mark.parametrize(
    "wrong", [{"qps": 0}, {"bound_ms": float("inf")}, {"frames": 2, "qps": 1}, {"qps": 5, "scenario": "offline"}]
)
def test_options_out_of_range(wrong: dict[str, object]):
    with pytest.raises(EngineError, match=f"bench options: {next(iter(wrong))}"):
        options(**wrong)


def test_runs_at_different_rates_are_not_compared(tmp_path: Path):
    report = measured(Clock(), 1.0, qps=100.0)
    (tmp_path / "earlier.json").write_text(json.dumps(bench_json(report)))
    read_earlier(tmp_path / "earlier.json", options(qps=100.0))
    for other in (options(qps=50.0), options(bound_ms=5.0)):
        with pytest.raises(DataError, match="--qps"):
            read_earlier(tmp_path / "earlier.json", other)


def test_the_clock_of_the_machine_waits_until_a_time_and_not_for_one_that_is_gone():
    clock = SystemClock()
    goal = clock.now() + 0.005
    clock.wait_until(goal)
    assert clock.now() >= goal
    clock.wait_until(goal - 1000)

"""The Server scenario: queries arrive at random times, whether or not the last one is answered.

Source: MLPerf Inference rules, scenario Server: Poisson arrivals at a target rate, and the largest rate whose tail
latency stays within a bound. Its latency bounds hold for p99, and its runs are longer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter, sleep
from typing import Any, Protocol

import numpy as np

from pgn_edge.errors import EngineError
from pgn_edge.progress import Progress
from pgn_edge.runtime.bench_options import BenchOptions
from pgn_edge.runtime.bench_queries import Query
from pgn_edge.runtime.bench_rounds import Samples, Times, Turns, Warmup, warm_up
from pgn_edge.runtime.bench_stats import Stats, supports

STEPS = 7  # halvings of the search: the last step is below 1 % of the rate that a busy engine reaches
SPIN_S = 1e-3  # a sleep ends up to this much late, so the rest of a wait is spun
LEAST_QUERIES = next(count for count in range(1, 10_000) if supports(count, 0.99))


class Clock(Protocol):
    """Time, and how to wait for a point of it."""

    def now(self) -> float:
        """Seconds since some start."""

    def wait_until(self, time_s: float) -> None:
        """Come back when `now` has reached a time; at once if it has."""


class SystemClock:
    """See `Clock`; the clock of this machine."""

    def now(self) -> float:
        """See `Clock.now`."""
        return perf_counter()

    def wait_until(self, time_s: float) -> None:
        """See `Clock.wait_until`."""
        while (left_s := time_s - perf_counter()) > 0:
            if left_s > SPIN_S:
                sleep(left_s - SPIN_S)


@dataclass(frozen=True)
class Offered:
    """Queries at one rate.

    Args:
        qps: Queries per second that arrived on average.
        p99_ms: 99th percentile of the latency, from arrival to answer.
        met: Whether it is within the bound; None without a bound.
    """

    qps: float
    p99_ms: float
    met: bool | None


@dataclass(frozen=True)
class Served:
    """What one series reaches.

    Args:
        qps: Rate that the samples belong to: the one asked for, or the largest within the bound; 0 if none is.
        tried: Every rate that was offered, in order.
    """

    qps: float
    tried: tuple[Offered, ...]


def serve(
    queries: Sequence[Query], options: BenchOptions, progress: Progress, clock: Clock
) -> tuple[Samples, Warmup, dict[str, Served]]:
    """Offer queries at random times, one series after the other.

    Queries wait in one line and are answered one by one. A latency begins with the arrival, so it holds the time in
    the line.

    Args:
        queries: Queries to measure.
        options: Rate or bound, counts and seed.
        progress: Listener, told once for each rate.
        clock: Clock that arrivals and latencies go by.

    Returns:
        Samples at the rate that each series reached, the warm-up, and that rate by series.

    Raises:
        EngineError: a query failed, its outputs are not finite or change, or too few queries for a p99.
    """
    turns = Turns(queries, options.seed)
    warmup = warm_up(turns, options, progress)
    ms: dict[str, tuple[float, ...]] = {}
    starts_s: dict[str, tuple[float, ...]] = {}
    served = {}
    for index, query in enumerate(queries):
        line = _Line(query.series, partial(turns.one, index), options, clock)
        if options.qps is not None:
            line.offer(options.qps)
            reached = options.qps
        else:
            reached = _search(line, progress)
        served[query.series] = Served(reached, tuple(line.tried))
        ms |= line.samples[reached or line.tried[-1].qps][0]
        starts_s |= line.samples[reached or line.tried[-1].qps][1]
        progress("measure", index + 1, len(queries), "series")
    return Samples(ms, starts_s), warmup, served


class _Line:
    """The line before one engine."""

    def __init__(
        self, series: str, answer: Callable[[], tuple[float, Times]], options: BenchOptions, clock: Clock
    ) -> None:
        self._series, self._answer, self._options, self._clock = series, answer, options, clock
        self.tried: list[Offered] = []
        self.samples: dict[float, tuple[dict[str, tuple[float, ...]], dict[str, tuple[float, ...]]]] = {}

    def offer(self, qps: float) -> Offered:
        """Let queries arrive at a rate, and keep their latencies."""
        arrivals_s = arrivals(qps, _count(qps, self._options), self._options.seed)
        latencies: list[float] = []
        stages: dict[str, list[float]] = {}
        begin = self._clock.now()
        for arrival_s in arrivals_s:
            self._clock.wait_until(begin + arrival_s)
            _, times = self._answer()
            for name, value in times.items():
                if name != self._series:
                    stages.setdefault(name, []).append(value)
            latencies.append((self._clock.now() - begin - arrival_s) * 1e3)
        p99_ms = Stats.of(latencies).p99
        assert p99_ms is not None
        bound = self._options.bound_ms
        found = Offered(qps, p99_ms, None if bound is None else p99_ms <= bound)
        self.tried.append(found)
        ms = {self._series: tuple(latencies), **{name: tuple(values) for name, values in stages.items()}}
        starts = tuple(float(arrival_s) for arrival_s in arrivals_s)
        self.samples[qps] = ms, dict.fromkeys(ms, starts)
        return found

    def capacity(self) -> float:
        """Queries per second of an engine that is always busy."""
        begin = self._clock.now()
        count = 10
        for _ in range(count):
            self._answer()
        return count / max(self._clock.now() - begin, 1e-9)


def _search(line: _Line, progress: Progress) -> float:
    """The largest rate within the bound, by halving; 0 where none is."""
    low, high = 0.0, line.capacity()
    for step in range(STEPS):
        middle = (low + high) / 2
        found = line.offer(middle)
        progress("search", step + 1, STEPS, f"{middle:.4g} queries per second: p99 {found.p99_ms:.4g} ms")
        if found.met:
            low = middle
        else:
            high = middle
    return low


def arrivals(qps: float, count: int, seed: int) -> np.ndarray:
    """Times of Poisson arrivals in seconds, (count,); the same pattern at every rate, so that rates compare."""
    gaps = np.random.default_rng(seed).exponential(1.0, count)
    return np.asarray(np.cumsum(gaps) / qps)


def _count(qps: float, options: BenchOptions) -> int:
    count = options.samples if options.duration_s is None else round(qps * options.duration_s)
    if count < LEAST_QUERIES:
        raise EngineError(
            "bench options: samples",
            expected=f"at least {LEAST_QUERIES} queries in server, which a p99 rests on",
            got=str(count),
            do="ask for more --samples, or a longer --duration",
        )
    return count


def server_rows(served: Mapping[str, Served], bound_ms: float | None) -> list[tuple[str, ...]]:
    """A row for each series and rate: series, queries per second, p99, bound, whether it is met."""
    bound = "-" if bound_ms is None else f"{bound_ms:g}"
    words = {None: "-", True: "met", False: "not met"}
    return [
        (series, f"{one.qps:.4g}", f"{one.p99_ms:.3f}", bound, words[one.met])
        for series, found in served.items()
        for one in found.tried
    ]


def server_notes(served: Mapping[str, Served], bound_ms: float | None) -> tuple[str, ...]:
    """What each series reaches, in a sentence."""
    if bound_ms is None:
        return ()
    reached = []
    for series, found in served.items():
        if found.qps and any(one.met for one in found.tried):
            reached.append(f"{series}: p99 stays within {bound_ms:g} ms at {found.qps:.4g} queries per second.")
        else:
            reached.append(f"{series}: p99 exceeds {bound_ms:g} ms at every rate that was tried.")
    return tuple(reached)


def server_json(served: Mapping[str, Served]) -> dict[str, Any]:
    """A JSON object: by series the rate that it reaches, and every rate that was tried."""
    return {series: {"qps": found.qps, "tried": [vars(one) for one in found.tried]} for series, found in served.items()}

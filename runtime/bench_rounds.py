"""Rounds in which every query has one turn, in a new order each time; warm-up first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from pgn_edge.errors import EngineError
from pgn_edge.progress import Progress
from pgn_edge.runtime.bench_options import BenchOptions
from pgn_edge.runtime.bench_queries import Outputs, Query
from pgn_edge.runtime.bench_stats import MOST_WARMUP, WINDOW, settled

Times = Mapping[str, float]


@dataclass(frozen=True)
class Samples:
    """Raw samples by series, in the order of measurement.

    Args:
        ms: latencies in milliseconds.
        starts_s: when each sample's query began, in seconds since the first timed round.
    """

    ms: Mapping[str, tuple[float, ...]]
    starts_s: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Warmup:
    """What went before the first sample.

    Args:
        rounds: how many.
        settled: whether the latencies had settled by then; None where the count was given.
    """

    rounds: int
    settled: bool | None


def take_turns(queries: Sequence[Query], options: BenchOptions, progress: Progress) -> tuple[Samples, Warmup]:
    """Warm up, then time every query once a round.

    Args:
        queries: what takes turns.
        options: counts, duration and seed.
        progress: told at most about forty times.

    Raises:
        EngineError: a query failed, or its outputs are not finite or change from call to call.
    """
    turns = Turns(queries, options.seed)
    warmup = warm_up(turns, options, progress)
    ms: dict[str, list[float]] = {series: [] for series in turns.series}
    starts_s: dict[str, list[float]] = {series: [] for series in turns.series}
    begin, share, done, told = perf_counter(), 0.0, 0, 0
    while share < 1:
        for start, times in turns.round():
            for series, value in times.items():
                ms[series].append(value)
                starts_s[series].append(start - begin)
        done += 1
        spent_s = perf_counter() - begin
        share = done / options.samples if options.duration_s is None else spent_s / options.duration_s
        if int(share * 20) > told:
            told = int(share * 20)
            _tell(progress, options, done, spent_s)
    return Samples(_tuples(ms), _tuples(starts_s)), warmup


class Turns:
    """Queries that take turns, each checked against its own first answer.

    Args:
        queries: Queries; each runs once.
        seed: Seed of the order.

    Attributes:
        whole: Names of the whole queries.
        series: Names of all series that the queries give.
    """

    def __init__(self, queries: Sequence[Query], seed: int) -> None:
        self._queries, self._rng = queries, np.random.default_rng(seed)
        first = [query.run() for query in queries]
        # Copies: an engine may hand out the same buffer each time.
        self._outputs = [{name: array.copy() for name, array in outputs.items()} for outputs, _ in first]
        self.whole = tuple(query.series for query in queries)
        self.series = tuple(series for _, times in first for series in times)

    def round(self) -> list[tuple[float, Times]]:
        """Start and times of each query, in the order of their turns."""
        results = []
        for turn in self._rng.permutation(len(self._queries)):
            results.append(self.one(turn))
        return results

    def one(self, turn: int) -> tuple[float, Times]:
        """Start and times of one query.

        Raises:
            EngineError: it failed, or its outputs are not finite or are others than the first time.
        """
        start = perf_counter()
        outputs, times = self._queries[turn].run()
        _check_outputs(self._queries[turn].series, outputs, self._outputs[turn])
        return start, times


def warm_up(turns: Turns, options: BenchOptions, progress: Progress) -> Warmup:
    """Rounds before the first sample: as many as asked for, or until latencies settle."""
    if options.warmup is not None:
        for _ in range(options.warmup):
            turns.round()
        return Warmup(options.warmup, None)
    # Whole queries decide: short stages jitter by more than the windows may.
    history: dict[str, list[float]] = {series: [] for series in turns.whole}
    for index in range(1, MOST_WARMUP + 1):
        for _, times in turns.round():
            for series in times.keys() & history.keys():
                history[series].append(times[series])
        if index % WINDOW == 0:
            progress("warm-up rounds at most", index, MOST_WARMUP)
            if settled(history):
                return Warmup(index, True)
    return Warmup(MOST_WARMUP, False)


def _tell(progress: Progress, options: BenchOptions, done: int, spent_s: float) -> None:
    if options.duration_s is None:
        progress("measured rounds", done, options.samples)
    else:
        whole = max(round(options.duration_s), 1)
        progress("measured seconds", min(round(spent_s), whole), whole)


def _tuples(lists: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(values) for name, values in lists.items()}


def _check_outputs(query: str, outputs: Outputs, first: Outputs) -> None:
    for name, array in outputs.items():
        if not np.isfinite(array).all():
            raise EngineError(
                f"{query}: {name}", expected="finite outputs", got="NaN or Inf", do="check the engine's precision"
            )
        if not np.array_equal(array, first[name]):
            raise EngineError(
                f"{query}: {name}",
                expected="the same output for the same input at every call",
                got="another one",
                do="check the device and its memory: a latency of wrong answers means nothing",
            )

"""Synthetic series whose answers are known; nothing is timed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pgn_edge.runtime.bench_stats import Stats, effective_count, median_interval, settled, supports


def correlated(rng: np.random.Generator, count: int, memory: float) -> np.ndarray:
    """Normal numbers, each `memory` times the last one plus news."""
    values = rng.standard_normal(count)
    for index in range(1, count):
        values[index] = memory * values[index - 1] + math.sqrt(1 - memory**2) * values[index]
    return values


def alternating(count: int) -> np.ndarray:
    """1 to count, low and high in turns: as far from alike in time as can be."""
    low, high = np.arange(1, count // 2 + 1), np.arange(count // 2 + 1, count + 1)
    return np.stack([low, high], axis=1).ravel().astype(float)


@pytest.mark.parametrize(
    ("quantile", "least"), [(0.5, 11), (0.9, 64), (0.95, 130), (0.99, 662)], ids=["p50", "p90", "p95", "p99"]
)
def test_a_percentile_needs_two_samples_beyond_it(quantile: float, least: int):
    assert not supports(least - 1, quantile)
    assert supports(least, quantile)


def test_the_rule_holds_what_it_promises():
    rng = np.random.default_rng(0)
    beyond = (rng.random((4000, 64)) > 0.9).sum(axis=1)
    assert (beyond >= 2).mean() >= 0.985


def test_stats_by_hand():
    stats = Stats.of([float(value) for value in range(101)])
    assert (stats.count, stats.p50, stats.p90, stats.mean, stats.min) == (101, 50, 90, 50, 0)
    assert stats.p95 is None
    assert stats.p99 is None
    assert Stats.of([2.0, 1.0, 4.0]) == Stats(3, 2.0, None, None, None, None, None, pytest.approx(7 / 3), 1.0)
    whole = Stats.of([float(value) for value in range(701)])
    assert (whole.p95, whole.p99) == (665, 693)


@pytest.mark.parametrize(("count", "low", "high"), [(6, 1, 6), (10, 2, 9), (20, 6, 15), (100, 40, 61)], ids=str)
def test_the_interval_has_the_ranks_of_the_published_table(count: int, low: int, high: int):
    assert median_interval(alternating(count)) == pytest.approx((low, high))


def test_too_few_samples_have_no_interval():
    assert median_interval(np.array([1.0, 9.0, 2.0, 8.0, 3.0])) is None
    assert median_interval(np.array([1.0])) is None


@pytest.mark.parametrize("memory", [0.0, 0.8], ids=["independent", "alike in time"])
def test_the_interval_holds_the_median_of_skewed_noise(memory: float):
    rng = np.random.default_rng(1)
    intervals = [median_interval(np.exp(correlated(rng, 300, memory))) for _ in range(150)]
    held = [low <= 1 <= high for low, high in filter(None, intervals)]
    assert len(held) > 130
    assert 0.9 <= np.mean(held) < 1


def test_samples_that_are_alike_count_as_fewer():
    memory, count = 0.9, 20_000
    # Of normal numbers: the correlation of signs is 2 / pi asin(memory^lag).
    time = 1 + 2 * sum(2 / math.pi * math.asin(memory**lag) for lag in range(1, 400))
    values = correlated(np.random.default_rng(0), count, memory)
    assert effective_count(values) == pytest.approx(count / time, rel=0.2)
    assert effective_count(np.random.default_rng(0).permutation(values)) > 0.7 * count


def test_a_constant_series_is_certain():
    assert median_interval(np.full(20, 3.0)) == (3.0, 3.0)


def test_a_drift_leaves_little_to_go_by():
    assert effective_count(np.linspace(1, 2, 200)) < 6


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ((1.0, 1.0, 1.0), True),
        ((5.0, 1.0, 1.015, 1.0), True),
        ((1.0, 1.0), False),
        ((1.0, 1.0, 1.03), False),
        ((1.0, 1.015, 1.03), False),
    ],
    ids=["flat", "slow only at first", "too few windows", "the last differs", "a drift of small steps"],
)
def test_warm_up_settles(windows: tuple[float, ...], expected: bool):
    series = [value + 0.5 * (index == 3) for value in windows for index in range(10)]  # one outlier a window
    assert settled({"a": series}) is expected
    assert settled({"a": [1.0] * len(series), "b": series}) is expected


def test_a_window_that_is_not_full_does_not_count():
    assert not settled({"a": [1.0] * 29})

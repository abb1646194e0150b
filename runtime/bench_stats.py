"""Statistics of latencies: percentiles that the count supports, intervals that assume no distribution, warm-up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95  # of the interval that is shown beside each median
BEYOND = 0.99  # sureness that a percentile which is shown has two samples beyond it
LAGS = 5  # the sum of autocorrelations stops at this multiple of itself
WINDOW = 10  # rounds of one warm-up window
WINDOWS = 3  # that must agree, one after the other
AGREE = 0.02  # largest relative difference of their medians
MOST_WARMUP = 200  # rounds


@dataclass(frozen=True)
class Stats:
    """Summary of one series in milliseconds; None where the number of samples does not support a value.

    Args:
        count: samples.
        p50: their median.
        low, high: 95 % interval of the median.
        p90, p95, p99: percentiles.
        mean: average.
        min: least.
    """

    count: int
    p50: float
    low: float | None
    high: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    mean: float
    min: float

    @classmethod
    def of(cls, samples_ms: Sequence[float]) -> Stats:
        """Summarise at least one sample."""
        values = np.asarray(samples_ms, np.float64)
        low, high = median_interval(values) or (None, None)
        tails = {
            f"p{percent}": float(np.percentile(values, percent)) if supports(len(values), percent / 100) else None
            for percent in (90, 95, 99)
        }
        middle, mean, least = float(np.median(values)), float(values.mean()), float(values.min())
        return cls(len(values), middle, low, high, **tails, mean=mean, min=least)


def supports(count: int, quantile: float) -> bool:
    """Whether `count` samples support a percentile: with 99 % probability at least two of them lie beyond it.

    That is 64 samples for p90, 130 for p95 and 662 for p99.

    Args:
        count: samples.
        quantile: between 0 and 1.

    Source: after the early stopping of the MLPerf Inference rules; the counts follow from the binomial distribution.
    """
    fewer_than_two = quantile**count + count * (1 - quantile) * quantile ** (count - 1)
    return fewer_than_two <= 1 - BEYOND


def effective_count(samples: np.ndarray) -> float:
    """How many independent samples tell as much about the median as these.

    A median depends on which samples lie above it, so the count is divided by the autocorrelation time of that.

    Args:
        samples: in the order of measurement.

    Source: Wolff, "Monte Carlo errors with less errors", 2004: the window of the sum, and the correction of its bias.
    """
    above = (samples > np.median(samples)).astype(np.float64)
    above -= above.mean()
    count = len(above)
    spectrum = np.fft.rfft(above, 2 * count)
    covariance = np.fft.irfft(np.abs(spectrum) ** 2, 2 * count)[:count]
    if covariance[0] <= 1e-12:
        return float(count)
    times = 2 * np.cumsum(covariance / covariance[0]) - 1
    wide_enough = np.arange(count) >= LAGS * times
    lag = int(np.argmax(wide_enough)) if wide_enough.any() else count - 1
    time = float(times[lag]) * (1 + (2 * lag + 1) / count)
    return count / max(time, 1.0)


def median_interval(samples: np.ndarray, level: float = LEVEL) -> tuple[float, float] | None:
    """An interval that holds the true median with probability `level`, from order statistics.

    Args:
        samples: in the order of measurement.
        level: between 0 and 1.

    Returns:
        Its ends; None where the samples are too few, or too much alike in time, for any: at 0.95 fewer than 6.
    """
    count = int(effective_count(samples))
    rank = _rank(count, level)
    if rank < 1:
        return None
    ends = ((rank - 1) / (count - 1), (count - rank) / (count - 1))
    low, high = np.quantile(samples, ends)
    return float(low), float(high)


def _rank(count: int, level: float) -> int:
    """Largest r for which the r-th least and the r-th largest of `count` samples hold the median between them."""
    if count < 2:
        return 0
    # Samples below the true median are Binomial(count, 1/2): walk from the middle to where (1 - level) / 2 is left.
    below = count // 2
    chance = math.exp(
        math.lgamma(count + 1) - math.lgamma(below + 1) - math.lgamma(count - below + 1) - count * math.log(2)
    )
    at_most = 0.5 + (chance / 2 if count % 2 == 0 else 0.0)
    while below >= 0 and at_most > (1 - level) / 2:
        at_most -= chance
        chance *= below / (count - below + 1)
        below -= 1
    return below + 1


def settled(series_ms: Mapping[str, Sequence[float]]) -> bool:
    """Whether the medians of the last three windows of 10 rounds agree within 2 %, in every series.

    Args:
        series_ms: latencies of each series so far.
    """
    for samples in series_ms.values():
        if len(samples) < WINDOW * WINDOWS:
            return False
        medians = np.median(np.reshape(samples[-WINDOW * WINDOWS :], (WINDOWS, WINDOW)), axis=1)
        if medians.max() - medians.min() > AGREE * medians.min():
            return False
    return True

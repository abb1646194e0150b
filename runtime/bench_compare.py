"""Faster, slower or no difference: verdicts that know the noise of what they compare."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pgn_edge.errors import DataError
from pgn_edge.runtime.bench import BenchReport
from pgn_edge.runtime.bench_options import BenchOptions
from pgn_edge.runtime.bench_stats import median_interval

SCHEMA = 2  # of the JSON document
SURE = 0.99  # level of the interval behind a verdict: a report holds about ten of them
LEAST_EFFECT = 0.02  # relative change that must be sure: two engines of one file can differ by 1 % through their place
# Clock, load and the time of day change from run to run: `machine` has them.
PASSING = frozenset({"started", "command", "clock_mhz", "load_average"})

Word = Literal["faster", "slower", "no difference", "cannot tell"]


@dataclass(frozen=True)
class Verdict:
    """How the median of one series relates to that of another.

    Args:
        series: name.
        before_ms: median that it is compared with.
        after_ms: median.
        ratio: after / before.
        low, high: 99 % interval of the ratio; None where the samples are too few, or too much alike in time, for one.
        word: the verdict.
    """

    series: str
    before_ms: float
    after_ms: float
    ratio: float
    low: float | None
    high: float | None
    word: Word


@dataclass(frozen=True)
class Earlier:
    """What an earlier report holds of what can be compared.

    Args:
        path: of the file.
        samples_ms: raw samples by series.
        setting: everything that should be equal for the comparison to mean something, by name.
    """

    path: str
    samples_ms: Mapping[str, tuple[float, ...]]
    setting: Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """An earlier report against this one.

    Args:
        path: of the earlier report.
        verdicts: of each series that both have.
        differences: (what, before, after) of each setting that is not the same.
    """

    path: str
    verdicts: tuple[Verdict, ...]
    differences: tuple[tuple[str, str, str], ...]

    @property
    def slower(self) -> bool:
        """Whether a whole query became slower; a stage alone does not count."""
        return any(v.word == "slower" and (v.series == "chain.total" or _whole(v.series)) for v in self.verdicts)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


def read_earlier(path: str | Path, options: BenchOptions) -> Earlier:
    """Read what `bench --json-file` wrote, and refuse what cannot be compared with a run of these options.

    Args:
        path: of the JSON file.
        options: of the run that it will be compared with.

    Raises:
        DataError: no such file, no report of this version, or another scenario or number of frames.
    """
    try:
        document = json.loads(Path(path).read_text())
    except OSError as exc:
        raise _refuse(path, exc.strerror or str(exc), "check the path") from exc
    except (ValueError, RecursionError) as exc:
        raise _refuse(path, "no JSON document", "give what `pgn-edge bench --json-file FILE` wrote") from exc
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        schema = document.get("schema") if isinstance(document, dict) else None
        raise _refuse(path, f"schema {schema!r}", "measure it again with this version")
    try:
        samples = {str(name): _series(values) for name, values in document["samples_ms"].items()}
        before = document["options"]["scenario"], document["options"]["frames"]
        setting = _setting(document["options"], document["parts"], document["environment"])
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise _refuse(path, "a damaged one", "measure it again") from exc
    if before != (options.scenario, options.frames):
        raise DataError(
            str(path),
            expected=f"a report of {options.scenario} with {options.frames} frames a query",
            got=f"{before[0]} with {before[1]}",
            do="compare runs of one scenario",
        )
    if options.scenario == "server" and (options.qps is None or setting["qps"] != options.qps):
        raise DataError(
            str(path),
            expected="two runs at one stated rate, since a latency grows with the rate",
            got=f"{setting['qps']} and {options.qps} queries per second",
            do="measure both with the same --qps",
        )
    return Earlier(str(path), samples, setting)


def compare(earlier: Earlier, report: BenchReport) -> Comparison:
    """Verdicts on every series that both have.

    Raises:
        DataError: they have none in common.
    """
    # A stage that an engine reports as 0 has no ratio.
    now, then = ({name for name, series in run.samples_ms.items() if min(series) > 0} for run in (report, earlier))
    common = [name for name in report.samples_ms if name in now & then]
    if not common:
        raise _refuse(earlier.path, f"only {', '.join(earlier.samples_ms)}", "compare runs of the same engines")
    verdicts = (verdict(name, earlier.samples_ms[name], report.samples_ms[name]) for name in common)
    parts = {role: asdict(part) for role, part in report.parts.items()}
    after = _setting(report.options.to_json(), parts, report.environment)
    names = dict.fromkeys((*earlier.setting, *after))
    pairs = ((name, _say(earlier.setting.get(name)), _say(after.get(name))) for name in names)
    return Comparison(earlier.path, tuple(verdicts), tuple(pair for pair in pairs if pair[1] != pair[2]))


def verdict(series: str, before_ms: Sequence[float], after_ms: Sequence[float]) -> Verdict:
    """Compare the medians of two series that were measured apart.

    Each median's interval comes from order statistics and the effective number of samples; the interval of the ratio
    comes from both.

    Args:
        series: name.
        before_ms: samples above 0, in the order of measurement.
        after_ms: likewise.

    Source: Zou and Donner, "Construction of confidence limits about effect measures", 2008, on logarithms.
    """
    sides = [np.log(np.asarray(values, np.float64)) for values in (before_ms, after_ms)]
    (before, after), intervals = [float(np.median(side)) for side in sides], [median_interval(s, SURE) for s in sides]
    ratio, ends = after - before, None
    if intervals[0] is not None and intervals[1] is not None:
        (low_b, high_b), (low_a, high_a) = intervals[0], intervals[1]
        low = ratio - math.hypot(after - low_a, high_b - before)
        ends = math.exp(low), math.exp(ratio + math.hypot(high_a - after, before - low_b))
    return _verdict(series, (math.exp(before), math.exp(after)), math.exp(ratio), ends)


def rival_verdicts(report: BenchReport) -> tuple[Verdict, ...]:
    """Each further engine against the first, by the ratio of their latencies in the same round.

    What disturbs a round disturbs both, and cancels.

    Args:
        report: of a run with several engines.
    """
    if report.served:  # each has its own line, and no rounds are shared
        return ()
    first = np.asarray(report.samples_ms["vit"])
    verdicts = []
    for role in report.parts:
        if role.startswith("vit."):
            ratios = np.asarray(report.samples_ms[role]) / first
            medians = report.stats["vit"].p50, report.stats[role].p50
            verdicts.append(_verdict(role, medians, float(np.median(ratios)), median_interval(ratios, SURE)))
    return tuple(verdicts)


def _verdict(series: str, medians_ms: tuple[float, float], ratio: float, ends: tuple[float, float] | None) -> Verdict:
    if ends is None:
        return Verdict(series, *medians_ms, ratio, None, None, "cannot tell")
    word: Word = "no difference"
    if ends[0] > 1 + LEAST_EFFECT:
        word = "slower"
    elif ends[1] < 1 / (1 + LEAST_EFFECT):
        word = "faster"
    return Verdict(series, *medians_ms, ratio, *ends, word)


def _whole(series: str) -> bool:
    name, _, rest = series.partition(".")
    return name in ("vit", "stock") and (not rest or rest.isdecimal())


def _setting(options: Mapping[str, Any], parts: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: options[name] for name in ("threads", "frame_hw", "frame", "size_hw", "qps")},
        **dict(_of_parts(parts)),
        **{name: value for name, value in environment.items() if name not in PASSING},
    }


def _of_parts(parts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for role, part in parts.items():
        for name in ("name", "device", "sha256"):
            yield f"{role} {name}", part[name]


def _series(values: Any) -> tuple[float, ...]:
    series = tuple(float(value) for value in values)
    if not series or not all(0 <= value < math.inf for value in series):
        raise ValueError("no latencies")
    return series


def _say(value: Any) -> str:
    return "absent" if value is None else value if isinstance(value, str) else json.dumps(value)


def _refuse(path: str | Path, got: str, do: str) -> DataError:
    return DataError(str(path), expected=f"a report of `pgn-edge bench`, schema {SCHEMA}", got=got, do=do)

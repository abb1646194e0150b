"""Verdicts on series whose truth is known, and files that are no earlier report."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from pgn_edge.errors import DataError
from pgn_edge.runtime.bench import BenchReport, Measured
from pgn_edge.runtime.bench_compare import compare, read_earlier, rival_verdicts, verdict
from pgn_edge.runtime.bench_options import BenchOptions
from pgn_edge.runtime.bench_report import bench_json
from pgn_edge.runtime.bench_rounds import Samples, Warmup

STATE = {"throttle_events": None}


def noise(rng: np.random.Generator, median_ms: float, count: int = 100, memory: float = 0.0) -> np.ndarray:
    """Skewed latencies of 5 % noise with a few far outliers, each like the last as far as `memory` says."""
    values = rng.standard_normal(count)
    for index in range(1, count):
        values[index] = memory * values[index - 1] + math.sqrt(1 - memory**2) * values[index]
    return median_ms * np.exp(0.05 * values) + (rng.random(count) < 0.02) * rng.exponential(10 * median_ms, count)


def report(series: dict[str, np.ndarray], options: BenchOptions | None = None, **parts: Measured) -> BenchReport:
    ms = {name: tuple(map(float, values)) for name, values in series.items()}
    starts = {name: tuple(map(float, range(len(values)))) for name, values in series.items()}
    return BenchReport(
        options=options or BenchOptions(),
        parts={"vit": Measured("vit.onnx", "python", "0" * 64, 1), **parts},
        samples=Samples(ms, starts),
        warmup=Warmup(0, None),
        frame_bytes={"into the ViT": 1},
        environment={"cpu": "a processor", "started": "then", "load_average": [1.0]},
        machine={"before": STATE, "after": STATE},
    )


def words(before_ms: float, after_ms: float, memory: float = 0.0) -> list[str]:
    rng = np.random.default_rng(0)
    pairs = [(noise(rng, before_ms, memory=memory), noise(rng, after_ms, memory=memory)) for _ in range(100)]
    return [verdict("vit", *pair).word for pair in pairs]


def test_the_same_engine_twice_is_no_difference():
    assert words(3.0, 3.0).count("no difference") >= 95


@pytest.mark.parametrize("memory", [0.5, 0.9], ids=["somewhat alike", "very alike"])
def test_noise_that_lasts_does_not_fool_it(memory: float):
    found = words(3.0, 3.0, memory)
    assert found.count("slower") + found.count("faster") <= 5


@pytest.mark.parametrize(("after_ms", "word"), [(3.9, "slower"), (2.1, "faster")])
def test_thirty_percent_is_found(after_ms: float, word: str):
    assert words(3.0, after_ms).count(word) >= 99


@pytest.mark.parametrize(
    ("change", "word"),
    [(1.01, "no difference"), (1.04, "slower"), (0.96, "faster")],
    ids=["sure, but too small to matter", "small and sure", "small and sure the other way"],
)
def test_a_small_change_of_quiet_series(change: float, word: str):
    quiet = 5 + 0.001 * np.random.default_rng(0).standard_normal(100)
    assert verdict("vit", quiet, quiet[::-1] * change).word == word


def test_too_few_samples_tell_nothing():
    few = verdict("vit", [1.0] * 7, [2.0] * 100)
    assert (few.word, few.ratio, few.low, few.high) == ("cannot tell", pytest.approx(2), None, None)


def test_the_other_way_round_is_the_reciprocal():
    rng = np.random.default_rng(0)
    a, b = noise(rng, 2.0), noise(rng, 3.0)
    there, back = verdict("vit", a, b), verdict("vit", b, a)
    assert (there.ratio, there.low, there.high) == pytest.approx((1 / back.ratio, 1 / back.high, 1 / back.low))
    assert there.low < there.ratio < there.high
    assert there.ratio == pytest.approx(np.median(b) / np.median(a))


def test_side_by_side_cancels_what_disturbs_both():
    rng = np.random.default_rng(0)
    disturbance = np.exp(rng.standard_normal(100))
    first, second = disturbance * noise(rng, 1.0), disturbance * noise(rng, 1.3)
    assert verdict("vit.2", first, second).word == "no difference"
    (found,) = rival_verdicts(report({"vit": first, "vit.2": second}, **{"vit.2": Measured("b.onnx")}))
    assert (found.series, found.word) == ("vit.2", "slower")
    assert found.low < 1.3 < found.high


def test_an_earlier_report_against_this_one(tmp_path: Path):
    rng = np.random.default_rng(0)
    before = report({"vit": noise(rng, 3.0), "chain.pgn": noise(rng, 1.0), "stock": noise(rng, 1.0)})
    (tmp_path / "before.json").write_text(json.dumps(bench_json(before)))
    options = BenchOptions(threads=2, frame_hw=(224, 224))
    after = report({"vit": noise(rng, 3.0), "chain.pgn": noise(rng, 1.5)}, options)
    found = compare(read_earlier(tmp_path / "before.json", after.options), after)
    assert [(v.series, v.word) for v in found.verdicts] == [("vit", "no difference"), ("chain.pgn", "slower")]
    assert not found.slower  # a stage alone
    assert found.differences == (("threads", "0", "2"), ("frame_hw", "[480, 640]", "[224, 224]"))


def test_another_engine_and_another_machine_are_told(tmp_path: Path):
    series = {"vit": np.full(20, 1.0)}
    before = report(series, vit=Measured("vit.onnx", "python", "1" * 64, 1), task=Measured("task.pgn"))
    before.environment.update(cpu="another", started="long ago", load_average=[9.0])  # type: ignore[attr-defined]
    (tmp_path / "before.json").write_text(json.dumps(bench_json(before)))
    found = compare(read_earlier(tmp_path / "before.json", BenchOptions()), report(series))
    assert set(found.differences) == {
        ("vit sha256", "1" * 64, "0" * 64),
        ("task name", "task.pgn", "absent"),
        ("cpu", "another", "a processor"),
    }


@pytest.mark.parametrize("series", ["vit", "vit.2", "stock", "chain.total"])
def test_a_whole_query_that_is_slower_counts(series: str, tmp_path: Path):
    parts = {"vit.2": Measured("b.onnx"), "stock": Measured("stock.onnx")}
    names = ("vit", "vit.2", "stock", "chain.total")
    before = report({name: np.full(20, 1.0) for name in names}, **parts)
    after = report({name: np.full(20, 1.3 if name == series else 1.0) for name in names}, **parts)
    (tmp_path / "before.json").write_text(json.dumps(bench_json(before)))
    found = compare(read_earlier(tmp_path / "before.json", after.options), after)
    assert [v.series for v in found.verdicts if v.word == "slower"] == [series]
    assert found.slower


GOOD = bench_json(report({"vit": np.full(20, 1.0)}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("{", "no JSON document"),
        ("[" * 100_000, "no JSON document"),
        ("[1]", "schema None"),
        (json.dumps({**GOOD, "schema": 1}), "schema 1"),
        (json.dumps({key: value for key, value in GOOD.items() if key != "samples_ms"}), "damaged"),
        (json.dumps({**GOOD, "samples_ms": [1.0]}), "damaged"),
        (json.dumps({**GOOD, "samples_ms": {"vit": []}}), "damaged"),
        (json.dumps({**GOOD, "samples_ms": {"vit": [float("nan")]}}), "damaged"),
        (json.dumps({**GOOD, "samples_ms": {"vit": ["fast"]}}), "damaged"),
        (json.dumps({**GOOD, "parts": {"vit": {}}}), "damaged"),
        (json.dumps({**GOOD, "options": {**GOOD["options"], "scenario": "offline", "frames": 8}}), "offline with 8"),
    ],
    ids=[
        *("no file", "half a document", "a bomb of brackets", "a list", "another version", "no samples"),
        *("samples without series", "an empty series", "NaN", "a word", "no file names", "another scenario"),
    ],
)
def test_files_that_cannot_be_compared(tmp_path: Path, text: str | None, message: str):
    if text is not None:
        (tmp_path / "before.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_earlier(tmp_path / "before.json", BenchOptions())


def test_nothing_in_common(tmp_path: Path):
    (tmp_path / "before.json").write_text(json.dumps({**GOOD, "samples_ms": {"other": [1.0]}}))
    with pytest.raises(DataError, match="only other"):
        compare(read_earlier(tmp_path / "before.json", BenchOptions()), report({"vit": np.full(20, 1.0)}))

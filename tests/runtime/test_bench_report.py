"""Every form of a report, from numbers that were made up so that each cell can be worked out by hand."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from pgn_edge.runtime.bench import BenchReport, Measured
from pgn_edge.runtime.bench_compare import Comparison, verdict
from pgn_edge.runtime.bench_costs import Costs
from pgn_edge.runtime.bench_html import bench_html
from pgn_edge.runtime.bench_options import SCENARIOS, BenchOptions
from pgn_edge.runtime.bench_report import (
    bench_csv,
    bench_json,
    bench_markdown,
    frames_per_s,
    inside_the_timer,
    sections,
    stats_rows,
    title,
)
from pgn_edge.runtime.bench_rounds import Samples, Warmup
from pgn_edge.runtime.bench_tax import adaptation_tax, extra_token_ms, tax_rows, ways_rows

MEDIANS = {
    "vit": 13.0,
    "vit.2": 26.0,
    "stock": 10.0,
    "chain.decode": 4.0,
    "chain.preprocess": 2.0,
    "chain.pgn": 0.5,
    "chain.vit": 13.5,
    "chain.head": 0.25,
    "chain.total": 16.25,
    "chain.host_to_device": 0.125,
}
COSTS = Costs((20.0, 30.0, 25.0), 2e6, 1_000_000, (400.0, 500.0, 450.0), 300e6, 350_000_000)


def series(median: float) -> tuple[float, ...]:
    return tuple(float(value) for value in median * (1 + 0.01 * np.sin(np.arange(1, 100))))


@pytest.fixture
def report() -> BenchReport:
    ms = {name: series(median) for name, median in MEDIANS.items()}
    return BenchReport(
        options=BenchOptions(samples=99, tasks=4),
        parts={
            "vit": Measured("a|b<script>.onnx", "python", "0" * 64, 350_000_000),
            "vit.2": Measured("other.onnx", "python", "1" * 64, 1),
            "stock": Measured("stock.onnx", "python", "2" * 64, 1),
            "task": Measured("task.pgn", None, "3" * 64, 1_000_000),
        },
        samples=Samples(ms, {name: tuple(0.1 * index for index in range(99)) for name in ms}),
        warmup=Warmup(30, True),
        frame_bytes={"into the ViT": 1_500_000, "into the ViT alone": 1_000_000, "camera frame, encoded": 99_000},
        costs=COSTS,
        environment={"cpu": "a processor", "git": None},
        machine={
            "before": {"throttle_events": 1, "temperatures_c": {"zone0": 40.5}},
            "after": {"throttle_events": 1, "temperatures_c": {"zone0": 55.5}},
        },
    )


@pytest.fixture
def comparison(report: BenchReport) -> Comparison:
    found = verdict("vit", series(10.0), report.samples_ms["vit"])
    return Comparison("before.json", (found,), (("cpu", "another", "a processor"),))


def alone(report: BenchReport) -> BenchReport:
    samples = Samples({"vit": report.samples_ms["vit"]}, {"vit": report.samples.starts_s["vit"]})
    return replace(
        report, parts={"vit": report.parts["vit"]}, samples=samples, frame_bytes={"into the ViT": 1}, costs=None
    )


def test_tax(report: BenchReport):
    ratios = {row.part: row.ratio for row in adaptation_tax(report)}
    expected = {"ViT alone": 1.0, "ViT with prompt slots": 1.3, "PGN": 0.05, "whole chain": 1.625}
    assert ratios == pytest.approx(expected, rel=1e-6)
    assert extra_token_ms(report) == pytest.approx(3.0, rel=1e-2)


def test_three_ways_to_several_tasks(report: BenchReport):
    rows = {row[0]: row[1:] for row in ways_rows(report)}
    assert rows["bytes into the ViT for a frame"] == ("1,000,000 B", "1,500,000 B", "1,000,000 B")
    assert rows["memory of one more task"] == ("-", "2.0 MB", "300.0 MB")
    assert rows["time to load one more task"] == ("-", "25.00 ms", "450.00 ms")
    assert rows["memory for 4 tasks"] == ("300.0 MB", "308.0 MB", "1200.0 MB")
    assert rows["files for 4 tasks"] == ("350.0 MB", "354.0 MB", "1400.0 MB")
    both = float(rows["ViT and PGN"][1].removesuffix(" ms"))
    assert both == pytest.approx(14.0, rel=1e-2)


def test_what_was_not_measured_says_so(report: BenchReport):
    bare = alone(report)
    assert [row[1] for row in tax_rows(bare)] == [
        "not measured: give --stock",
        f"{bare.stats['vit'].p50:.3f}",
        *["not measured: give --task"] * 2,
        "not measured: give --stock",
    ]
    no_memory = replace(report, costs=replace(COSTS, task_memory_bytes=None))
    rows = {row[0]: row[1:] for row in ways_rows(no_memory)}
    assert rows["memory of one more task"] == ("-", "not measured", "300.0 MB")
    assert rows["memory for 4 tasks"] == ("300.0 MB", "not measured", "1200.0 MB")
    rows = {row[0]: row[1:] for row in ways_rows(replace(report, costs=None))}
    assert rows["time to load one more task"] == ("-", "not measured", "not measured")
    assert "Three ways to 4 tasks" not in [section.title for section in sections(bare)]


def test_percentiles_that_the_count_does_not_support_are_dashes(report: BenchReport):
    (row,) = stats_rows(alone(report))
    assert row[3] != "-"
    assert row[4:] == ("-", "-")
    few = alone(report)
    few = replace(few, samples=Samples({"vit": (1.0, 2.0, 3.0)}, {"vit": (0.0, 1.0, 2.0)}))
    assert stats_rows(few) == [("vit", "2.000", "-", "-", "-", "-")]


def test_throughput_is_of_offline_alone(report: BenchReport):
    assert frames_per_s(report) == {}
    offline = replace(report, options=BenchOptions(scenario="offline", frames=8))
    assert frames_per_s(offline) == pytest.approx(
        {"vit": 8000 / 13, "vit.2": 8000 / 26, "stock": 800, "chain.total": 8000 / 16.25}, rel=1e-2
    )
    assert "Throughput" in [section.title for section in sections(offline)]


def test_every_number_comes_back_from_json(report: BenchReport, comparison: Comparison):
    document = json.loads(json.dumps(bench_json(report, comparison)))
    assert {name: tuple(values) for name, values in document["samples_ms"].items()} == report.samples_ms
    assert document["stats_ms"]["vit"]["p50"] == report.stats["vit"].p50
    assert document["stats_ms"]["vit"]["p99"] is None
    assert document["warmup"] == {"rounds": 30, "settled": True}
    assert document["comparison"]["verdicts"][0]["word"] == "slower"
    assert document["rivals"][0]["ratio"] == pytest.approx(2.0)
    assert document["costs"]["task_load_ms"] == [20.0, 30.0, 25.0]
    assert document["inside_the_timer"]
    options = document["options"]
    tuples = {name: tuple(options[name]) for name in ("frame_hw", "trusted")}
    assert BenchOptions(**{**options, **tuples}) == report.options


def test_every_sample_comes_back_from_csv(report: BenchReport):
    rows = list(csv.DictReader(io.StringIO(bench_csv(report))))
    assert list(rows[0]) == ["series", "index", "start_s", "ms"]
    for name, samples in report.samples_ms.items():
        mine = [row for row in rows if row["series"] == name]
        assert [int(row["index"]) for row in mine] == list(range(99))
        assert tuple(float(row["ms"]) for row in mine) == samples
        assert tuple(float(row["start_s"]) for row in mine) == report.samples.starts_s[name]


def test_markdown_has_every_section_and_whole_rows(report: BenchReport, comparison: Comparison):
    text = bench_markdown(report, comparison)
    for section in sections(report, comparison):
        assert f"\n## {section.title}\n" in f"\n{text}"
    assert "a\\|b<script>.onnx" in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    for table in tables:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1, table
    assert "zone0 40.5" in text
    assert "| git | not readable |" in text


@pytest.mark.parametrize("whole", [False, True], ids=["engine alone", "with everything"])
def test_page_is_self_contained(report: BenchReport, comparison: Comparison, whole: bool):
    pytest.importorskip("matplotlib")
    report = report if whole else alone(report)
    text = bench_html(report, comparison if whole else None)
    assert text.count("data:image/png;base64,") == text.count("src=") == 3
    for link in ("href=", "<script", "<link", "@import", "http:", "https:", "url("):
        assert link not in re.sub(r"base64,[^\"]*", "", text), link
    for row in stats_rows(report):
        assert f">{row[1]}</td>" in text
    assert ("Three ways to 4 tasks" in text) is whole


def test_what_is_inside_the_timer_is_said(report: BenchReport):
    text = " ".join(inside_the_timer(report))
    assert "chain.decode" in text
    assert "chain" not in " ".join(inside_the_timer(alone(report)))
    several = replace(report, options=BenchOptions(scenario="multi-stream", frames=3))
    assert "3 frames" in " ".join(inside_the_timer(several))


@pytest.mark.parametrize(("settled", "word"), [(True, "until"), (False, "NOT settled"), (None, "as asked")])
def test_the_reader_is_warned(report: BenchReport, settled: bool | None, word: str):
    notes = " ".join(sections(replace(report, warmup=Warmup(30, settled)))[0].notes)
    assert word in notes
    assert SCENARIOS["single-stream"] in notes
    assert "THROTTLED" not in notes
    hot = replace(report, machine={**report.machine, "after": {**report.machine["after"], "throttle_events": 2}})
    assert "THROTTLED" in " ".join(sections(hot)[0].notes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit", "ViT engine, bare"),
        ("vit.2", "engine 2, bare"),
        ("chain.pgn", "chain: PGN"),
        ("vit.host_to_device", "vit: host to device"),
    ],
)
def test_titles(name: str, expected: str):
    assert title(name) == expected

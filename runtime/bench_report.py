"""A bench report as JSON, CSV and Markdown, and as the sections that every form shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pgn_edge.runtime.bench import BenchReport
from pgn_edge.runtime.bench_compare import LEAST_EFFECT, SCHEMA, SURE, Comparison, Verdict, rival_verdicts
from pgn_edge.runtime.bench_machine import throttled
from pgn_edge.runtime.bench_options import SCENARIOS
from pgn_edge.runtime.bench_server import server_json, server_notes, server_rows
from pgn_edge.runtime.bench_stats import Stats
from pgn_edge.runtime.bench_tax import (
    TAX_HEADER,
    WAYS_HEADER,
    adaptation_tax,
    extra_token_ms,
    milliseconds,
    size_rows,
    tax_rows,
    ways_note,
    ways_rows,
)

STATS_HEADER = ("series", "p50 ms", "95 % of p50", "p90 ms", "p95 ms", "p99 ms")
VERDICT_HEADER = ("series", "before ms", "after ms", "ratio", f"{SURE * 100:g} % of it", "verdict")
RIVAL_HEADER = ("series", "vit ms", "its own ms", *VERDICT_HEADER[3:])
SERVER_HEADER = ("series", "queries per second", "p99 ms", "bound ms", "verdict")
STATS_NOTE = (
    "A percentile is shown where, with 99 % probability, at least two samples lie beyond it: from 64 samples on for "
    "p90, 130 for p95, 662 for p99. The interval of p50 comes from order statistics, and counts samples that are "
    "alike in time as fewer."
)
VERDICT_NOTE = (
    f"Faster or slower: the whole interval of the ratio shows a change above {LEAST_EFFECT * 100:g} %. Noise between "
    "runs, such as another temperature, is in no interval: run engines side by side for small differences."
)
TITLES = {  # in the order of the panels
    "chain.total": "chain: total",
    "vit": "ViT engine, bare",
    "stock": "ViT alone, bare",
    "chain.decode": "chain: decode",
    "chain.preprocess": "chain: preprocess",
    "chain.pgn": "chain: PGN",
    "chain.vit": "chain: ViT",
    "chain.head": "chain: head",
}


@dataclass(frozen=True)
class Section:
    """Part of a report: a table, and sentences under it.

    Args:
        title: heading.
        header: names of the columns.
        rows: cells; may be empty.
        notes: sentences.
    """

    title: str
    header: tuple[str, ...] = ()
    rows: Sequence[tuple[str, ...]] = ()
    notes: tuple[str, ...] = ()


def bench_json(report: BenchReport, comparison: Comparison | None = None) -> dict[str, Any]:
    """A JSON object with everything: summary, tax, environment and every raw sample."""
    return {
        "schema": SCHEMA,
        "options": report.options.to_json(),
        "parts": {role: asdict(part) for role, part in report.parts.items()},
        "environment": dict(report.environment),
        "machine": dict(report.machine),
        "scenario": SCENARIOS[report.options.scenario],
        "inside_the_timer": list(inside_the_timer(report)),
        "warmup": asdict(report.warmup),
        "stats_ms": {name: asdict(stats) for name, stats in report.stats.items()},
        "frames_per_s": frames_per_s(report),
        "server": server_json(report.served),
        "rivals": [asdict(verdict) for verdict in rival_verdicts(report)],
        "comparison": None if comparison is None else comparison.to_json(),
        "adaptation_tax": [asdict(row) for row in adaptation_tax(report)],
        "extra_token_ms": extra_token_ms(report),
        "bytes_per_frame": dict(report.frame_bytes),
        "costs": None if report.costs is None else report.costs.to_json(),
        "samples_ms": {name: list(series) for name, series in report.samples_ms.items()},
        "starts_s": {name: list(series) for name, series in report.samples.starts_s.items()},
    }


def bench_csv(report: BenchReport) -> str:
    """Raw samples, one row each: series, index, start_s, ms."""
    rows = [
        f"{name},{index},{start!r},{value!r}\n"
        for name, series in report.samples_ms.items()
        for index, (start, value) in enumerate(zip(report.samples.starts_s[name], series, strict=True))
    ]
    return "".join(["series,index,start_s,ms\n", *rows])


def bench_markdown(report: BenchReport, comparison: Comparison | None = None) -> str:
    """Every section as Markdown."""
    parts = ["# Latency of a ViT engine\n"]
    for section in [*sections(report, comparison), *machine_sections(report)]:
        parts.append(f"## {section.title}\n")
        if section.rows:
            rule = ["---", *["---:"] * (len(section.header) - 1)]
            lines = [section.header, tuple(rule), *section.rows]
            parts.append("".join(f"| {' | '.join(map(_cell, cells))} |\n" for cells in lines))
        parts += [f"{_cell(note)}\n" for note in section.notes]
    return "\n".join(parts)


def sections(report: BenchReport, comparison: Comparison | None = None) -> list[Section]:
    """What is worth reading at once, in order."""
    found = [Section("What was measured", ("role", "file", "device", "sha256"), _part_rows(report), _notes(report))]
    found.append(Section("Latency", STATS_HEADER, stats_rows(report), (STATS_NOTE,)))
    if report.served:
        bound_ms = report.options.bound_ms
        rows = server_rows(report.served, bound_ms)
        found.append(Section("Server", SERVER_HEADER, rows, server_notes(report.served, bound_ms)))
        found.append(Section("Bytes of one frame", ("", "size"), size_rows(report)))
        return [*found, *_against(comparison), Section("Inside the timer", notes=inside_the_timer(report))]
    throughput = frames_per_s(report)
    if throughput:
        speeds = [(name, f"{value:.1f}") for name, value in throughput.items()]
        found.append(Section("Throughput", ("series", "frames per second"), speeds))
    rivals = rival_verdicts(report)
    if rivals:
        note = "Against vit: ratio of the latencies in the same round, so that what disturbs both cancels. "
        found.append(Section("Side by side", RIVAL_HEADER, _verdict_rows(rivals), (note + VERDICT_NOTE,)))
    found += _against(comparison)
    found.append(Section("Adaptation tax", TAX_HEADER, tax_rows(report)))
    if "task" in report.parts or "stock" in report.parts:
        title = f"Three ways to {report.options.tasks} tasks"
        found.append(Section(title, WAYS_HEADER, ways_rows(report), (ways_note(report),)))
    found.append(Section("Bytes of one frame", ("", "size"), size_rows(report)))
    found.append(Section("Inside the timer", notes=inside_the_timer(report)))
    return found


def _against(comparison: Comparison | None) -> list[Section]:
    """What an earlier run says."""
    if comparison is None:
        return []
    rows = _verdict_rows(comparison.verdicts)
    found = [Section(f"Against {comparison.path}", VERDICT_HEADER, rows, (VERDICT_NOTE,))]
    if comparison.differences:
        found.append(Section("What differs beside the result", ("", "before", "after"), comparison.differences))
    return found


def machine_sections(report: BenchReport) -> list[Section]:
    """State of the machine before and after, and its environment."""
    before, after = report.machine["before"], report.machine["after"]
    states = [(_words(key), _value(before[key]), _value(after[key])) for key in before]
    threads = {"threads": report.options.threads or "one for each core", "seed": report.options.seed}
    facts = [(_words(key), _value(value)) for key, value in {**threads, **report.environment}.items()]
    return [Section("Machine", ("", "before", "after"), states), Section("Environment", ("", "value"), facts)]


def inside_the_timer(report: BenchReport) -> tuple[str, ...]:
    """What a number holds, and what it does not."""
    what = _frames(report.options.frames)
    lines = [
        f"vit, stock: Engine.infer for {what}: feeds checked, run, outputs handed over; an engine of a fixed batch is "
        "called as often as that takes. Of an engine on a GPU: one launch until the GPU is done, with inputs that lie "
        "there already and outputs that stay there.",
    ]
    if "task" in report.parts:
        lines += [
            f"chain.*: the stages of Runtime.infer for {what}, as it times them; chain.total is their sum, and begins "
            "with frames in memory.",
            "chain.decode: the same frames from JPEG or PNG bytes to pixels; not in chain.total.",
        ]
    if report.served:
        lines.append(
            "vit, stock and chain.total of server: from the arrival of the query to its answer, line included."
        )
    queue = "" if report.served else " There is no queue: a query is sent when the last is answered."
    turns = "" if report.served else " All take turns in a new seeded order each round."
    return (
        *lines,
        f"Outside: opening, warm-up, the golden check, and the comparison of every output with the first one."
        f"{turns}{queue}",
        "ONNX Runtime's threads stop spinning when a run ends, as in every session of the runtime: else they would "
        "slow whichever engine has the next turn.",
    )


def frames_per_s(report: BenchReport) -> dict[str, float]:
    """Frames by second of each whole query; empty but in offline, since elsewhere a query waits for the last."""
    if report.options.scenario != "offline":
        return {}
    whole = [*(role for role in report.parts if role != "task"), "chain.total"]
    means = {name: report.stats[name].mean for name in whole if name in report.stats}
    return {name: report.options.frames * 1e3 / mean for name, mean in means.items()}


def stats_rows(report: BenchReport) -> list[tuple[str, ...]]:
    """One row for each series, under `STATS_HEADER`."""
    return [(name, *_stats(stats)) for name, stats in report.stats.items()]


def title(series: str) -> str:
    """Name of a series for people."""
    name, _, number = series.partition(".")
    return TITLES.get(series) or (f"engine {number}, bare" if number.isdecimal() else f"{name}: {_words(number)}")


def _stats(stats: Stats) -> tuple[str, ...]:
    between = "-" if stats.low is None or stats.high is None else f"{stats.low:.3f} to {stats.high:.3f}"
    return (milliseconds(stats.p50), between, *map(milliseconds, (stats.p90, stats.p95, stats.p99)))


def _verdict_rows(verdicts: Sequence[Verdict]) -> list[tuple[str, ...]]:
    return [
        (
            *(v.series, milliseconds(v.before_ms), milliseconds(v.after_ms), f"{v.ratio:.3f}"),
            "-" if v.low is None or v.high is None else f"{v.low:.3f} to {v.high:.3f}",
            v.word,
        )
        for v in verdicts
    ]


def _part_rows(report: BenchReport) -> list[tuple[str, ...]]:
    return [
        (role, part.name, part.device or "-", part.sha256[:16] if part.sha256 else "-")
        for role, part in report.parts.items()
    ]


def _notes(report: BenchReport) -> tuple[str, ...]:
    options, warmup = report.options, report.warmup
    count = report.stats["vit"].count
    scenario = f"{options.scenario}, {_frames(options.frames)} a query. {SCENARIOS[options.scenario]}"
    known = {None: "as asked for", True: "until latencies settled", False: "and latencies had NOT settled by then"}
    warm = f"Warm-up: {warmup.rounds} rounds, {known[warmup.settled]}."
    notes = [scenario, f"{warm} Then {count} samples of each series."]
    if "task" in report.parts:
        height, width = options.frame_hw
        notes.append(f"Frame: {options.frame or f'random, {width} x {height}'}.")
    if throttled(report.machine["before"], report.machine["after"]):
        notes.append("The CPU was THROTTLED while it was measured: see the machine's counters.")
    return tuple(notes)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return "not readable" if value is None else str(Path(value)) if isinstance(value, Path) else str(value)


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def _words(key: str) -> str:
    return key.replace("_", " ")


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())

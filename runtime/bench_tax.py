"""The adaptation tax: what prompts cost beside the ViT alone, and beside one fine-tuned ViT for each task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pgn_edge.runtime.bench import BenchReport

TAX_HEADER = ("adaptation tax", "p50 ms", "x ViT alone")
WAYS_HEADER = ("", "zero-shot: the ViT alone", "PGN: one ViT, one file a task", "one fine-tuned ViT a task")
WAYS_NOTE = (
    "Memory and loading are measured in this process: of one further task, loaded {tasks} times under other names "
    "(read, verified, opened, held against its golden pair), and of a further ViT engine of the same file, opened "
    "{vits} times with its first run. What stands for several tasks is that times their number; a fine-tuned ViT is "
    "taken to cost what this one costs, without prompt slots. Latency is p50 of the ViT and the PGN alone."
)
NOT_MEASURED = "not measured"
MORE_MEMORY, MORE_TIME = "memory of one more task", "time to load one more task"


@dataclass(frozen=True)
class TaxRow:
    """What one part costs: median in milliseconds and its ratio to the ViT alone; None where it was not measured."""

    part: str
    p50_ms: float | None
    ratio: float | None


def adaptation_tax(report: BenchReport) -> tuple[TaxRow, ...]:
    """Four rows: ViT alone, with prompt slots, PGN, whole chain; none where latencies hold the time in a line."""
    if report.served:
        return ()
    p50 = medians(report)
    parts = {"ViT alone": "stock", "ViT with prompt slots": "vit", "PGN": "chain.pgn", "whole chain": "chain.total"}
    rows = []
    for part, name in parts.items():
        both = name in p50 and "stock" in p50
        rows.append(TaxRow(part, p50.get(name), p50[name] / p50["stock"] if both else None))
    return tuple(rows)


def extra_token_ms(report: BenchReport) -> float | None:
    """What the prompt slots add to the ViT, from medians; None without a stock engine, and where queries queue."""
    p50 = medians(report)
    return p50["vit"] - p50["stock"] if "stock" in p50 and not report.served else None


def tax_rows(report: BenchReport) -> list[tuple[str, ...]]:
    """The adaptation tax, under `TAX_HEADER`."""
    rows: list[tuple[str, ...]] = [
        (row.part, _tax_ms(row), "-" if row.ratio is None else f"{row.ratio:.3f}") for row in adaptation_tax(report)
    ]
    extra = extra_token_ms(report)
    rows.append(("extra tokens", "not measured: give --stock" if extra is None else milliseconds(extra), "-"))
    return rows


def size_rows(report: BenchReport) -> list[tuple[str, str]]:
    """Bytes of one frame by what it is."""
    return [(name, f"{size:,} B") for name, size in report.frame_bytes.items()]


def ways_rows(report: BenchReport) -> list[tuple[str, ...]]:
    """Three ways to several tasks, under `WAYS_HEADER`."""
    costs, count, sizes = report.costs, report.options.tasks, report.frame_bytes
    alone = medians(report).get("stock")
    image = sizes.get("into the ViT alone")
    chain = [report.samples_ms[name] for name in ("chain.pgn", "chain.vit") if name in report.samples_ms]
    rows: list[tuple[str, ...]] = [
        ("ViT and PGN", _ms(alone), _ms(float(np.median(np.sum(chain, axis=0))) if chain else None), _ms(alone)),
        ("bytes into the ViT for a frame", _bytes(image), _bytes(sizes["into the ViT"]), _bytes(image)),
    ]
    if costs is None:
        missing = (NOT_MEASURED, NOT_MEASURED)
        return [*rows, *((what, "-", *missing) for what in (MORE_MEMORY, MORE_TIME, f"memory for {count} tasks"))]
    vit, task = costs.vit_memory_bytes, costs.task_memory_bytes
    both = None if vit is None or task is None else vit + count * task
    every = None if vit is None else count * vit
    files = costs.vit_file_bytes + count * costs.task_file_bytes, count * costs.vit_file_bytes
    load = float(np.median(costs.task_load_ms)), float(np.median(costs.vit_load_ms))
    return [
        *rows,
        (MORE_MEMORY, "-", _megabytes(task), _megabytes(vit)),
        (MORE_TIME, "-", _ms(load[0]), _ms(load[1])),
        (
            f"memory for {count} tasks",
            _megabytes(vit),
            _megabytes(both),
            _megabytes(every),
        ),
        (f"files for {count} tasks", _megabytes(costs.vit_file_bytes), _megabytes(files[0]), _megabytes(files[1])),
    ]


def ways_note(report: BenchReport) -> str:
    """How the numbers of `ways_rows` were found."""
    if report.costs is None:
        return "Memory and loading are measured where --task is given and the engine is a file."
    return WAYS_NOTE.format(tasks=len(report.costs.task_load_ms), vits=len(report.costs.vit_load_ms))


def medians(report: BenchReport) -> dict[str, float]:
    """p50 of each series in milliseconds."""
    return {name: stats.p50 for name, stats in report.stats.items()}


def milliseconds(value: float | None) -> str:
    """A latency, or a dash where there is none."""
    return "-" if value is None else f"{value:.3f}"


def _tax_ms(row: TaxRow) -> str:
    flag = "--stock" if row.part == "ViT alone" else "--task"
    return f"not measured: give {flag}" if row.p50_ms is None else milliseconds(row.p50_ms)


def _ms(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.2f} ms"


def _bytes(value: int | None) -> str:
    return NOT_MEASURED if value is None else f"{value:,} B"


def _megabytes(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value / 1e6:.1f} MB"

"""What the measurements of benchmarks/cpu.py say: ratios, targets, roofline, as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from common import Target, environment_table, markdown_table, targets_table

from pgn_edge.runtime.bench_stats import Stats

EAGER = "torch eager, as the paper's code"
EAGER_BATCH_FIRST = "torch eager, batch first"
COMPILED = "torch.compile"
PLAIN = "ONNX Runtime alone, plain export"
BARE = "ONNX Runtime alone, vit.onnx"
OPENVINO = "OpenVINO"
OPENVINO_INT8 = "OpenVINO, int8 ViT"
CHAIN = "Runtime.infer"
CHAIN_INT8 = "Runtime.infer, int8 ViT"
FROM_CAMERA = ", from 640 x 480"
COPY = "copy"
SETTINGS = (
    "threads spin within a run, as in the Runtime",
    "threads spin on between runs, as by default",
    "threads never spin",
    "one thread",
    "PGN of the next frame beside the ViT, on one thread",
    "the same one after the other",
)

BATCH = 8
OVERHEAD, OVER_EAGER, OVER_EAGER_INT8 = 1.03, 2.0, 6.0
COSINE, OFFLINE_SHARE, TASK_MB, FIRST_S = 0.999, 0.97, 12.0, 1.5

STREAM = (
    "Frames of 640 x 480 one after the other through preprocessing, PGN and float32 ViT, on ONNX Runtime alone. What "
    "does not gain here is not in the Runtime.\n"
)

# What each series multiplies: graphs of the roofline. Torch computes what the plain export has in it.
WORK = {
    EAGER: ("pgn", "plain"),
    EAGER_BATCH_FIRST: ("pgn", "plain"),
    COMPILED: ("pgn", "plain"),
    PLAIN: ("plain",),
    BARE: ("vit",),
    OPENVINO: ("pgn", "vit"),
    CHAIN: ("pgn", "vit"),
    OPENVINO_INT8: ("pgn", "vit int8"),
    CHAIN_INT8: ("pgn", "vit int8"),
}

Document = Mapping[str, Any]


def targets_of(document: Document) -> list[Target]:
    """The issue's targets, of the parts that were measured."""
    targets = []
    if "latency" in document:
        p50 = _medians(document["latency"]["samples_ms"])
        targets += [
            Target(f"chain / {BARE}", p50[CHAIN] / p50[BARE], OVERHEAD, False, "x"),
            Target(f"chain / {PLAIN}", p50[CHAIN] / p50[PLAIN], OVERHEAD, False, "x"),
            Target(f"{EAGER} / chain", p50[EAGER] / p50[CHAIN], OVER_EAGER, True, "x"),
            Target(f"{EAGER} / chain with int8 ViT", p50[EAGER] / p50[CHAIN_INT8], OVER_EAGER_INT8, True, "x"),
        ]
    if "accuracy" in document:
        int8 = document["accuracy"][CHAIN_INT8]
        name = f"cosine to torch with int8 ViT, least of {int8['frames']} pictures"
        targets.append(Target(name, int8["cosine"], COSINE, True, ""))
    if "offline" in document:
        p50 = _medians(document["offline"]["samples_ms"])
        name = f"throughput at batch {BATCH}, chain / ViT alone"
        targets.append(Target(name, p50[BARE] / p50[CHAIN], OFFLINE_SHARE, True, "x"))
    if "memory" in document:
        targets.append(Target("resident memory of a further task", _task_mb(document), TASK_MB, False, "MB"))
    if "first" in document:
        total = document["first"]["samples_s"]["Runtime"]["total"]
        targets.append(Target("first result after process start", float(np.median(total)), FIRST_S, False, "s"))
    return targets


def markdown(document: Document, about: str) -> str:
    """The whole of benchmarks/results/cpu.md.

    Args:
        document: as in cpu.json.
        about: what was measured, and how.
    """
    parts = [f"# The chain on a CPU\n\n{about.strip()}\n", "`python benchmarks/cpu.py`\n", "## Targets\n"]
    parts += [targets_table(document["targets"]), *sections(document)]
    if "roofline" in document:
        parts += ["Products, each alone on ONNX Runtime:\n", products_table(document["roofline"])]
    states = {
        f"{name} {when}": value for when in ("before", "after") for name, value in document[when].items() if value
    }
    return "\n".join([*parts, environment_table({**document["environment"], **states})])


def sections(document: Document) -> list[str]:
    """A heading and a table for each part that was measured."""
    made: dict[str, Callable[[], list[str]]] = {
        "latency": lambda: ["## Latency, batch 1\n", latency_table(document["latency"]), *_skipped(document)],
        "accuracy": lambda: ["## Answers against torch eager\n", _agreement_table(document["accuracy"])],
        "offline": lambda: [f"## Batch {BATCH}\n", _offline_table(document["offline"])],
        "stream": lambda: ["## A stream of frames\n", STREAM, _stream_table(document["stream"])],
        "memory": lambda: ["## Memory\n", _memory_line(document)],
        "first": lambda: ["## First result of a new process\n", _first_table(document["first"])],
        "roofline": lambda: ["## What the machine can reach\n", *_roofline(document)],
    }
    left_out = [part for part in made if part not in document]
    note = [f"Not measured in this run: {', '.join(left_out)}.\n"] if left_out else []
    return note + [text for part, make in made.items() if part in document for text in make()]


def latency_table(latency: Document) -> str:
    """Medians with their interval, tails, and how many times the chain's median each takes."""
    samples = latency["samples_ms"]
    chain = float(np.median(samples[CHAIN]))
    rows = []
    for name, series in samples.items():
        stats, found = Stats.of(series), latency["agreement"].get(name)
        interval = "-" if stats.low is None or stats.high is None else f"{stats.low:.1f} to {stats.high:.1f}"
        p95 = "-" if stats.p95 is None else f"{stats.p95:.1f}"
        answer = "-" if found is None else f"{found['max_abs']:.1e}"
        rows.append((name, f"{stats.p50:.1f}", interval, p95, str(stats.count), f"{stats.p50 / chain:.3f}", answer))
    header = ("ms", "p50", "95 % interval of it", "p95", "samples", "x Runtime.infer", "max abs to torch eager")
    return markdown_table(header, rows)


def _skipped(document: Document) -> list[str]:
    reasons = document["latency"]["skipped"]
    return ["".join(f"- {name}: not measured. {reason}\n" for name, reason in reasons.items())] if reasons else []


def _agreement_table(accuracy: Document) -> str:
    rows = [
        (name, f"{found['cosine']:.6f}", f"{found['max_abs']:.1e}", f"{found['top1_flips']} of {found['frames']}")
        for name, found in accuracy.items()
    ]
    return markdown_table(("", "least cosine", "max abs", "top-1 flips"), rows)


def _offline_table(offline: Document) -> str:
    rows = []
    for name, series in offline["samples_ms"].items():
        p50 = float(np.median(series))
        rows.append((name.replace("infer", "infer_batch"), f"{p50:.1f}", f"{BATCH * 1e3 / p50:.1f}", str(len(series))))
    return markdown_table((f"batch of {BATCH}", "p50, ms", "frames/s", "samples"), rows)


def _stream_table(stream: Document) -> str:
    samples, frames = stream["samples_ms"], stream["frames"]
    ours = float(np.median(samples[SETTINGS[0]]))
    rows = []
    for name in SETTINGS:
        stats = Stats.of([value / frames for value in samples[name]])
        interval = "-" if stats.low is None or stats.high is None else f"{stats.low:.1f} to {stats.high:.1f}"
        rows.append((name, f"{stats.p50:.1f}", interval, f"{stats.p50 * frames / ours:.3f}", str(stats.count)))
    return markdown_table(("ms a frame", "p50", "95 % interval of it", "x the first", "samples"), rows)


def _task_mb(document: Document) -> float:
    resident = document["memory"]["resident_bytes"]
    return float(resident[-1] - resident[0]) / 1e6 / (len(resident) - 1)


def _memory_line(document: Document) -> str:
    resident = document["memory"]["resident_bytes"]
    return (
        f"A process with one task that has answered holds {resident[0] / 1e6:.0f} MB, with {len(resident) - 1} more "
        f"{resident[-1] / 1e6:.0f} MB: {_task_mb(document):.1f} MB for each.\n"
    )


def _first_table(first: Document) -> str:
    programs = first["samples_s"]
    steps = [name for name in next(iter(programs.values())) if name != "total"]
    rows = [
        (program, *(f"{np.median(series[name]):.3f}" for name in (*steps, "total")), str(len(series["total"])))
        for program, series in programs.items()
    ]
    return markdown_table(("seconds, p50", *steps, "total", "starts"), rows)


@dataclass(frozen=True)
class Ceilings:
    """The fastest that was seen, in multiply-adds a millisecond; and bytes copied a millisecond, read and written."""

    float32: float
    int8: float
    copied: float

    @classmethod
    def of(cls, roofline: Document) -> Ceilings:
        """From the samples."""
        p50 = _medians(roofline["samples_ms"])
        rates: dict[bool, list[float]] = {False: [], True: []}
        for name, product in roofline["products"].items():
            rates[product["integers"]].append(product["multiply_adds"] / p50[name])
        return cls(max(rates[False]), max(rates[True]), roofline["copy_bytes"] / p50[COPY])

    def least_ms(self, roofline: Document, graphs: Sequence[str]) -> float:
        """Time of the multiply-adds of some graphs at the ceilings."""
        kinds = (_multiply_adds(roofline, graphs, integers) for integers in (False, True))
        return sum(count / rate for count, rate in zip(kinds, (self.float32, self.int8), strict=True))


def _multiply_adds(roofline: Document, graphs: Sequence[str], integers: bool) -> int:
    products = roofline["products"].values()
    return sum(p["count"] * p["multiply_adds"] for p in products if p["graph"] in graphs and p["integers"] == integers)


def _roofline(document: Document) -> list[str]:
    roofline = document["roofline"]
    ceilings, p50 = Ceilings.of(roofline), _medians(roofline["samples_ms"])
    rows = []
    for graph, size in roofline["file_bytes"].items():
        alone = sum(p50[name] * p["count"] for name, p in roofline["products"].items() if p["graph"] == graph)
        counts = (_multiply_adds(roofline, (graph,), integers) / 1e9 for integers in (False, True))
        least = ceilings.least_ms(roofline, (graph,))
        read = size / ceilings.copied
        times = (least, alone, p50[graph], read)
        rows.append((graph, *(f"{count:.3f}" for count in counts), *(f"{ms:.1f}" for ms in times)))
    times_of = ("ms at the ceilings", "ms, its products alone", "ms, the graph", "ms to copy its file")
    header = ("multiply-adds", "float32, 10⁹", "int8, 10⁹", *times_of)
    text = [
        f"Measured ceilings, 10⁹ multiply-adds a second: {ceilings.float32 / 1e6:.0f} in float32, "
        f"{ceilings.int8 / 1e6:.0f} in int8; {ceilings.copied / 1e6:.1f} GB/s copied. Multiply-adds are counted in the "
        "graphs while they run; each product of a graph is also timed alone, in turns with the graph.\n",
        markdown_table(header, rows),
    ]
    return text + (_shares(document, ceilings) if "latency" in document else [])


def _shares(document: Document, ceilings: Ceilings) -> list[str]:
    p50, roofline = _medians(document["latency"]["samples_ms"]), document["roofline"]
    rows = []
    for name, graphs in WORK.items():
        if name in p50:
            least = ceilings.least_ms(roofline, graphs)
            rows.append((name, f"{least:.1f}", f"{p50[name]:.1f}", f"{least / p50[name]:.0%}"))
    most = [p50[EAGER] / ceilings.least_ms(roofline, WORK[name]) for name in (CHAIN, CHAIN_INT8)]
    return [
        markdown_table(("share of the ceilings", "ms at the ceilings", "p50, ms", "share"), rows),
        f"Torch eager takes {most[0]:.2f} times as long as the multiply-adds of the chain at the ceilings, and "
        f"{most[1]:.2f} times as long as those of the chain with the int8 ViT: on this machine a runtime of the same "
        "arithmetic gains no more on it, unless it multiplies faster than ONNX Runtime does.\n",
    ]


def products_table(roofline: Document) -> str:
    """Each kind of product of our ViT graphs, and the square ones."""
    p50 = _medians(roofline["samples_ms"])
    rows = [
        (
            name,
            str(product["count"] or "-"),
            f"{product['multiply_adds'] / 1e6:.1f}",
            f"{p50[name]:.3f}",
            f"{product['multiply_adds'] / p50[name] / 1e6:.0f}",
        )
        for name, product in roofline["products"].items()
        if product["graph"] not in ("pgn", "plain")
    ]
    return markdown_table(("product; * is constant", "in the graph", "10⁶ multiply-adds", "p50, ms", "10⁹/s"), rows)


def _medians(samples: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: float(np.median(series)) for name, series in samples.items()}

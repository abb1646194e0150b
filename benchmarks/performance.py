"""Write docs/performance.md from the results that are committed under benchmarks/results; nothing on it is typed in."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cpu_report
import numpy as np
from common import HEADER, RESULTS, Target, markdown_table, stats_row, targets_table

from pgn_edge.files import write_text
from pgn_edge.runtime.bench_stats import Stats

PAGE = Path(__file__).parents[1] / "docs/performance.md"
LINK = "../benchmarks/results"
ABOUT = """# Measured speed

This page is made by `make performance` from the JSON files in [benchmarks/results](../benchmarks/results/), which hold
every raw sample, the machine and the command. Each table names its command. What is compared was measured in turns in
one run; ratios are of medians, with CLIP ViT-B/32, 16 prompts and seeded random weights. A target that was missed
says so.
"""

Document = Mapping[str, Any]


def page(results: Path) -> str:
    """The whole page.

    Args:
        results: folder of the JSON files.
    """
    sections = {
        "cpu": ("The chain on a CPU, against its peers", _cpu),
        "chain": ("The chain against ONNX Runtime alone", _chain),
        "batching": ("Many cameras in one pass", _batching),
        "swap": ("Swapping a task under frames", _swap),
        "soak": ("A long run", _targets),
        "cameras": ("Cameras that go away", _targets),
        "remote": ("A served ViT", _targets),
        "service": ("A ViT behind an HTTP service", _targets),
        "training": ("Training", _training),
        "startup": ("Startup", _startup),
        "export_speed": ("What an export costs", _export_speed),
        "export_table": ("Exports at true size", _export_table),
    }
    parts = [ABOUT]
    for name, (title, make) in sections.items():
        path = results / f"{name}.json"
        parts.append(f"## {title}\n")
        if path.exists():
            document = json.loads(path.read_text())
            parts += [*make(document), _source(name, document)]
        else:
            parts.append(f"No results are committed yet. `python benchmarks/{name}.py` makes them.\n")
    return "\n".join([*parts, "## GPU\n", *_gpu(results)])


def _source(name: str, document: Document) -> str:
    machine = document["environment"]
    return (
        f"`python benchmarks/{machine['command']}`, [all of it]({LINK}/{name}.md): {machine['cpu']}, "
        f"{machine['usable_cores']} cores, load average {machine['load_average'][0]} at the start, "
        f"ONNX Runtime {machine['onnxruntime']}, "
        f"Python {machine['python']}, {machine['started'][:10]}.\n"
    )


def _cpu(document: Document) -> list[str]:
    inner = [f"#{text}" if text.startswith("## ") else text for text in cpu_report.sections(document)]
    return [targets_table(document["targets"]), *inner]


def _targets(document: Document) -> list[str]:
    return [targets_table(document["targets"])]


def _batching(document: Document) -> list[str]:
    rows = [
        (model, *(f"{one['median']:.3f}" for one in found["gain"].values()))
        for model, found in document["models"].items()
    ]
    ways = next(iter(document["models"].values()))["gain"]
    return [
        *_targets(document),
        "How many times as fast in batches of eight. The ViT alone bounds what a scheduler can gain, and its matrix "
        "products bound the ViT:\n",
        markdown_table(("", *ways), rows),
    ]


def _swap(document: Document) -> list[str]:
    models = document["models"]
    kinds = next(iter(models.values()))["pauses_ms"]
    rows = [(kind, *(f"{model['pauses_ms'][kind]:.2f}" for model in models.values())) for kind in kinds]
    return [
        *_targets(document),
        "Milliseconds between two answers beyond the median of frames alone, while something is always being loaded. "
        "A neighbour is another runtime of the process: what its loading costs, any work on these cores would.\n",
        markdown_table(("pause", *models), rows),
    ]


def _training(document: Document) -> list[str]:
    rows = [stats_row(name, series, 3) for name, series in document["samples_s"].items()]
    return [*_targets(document), "Seconds a step:\n", markdown_table(HEADER, rows)]


def _chain(document: Document) -> list[str]:
    target, ratio = document["target"], document["ratio"]
    targets = [Target(f"{name} / bare session", value, target, False, "x") for name, value in ratio.items()]
    rows = [stats_row(name, series) for name, series in document["samples_ms"].items()]
    return [targets_table([t.to_json() for t in targets]), "Milliseconds:\n", markdown_table(HEADER, rows)]


def _startup(document: Document) -> list[str]:
    samples = document["samples_s"]
    targets = [
        Target(f"`{name}`, p50", float(np.median(samples[name])), limit, False, "s")
        for name, limit in document["targets_s"].items()
    ]
    return [targets_table([target.to_json() for target in targets])]


def _export_speed(document: Document) -> list[str]:
    limits, runs = document["targets"], document["exports"]
    targets = [
        Target("`pgn-edge export --fp16`, slowest run", max(r["seconds"] for r in runs), limits["seconds"], False, "s"),
        Target("its peak memory, largest run", max(r["gigabytes"] for r in runs), limits["gigabytes"], False, "GB"),
        Target("PGN engine / ViT engine, p50", document["share"], limits["share"], False, "x"),
    ]
    return [targets_table([target.to_json() for target in targets])]


def _export_table(document: Document) -> list[str]:
    rows = document["rows"]
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        count = counts.setdefault(row["precision"], Counter())
        count["exported"] += "refused" not in row
        count["within"] += bool(row.get("within"))
        plans = [row.get("pgn_plan"), row["vit_plan"]]
        count["built"] += sum(plan is not None and not plan.startswith("failed") for plan in plans)
        count["failed"] += sum(plan is not None and plan.startswith("failed") for plan in plans)
        count["all"] += 1
    cells = [
        (name, *(str(count[key]) for key in ("all", "exported", "within", "built", "failed")))
        for name, count in counts.items()
    ]
    backbones = len({row["backbone"] for row in rows})
    return [
        f"{backbones} backbones, both layouts, both library spaces. What cannot be inverted is refused. Weights are "
        "random and frames few, so that one flipped class is outside the limits: the full table has the cosines.\n",
        markdown_table(
            ("precision", "tasks", "exported", "within limits of torch", "TensorRT-RTX plans built", "failed"), cells
        ),
    ]


def _gpu(results: Path) -> list[str]:
    chain, roofline, training = (results / "gpu" / f"{name}.json" for name in ("chain", "roofline", "training"))
    parts = []
    if chain.exists():
        document = json.loads(chain.read_text())
        parts.append(targets_table(document["targets"]))
        for batch, measured in document["batches"].items():
            rows = [stats_row(name, series, 3) for name, series in measured["samples_ms"].items()]
            parts += [f"Batch {batch}, milliseconds:\n", markdown_table(HEADER, rows)]
            parts += [f"{name}: not measured. {reason}\n" for name, reason in measured["skipped"].items()]
        parts.append(_gpu_source("chain", document))
    if roofline.exists():
        document = json.loads(roofline.read_text())
        rates = [(name, f"{Stats.of(series).p50:.3f}") for name, series in document["samples_ms"].items()]
        parts += [markdown_table(("ceiling", "p50, ms"), rates), _gpu_source("roofline", document)]
    if training.exists():
        document = json.loads(training.read_text())
        parts += ["Training:\n", *_training(document), _gpu_source("training", document)]
    missing = [path.stem for path in (chain, roofline, training) if not path.exists()]
    if missing:
        what = "No GPU results" if not parts else f"No results of gpu/{', gpu/'.join(missing)}"
        parts.append(f"{what} are committed yet. `make benchmarks-gpu` makes them on a machine with an NVIDIA GPU.\n")
    return parts


def _gpu_source(name: str, document: Document) -> str:
    machine = document["environment"]
    gpus = "; ".join(machine["gpus"] or [])
    script = name if name == "training" else f"gpu/{name}"  # training takes any device
    command = machine["command"].partition(" ")[2]
    return (
        f"`{f'python benchmarks/{script}.py {command}'.rstrip()}`, [all of it]({LINK}/gpu/{name}.md): {gpus}, "
        f"{machine['started'][:10]}.\n"
    )


def main() -> None:
    """Write the page."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--results", type=Path, default=RESULTS, help="folder of the results; default: %(default)s")
    arguments.add_argument("--output", type=Path, default=PAGE, help="the page; default: %(default)s")
    given = arguments.parse_args()
    write_text(given.output, page(given.results))


if __name__ == "__main__":
    main()

"""Tables and plot of `transport.py`, from whatever results there are."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import HEADER, environment_table, markdown_table, stats_row, write_results
from transport_plan import FLOAT, LATENCY, LIBRARIES, TASKS, TRANSPORTS, jobs

from pgn_edge.files import write_bytes
from pgn_edge.runtime.environment import describe_environment

SHOWN = (FLOAT, *TRANSPORTS)
MARKERS, LINES = {"append": "o", "inset": "s"}, {"append": "-", "inset": "--"}

Run = Mapping[str, Any]
Variant = tuple[str, str, str | None]  # layout, library space, transport that it was trained for


def report(runs: Path, output: Path, about: str) -> None:
    """Write what the results come to.

    Args:
        runs: folder of the results.
        output: folder of the tables and the plot.
        about: what was measured.

    Raises:
        RuntimeError: there are none, or they are of several budgets.
    """
    paths = [runs / f"{job.name}.json" for job in jobs()]
    found = [json.loads(path.read_text()) for path in paths if path.exists()]
    budgets = {json.dumps(each["budget"], sort_keys=True) for each in found}
    if len(budgets) != 1:
        raise RuntimeError(f"{runs}: expected results of one budget, got {len(budgets)}: run --train first")
    latency = json.loads((runs / LATENCY).read_text()) if (runs / LATENCY).exists() else None
    document = {"benchmark": "transport", "environment": describe_environment(), "runs": found, "latency": latency}
    write_results(output, "transport", document, _markdown(document, about, len(paths)))
    write_bytes(output / "transport.png", plot_png(found, latency))


def variants(runs: Iterable[Run]) -> list[Variant]:
    """Each once, in the order of the runs."""
    return list(dict.fromkeys((each["job"]["layout"], each["job"]["space"], each["job"]["trained"]) for each in runs))


def of(runs: Iterable[Run], variant: Variant, task: str | None = None) -> list[Run]:
    """The runs of one variant, one for each seed; of all tasks for None."""
    return [
        each
        for each in runs
        if (each["job"]["layout"], each["job"]["space"], each["job"]["trained"]) == variant
        and task in (None, each["job"]["task"])
    ]


def accuracy(runs: Sequence[Run], name: str) -> np.ndarray:
    """Test accuracy of each run behind one transport, percent."""
    return np.array([100 * each["right"][name] / each["images"] for each in runs])


def spread(values: np.ndarray) -> float:
    """Standard deviation over the seeds; 0 of one seed."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def title(variant: Variant) -> str:
    """In words."""
    layout, space, trained = variant
    return f"{layout}, {space}" + ("" if trained is None else f", trained for {trained}")


def _table(
    first: str, variants: Sequence[Variant], more: tuple[str, ...], cells: Callable[[Variant], list[str]]
) -> str:
    header = (first, "library", "trained for", *more)
    rows = [(layout, space, trained or "", *cells((layout, space, trained))) for layout, space, trained in variants]
    return markdown_table(header, [row for row in rows if row[3:]])


def _accuracies(runs: Sequence[Run], task: str) -> str:
    def cells(variant: Variant) -> list[str]:
        own = of(runs, variant, task)
        if not own:
            return []
        columns = [accuracy(own, name) for name in SHOWN]
        illegal = np.mean([each["illegal"] for each in own])
        return [*(f"{column.mean():.1f} ± {spread(column):.1f}" for column in columns), f"{illegal:.1%}", str(len(own))]

    more = (*("as floats", *TRANSPORTS), "illegal pixels", "seeds")
    return f"`{task}`, {_images(runs, task)} test images:\n\n" + _table("layout", variants(runs), more, cells)


def _images(runs: Sequence[Run], task: str) -> int:
    """Test images of a task; 0 where no run is of it."""
    return next((each["images"] for each in runs if each["job"]["task"] == task), 0)


def _bytes(runs: Sequence[Run]) -> str:
    def cells(variant: Variant) -> list[str]:
        own = of(runs, variant)
        height, width = own[0]["canvas_hw"]
        means = (np.mean([each["bytes"][name] for each in own]) for name in TRANSPORTS)
        return [str(12 * height * width), str(3 * height * width), *(f"{mean:.0f}" for mean in means)]

    return _table("layout", variants(runs), ("float32", "uint8", *TRANSPORTS), cells)


def _latency(latency: Mapping[str, Any]) -> str:
    rows = [stats_row(name, series, 3) for name, series in latency["samples_ms"].items()]
    return f"{latency['about']}\n\n" + markdown_table(HEADER, rows)


def _markdown(document: Mapping[str, Any], about: str, planned: int) -> str:
    runs, latency, budget = document["runs"], document["latency"], document["runs"][0]["budget"]
    machines = sorted({f"{each['device']}, torch {each['torch']}" for each in runs})
    own = {key: runs[0]["environment"][key] for key in ("cpu", "cores", "python", "numpy", "pgn_edge")}
    parts = [
        f"# Canvases behind codecs\n\n{about}".rstrip() + "\n",
        f"{len(runs)} of {planned} runs: {budget['epochs']} epochs, after {budget['warm_start']} without the ViT.\n",
        "![Accuracy against latency, and against bytes](transport.png)\n",
        "Test accuracy in percent, mean and standard deviation over the seeds. `illegal pixels` is the share of the "
        "prompts' pixels that PNG has no level for.\n",
        *(_accuracies(runs, task) for task in TASKS if _images(runs, task)),
        "Bytes of one canvas, mean of all runs of a row:\n",
        _bytes(runs),
        *([] if latency is None else ["Latency in milliseconds:\n", _latency(latency)]),
        "Trained and judged on:\n",
        environment_table({"device": "; ".join(machines), **own}),
        *([] if latency is None else ["Latency measured on:\n", environment_table(latency["environment"])]),
    ]
    return "\n".join(parts)


def plot_png(runs: Sequence[Run], latency: Mapping[str, Any] | None) -> bytes:
    """For each task: what a layout costs and gives, and what each transport leaves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.5 * len(TASKS)), layout="constrained", dpi=110)
    panels = figure.subplots(len(TASKS), 2, squeeze=False)
    for (left, right), task in zip(panels, TASKS, strict=True):
        _draw_layouts(left, runs, task, latency)
        _draw_transports(right, runs, task)
    figure.legend(*panels[0][1].get_legend_handles_labels(), loc="outside right upper")
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _draw_layouts(axes: Any, runs: Sequence[Run], task: str, latency: Mapping[str, Any] | None) -> None:
    for variant in variants(runs):
        own, (layout, *library) = of(runs, variant, task), variant
        if not own:
            continue
        cost = own[0]["tokens"] if latency is None else float(np.median(latency["samples_ms"][f"{layout}, uint8"]))
        values = accuracy(own, "png")
        number = LIBRARIES.index(tuple(library))
        beside = cost * (1 + 0.004 * number)  # else they would hide one another
        axes.errorbar(beside, values.mean(), spread(values), fmt=MARKERS[layout], color=f"C{number}", capsize=3)
    unit = "patch tokens" if latency is None else "ms a frame, uint8 canvas"
    axes.set(title=f"{task}: append (o) and inset (□)", xlabel=unit, ylabel="test accuracy as PNG, %")


def _draw_transports(axes: Any, runs: Sequence[Run], task: str) -> None:
    for variant in variants(runs):
        own, (layout, *library) = of(runs, variant, task), variant
        if not own:
            continue
        size = [np.mean([each["bytes"][name] for each in own]) / 1000 for name in TRANSPORTS]
        height = [accuracy(own, name).mean() for name in TRANSPORTS]
        order = np.argsort(size)
        style = {"color": f"C{LIBRARIES.index(tuple(library))}", "marker": MARKERS[layout], "label": title(variant)}
        axes.plot(np.array(size)[order], np.array(height)[order], LINES[layout], **style)
    axes.set(title=f"{task}: through {', '.join(TRANSPORTS)}", xlabel="kB a frame", xscale="log")
    axes.grid(alpha=0.3)

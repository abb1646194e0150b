"""Plots of a bench report as PNG."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from pgn_edge.errors import MissingExtraError
from pgn_edge.plots import plot_name, render_png
from pgn_edge.runtime.bench import BenchReport
from pgn_edge.runtime.bench_report import TITLES, title
from pgn_edge.runtime.bench_tax import extra_token_ms, medians

COLOURS = {
    "vit": "#2f6db3",
    "stock": "#7a8794",
    "chain.decode": "#8a6bb0",
    "chain.preprocess": "#e0a030",
    "chain.pgn": "#c8442f",
    "chain.vit": "#5b94cf",
    "chain.head": "#5d9b57",
    "chain.total": "#3b3f8f",
}
OTHERS = ("#b0416e", "#2a8c82", "#9c7a1e", "#4f5b66")  # further engines, and stages that only some engines report
BAR_COLOURS = {
    "ViT": COLOURS["chain.vit"],
    "extra tokens": "#a9cbee",
    "decode": COLOURS["chain.decode"],
    "preprocess": COLOURS["chain.preprocess"],
    "PGN": COLOURS["chain.pgn"],
    "head": COLOURS["chain.head"],
}
DPI = 150
COLUMNS = 4


def require_matplotlib() -> None:
    """Refuse before a long run what the plots would refuse after it.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "plots")


def stages_png(report: BenchReport) -> bytes:
    """A PNG with one bar for each engine and the chain, made of its stages.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require_matplotlib()
    bars = _bars(report)
    first = bars[0][1]
    figure = _figure(1.1 + 0.75 * len(bars))
    axes = figure.subplots()
    named: set[str] = set()
    for row, (_, median, parts) in enumerate(bars):
        left = 0.0
        for label, width in parts:
            # Matplotlib leaves labels with an underscore out of the legend: each part is named there once.
            legend = f"_{label}" if label in named else label
            axes.barh(row, width, 0.6, left, color=BAR_COLOURS[label], label=legend, edgecolor="white")
            named.add(label)
            left += width
        ratio = f"  ({median / first:.2f} x)" if row else ""
        axes.text(left, row, f"  {median:.2f} ms{ratio}", va="center", fontsize=9)
    axes.axvline(first, color="#57606a", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars])
    axes.invert_yaxis()
    axes.set_xlim(0, max(sum(width for _, width in parts) for _, _, parts in bars) * 1.22)
    axes.set_xlabel("median latency (ms)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=6, frameon=False, fontsize=9)
    _quiet(axes)
    return render_png(figure)


def histograms_png(report: BenchReport) -> bytes:
    """A PNG with one histogram for each series.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require_matplotlib()
    names = sorted(report.samples_ms, key=lambda name: list(TITLES).index(name) if name in TITLES else len(TITLES))
    columns = min(len(names), COLUMNS)
    rows = -(-len(names) // columns)
    figure = _figure(0.4 + 2.2 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        stats, series = report.stats[name], report.samples_ms[name]
        shown = [value for value in series if value <= 2 * float(np.percentile(series, 95))]
        axes.hist(shown, bins=min(40, max(8, len(shown) // 5)), color=_colour(report, name))
        axes.axvline(stats.p50, color="#1b1f24", linewidth=1.2)
        tail = ""
        if stats.p95 is not None:
            axes.axvline(stats.p95, color="#1b1f24", linewidth=1.2, linestyle="--")
            tail = f", p95 {stats.p95:.2f}"
        axes.set_title(f"{title(name)}\np50 {stats.p50:.2f}{tail} ms", fontsize=9)
        axes.set_xlabel("latency (ms)", fontsize=8)
        axes.set_ylabel("samples", fontsize=8)
        axes.tick_params(labelsize=8)
        _quiet(axes)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    return render_png(figure)


def timeline_png(report: BenchReport) -> bytes:
    """A PNG with every sample of each whole query over time.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require_matplotlib()
    figure = _figure(2.9)
    axes = figure.subplots()
    for name in [name for name in ("chain.total", *report.parts) if name in report.samples_ms]:
        colour = _colour(report, name)
        starts = report.samples.starts_s[name]
        axes.plot(
            starts, report.samples_ms[name], color=colour, linewidth=0.9, alpha=0.85, label=plot_name(title(name))
        )
        axes.axhline(report.stats[name].p50, color=colour, linewidth=1, linestyle="--")
    axes.set_xlabel("time since the first round (s)")
    axes.set_ylabel("latency (ms)")
    axes.margins(x=0)
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False, fontsize=9)
    _quiet(axes)
    return render_png(figure)


def _bars(report: BenchReport) -> list[tuple[str, float, list[tuple[str, float]]]]:
    """Bars from top to bottom: name, its own median in ms, and its parts as (label, median in ms)."""
    p50, extra = medians(report), extra_token_ms(report)

    def vit(total: float) -> list[tuple[str, float]]:
        # Where the slots cost nothing that can be measured there is no second part to draw.
        split = extra is not None and 0 < extra < total
        return [("ViT", total - extra), ("extra tokens", extra)] if split and extra else [("ViT", total)]

    slots = "ViT with\nprompt slots" if "stock" in p50 or "chain.total" in p50 else "engine"
    bars = [(slots, p50["vit"], vit(p50["vit"]))]
    if "stock" in p50:
        bars.insert(0, ("ViT alone", p50["stock"], [("ViT", p50["stock"])]))
    rivals = [role for role in report.parts if role.startswith("vit.")]
    bars += [(title(role).removesuffix(", bare"), p50[role], [("ViT", p50[role])]) for role in rivals]
    if "chain.total" in p50:
        before = [("preprocess", p50["chain.preprocess"]), ("PGN", p50["chain.pgn"])]
        after = [("head", p50["chain.head"])]
        bars.append(("whole chain", p50["chain.total"], [*before, *vit(p50["chain.vit"]), *after]))
        bars.append(("decode, before\nthe chain", p50["chain.decode"], [("decode", p50["chain.decode"])]))
    return bars


def _colour(report: BenchReport, series: str) -> str:
    others = [name for name in report.samples_ms if name not in COLOURS]
    return COLOURS.get(series) or OTHERS[others.index(series) % len(OTHERS)]


def _figure(height: float) -> Any:
    # Not pyplot: it keeps figures alive and may look for a display.
    from matplotlib.figure import Figure

    return Figure(figsize=(9.4, height), dpi=DPI, layout="constrained")


def _quiet(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="both", color="#e6e9ec", linewidth=0.8)
    axes.set_axisbelow(True)

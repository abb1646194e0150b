"""A bench report as JSON, as rows of a table, and as a page with plots."""

from __future__ import annotations

import importlib.util
import io
from dataclasses import asdict, dataclass
from typing import Any

from pgn_edge.errors import MissingExtraError
from pgn_edge.html import heading, page, paragraph, picture, table
from pgn_edge.runtime.bench import BenchReport

SCHEMA = 1
STATS_HEADER = ("series", "p50 ms", "p95 ms", "p99 ms", "mean ms", "min ms", "samples")
TAX_HEADER = ("adaptation tax", "p50 ms", "x ViT alone")
METHOD = (
    "In the timer of vit and stock: one call of Engine.infer at batch 1 (feeds checked, session run, outputs handed "
    "over). In the timers of chain.*: the stages of Runtime.infer as it times them itself; the total is their sum. "
    "Outside: opening, warm-up, the golden check, and the comparison of every output with the first one. The engines "
    "take turns in a new seeded order each round. ONNX Runtime's threads stop spinning when a run ends, here as in "
    "every session of the runtime: else they would slow whichever engine has the next turn."
)
TITLES = {  # in the order of the panels
    "chain.total": "chain: total",
    "vit": "ViT with prompt slots, bare",
    "stock": "ViT alone, bare",
    "chain.preprocess": "chain: preprocess",
    "chain.pgn": "chain: PGN",
    "chain.vit": "chain: ViT",
    "chain.head": "chain: head",
}
COLOURS = {
    "vit": "#2f6db3",
    "stock": "#7a8794",
    "chain.preprocess": "#e0a030",
    "chain.pgn": "#c8442f",
    "chain.vit": "#5b94cf",
    "chain.head": "#5d9b57",
    "chain.total": "#3b3f8f",
}
BAR_COLOURS = {
    "ViT": COLOURS["chain.vit"],
    "extra tokens": "#a9cbee",
    "preprocess": COLOURS["chain.preprocess"],
    "PGN": COLOURS["chain.pgn"],
    "head": COLOURS["chain.head"],
}
DPI = 150
PAGE_WIDTH = 980  # pixels in the page; the plots are drawn larger, for screens of twice the density


@dataclass(frozen=True)
class TaxRow:
    """What one part costs: median in milliseconds and its ratio to the ViT alone; None where it was not measured."""

    part: str
    p50_ms: float | None
    ratio: float | None


def adaptation_tax(report: BenchReport) -> tuple[TaxRow, ...]:
    """Four rows: ViT alone, with prompt slots, PGN, whole chain."""
    p50 = _medians(report)
    parts = {"ViT alone": "stock", "ViT with prompt slots": "vit", "PGN": "chain.pgn", "whole chain": "chain.total"}
    rows = []
    for part, name in parts.items():
        both = name in p50 and "stock" in p50
        rows.append(TaxRow(part, p50.get(name), p50[name] / p50["stock"] if both else None))
    return tuple(rows)


def extra_token_ms(report: BenchReport) -> float | None:
    """What the prompt slots add to the ViT, from medians; None without a stock engine."""
    p50 = _medians(report)
    return p50["vit"] - p50["stock"] if "stock" in p50 else None


def bench_json(report: BenchReport) -> dict[str, Any]:
    """A JSON object with everything: summary, tax, environment and every raw sample."""
    return {
        "schema": SCHEMA,
        "engine": report.engine,
        "task": report.task,
        "stock": report.stock,
        "options": asdict(report.options),
        "devices": dict(report.devices),
        "environment": dict(report.environment),
        "method": METHOD,
        "stats_ms": {name: asdict(stats) for name, stats in report.stats.items()},
        "adaptation_tax": [asdict(row) for row in adaptation_tax(report)],
        "extra_token_ms": extra_token_ms(report),
        "bytes_per_frame": report.input_bytes,
        "samples_ms": {name: list(series) for name, series in report.samples_ms.items()},
    }


def stats_rows(report: BenchReport) -> list[tuple[str, ...]]:
    """One row for each series, under `STATS_HEADER`."""
    return [
        (name, *(_ms(value) for value in (s.p50, s.p95, s.p99, s.mean, s.min)), str(s.count))
        for name, s in report.stats.items()
    ]


def tax_rows(report: BenchReport) -> list[tuple[str, ...]]:
    """The adaptation tax, under `TAX_HEADER`."""
    rows: list[tuple[str, ...]] = [
        (row.part, _tax_ms(row), "-" if row.ratio is None else f"{row.ratio:.3f}") for row in adaptation_tax(report)
    ]
    extra = extra_token_ms(report)
    rows.append(("extra tokens", "not measured: give --stock" if extra is None else _ms(extra), "-"))
    rows.append(("bytes per frame", f"{report.input_bytes:,} B", "-"))
    return rows


def require_matplotlib() -> None:
    """Refuse before a long run what `bench_html` would refuse after it.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "plots")


def bench_html(report: BenchReport) -> str:
    """A self-contained page with tables and plots.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require_matplotlib()
    parts = [
        paragraph(_summary(report)),
        heading("Adaptation tax"),
        table(TAX_HEADER, tax_rows(report)),
        picture(
            _stages_png(report),
            "Median of each bar, and of each part on its own: parts need not add up exactly. Dashed: the first bar.",
            width=PAGE_WIDTH,
        ),
        heading("Latency"),
        table(STATS_HEADER, stats_rows(report)),
        picture(
            histograms_png(report),
            "Latency of each series; the solid line is p50, the dashed one p95. Samples beyond twice p95 are left out.",
            width=PAGE_WIDTH,
        ),
        picture(_timeline_png(report), "Every sample in the order of measurement.", width=PAGE_WIDTH),
        heading("Method"),
        paragraph(METHOD),
        heading("Environment"),
        table(("", "value"), _environment_rows(report)),
    ]
    return page("Latency of a ViT engine" if report.task is None else "Latency of a ViT engine and its task", parts)


def _medians(report: BenchReport) -> dict[str, float]:
    return {name: stats.p50 for name, stats in report.stats.items()}


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _tax_ms(row: TaxRow) -> str:
    flag = "--stock" if row.part == "ViT alone" else "--task"
    return f"not measured: give {flag}" if row.p50_ms is None else _ms(row.p50_ms)


def _summary(report: BenchReport) -> str:
    files = [f"engine {report.engine}"]
    files += [f"task {report.task}"] if report.task else []
    files += [f"stock {report.stock}"] if report.stock else []
    options = report.options
    height, width = options.frame_hw
    frame = f", frame {width} x {height}" if report.task else ""
    return f"{'; '.join(files)}. {options.samples} samples of each after {options.warmup} warm-up rounds{frame}."


def _environment_rows(report: BenchReport) -> list[tuple[str, str]]:
    devices = {f"device of {name}": device for name, device in report.devices.items()}
    threads = {"threads": report.options.threads or "one for each core"}
    facts = {**devices, **threads, **report.environment}
    return [(key.replace("_", " "), "not readable" if value is None else str(value)) for key, value in facts.items()]


def _bars(report: BenchReport) -> list[tuple[str, float, list[tuple[str, float]]]]:
    """Bars from top to bottom: name, its own median in ms, and its parts as (label, median in ms)."""
    p50, extra = _medians(report), extra_token_ms(report)

    def vit(total: float) -> list[tuple[str, float]]:
        # Where the slots cost nothing that can be measured there is no second part to draw.
        split = extra is not None and 0 < extra < total
        return [("ViT", total - extra), ("extra tokens", extra)] if split and extra else [("ViT", total)]

    bars = [("ViT with\nprompt slots", p50["vit"], vit(p50["vit"]))]
    if "stock" in p50:
        bars.insert(0, ("ViT alone", p50["stock"], [("ViT", p50["stock"])]))
    if "chain.total" in p50:
        before = [("preprocess", p50["chain.preprocess"]), ("PGN", p50["chain.pgn"])]
        after = [("head", p50["chain.head"])]
        bars.append(("whole chain", p50["chain.total"], [*before, *vit(p50["chain.vit"]), *after]))
    return bars


def _stages_png(report: BenchReport) -> bytes:
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
    axes.set_xlim(0, max(median for _, median, _ in bars) * 1.22)
    axes.set_xlabel("median latency (ms)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5, frameon=False, fontsize=9)
    _quiet(axes)
    return _png(figure)


def histograms_png(report: BenchReport) -> bytes:
    """A PNG with one histogram for each series.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require_matplotlib()
    names = sorted(report.samples_ms, key=list(TITLES).index)
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    figure = _figure(0.4 + 2.2 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        stats, series = report.stats[name], report.samples_ms[name]
        shown = [value for value in series if value <= 2 * stats.p95]
        axes.hist(shown, bins=min(40, max(8, len(shown) // 5)), color=COLOURS[name])
        axes.axvline(stats.p50, color="#1b1f24", linewidth=1.2)
        axes.axvline(stats.p95, color="#1b1f24", linewidth=1.2, linestyle="--")
        axes.set_title(f"{TITLES[name]}\np50 {stats.p50:.2f}, p95 {stats.p95:.2f} ms", fontsize=9)
        axes.set_xlabel("latency (ms)", fontsize=8)
        axes.set_ylabel("samples", fontsize=8)
        axes.tick_params(labelsize=8)
        _quiet(axes)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    return _png(figure)


def _timeline_png(report: BenchReport) -> bytes:
    figure = _figure(2.9)
    axes = figure.subplots()
    series = [name for name in ("chain.total", "vit", "stock") if name in report.samples_ms]
    for name in series:
        colour = COLOURS[name]
        axes.plot(report.samples_ms[name], color=colour, linewidth=0.9, alpha=0.85, label=TITLES[name])
        axes.axhline(report.stats[name].p50, color=colour, linewidth=1, linestyle="--")
    axes.set_xlabel("sample")
    axes.set_ylabel("latency (ms)")
    axes.set_xlim(0, max(report.options.samples - 1, 1))
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=9)
    _quiet(axes)
    return _png(figure)


def _figure(height: float) -> Any:
    # Not pyplot: it keeps figures alive and may look for a display.
    from matplotlib.figure import Figure

    return Figure(figsize=(9.4, height), dpi=DPI, layout="constrained")


def _quiet(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="both", color="#e6e9ec", linewidth=0.8)
    axes.set_axisbelow(True)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()

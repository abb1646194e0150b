"""A bench report as a page with tables and plots."""

from __future__ import annotations

from pgn_edge.html import heading, page, paragraph, picture, table
from pgn_edge.runtime.bench import BenchReport
from pgn_edge.runtime.bench_compare import Comparison
from pgn_edge.runtime.bench_plots import histograms_png, stages_png, timeline_png
from pgn_edge.runtime.bench_report import Section, machine_sections, sections

PAGE_WIDTH = 980  # pixels in the page; the plots are drawn larger, for screens of twice the density


def bench_html(report: BenchReport, comparison: Comparison | None = None) -> str:
    """A self-contained page.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    parts = []
    for section in [*sections(report, comparison), *machine_sections(report)]:
        parts += _section(section)
        if section.title == "Latency":
            parts.append(
                picture(
                    histograms_png(report),
                    "Latency of each series; the solid line is p50, the dashed one p95. Samples beyond twice p95 are "
                    "left out.",
                    width=PAGE_WIDTH,
                )
            )
            parts.append(picture(timeline_png(report), "Every sample when it was taken.", width=PAGE_WIDTH))
        if section.title == "Adaptation tax":
            parts.append(
                picture(
                    stages_png(report),
                    "Median of each bar, and of each part on its own: parts need not add up exactly. Dashed: the "
                    "first bar.",
                    width=PAGE_WIDTH,
                )
            )
    return page("Latency of a ViT engine and its task" if "task" in report.parts else "Latency of a ViT engine", parts)


def _section(section: Section) -> list[str]:
    rows = [table(section.header, section.rows)] if section.rows else []
    return [heading(section.title), *rows, *map(paragraph, section.notes)]

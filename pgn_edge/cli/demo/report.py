"""`report.html` of the demo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pgn_edge import html
from pgn_edge.cli.demo import NAMES
from pgn_edge.contract import EngineFacts
from pgn_edge.extras import cv2
from pgn_edge.plots import render_png
from pgn_edge.runtime.annotate import canvas_picture
from pgn_edge.runtime.bench import BenchReport
from pgn_edge.runtime.bench_plots import histograms_png
from pgn_edge.runtime.bench_report import STATS_HEADER, stats_rows
from pgn_edge.runtime.bench_tax import TAX_HEADER, tax_rows
from pgn_edge.runtime.result import Result
from pgn_edge.train.task import TrainReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INTRODUCTION = (
    "The embedded ViT knows printed characters only. A PGN looks at each image and adds prompt patches under it; the "
    "two together read handwriting, and the ViT itself is never touched."
)
ABSENT = {"ridge": "none", "condition": "infinite", "proof": "none"}  # of the certificate, where it holds no value
COLOURS = {"before": "#9aa5b1", "after": "#1f6feb"}


@dataclass(frozen=True)
class Sample:
    """One test frame for the report.

    Args:
        result: of the fp16 runtime.
        truth: its real label.
        facts: of the ViT engine.
    """

    result: Result
    truth: str
    facts: EngineFacts


def demo_html(
    results: Mapping[str, Any],
    trained: TrainReport,
    answer: np.ndarray,
    samples: Sequence[Sample],
    bench: BenchReport,
    clip: bytes,
) -> str:
    """The whole page.

    Args:
        results: what `results.json` holds.
        trained: the PGN.
        answer: class index of each test image by the fp16 runtime.
        samples: frames to show.
        bench: for the latency histogram.
        clip: Annotated video, VP9 in .mp4.
    """
    test = trained.data.test
    labels = trained.data.labels
    accuracy = results["accuracy"]
    parity = [
        (r["rung"], f"{r['max_abs']:.2e}", f"{r['cosine']:.6f}", f"{r['top1_flips']} of {r['frames']}", _word(r))
        for r in results["parity"]
    ]
    certificate = [(key.replace("_", " "), _stated(key, value)) for key, value in results["certificate"].items()]
    return html.page(
        "pgn-edge demo: a frozen ViT learns handwriting by its input alone",
        [
            html.paragraph(INTRODUCTION),
            html.heading("Accuracy on the test split"),
            html.table(("", "top-1"), [(NAMES[key], f"{value:.1%}") for key, value in accuracy.items()]),
            html.picture(render_png(_bars(accuracy)), f"Accuracy on {len(test)} handwritten digits"),
            html.heading("What the frozen engine sees"),
            html.picture(canvas_strip(samples), "Canvases of test frames: the image, and under it the prompt patches"),
            html.paragraph("Answer (truth) of each: " + ", ".join(f"{s.result.label} ({s.truth})" for s in samples)),
            html.video(clip, "Every frame of a clip with its answer, as pgn-edge run --output writes it"),
            html.heading("Where it errs"),
            html.picture(render_png(_confusion(test.labels, answer, labels)), "Confusion matrix of the fp16 runtime"),
            html.heading("How it learned"),
            html.picture(render_png(_curves(trained)), f"Training of {trained.seconds:.0f} s"),
            html.heading("Parity ladder"),
            html.table(("rung", "max abs", "cosine", "top-1 flips", ""), parity),
            html.heading("Certificate of the inversion"),
            html.table(("", "value"), certificate),
            html.heading("Latency"),
            html.picture(histograms_png(bench), "Latency by stage; bench.html has the rest"),
            html.table(STATS_HEADER, stats_rows(bench)),
            html.table(TAX_HEADER, tax_rows(bench)),
        ],
    )


def canvas_strip(samples: Sequence[Sample]) -> bytes:
    """Canvases side by side, enlarged three times, as PNG."""
    pictures = [canvas_picture(sample.result.kept_canvas(), sample.facts) for sample in samples]
    gap = np.full((pictures[0].shape[0], 4, 3), 255, np.uint8)
    row = np.concatenate([part for one in pictures for part in (one, gap)][:-1], axis=1)
    large = cv2.resize(row, None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)
    return bytes(cv2.imencode(".png", large)[1])


def _bars(accuracy: Mapping[str, float]) -> Figure:
    figure, axes = _figure(8, 3.2)
    names = [NAMES[key] for key in accuracy][::-1]
    values = [100 * value for value in accuracy.values()][::-1]
    colours = [COLOURS["after" if key.startswith("pgn") else "before"] for key in accuracy][::-1]
    axes.bar_label(axes.barh(names, values, color=colours), fmt="%.1f", padding=3)
    axes.set(xlabel="top-1 accuracy, %", xlim=(0, 105))
    return figure


def _confusion(truth: np.ndarray, answer: np.ndarray, labels: Sequence[str]) -> Figure:
    counts = np.zeros((len(labels), len(labels)), int)
    np.add.at(counts, (truth, answer), 1)
    figure, axes = _figure(5.5, 5)
    axes.imshow(counts, cmap="Blues")
    for (row, column), count in np.ndenumerate(counts):
        if count:
            ink = "white" if count > counts.max() / 2 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=ink, fontsize=9)
    ticks = range(len(labels))
    axes.set(xticks=ticks, yticks=ticks, xticklabels=labels, yticklabels=labels, xlabel="answer", ylabel="truth")
    return figure


def _curves(trained: TrainReport) -> Figure:
    history = trained.history
    epochs = range(1, len(history.loss) + 1)
    figure, axes = _figure(8, 3.2)
    axes.plot(epochs, history.loss, color=COLOURS["before"], marker=".")
    axes.set(xlabel="epoch", ylabel="training loss")
    right = axes.twinx()
    right.plot(epochs, [100 * value for value in history.validation], color=COLOURS["after"], marker=".")
    right.axvline(history.best_epoch + 1, color=COLOURS["after"], linestyle=":")
    right.set_ylabel("validation accuracy, %", color=COLOURS["after"])
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    # Not pyplot: it keeps global state, and chooses a screen.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    return figure, figure.subplots()


def _stated(key: str, value: Any) -> str:
    """A value of the certificate in words."""
    return ABSENT[key] if key in ABSENT and value in (None, "") else html.word(value)


def _word(rung: Mapping[str, Any]) -> str:
    return "passed" if rung["passed"] else "FAILED"

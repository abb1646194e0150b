"""What the frames noticed of swaps, as targets and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from common import HEADER, Target, environment_table, markdown_table, stats_row, targets_table
from swap_files import WRONG, Swaps

MOST_PAUSE_MS = 5.0
ALONE, BESIDE, SWAPPING = "alone", "beside a neighbour", "while tasks are swapped"


@dataclass
class Phase:
    """What frames of one kind of phase met.

    Args:
        offered: frames that were sent.
        errors: what frames that were lost got in place of an answer.
        answers: by whom, and how exactly.
        frame_ms: time of each frame.
        gap_ms: between the ends of two answers of one phase.
        change_ms: those gaps at whose end the other task answers for the first time.
    """

    offered: int = 0
    errors: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    frame_ms: list[float] = field(default_factory=list)
    gap_ms: list[float] = field(default_factory=list)
    change_ms: list[float] = field(default_factory=list)


def pauses(phases: Mapping[str, Phase]) -> dict[str, float]:
    """Milliseconds of what frames notice, by what it is."""
    p50 = {name: float(np.median(phase.gap_ms)) for name, phase in phases.items()}
    p99 = {name: float(np.percentile(phase.gap_ms, 99)) for name, phase in phases.items()}
    change = phases[SWAPPING].change_ms
    return {
        "p99 pause, all gaps while tasks are swapped": p99[SWAPPING] - p50[ALONE],
        "of it: what frames alone have as well": p99[ALONE] - p50[ALONE],
        "of it: what a neighbour that loads costs, which shares the cores": p99[BESIDE] - p99[ALONE],
        "of it: the rest, which is the swap's own": p99[SWAPPING] - p99[BESIDE],
        "p50 pause while something loads": p50[SWAPPING] - p50[ALONE],
        "p99 pause at the replacement, beyond the median gap while something loads": (
            float(np.percentile(change, 99)) - p50[SWAPPING] if change else float("nan")
        ),
    }


def document_of(phases: Mapping[str, Phase], swaps: Swaps) -> dict[str, Any]:
    """What was measured of one model, as JSON."""
    gaps = {f"gap {name}": phase.gap_ms for name, phase in phases.items()}
    frames = {f"frame {name}": phase.frame_ms for name, phase in phases.items()}
    samples = {**frames, **gaps, "gap at the replacement": phases[SWAPPING].change_ms, "swap": swaps.spent_ms}
    return {
        "frames": {
            name: {
                "offered": phase.offered,
                "answered": sum(phase.answers.values()),
                "lost": len(phase.errors),
                "answers": dict(phase.answers),
                "errors": phase.errors[:10],
            }
            for name, phase in phases.items()
        },
        "swaps": swaps.done,
        "refused": dict(swaps.refused),
        "accepted": swaps.accepted,
        "pauses_ms": pauses(phases),
        "samples_ms": {name: [round(value, 4) for value in series] for name, series in samples.items()},
    }


def targets_of(model: str, measured: Mapping[str, Any]) -> list[Target]:
    """What is held against a limit, of one model."""
    frames = measured["frames"].values()
    pause_ms = next(iter(measured["pauses_ms"].values()))
    return [
        Target(f"{model}: p99 pause beyond a frame's normal time", pause_ms, MOST_PAUSE_MS, False, "ms"),
        Target(
            f"{model}: frames lost in {measured['swaps']} swaps",
            sum(frame["offered"] - frame["answered"] for frame in frames),
            0,
            False,
            "",
        ),
        Target(
            f"{model}: answers of neither bundle",
            sum(frame["answers"].get(WRONG, 0) for frame in frames),
            0,
            False,
            "",
        ),
        Target(f"{model}: damaged bundles accepted", measured["accepted"], 0, False, ""),
    ]


def _section(model: str, measured: Mapping[str, Any]) -> list[str]:
    rows = [
        (*stats_row(name, series, 3), f"{max(series):.3f}") for name, series in measured["samples_ms"].items() if series
    ]
    answers = [
        (f"{phase}: {who}", str(count))
        for phase, frames in measured["frames"].items()
        for who, count in frames["answers"].items()
    ]
    lost = [(f"{phase}: lost", str(frames["lost"])) for phase, frames in measured["frames"].items()]
    refused = [(f"refused: {fault}", str(count)) for fault, count in measured["refused"].items()]
    pause_rows = [(name, f"{value:.2f}") for name, value in measured["pauses_ms"].items()]
    return [
        f"## {model}\n",
        "A pause is a gap between two answers less the median gap of frames alone:\n",
        markdown_table(("pause", "ms"), pause_rows),
        markdown_table((*HEADER, "max"), rows),
        markdown_table(("answers and bundles", "count"), [*answers, *lost, *refused]),
    ]


def markdown(document: Mapping[str, Any], about: str) -> str:
    """The page.

    Args:
        document: as it is written.
        about: what was measured, and how.
    """
    parts = ["# Swapping a task while frames flow\n", about.strip() + " Milliseconds.\n"]
    parts.append(targets_table(document["targets"]))
    for model, measured in document["models"].items():
        parts += _section(model, measured)
    return "\n".join([*parts, environment_table(document["environment"])])

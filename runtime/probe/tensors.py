"""What an engine takes and gives, and whether it gives the same twice."""

from __future__ import annotations

import numpy as np

from pgn_edge.runtime.probe.engine import EngineSubject
from pgn_edge.runtime.probe.finding import Finding, margin
from pgn_edge.runtime.probe.yardstick import FLOOR, Yardstick, distances, rms

UNIT_LENGTH = 1e-2  # a length further from 1 than this is no rounding, not even of fp16


def tensors(subject: EngineSubject) -> list[Finding]:
    """Names, types, layout and batch."""
    both = len(subject.layouts) > 1
    sizes = ", ".join("free" if size is None else str(size) for size in subject.spec.shape)
    stated = f"declared as {subject.input} {subject.spec.dtype} ({sizes})"
    refused = "".join(f"; {layout} is refused: {why}" for layout, why in subject.refusals.items())
    layout = "both are taken, and the first is used" if both else f"{stated}{refused}"
    outputs = "of " + ", ".join(f"{name} {spec}" for name, spec in subject.outputs.items())
    if not subject.named:
        outputs += f"; {', '.join(subject.candidates)} may each be the embedding: name the right one with --output"
    height, width = subject.size_hw
    canvas = stated if subject.fixed else "the first of those tried that it takes"
    free = subject.batch is None
    batch = "any" if free else str(subject.batch)
    tried = "two pictures in one call are taken" if free else "two pictures in one call are refused"
    return [
        Finding("input", f"{subject.input}, {subject.spec.dtype}", 1.0, stated),
        Finding("layout", subject.layout, 0.5 if both else 1.0, layout),
        Finding("canvas", f"{height} x {width}", 1.0, canvas),
        Finding("output", subject.output, 1.0 if subject.named else 0.0, outputs),
        Finding("batch", batch, 1.0, stated if subject.spec.shape[0] is not None else tried),
    ]


def answers_alike(first: np.ndarray, again: np.ndarray, yardstick: Yardstick) -> Finding:
    """Whether the same pictures get the same answers, both (M, D)."""
    gap = rms(distances(first, again)) / yardstick.spread
    if np.array_equal(first, again):
        return Finding("deterministic", "yes", 1.0, f"{len(first)} pictures twice: the same to the last bit")
    evidence = f"{len(first)} pictures twice: {gap:.2g} of the distance between different pictures apart"
    if gap <= FLOOR:
        return Finding("deterministic", "yes", margin(gap, FLOOR), evidence)
    return Finding("deterministic", "no", margin(FLOOR, gap), evidence)


def vector(answers: np.ndarray, wanted: int | None) -> list[Finding]:
    """Width and length of answers (M, D) to different pictures.

    Args:
        answers: of the subject.
        wanted: width of the answers that are known; None where none are.
    """
    count, width = answers.shape
    lengths = np.linalg.norm(answers, axis=1)
    error = float(abs(lengths - 1).max())
    evidence = f"lengths of {count} answers: {lengths.min():.5g} to {lengths.max():.5g}"
    other = f"; another dimension than the {wanted} that are expected" if wanted not in (None, width) else ""
    found = [Finding("width", str(width), 1.0, f"numbers in each of {count} answers{other}")]
    if answers.min() >= 0 and abs(answers.sum(axis=1) - 1).max() < UNIT_LENGTH:
        return [*found, Finding("length", "probabilities", 1.0, "no answer is below 0, and each sums to 1")]
    if error < UNIT_LENGTH:
        return [*found, Finding("length", "1", margin(error, UNIT_LENGTH), evidence)]
    return [*found, Finding("length", "free", margin(UNIT_LENGTH, error), evidence)]

"""Whether an engine is the backbone of a bundle or of a reference engine."""

from __future__ import annotations

import numpy as np

from pgn_edge.agreement import FP16_COSINE
from pgn_edge.errors import EngineError
from pgn_edge.runtime.probe.colours import Trial
from pgn_edge.runtime.probe.finding import Finding, margin, unknown
from pgn_edge.runtime.probe.known import Known
from pgn_edge.runtime.probe.yardstick import unit_vectors

BACKBONE = "backbone"
ALIKE = 0.5  # of the distance between different pictures: nearer than this is no accident, and not yet the same


def backbone(best: Trial, known: Known, eight_bit: bool) -> Finding:
    """Cosines of the best hypothesis with the answers that are known.

    Args:
        best: trial of all hypotheses.
        known: pictures with their answers.
        eight_bit: whether the subject takes bytes, so that prompts outside legal RGB do not reach it.
    """
    own, right = unit_vectors(np.nan_to_num(best.answers)), unit_vectors(known.answers)
    cosines = (own * right).sum(axis=1)
    wrong = (own * np.roll(right, 1, axis=0)).sum(axis=1)
    evidence = (
        f"{known.source} ({known.backbone}): cosine {cosines.min():.5f} at least, where the answer to another of its "
        f"pictures has {wrong.max():.5f} at most"
    )
    if known.padded:
        evidence += f"; {known.padded} rows of pixels in the mean colour stand under the pictures, for its prompt rows"
    if eight_bit and known.illegal > 0:
        evidence += f"; {known.illegal:.1%} of its values lie outside legal RGB, and were clipped"
    if cosines.min() >= FP16_COSINE and best.gap < ALIKE:  # answers may all be alike, to whatever picture
        return Finding(BACKBONE, "yes", margin(best.gap, 1.0), evidence)
    if best.gap < ALIKE:
        why = "other numerics, another transport, or weights near by"
        if known.padded:
            why = "extra patches move its answers, so that a stock engine proves no more; --task proves it"
        return Finding(BACKBONE, "alike", margin(best.gap, 1.0), f"{evidence}: {why}")
    if known.padded or (eight_bit and known.illegal > 0):
        return unknown(BACKBONE, evidence)
    return Finding(BACKBONE, "no", min(best.gap, 1.0), f"{evidence}; under the best hypothesis")


def another_width(known: Known, exc: EngineError) -> Finding:
    """Verdict on answers of another width: they cannot be compared, which denies nothing."""
    why = (
        "a ViT without its projection is the same backbone with another width; name the right output with --output, or "
        "with `answer` in the .toml of a service"
    )
    return unknown(BACKBONE, f"{known.source} ({known.backbone}): {exc.got}: {why}")

"""From a probe to the facts of a foreign engine: what may be written, and why nothing may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pgn_edge.agreement import FP32_MAX_ABS
from pgn_edge.contract import EngineFacts, Precision
from pgn_edge.errors import EngineError
from pgn_edge.runtime.engines.facts_file import Tensors
from pgn_edge.runtime.probe.backbone import BACKBONE
from pgn_edge.runtime.probe.colours import Trial
from pgn_edge.runtime.probe.engine import EngineSubject
from pgn_edge.runtime.probe.finding import SURE, Finding
from pgn_edge.runtime.probe.known import Known
from pgn_edge.runtime.probe.settings import Settings
from pgn_edge.runtime.probe.yardstick import unit_vectors
from pgn_edge.transport import LOSSLESS


def proven_tensors(subject: EngineSubject) -> Tensors:
    """Tensors of an engine that stand for canvas and embedding."""
    return Tensors(subject.input, subject.layout, subject.output)


def proven_facts(
    findings: Sequence[Finding], settings: Settings, known: Known | None, trials: Sequence[Trial], eight_bit: bool
) -> EngineFacts:
    """Facts of an engine that gives the known answers.

    Args:
        findings: Findings of the probe.
        settings: What follows from them.
        known: Pictures with known answers; None where none fit.
        trials: Trials on these pictures, the best first.
        eight_bit: Whether the engine takes pixels of 8 bits.

    Raises:
        EngineError: the backbone is not proven, or no canvas of ours is understood by the engine.
    """
    verdict = next(one for one in findings if one.what == BACKBONE)
    if known is None or verdict.answer != "yes" or verdict.confidence < SURE:
        raise EngineError(
            "facts file",
            expected="an engine that gives the known answers (backbone: yes)",
            got=f"backbone: {verdict.answer}: {verdict.evidence}",
            do="give --reference with the stock engine of its backbone, or for append --task with a bundle made for it",
        )
    if not settings.adaptable:
        do = "change the engine, or put a service before it"
        raise EngineError("facts file", expected="an engine that reads a canvas", got=settings.notes[0], do=do)
    return replace(
        known.facts,
        role="vit",
        precision=_precision(known, trials[0]),
        output="embedding",
        canvas="uint8" if eight_bit else "float32",
        transport=LOSSLESS,
    )


def _precision(known: Known, best: Trial) -> Precision:
    """The limits that its answers are within: nobody says in which precision a foreign engine computes."""
    error = float(np.abs(unit_vectors(best.answers) - unit_vectors(known.answers)).max())
    return "fp32" if error <= FP32_MAX_ABS else "fp16"

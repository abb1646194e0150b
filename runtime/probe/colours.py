"""Colour order and normalisation, by hypothesis tests: which reading of the input gives the answers that are known?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pgn_edge.errors import EngineError
from pgn_edge.runtime.probe.finding import Finding, margin, unknown
from pgn_edge.runtime.probe.known import Known
from pgn_edge.runtime.probe.subject import SpentError, Subject
from pgn_edge.runtime.probe.units import INSIDE, LEVELS, STATED, Units, hypotheses
from pgn_edge.runtime.probe.yardstick import FLOOR, distances, rms, spread

ORDER, NORMALISATION = "colour order", "normalisation"
GIVE = "give --task, or --reference with a stock engine of its backbone (pgn-edge export-vit BACKBONE --prompts 0)"


LITTLE = 0.02  # distance of two unit vectors that belong to different pictures


@dataclass(frozen=True)
class Trial:
    """How well one reading of the input explains the answers that are known.

    Args:
        units: the reading.
        gaps: (M,) distance of each answer from the one that is known, in units of the distance between different ones.
        answers: (M, D), of the subject.
    """

    units: Units
    gaps: np.ndarray
    answers: np.ndarray

    @property
    def gap(self) -> float:
        """All of them in one number; 0 explains everything, 1 nothing."""
        return max(rms(self.gaps), FLOOR)


def try_all(subject: Subject, known: Known) -> list[Trial]:
    """Feed the known pictures under each hypothesis, the best first.

    Raises:
        EngineError: another size or width; or every hypothesis was refused.
    """
    require_size(subject, known)
    unit = spread(known.answers)
    if not unit > 0:
        raise EngineError(known.source, expected="answers that differ", got="one and the same", do="give another task")
    trials, refusals = [], []
    for units in hypotheses(subject.eight_bit, [known.preprocess]):
        try:
            answers = subject.answer(units.values(known.pixels))
        except SpentError:
            raise
        except EngineError as exc:
            refusals.append(exc)
            continue
        trials.append(Trial(units, distances(answers, known.answers) / unit, answers))
    if not trials:
        raise refusals[0]
    return sorted(trials, key=lambda trial: trial.gap)


def require_size(subject: Subject, known: Known) -> None:
    """Refuse known pictures that the subject does not take.

    Raises:
        EngineError: their size is another than its own.
    """
    size_hw = known.size_hw
    if size_hw != subject.size_hw:
        sides = [" x ".join(map(str, side)) for side in (subject.size_hw, size_hw)]
        raise EngineError(
            subject.name,
            expected=f"pictures of {sides[0]}",
            got=f"{sides[1]} in {known.source}",
            do="give a --task or --reference of its size",
        )


def colours(trials: Sequence[Trial], known: Known) -> list[Finding]:
    """Order and normalisation of the best hypothesis, each against the best that differs in it."""
    best = trials[0]
    source = f"of {len(trials)} hypotheses on {known.source}"
    return [
        _against(ORDER, best, trials, lambda units: units.order, source),
        _normalisation(best, trials, source),
    ]


def colours_by_type(subject: Subject, service: bool, why: str) -> list[Finding]:
    """What the type of the input says by itself, where no answers are known.

    Args:
        subject: that is probed.
        service: whether it takes image files.
        why: no answers are known, or cannot be used.
    """
    if not subject.eight_bit:
        return [unknown(what, f"outputs alone cannot tell: {why}") for what in (ORDER, NORMALISATION)]
    inside = "it takes image files" if service else "it takes pixels of 8 bits"
    normalisation = Finding(NORMALISATION, "inside", 1.0, f"{inside}: there is nothing to normalise before")
    if not service:
        return [unknown(ORDER, f"outputs alone cannot tell: {why}"), normalisation]
    order = f"a file states its own order; whether the service swaps channels, outputs alone cannot tell: {why}"
    return [Finding(ORDER, "RGB", 1.0, order), normalisation]


def plain_units(subject: Subject, levels: np.ndarray) -> Units:
    """Units for the other questions where nobody knows the right ones: those in which pictures differ to the subject.

    Args:
        subject: that is probed.
        levels: (M, H, W, 3), different pictures.
    """
    usual = Units("RGB", "-1 to 1", STATED["-1 to 1"])
    raw = Units("RGB", "0 to 255", LEVELS)
    if subject.eight_bit:
        return raw
    # Where a mean and a division by 255 are inside, the usual values are all nearly black.
    apart = {units: spread(subject.answer(units.values(levels))) for units in (usual, raw)}
    return raw if apart[usual] < LITTLE < apart[raw] else usual


def _normalisation(best: Trial, trials: Sequence[Trial], source: str) -> Finding:
    if len({trial.units.name for trial in trials}) == 1:
        return Finding(NORMALISATION, "inside", 1.0, "it takes pixels of 8 bits: there is nothing to normalise before")
    found = _against(NORMALISATION, best, trials, lambda units: units.name, source)
    where = "what else there is, the engine does" if best.units.name in INSIDE else "the caller normalises"
    return Finding(found.what, found.answer, found.confidence, f"{found.evidence}; {where}")


def _against(what: str, best: Trial, trials: Sequence[Trial], part: Callable[[Units], str], source: str) -> Finding:
    """The best trial against the best that has another `part`."""
    rest = [trial for trial in trials if part(trial.units) != part(best.units)]
    if not rest:
        return unknown(what, f"{source}: every other one was refused")
    second = rest[0]
    won = int((best.gaps < second.gaps).sum())
    # Against the runner-up, against an answer to some other picture, and how many pictures agree.
    confidence = margin(best.gap, second.gap) * margin(best.gap, 1.0) * won / len(best.gaps)
    evidence = (
        f"{source}, the best ({best.units.order}, {best.units.name}) is {best.gap:.2g} of the distance between "
        f"different pictures away, the next with another {what} {second.gap:.2g}; nearer on {won} of {len(best.gaps)}"
    )
    return Finding(what, part(best.units), confidence, evidence)

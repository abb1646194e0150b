"""The questions of a probe, in an order in which each can use what the ones before it found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from pgn_edge.errors import EngineError
from pgn_edge.progress import Progress
from pgn_edge.runtime.probe import transport
from pgn_edge.runtime.probe.backbone import BACKBONE, another_width, backbone
from pgn_edge.runtime.probe.colours import GIVE, Trial, colours, colours_by_type, plain_units, try_all
from pgn_edge.runtime.probe.engine import EngineSubject
from pgn_edge.runtime.probe.finding import SURE, Finding, margin, unknown
from pgn_edge.runtime.probe.known import Known
from pgn_edge.runtime.probe.pictures import pictures
from pgn_edge.runtime.probe.service import ServiceSubject
from pgn_edge.runtime.probe.sizes import EXTRA, Case, sizes
from pgn_edge.runtime.probe.tensors import answers_alike, tensors, vector
from pgn_edge.runtime.probe.yardstick import WidthError, measure
from pgn_edge.transport import LOSSLESS

READS = "reads pictures"
COUNT = 4  # pictures of the questions that compare answers to different ones

AnySubject = EngineSubject | ServiceSubject


@dataclass(frozen=True)
class Compared:
    """What pictures whose answers are known say.

    Args:
        trials: of all hypotheses, the best first; empty where none could be tested.
        known: what they were tested with; None likewise.
        verdict: whether it is that backbone.
    """

    trials: tuple[Trial, ...]
    known: Known | None
    verdict: Finding


@dataclass(frozen=True)
class Interview:
    """What was said.

    Args:
        findings: in order.
        compared: what of it rests on pictures whose answers are known.
    """

    findings: tuple[Finding, ...]
    compared: Compared


def interview(subject: AnySubject, known: Sequence[Known], seed: int, progress: Progress) -> Interview:
    """Ask everything; a question that fails is a finding, and the others are asked all the same.

    Args:
        subject: that is asked.
        known: pictures whose answers are known; the first that fit are used.
        seed: of the test pictures.
        progress: told of each question.
    """
    total = 3 if isinstance(subject, EngineSubject) else 5
    progress("probing", 0, total, "colours")
    compared = _compare(subject, known)
    if compared.known is not None:
        shades = colours(compared.trials, compared.known)
    else:
        shades = colours_by_type(subject, isinstance(subject, ServiceSubject), compared.verdict.evidence)
    progress("probing", 1, total, "repeated pictures")
    best = compared.trials[0] if compared.trials and all(one.confidence >= SURE for one in shades) else None
    fitting = compared.known or (known[0] if known else None)
    case, measured = _measure(subject, fitting, seed, best)
    found = [*_by_type(subject), *measured, *shades]
    for index, (what, question) in enumerate({} if case is None else _questions(subject, case).items()):
        progress("probing", 2 + index, total, what)
        found += _asked(what, question)
    verdict = [compared.verdict]
    if isinstance(subject, ServiceSubject):
        verdict.append(transport.rate(subject))
    progress("probing", total, total)
    return Interview(tuple(_qualified([*found, *verdict], bool(compared.trials))), compared)


def _qualified(found: Sequence[Finding], tested: bool) -> list[Finding]:
    """Without what does not follow where pixels do not arrive as they were sent.

    Args:
        found: all findings.
        tested: whether the verdict on the backbone rests on hypotheses, and not on the width of its answers.
    """
    way = next((one for one in found if one.what == transport.REENCODING), None)
    if way is None or way.answer == LOSSLESS or way.confidence < SURE:
        return list(found)
    doubtful = {(EXTRA, "read"), *([(BACKBONE, "no")] if tested else [])}
    because = f"; but pixels do not reach it as they were sent: {way.answer}"
    return [unknown(one.what, one.evidence + because) if (one.what, one.answer) in doubtful else one for one in found]


def _questions(subject: AnySubject, case: Case) -> dict[str, Callable[[], list[Finding]]]:
    """Those that need a yardstick, by what they are about."""
    questions: dict[str, Callable[[], list[Finding]]] = {EXTRA: partial(sizes, case)}
    if isinstance(subject, ServiceSubject):
        for what, question in ((transport.REENCODING, transport.reencoding), (transport.ALPHA, transport.alpha)):
            questions[what] = partial(question, subject, case.yardstick, case.seed)
    return questions


def _asked(what: str, question: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return question()
    except EngineError as exc:
        return [unknown(what, str(exc))]


def _compare(subject: AnySubject, known: Sequence[Known]) -> Compared:
    """Try all hypotheses on the first known pictures that fit."""
    verdict = None
    for one in (each.on_canvas(subject.size_hw) for each in known):
        try:
            trials = _trials(subject, one)
        except WidthError as exc:
            verdict = verdict or another_width(one, exc)
        except EngineError as exc:
            verdict = verdict or unknown(BACKBONE, str(exc))
        else:
            return Compared(tuple(trials), one, backbone(trials[0], one, subject.eight_bit))
    return Compared((), None, verdict or unknown(BACKBONE, GIVE))


def _trials(subject: AnySubject, known: Known) -> list[Trial]:
    """Trials of all hypotheses on the output that explains the known answers best."""
    if not isinstance(subject, EngineSubject) or subject.named:
        return try_all(subject, known)
    tried = {}
    for name in subject.candidates:
        subject.output = name
        tried[name] = try_all(subject, known)
    subject.output = min(tried, key=lambda name: tried[name][0].gap)
    gaps = sorted(trials[0].gap for trials in tried.values())
    subject.named = margin(gaps[0], gaps[1]) >= SURE
    return tried[subject.output]


def _by_type(subject: AnySubject) -> list[Finding]:
    if isinstance(subject, EngineSubject):
        return tensors(subject)
    return [*transport.taken(subject), *transport.refused_sizes(subject)]


def _measure(
    subject: AnySubject, known: Known | None, seed: int, best: Trial | None
) -> tuple[Case | None, list[Finding]]:
    """What the same pictures twice say, and how far answers are apart; no case where they say nothing."""
    levels = pictures(COUNT, subject.size_hw, seed)
    found: list[Finding] = []
    try:
        units = plain_units(subject, levels) if best is None else best.units
        values = units.values(levels)
        first, again = subject.answer(values), subject.answer(values)
        found = vector(first, known.answers.shape[1] if known is not None else None)
        yardstick = measure(subject, values, first, again)
    except EngineError as exc:
        return None, [*found, Finding(READS, "no", 1.0, str(exc))]
    evidence = (
        f"answers to different pictures are {yardstick.spread:.3g} apart, scaled to length 1; to the same one again, "
        f"and in other company, {yardstick.repeat:.2g} of that; to one with a touch of noise {yardstick.noise:.2g}"
    )
    found += [Finding(READS, "yes", margin(yardstick.repeat, 1.0), evidence), answers_alike(first, again, yardstick)]
    patch, rows = (0, 0) if known is None else (known.geometry.patch, known.rows)
    inside = rows if known is not None and known.size_hw == subject.size_hw else 0
    return Case(subject, units, yardstick, patch, max(rows, 1), inside, seed), found

"""Fixed size or not, and what becomes of rows of patches under the image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pgn_edge.errors import EngineError
from pgn_edge.runtime.probe.finding import Finding, margin
from pgn_edge.runtime.probe.pictures import pictures
from pgn_edge.runtime.probe.resize import FILTERS
from pgn_edge.runtime.probe.subject import SpentError, Subject
from pgn_edge.runtime.probe.units import Units
from pgn_edge.runtime.probe.yardstick import Yardstick

SIZE, EXTRA, SLOTS = "size", "extra patches", "prompt slots"
PATCHES = (32, 16, 14, 8)  # pixels of a side, of the usual ViTs; the largest first, since it is read by all but 14
MOST_SAID = 160
COUNT = 3  # pictures of each comparison

Frames = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Case:
    """What the questions about sizes share.

    Args:
        subject: Engine or service that is asked.
        units: Units in which it takes pixels.
        yardstick: Measure of its answers.
        patch: Patch size in pixels; 0 where it is not known.
        rows: Rows of patches to try first under an image, at least 1.
        inside: Rows of patches under the image that the canvas has already; 0 for a canvas that is all image.
        seed: Seed of the pictures.
    """

    subject: Subject
    units: Units
    yardstick: Yardstick
    patch: int
    rows: int
    inside: int
    seed: int

    def ask(self, levels: np.ndarray) -> np.ndarray:
        """Answers to pictures (M, H, W, 3) in levels."""
        return self.subject.answer(self.units.values(levels))


@dataclass(frozen=True)
class _Tall:
    """Canvases with rows under the image, and the answers to them.

    Args:
        top: (M, H, W, 3) levels, the images.
        canvases: (M, H + rows, W, 3) levels.
        answers: to `canvases`.
        others: to canvases whose rows hold something else.
    """

    top: np.ndarray
    canvases: np.ndarray
    answers: np.ndarray
    others: np.ndarray


def sizes(case: Case) -> list[Finding]:
    """Whether other sizes are taken, and how the rows of a taller canvas are treated."""
    height, width = case.subject.size_hw
    if case.subject.fixed:
        stated = f"it declares {height} x {width} and no other"
        if case.inside:
            return [Finding(SIZE, "fixed", 1.0, stated), *_slots(case)]
        return [Finding(SIZE, "fixed", 1.0, stated), Finding(EXTRA, "refused", 1.0, stated)]
    tall, refusal = _taller(case)
    others = {f"{h} x {w}": _refusal(case, (h, w)) for h, w in ((height, 2 * width), (2 * height, 2 * width))}
    if tall is None:
        taken = [size for size, why in others.items() if not why]
        answer = "some" if taken else "fixed"
        evidence = f"{height} x {width} is taken; a taller canvas is not: {refusal}"
        evidence += f"; {', '.join(taken)} is" if taken else f"; nor {' nor '.join(others)}"
        return [Finding(SIZE, answer, 1.0, evidence), Finding(EXTRA, "refused", 1.0, refusal)]
    taken = [f"{tall.canvases.shape[1]} x {width}", *(size for size, why in others.items() if not why)]
    refused = "".join(f"; {size} is refused: {why}" for size, why in others.items() if why)
    evidence = f"{height} x {width}, and {', '.join(taken)} too{refused}"
    return [Finding(SIZE, "some" if refused else "free", 1.0, evidence), _treatment(case, tall)]


def _slots(case: Case) -> list[Finding]:
    """Whether prompt rows on the canvas are read, and how many slots of the last row.

    Each patch of the last row gets another colour, one after the other. An engine that drops spare slots answers the
    same to the last bit; so the slots that move its answer are those that it reads.
    """
    (height, width), patch = case.subject.size_hw, case.patch
    columns = width // patch
    plain = pictures(1, (height, width), case.seed, texture=False)
    changed = np.repeat(plain, columns, axis=0)
    for column in range(columns):
        changed[column, height - patch :, column * patch : (column + 1) * patch] ^= 128  # another colour
    answers = case.ask(np.concatenate([plain, changed]))
    gaps = case.yardstick.gaps(np.repeat(answers[:1], columns, axis=0), answers[1:])
    read = gaps > 4 * case.yardstick.repeat
    count = int(read.sum())
    evidence = (
        f"its canvas has {case.inside} rows of patches under the image; in the last of them {count} of {columns} "
        f"patches move the answer, by {gaps.max():.2g} of the distance between different pictures"
    )
    if not count:
        return [Finding(EXTRA, "ignored", 1.0, evidence)]
    found = [Finding(EXTRA, "read", margin(case.yardstick.repeat, float(gaps.max())), evidence)]
    if read[:count].all():
        found.append(Finding(SLOTS, str((case.inside - 1) * columns + count), 1.0, evidence))
    return found


def _refusal(case: Case, size_hw: tuple[int, int]) -> str:
    """Why a size is refused; empty where it is taken."""
    try:
        case.ask(pictures(1, size_hw, case.seed, texture=False))
    except SpentError:
        raise
    except EngineError as exc:
        return exc.got[:MOST_SAID]
    return ""


def _taller(case: Case) -> tuple[_Tall | None, str]:
    """The first number of extra rows that is taken and not just ignored, else one that is taken; or why none is."""
    height, width = case.subject.size_hw
    first, refusal = None, ""
    usual = [*(patch for patch in PATCHES if height % patch == 0), *PATCHES[:1]]
    for rows in dict.fromkeys([case.rows * case.patch, *usual] if case.patch else usual):
        top, one, other = (
            pictures(COUNT, (size, width), case.seed + offset, texture=False)
            for offset, size in enumerate((height, rows, rows))
        )
        canvases = np.concatenate([top, one], axis=1)
        try:
            answers, others = (case.ask(levels) for levels in (canvases, np.concatenate([top, other], axis=1)))
        except SpentError:
            raise
        except EngineError as exc:
            refusal = refusal or f"{height + rows} x {width}: {exc.got[:MOST_SAID]}"
            continue
        tall = _Tall(top, canvases, answers, others)
        first = first or tall
        # A convolution drops rows that do not fill a patch: they tell nothing where more of them are refused.
        if answers.shape != others.shape or case.yardstick.gap(answers, others) > 4 * case.yardstick.noise:
            return tall, ""
    return None if refusal else first, refusal


def _treatment(case: Case, tall: _Tall) -> Finding:
    """Which explanation of the answers to taller canvases is the nearest; `read` where none is near."""
    yardstick, (height, width) = case.yardstick, case.subject.size_hw
    effect = yardstick.gap(tall.answers, tall.others)
    resized = {name: case.ask(filter(tall.canvases, height, width)) for name, filter in FILTERS.items()}
    spare = (tall.canvases.shape[1] - height) // 2
    cropped = case.ask(tall.canvases[:, spare : spare + height])
    gaps = {
        "ignored": max(effect, yardstick.gap(tall.answers, case.ask(tall.top))),
        "cropped": yardstick.gap(tall.answers, cropped),
        "resized": min(yardstick.gap(tall.answers, answers) for answers in resized.values()),
    }
    # Nobody knows whose filter it is: what filters disagree by is no difference.
    between = max(yardstick.gap(first, second) for first in resized.values() for second in resized.values())
    limits = dict.fromkeys(gaps, 4 * yardstick.noise)
    limits["resized"] += between
    near = {name: max(gap, yardstick.repeat) / limits[name] for name, gap in gaps.items()}
    answer = min(near, key=lambda name: near[name])
    told = ", ".join(f"{name} {gap:.2g}" for name, gap in gaps.items())
    evidence = (
        f"{tall.canvases.shape[1] - height} rows under the image: other rows move the answer by {effect:.2g} of the "
        f"distance between different pictures; distance from the answer to be expected where rows are {told}"
    )
    if near[answer] >= 1:
        # Rows that are read move the answer as far as anything explains it; if not, something was nearly right.
        confidence = margin(1.0, near[answer]) * min(1.0, min(gaps.values()) / max(effect, yardstick.noise))
        return Finding(EXTRA, "read", confidence, evidence)
    second = min(gap for name, gap in gaps.items() if name != answer)
    confidence = margin(near[answer], 1.0) * margin(max(gaps[answer], yardstick.repeat), second)
    return Finding(EXTRA, answer, confidence, evidence)

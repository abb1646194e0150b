"""What a service makes of a file on its way to the ViT: formats, re-encoding, alpha, limits."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from pgn_edge.errors import EngineError
from pgn_edge.runtime.probe.detail import SEEN, detail
from pgn_edge.runtime.probe.finding import EXACT, Finding, margin, unknown
from pgn_edge.runtime.probe.pictures import pictures
from pgn_edge.runtime.probe.service import ServiceSubject
from pgn_edge.runtime.probe.subject import SpentError, Subject
from pgn_edge.runtime.probe.yardstick import Yardstick
from pgn_edge.transport import LOSSLESS, Transport

FORMATS, REENCODING, ALPHA, RATE, SIZES = "formats", "re-encoding", "alpha", "rate limit", "sizes refused"
RESAMPLED = "resampled"
COUNT = 2  # pictures of each comparison
NEARLY_ALL = Transport("jpeg", 100)  # loses less than every other that is tried
USUAL_LOSSES = (
    *(Transport("jpeg", quality) for quality in (95, 94, 92, 90, 88, 85, 80, 75, 70, 60, 50)),
    Transport("webp", 80),
)
EVERY_LOSS = tuple(Transport("jpeg", quality) for quality in range(95, 39, -1))
AGAIN = 0.25  # of what `NEARLY_ALL` moves: more than a codec does to what it has made itself
KEPT_BITS = 7
GROUNDS = {"black": 0, "white": 255, "grey": 128}


def taken(subject: ServiceSubject) -> list[Finding]:
    """Which image files are taken, and at which size."""
    height, width = subject.size_hw
    codecs = [codec for codec, why in subject.formats.items() if not why]
    refused = "; ".join(f"{codec} is refused: {why}" for codec, why in subject.formats.items() if why)
    return [
        Finding("canvas", f"{height} x {width}", subject.size_confidence, subject.why_size),
        Finding(FORMATS, ", ".join(codecs), 1.0, refused or "each was tried, and answered"),
    ]


def rate(subject: ServiceSubject) -> Finding:
    """Whether it ever said that there were too many requests."""
    if subject.waits:
        evidence = (
            f"status 429 {len(subject.waits)} times in {subject.calls} requests; waited {sum(subject.waits):.3g} s"
        )
        return Finding(RATE, "limited", 1.0, evidence)
    return unknown(RATE, f"none met in {subject.calls} requests, one after the other; there may be one beyond")


def refused_sizes(subject: ServiceSubject) -> list[Finding]:
    """Sizes that were refused before one was taken."""
    if not subject.refusals:
        return []
    names = ", ".join(f"{height} x {width}" for height, width in subject.refusals)
    return [Finding(SIZES, names, 1.0, f"it said: {next(iter(subject.refusals.values()))}")]


def reencoding(subject: Subject, yardstick: Yardstick, seed: int) -> list[Finding]:
    """Whether pixels reach the ViT as they were sent.

    A codec changes nothing of what it has made itself, or little. So a server that re-encodes answers a picture as it
    answers the same after its own codec, while every other codec that loses less moves the answer more. Where single
    pixels do not arrive and no quality of JPEG explains it, the picture is resampled.
    """
    grey = np.repeat(pictures(1, subject.size_hw, seed)[..., :1], 3, axis=3)  # JPEG has several ways with colours
    plain = subject.answer(grey)

    def gap(carried: np.ndarray) -> float:
        return max(yardstick.gap(plain, subject.answer(carried)), yardstick.repeat)

    def after(losses: Sequence[Transport]) -> dict[str, float]:
        return {str(loss): gap(loss.carry(grey[0])[None]) for loss in losses}

    pixels = detail(subject)
    low = gap(grey & ~np.uint8((1 << (8 - KEPT_BITS)) - 1))
    least = after([NEARLY_ALL])[str(NEARLY_ALL)]
    gaps = after(USUAL_LOSSES)
    if pixels.lost and margin(min(gaps.values()), least) < EXACT:
        gaps |= after([loss for loss in EVERY_LOSS if str(loss) not in gaps])
    best = min(gaps, key=lambda loss: gaps[loss])
    evidence = (
        f"after {best} the answer moves by {gaps[best]:.2g} of the distance between different pictures, the least of "
        f"{len(gaps)} codecs; after {NEARLY_ALL} by {least:.2g}, without the lowest bit by {low:.2g}; one level from "
        f"pixel to pixel moves it by {pixels.fine:.2g}, from half to half by {pixels.coarse:.2g}"
    )
    nearer = margin(gaps[best], least)
    if nearer >= EXACT or (nearer > 0 and not pixels.lost):
        return [Finding(REENCODING, best, nearer, evidence)]
    if low <= yardstick.repeat < least:
        return [Finding(REENCODING, f"{KEPT_BITS} bits or fewer", margin(yardstick.repeat, least), evidence)]
    if pixels.lost:
        return [Finding(REENCODING, RESAMPLED, margin(SEEN * pixels.same, pixels.coarse), evidence)]
    confidence = margin(yardstick.repeat, least) * margin(AGAIN * least, gaps[best]) * margin(pixels.same, pixels.fine)
    return [Finding(REENCODING, LOSSLESS, confidence, evidence)]


def alpha(subject: ServiceSubject, yardstick: Yardstick, seed: int) -> list[Finding]:
    """What it makes of a PNG whose lower rows are transparent: prompts could stand there."""
    if subject.formats["png"]:
        return [unknown(ALPHA, f"it takes no png: {subject.formats['png']}")]
    levels = pictures(COUNT, subject.size_hw, seed)
    start = subject.size_hw[0] * 3 // 4
    try:
        answers = subject.answer_files([_transparent_below(frame, start) for frame in levels], "image/png")
    except SpentError:
        raise
    except EngineError as exc:
        return [Finding(ALPHA, "refused", 1.0, exc.got)]
    expected = {"dropped": levels}
    for name, level in GROUNDS.items():
        expected[f"put on {name}"] = levels.copy()
        expected[f"put on {name}"][:, start:] = level
    gaps = {
        name: max(yardstick.gap(answers, subject.answer(frames)), yardstick.repeat) for name, frames in expected.items()
    }
    best, second = sorted(gaps, key=lambda name: gaps[name])[:2]
    evidence = ", ".join(f"{name} {gap:.2g}" for name, gap in gaps.items())
    confidence = margin(gaps[best], gaps[second]) * margin(gaps[best], 1.0)
    return [Finding(ALPHA, best, confidence, f"distance from the answer to be expected where it is {evidence}")]


def _transparent_below(levels: np.ndarray, start: int) -> bytes:
    opacity = np.full((*levels.shape[:2], 1), 255, np.uint8)
    opacity[start:] = 0
    target = io.BytesIO()
    Image.fromarray(np.concatenate([levels, opacity], axis=2)).save(target, "PNG")
    return target.getvalue()

"""Distances between answers, in a unit that every engine has: how far answers to different pictures are apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pgn_edge.errors import EngineError
from pgn_edge.runtime.probe.subject import Subject

FLOOR = 1e-5  # of the unit: text of five digits, and rounding of float32
OPPOSITE = 2.0  # the largest distance of two unit vectors, and that of an answer that is not finite


class WidthError(EngineError):
    """Answers of different width, which nothing compares."""


@dataclass(frozen=True)
class Yardstick:
    """What is far and what is near for one engine.

    Args:
        spread: distance of the answers to two different pictures, both scaled to length 1.
        repeat: distance of the answers to the same picture, asked twice and in other company; in units of `spread`.
        noise: the same, and for pictures that differ by less than an eye sees: what counts as equal.
    """

    spread: float
    repeat: float
    noise: float

    def gaps(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Distance of each pair of answers, both (M, D): (M,) in units of `spread`."""
        return distances(first, second) / self.spread

    def gap(self, first: np.ndarray, second: np.ndarray) -> float:
        """All of them in one number, 0 for the same answers and about 1 for those of different pictures."""
        return rms(self.gaps(first, second))


def measure(subject: Subject, values: np.ndarray, first: np.ndarray, again: np.ndarray) -> Yardstick:
    """Ask for pictures that were asked for before, in other company and with a touch of noise.

    Args:
        subject: that is asked.
        values: (M, H, W, 3) as `Subject.answer` takes them, all different, M at least 2.
        first: (M, D), answers to `values`.
        again: the same, asked for once more.

    Raises:
        EngineError: its answers are not finite, or do not depend on the picture; or as `Subject.answer`.
    """
    if not np.isfinite(first).all():
        raise EngineError(subject.name, expected="finite answers", got="NaN or Inf", do="check its precision")
    unit = spread(first)
    alone = subject.answer(values[-1:])
    repeat = max(rms(distances(first, again)), rms(distances(first[-1:], alone)))
    nudged = rms(distances(first, subject.answer(_nudged(values, subject.eight_bit))))
    if unit < 4 * repeat or unit < 1e-9:
        raise EngineError(
            subject.name,
            expected="answers that depend on the picture",
            got=f"different pictures {unit:.2g} apart and the same one {repeat:.2g}",
            do="check that it is the whole engine, with its weights",
        )
    repeat = max(repeat / unit, FLOOR)
    return Yardstick(unit, repeat, max(repeat, nudged / unit))


def spread(answers: np.ndarray) -> float:
    """Distance of the answers to different pictures, (M, D), each scaled to length 1; 0 for one picture."""
    count = len(answers)
    pairs = [distances(answers[[i]], answers[[k]]) for i in range(count) for k in range(i)]
    return rms(np.concatenate(pairs)) if pairs else 0.0


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Distance of each pair of vectors, both (M, D), once they are scaled to length 1: (M,).

    Raises:
        WidthError: vectors of different width.
    """
    if first.shape != second.shape:
        got = f"{first.shape[-1]} and {second.shape[-1]} numbers"
        raise WidthError("answers", expected="vectors of one width", got=got, do="compare engines of one kind")
    with np.errstate(invalid="ignore"):
        apart = np.linalg.norm(unit_vectors(first) - unit_vectors(second), axis=1)
    return np.asarray(np.nan_to_num(apart, nan=OPPOSITE))


def unit_vectors(answers: np.ndarray) -> np.ndarray:
    """Answers (M, D) scaled to length 1."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(answers / np.maximum(np.linalg.norm(answers, axis=1, keepdims=True), 1e-300))


def rms(values: np.ndarray) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def _nudged(values: np.ndarray, eight_bit: bool) -> np.ndarray:
    """The same pictures but for what no eye sees: a quarter of a level in half of the pixels, or one in a hundredth."""
    random = np.random.default_rng(len(values))
    share, levels = (0.01, 1.0) if eight_bit else (0.5, 0.25)
    step = levels * np.ptp(values) / 255
    return np.asarray(values + np.where(random.random(values.shape) < share, step, 0.0))

"""Mixture coefficients, and what they say without labels: how decided a PGN is, and which of its tokens it uses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec import UnsetType

from pgn_edge.errors import BundleError
from pgn_edge.schemas import ProfileJson, conform
from pgn_edge.strangeness import Strangeness

COEFFICIENTS = "coefficients"  # the PGN engine's second output
LEAST_STD = 1e-3  # of the entropy; below it the roundings of a 16-bit engine would look like another scene
SPLITS = 16  # of the frames of a profile into halves; one alone may be a lucky one
SUM_TOLERANCE = 1e-3
DIGITS = 7


def entropies(coefficients: np.ndarray) -> np.ndarray:
    """Entropy of each frame's mixtures: 0 where each prompt is one token, 1 where each is all tokens alike.

    Args:
        coefficients: (M, K, N), 0..1, each row of N sums to 1.

    Returns:
        (M,) float64, mean over the K prompts, as a share of ln N; 0 where N is 1.
    """
    c = coefficients.astype(np.float64)
    if c.shape[-1] == 1:
        return np.zeros(len(c))
    logarithms = np.log(np.maximum(c, np.finfo(np.float64).tiny))
    return np.asarray(-(c * logarithms).sum(axis=-1).mean(axis=-1) / math.log(c.shape[-1]))


def usage(coefficients: np.ndarray) -> np.ndarray:
    """Share of each library token in all prompts of some frames.

    Args:
        coefficients: (M, K, N), 0..1, each row of N sums to 1.

    Returns:
        (N,) float64; sums to 1.
    """
    return np.asarray(coefficients.mean(axis=(0, 1), dtype=np.float64))


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen-Shannon divergence in bits: 0 for the same distribution, 1 where no entry is in both.

    Args:
        p: (N,) float64, 0 or more, sums to 1.
        q: likewise.
    """
    middle = (p + q) / 2
    bits = sum(float((side[side > 0] * np.log2(side[side > 0] / middle[side > 0])).sum()) for side in (p, q))
    return min(max(bits / 2, 0.0), 1.0)


@dataclass(frozen=True)
class Profile:
    """What a task's mixtures look like on images like those of its training, in the manifest of its bundle.

    Args:
        frames: that it was measured on, at least 1.
        usage: N shares, the mean of each library token; they sum to 1.
        entropy_mean: of the entropy of a frame, 0..1, see `entropies`.
        entropy_std: of the same; at least `LEAST_STD`.
        halves: mean divergence between the usages of two halves of the frames, bits, 0..1: what so few images differ
            by although nothing has changed; 0 for one frame.
        strangeness: Held-out embeddings and scores that frames are ranked against; None if there were too few.
    """

    frames: int
    usage: tuple[float, ...]
    entropy_mean: float
    entropy_std: float
    halves: float
    strangeness: Strangeness | None = None

    def __post_init__(self) -> None:
        numbers = {
            "frames": self.frames >= 1,
            "usage": min(self.usage, default=-1.0) >= 0,
            "sum of the usage": abs(sum(self.usage) - 1) <= SUM_TOLERANCE,  # NaN and Inf are refused too
            "mean of the entropy": 0 <= self.entropy_mean <= 1,
            "std of the entropy": LEAST_STD <= self.entropy_std < math.inf,
            "divergence of halves": 0 <= self.halves <= 1,
        }
        for what, right in numbers.items():
            if not right:
                raise BundleError(
                    f"profile: {what}",
                    expected="shares from 0 to 1 that sum to 1, of at least one frame, and a std of at least "
                    f"{LEAST_STD:g}",
                    got=str(self)[:200],
                    do="export the task again",
                )

    @classmethod
    def measure(cls, coefficients: np.ndarray) -> Profile:
        """The profile of some frames, rounded as a manifest holds it.

        Args:
            coefficients: (M, K, N), M at least 1.
        """
        entropy = entropies(coefficients)
        random = np.random.default_rng(0)
        orders = [random.permutation(len(coefficients)) for _ in range(SPLITS if len(coefficients) > 1 else 0)]
        middle = len(coefficients) // 2
        apart = [divergence(usage(coefficients[o[:middle]]), usage(coefficients[o[middle:]])) for o in orders]
        return cls(
            len(coefficients),
            tuple(usage(coefficients).round(DIGITS).tolist()),
            min(max(round(float(entropy.mean()), DIGITS), 0.0), 1.0),
            max(round(float(entropy.std()), DIGITS), LEAST_STD),
            round(float(np.mean(apart)), DIGITS) if apart else 0.0,
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "frames": self.frames,
            "usage": list(self.usage),
            "entropy_mean": self.entropy_mean,
            "entropy_std": self.entropy_std,
            "divergence_of_halves": self.halves,
            **({} if self.strangeness is None else {"strangeness": self.strangeness.to_json()}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Profile:
        """Read what `to_json` wrote.

        Raises:
            BundleError: numbers that no profile has.
            ValueError: a field is missing, unknown, or of another type.
        """
        found = conform(data, ProfileJson)
        known = None if isinstance(found.strangeness, UnsetType) else Strangeness.from_json(found.strangeness)
        means = found.entropy_mean, found.entropy_std
        return cls(found.frames, found.usage, *means, found.divergence_of_halves, known)

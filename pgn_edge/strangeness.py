"""Strangeness: how unlike the held-out images of training a frame is, from its embedding and its best score.

Two signals are ranked against held-out images. One is the distance of the embedding from the nearest of a few centres
of held-out embeddings. The other is doubt, 1 minus the best score. Each misses what the other sees: a picture that is
turned over keeps a high score, and a dark one lies near a centre. Their p-values are multiplied, so that one signal
alone can make a frame strange.

Source: Fisher, "Statistical Methods for Research Workers", 1932, section 21.1, on the product of p-values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pgn_edge.errors import BundleError
from pgn_edge.schemas import StrangenessJson, conform

MOST_CENTRES, IMAGES_PER_CENTRE = 16, 16
ROUNDS = 25  # of k-means; it has settled long before
FOLDS = 5
QUANTILE = 0.9  # a frame is strange if this share of held-out images is less strange
LEAST_IMAGES = 16
MOST_IMAGES, MOST_WIDTH = 4096, 16_384  # of a bundle from anywhere
FALSE_ALARMS = 1e-6  # share of windows of held-out-like, independent frames that set off the alarm
DIGITS = 5


@dataclass(frozen=True, eq=False)
class Strangeness:
    """What held-out images look like to a task, in the manifest of its bundle.

    Args:
        centres: (G, D) float32 unit vectors among the held-out embeddings.
        distances: (n,) float32 distances of held-out embeddings from their nearest centre, ascending.
        doubts: (n,) float32, 1 minus the best score of held-out images, ascending.
        limit: Strangeness from which on a frame counts as strange, 0..1.

    Raises:
        BundleError: arrays that no measurement gives.
    """

    centres: np.ndarray
    distances: np.ndarray
    doubts: np.ndarray
    limit: float

    def __post_init__(self) -> None:
        count = len(self.distances)
        finite = all(np.isfinite(array).all() for array in (self.centres, self.distances, self.doubts))
        lengths = np.linalg.norm(self.centres, axis=-1) if self.centres.ndim == 2 else np.zeros(1)
        right = {
            "centres": self.centres.ndim == 2 and 0 < len(self.centres) <= count and np.allclose(lengths, 1, atol=1e-3),
            "width": self.centres.ndim == 2 and 0 < self.centres.shape[1] <= MOST_WIDTH,
            "images": LEAST_IMAGES <= count <= MOST_IMAGES and self.doubts.shape == self.distances.shape == (count,),
            "values": finite and bool((np.diff(self.distances) >= 0).all() and (np.diff(self.doubts) >= 0).all()),
            "limit": 0 <= self.limit <= 1,
        }
        for what, holds in right.items():
            if not holds:
                raise BundleError(
                    f"strangeness: {what}",
                    expected=f"unit centres, and ascending values of {LEAST_IMAGES} to {MOST_IMAGES} images",
                    got=f"centres {self.centres.shape}, {count} images, limit {self.limit}",
                    do="export the task again",
                )

    @classmethod
    def measure(cls, embeddings: np.ndarray, scores: np.ndarray) -> Strangeness | None:
        """Measure held-out images; None for fewer than 16 of them.

        Each distance is from centres of other images, since an image is always near a centre that it helped to make.

        Args:
            embeddings: (n, D) float32 of images that training did not learn from.
            scores: (n,) best scores of the same images, 0..1.
        """
        count = len(embeddings)
        if count < LEAST_IMAGES:
            return None
        points = _unit(embeddings)
        folds = np.arange(count) % FOLDS
        distances = np.empty(count)
        for fold in range(FOLDS):
            others = _centres(points[folds != fold])
            distances[folds == fold] = 1 - (points[folds == fold] @ others.T).max(axis=1)
        doubts = 1 - scores.astype(np.float64)
        products = _p_values(np.sort(distances), distances) * _p_values(np.sort(doubts), doubts)
        limit = float(np.sort(1 - products)[strange_rank(count) - 1])
        return cls(
            centres=_centres(points).round(DIGITS).astype(np.float32),
            distances=np.sort(distances).round(DIGITS).astype(np.float32),
            doubts=np.sort(doubts).round(DIGITS).astype(np.float32),
            limit=round(limit, DIGITS),
        )

    @property
    def images(self) -> int:
        """Number n of held-out images."""
        return len(self.distances)

    def of(self, embedding: np.ndarray, score: float) -> float:
        """Strangeness of one frame, 0..1: 1 minus the product of the p-values of both signals.

        Args:
            embedding: (D,) float32, finite.
            score: Best score of the frame, 0..1.
        """
        length = math.sqrt(float(embedding @ embedding))
        distance = 1 - float((self.centres @ embedding).max()) / max(length, 1e-12)
        count = self.images
        farther = count - int(self.distances.searchsorted(distance))
        doubted = count - int(self.doubts.searchsorted(1 - score))
        return 1 - (farther + 1) * (doubted + 1) / (count + 1) ** 2

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "centres": [[round(float(value), DIGITS) for value in row] for row in self.centres],
            "distances": [round(float(value), DIGITS) for value in self.distances],
            "doubts": [round(float(value), DIGITS) for value in self.doubts],
            "limit": self.limit,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Strangeness:
        """Read what `to_json` wrote.

        Raises:
            BundleError: numbers that no measurement gives.
            ValueError: A field is missing, unknown, or of another type.
        """
        found = conform(data, StrangenessJson)
        return cls(
            centres=np.asarray(found.centres, np.float32),
            distances=np.asarray(found.distances, np.float32),
            doubts=np.asarray(found.doubts, np.float32),
            limit=found.limit,
        )


def strange_rank(images: int) -> int:
    """Rank, counted from 1, of the held-out image whose strangeness is the limit."""
    return min(math.ceil(QUANTILE * (images + 1)), images)


def alarm_share(frames: int, images: int, rate: float = FALSE_ALARMS) -> float:
    """Share of strange frames that sets off the alarm, 0..1; above 1 if so few frames can never set it off.

    If frames are independent and like the held-out images, the number of strange ones among m follows the
    beta-binomial distribution of m, n - k + 1 and k exactly, where the limit is the k-th smallest of n. So at most
    `rate` of all windows reach the returned share, whatever the embeddings look like.

    Args:
        frames: Number m of frames in the window, at least 1.
        images: Number n of held-out images.
        rate: Share of windows that may set off the alarm.

    Source: Vovk et al., "Algorithmic Learning in a Random World", 2005, on ranks of exchangeable values.
    """
    k = strange_rank(images)
    beta, alpha = k, images - k + 1
    tail, whole = 0.0, _log_beta(alpha, beta)
    for strange in range(frames, 0, -1):
        ways = -math.log(frames + 1) - _log_beta(strange + 1, frames - strange + 1)
        tail += math.exp(ways + _log_beta(strange + alpha, frames - strange + beta) - whole)
        if tail > rate:
            return (strange + 1) / frames
    return 1 / frames


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _p_values(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Share of held-out images whose signal is at least as large, the frame itself counted too."""
    larger = len(ordered) - ordered.searchsorted(values)
    return np.asarray((larger + 1) / (len(ordered) + 1))


def _unit(embeddings: np.ndarray) -> np.ndarray:
    points = embeddings.astype(np.float64)
    return np.asarray(points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12))


def _centres(points: np.ndarray) -> np.ndarray:
    """Unit centres (G, D) of unit points (n, D) by k-means on angles, from points far apart; the same on every call."""
    count = min(MOST_CENTRES, max(1, len(points) // IMAGES_PER_CENTRE))
    chosen = [int((points @ points.mean(axis=0)).argmin())]
    while len(chosen) < count:
        nearest = (points @ points[chosen].T).max(axis=1)
        chosen.append(int(nearest.argmin()))
    centres = points[chosen]
    for _ in range(ROUNDS):
        own = (points @ centres.T).argmax(axis=1)
        for index in range(count):
            if (own == index).any():
                total = points[own == index].sum(axis=0)
                centres[index] = total / max(float(np.linalg.norm(total)), 1e-12)
    return np.asarray(centres)

"""Drift without labels: whether a task's mixtures look like those on its training data.

A PGN that sees what it was not trained for mixes its library otherwise: it is less, or more, decided (entropy), and
takes other tokens (usage). Both are there for every frame, before anybody could label it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from threading import Lock

import numpy as np

from pgn_edge.mixtures import Profile, divergence

WINDOW = 256  # frames
LEAST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Drift:
    """How far a task is from its training profile, over the last frames or so.

    Args:
        frames: answered since the task was loaded; degraded ones do not count, here and below.
        entropy: moving mean of the entropy of the mixtures, a share of ln N, 0..1.
        entropy_z: its distance from the mean of the profile, in standard deviations of a frame there; below 0 where the
            PGN is more decided than in training.
        usage_divergence: Jensen-Shannon divergence of the moving usage of the library from the profile's, bits, 0..1.
    """

    frames: int
    entropy: float
    entropy_z: float
    usage_divergence: float


class Monitor:
    """Moving means of one task, from its first frame on. Any thread may call.

    A mean is that of all frames while there are few, and forgets old ones as more come: the weight of a frame falls by
    (W - 1) / (W + 1) with each that follows, so that the mean is as steady as one over W frames.

    Args:
        profile: of the task.
        prompts: K.
        window: W, at least 1.
    """

    def __init__(self, profile: Profile, prompts: int, window: int = WINDOW) -> None:
        size = len(profile.usage)
        self._profile, self._lock = profile, Lock()
        self._trained = np.array(profile.usage) / sum(profile.usage)
        self._weight = 2 / (window + 1)
        self._decay = 1 - self._weight
        self._scale = 1 / (prompts * math.log(size)) if size > 1 else 0.0
        self._ones = np.full(prompts, 1 / prompts, np.float32)
        self._logarithms = np.zeros((prompts, size), np.float32)
        self._frame = np.zeros(size, np.float32)
        self._step = np.zeros(size)
        self._usage = np.zeros(size)
        self._entropy, self._frames = 0.0, 0

    def observe(self, coefficients: np.ndarray) -> None:
        """Take in one frame; nothing of it is kept, and nothing is allocated.

        Args:
            coefficients: (K, N) float32, contiguous, finite, rows that sum to 1.
        """
        with self._lock:
            np.maximum(coefficients, LEAST, out=self._logarithms)  # 0 times its logarithm is 0
            np.log(self._logarithms, out=self._logarithms)
            entropy = -float(np.vdot(coefficients, self._logarithms)) * self._scale
            np.dot(self._ones, coefficients, out=self._frame)
            self._frames += 1
            # The weights of all frames sum to 1: those of the frames before the first one fall to the ones that came.
            weight = self._weight / (1 - self._decay**self._frames)
            self._entropy += weight * (entropy - self._entropy)
            np.subtract(self._frame, self._usage, out=self._step)
            np.multiply(self._step, weight, out=self._step)
            np.add(self._usage, self._step, out=self._usage)

    def read(self) -> Drift | None:
        """Where the means are now; None before the first frame."""
        with self._lock:
            if not self._frames:
                return None
            frames, entropy, usage = self._frames, min(max(self._entropy, 0.0), 1.0), self._usage.copy()
        profile = self._profile
        return Drift(
            frames,
            entropy,
            (entropy - profile.entropy_mean) / profile.entropy_std,
            divergence(usage / usage.sum(), self._trained),
        )

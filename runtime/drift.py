"""Drift without labels: whether the frames of a task look like the held-out images of its training.

The alarm counts strange frames (`pgn_edge.strangeness`) among the last ones. Entropy and usage of the mixtures describe
what changed; they set off no alarm, because harmless changes move them as much as harmful ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from threading import Lock

import numpy as np

from pgn_edge.mixtures import Profile, divergence
from pgn_edge.strangeness import alarm_share

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
        strange: Share of the last 256 frames that are stranger than 90 % of the held-out images, 0..1; None without
            held-out images in the bundle.
        alarm_share: Share from which on the alarm is set off. At most one window in a million of independent frames
            like the held-out images reaches it. None while no share of so few frames can, and without held-out images.
    """

    frames: int
    entropy: float
    entropy_z: float
    usage_divergence: float
    strange: float | None = None
    alarm_share: float | None = None

    @property
    def alarm(self) -> bool:
        """Whether so many of the last frames are strange that chance cannot explain it."""
        return self.strange is not None and self.alarm_share is not None and self.strange >= self.alarm_share


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
        self._recent, self._strange = bytearray(window), 0  # a ring of 0 and 1, and its sum

    def observe(self, coefficients: np.ndarray, embedding: np.ndarray, score: float) -> None:
        """Take in one frame; of it only whether it was strange is kept.

        Args:
            coefficients: (K, N) float32, contiguous, finite, rows that sum to 1.
            embedding: (D,) float32, finite.
            score: Best score of the frame, 0..1.
        """
        known = self._profile.strangeness
        strange = known is not None and known.of(embedding, score) > known.limit
        with self._lock:
            place = self._frames % len(self._recent)
            self._strange += strange - self._recent[place]
            self._recent[place] = strange
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
            strange = self._strange
        profile, seen = self._profile, min(frames, len(self._recent))
        share = limit = None
        if profile.strangeness is not None:
            share = strange / seen
            limit = alarm_share(seen, profile.strangeness.images)
        return Drift(
            frames,
            entropy,
            (entropy - profile.entropy_mean) / profile.entropy_std,
            divergence(usage / usage.sum(), self._trained),
            share,
            limit if limit is not None and limit <= 1 else None,
        )

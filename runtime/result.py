"""What comes back for a frame: an answer, or the word that there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pgn_edge.errors import DataError
from pgn_edge.heads import Head


@dataclass(frozen=True)
class Result:
    """The answer for one frame.

    Args:
        task: name of the task that answered.
        label: best class; empty where the frame is degraded.
        score: its probability, 0..1; 0 where the frame is degraded.
        scores: (C,) float32 probabilities in the order of `labels`; all 0 where the frame is degraded.
        labels: C class names.
        embedding: (D,) float32, as the ViT engine gave it, also where it is not finite.
        canvas: what the ViT engine saw, (3, H_c, W_c) float32 in normalised units or (H_c, W_c, 3) uint8 RGB; None
            unless it is kept.
        timings_ms: milliseconds by stage: preprocess, pgn, vit, head, and on a GPU upload and download; of the whole
            batch where frames share one.
        degraded: what was not finite, so that there is no answer: `mixture coefficients`, `canvas`, `embedding` or
            `scores`; empty for an answer.
    """

    task: str
    label: str
    score: float
    scores: np.ndarray
    labels: tuple[str, ...]
    embedding: np.ndarray
    canvas: np.ndarray | None
    timings_ms: Mapping[str, float]
    degraded: str = ""

    def kept_canvas(self) -> np.ndarray:
        """The canvas.

        Raises:
            DataError: the Runtime did not keep it.
        """
        if self.canvas is None:
            raise DataError(
                f"result of task {self.task}",
                expected="a canvas",
                got="none",
                do="make the Runtime with canvases=True",
            )
        return self.canvas

    def top(self, count: int) -> list[tuple[str, float]]:
        """The `count` best (label, probability), best first; none where the frame is degraded."""
        if self.degraded:
            return []
        order = np.argsort(-self.scores, kind="stable")[:count]
        return [(self.labels[index], float(self.scores[index])) for index in order]


def judge(head: Head, embedding: np.ndarray, flaw: str) -> tuple[np.ndarray, str]:
    """Class scores of one frame, or zeros where something about it is not finite.

    Args:
        head: of the task.
        embedding: (1, D) float32.
        flaw: what was not finite before the head; empty where all was.

    Returns:
        (C,) float32, and what was not finite, as in `Result.degraded`.
    """
    if not flaw:
        with np.errstate(invalid="ignore", over="ignore"):
            scores = head.scores(embedding)[0]
        if np.isfinite(scores).all():
            return scores, ""
        flaw = "scores"
    return np.zeros(len(head.labels), np.float32), flaw

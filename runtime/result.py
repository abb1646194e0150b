"""What comes back for a frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pgn_edge.errors import DataError


@dataclass(frozen=True)
class Result:
    """The answer for one frame.

    Args:
        task: name of the task that answered.
        label: best class.
        score: its probability, 0..1.
        scores: (C,) float32 probabilities in the order of `labels`.
        labels: C class names.
        embedding: (D,) float32, as the ViT engine gave it.
        canvas: (3, H_c, W_c) float32, what the ViT engine saw, normalised units; None unless it is kept.
        timings_ms: milliseconds by stage: preprocess, pgn, vit, head, and on a GPU upload and download; of the whole
            batch where frames share one.
    """

    task: str
    label: str
    score: float
    scores: np.ndarray
    labels: tuple[str, ...]
    embedding: np.ndarray
    canvas: np.ndarray | None
    timings_ms: Mapping[str, float]

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
        """The `count` best (label, probability), best first."""
        order = np.argsort(-self.scores, kind="stable")[:count]
        return [(self.labels[index], float(self.scores[index])) for index in order]

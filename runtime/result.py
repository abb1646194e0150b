"""What comes back for a frame: an answer, or the word that there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pgn_edge.errors import DataError
from pgn_edge.heads import Head

FAILED = "engine failed: "  # how `Result.degraded` begins where no number was computed
TOP = 3  # classes in a JSON object


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The answer for one frame.

    Two results are equal when they hold the same answer, whatever time it took.

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
            `scores`; `engine failed: ` and the reason where the task's own engine failed; empty for an answer.
        bundle: First 12 hexadecimal digits of the bundle file's sha256; empty where the answer has no bundle.
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
    bundle: str = ""

    @property
    def reason(self) -> str:
        """Why there is no answer, in words for a person; empty for an answer."""
        if not self.degraded or self.degraded.startswith(FAILED):
            return self.degraded
        return f"{self.degraded}: NaN or Inf"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Result):
            return NotImplemented
        if self._key() != other._key() or self.labels != other.labels:
            return False
        arrays = ((self.scores, other.scores), (self.embedding, other.embedding), (self.canvas, other.canvas))
        return all(_same(mine, theirs) for mine, theirs in arrays)

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        answer = f"degraded={self.degraded!r}" if self.degraded else f"label={self.label!r}, score={self.score:.4f}"
        total = f", total_ms={self.timings_ms['total']:.1f}" if "total" in self.timings_ms else ""
        return f"Result(task={self.task!r}, {answer}, classes={len(self.labels)}{total})"

    def _key(self) -> tuple[str | float, ...]:
        return self.task, self.label, self.score, self.degraded, self.bundle

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

    def to_json(self, top: int = TOP) -> dict[str, Any]:
        """Give the answer as a JSON object; a degraded frame has no label and no classes.

        Args:
            top: Number of best classes in it.

        Example:
            >>> json.dumps(runtime.infer("pets", frame_bgr).to_json(top=5))
        """
        return {
            "task": self.task,
            "bundle": self.bundle or None,
            "label": None if self.degraded else self.label,
            "score": _number(self.score, 6),
            "top": [{"label": label, "score": _number(score, 6)} for label, score in self.top(top)],
            "degraded": self.degraded or None,
            "timings_ms": {stage: _number(value_ms, 3) for stage, value_ms in self.timings_ms.items()},
        }


def _number(value: float, digits: int) -> float | None:
    """JSON has no NaN and no infinity."""
    return round(float(value), digits) if math.isfinite(value) else None


def _same(mine: np.ndarray | None, theirs: np.ndarray | None) -> bool:
    if mine is None or theirs is None:
        return mine is theirs
    return mine.dtype == theirs.dtype and np.array_equal(mine, theirs, equal_nan=True)


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

"""Keeps the failure of one task away from the frames of the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

import numpy as np

from pgn_edge.errors import TaskError
from pgn_edge.redact import redact
from pgn_edge.runtime.engines import TensorSpec
from pgn_edge.runtime.result import FAILED, Result
from pgn_edge.runtime.tasks import Task

SLOW_S = 1.0  # an engine that fails after a longer time than this rests
REST_S = 30.0

Frames = Sequence[tuple[str, np.ndarray]]


class Bulkhead:
    """Answers frames of several tasks; the frames of a task whose engine fails get degraded results.

    One thread at a time may call it.

    Args:
        width: Width D of the embedding.
        canvas: Shape and type of the canvas where results hold one, else None.
    """

    def __init__(self, width: int, canvas: TensorSpec | None) -> None:
        self._width, self._canvas = width, canvas
        self._resting: dict[Task, tuple[float, str]] = {}  # until when, and why

    def answer(
        self, frames: Frames, tasks: Mapping[str, Task], infer: Callable[[Frames], list[Result]]
    ) -> list[Result]:
        """Answer frames.

        Args:
            frames: (task name, frame) pairs.
            tasks: Tasks of these frames by name.
            infer: Function that answers frames together, or raises for all of them.

        Raises:
            PgnEdgeError: `infer` raised another error than that of one task.
        """
        now = perf_counter()
        self._resting = {task: rest for task, rest in self._resting.items() if now < rest[0]}
        failed = {name: self._resting[task][1] for name, task in tasks.items() if task in self._resting}
        while True:
            left = [pair for pair in frames if pair[0] not in failed]
            begin = perf_counter()
            try:
                answers = iter(infer(left) if left else [])
            except TaskError as exc:
                failed |= self._failed(exc, tasks, perf_counter() - begin)
                continue
            return [
                self._without_answer(name, tasks[name], failed[name]) if name in failed else next(answers)
                for name, _ in frames
            ]

    def _failed(self, error: TaskError, tasks: Mapping[str, Task], took_s: float) -> dict[str, str]:
        """Reasons by name of the tasks whose engine failed."""
        names = [name for name, task in tasks.items() if redact(task.pgn.name) == error.subject]
        if not names:
            raise error
        if took_s > SLOW_S:
            # Else every frame of this task would hold up the frames of all others for as long.
            self._resting |= {tasks[name]: (perf_counter() + REST_S, error.got) for name in names}
        return dict.fromkeys(names, error.got)

    def _without_answer(self, name: str, task: Task, why: str) -> Result:
        labels = task.head.labels
        scores = np.zeros(len(labels), np.float32)
        embedding = np.zeros(self._width, np.float32)
        canvas = None
        if self._canvas is not None:
            canvas = np.zeros([size or 1 for size in self._canvas.shape[1:]], self._canvas.dtype)
        timings = dict.fromkeys(("preprocess", "pgn", "vit", "head", "total"), 0.0)
        return Result(
            *(name, "", 0.0, scores, labels, embedding, canvas, timings, f"{FAILED}{why}"), bundle=task.digest
        )

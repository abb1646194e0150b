"""What the live page remembers: of each camera the newest frame and answers, and a row of numbers for each second."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any
from urllib.parse import quote

import numpy as np

from pgn_edge.preprocess import Preprocess
from pgn_edge.runtime.drift import Drift
from pgn_edge.runtime.record import utc
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.sinks import Sink
from pgn_edge.runtime.sources import Frame

MOST_CAMERAS = 64  # names may come from outside, and each holds a frame
MOST_ROWS = 300  # five minutes
SILENT_S = 5.0
FPS_ROWS = 3  # seconds that frames/s is the mean of
TOP = 5


@dataclass
class _Mean:
    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1

    def take(self) -> float | None:
        """The mean since it was last taken; None of nothing."""
        mean = self.total / self.count if self.count else None
        self.total, self.count = 0.0, 0
        return mean


@dataclass
class _Camera:
    seen_s: float  # when the newest frame was answered; before the first, when the camera was announced
    frame: Frame | None = None
    answers: dict[str, Result] = field(default_factory=dict)
    frames: int = 0
    dropped: int = 0
    reconnects: Callable[[], int] | None = None
    age_ms: _Mean = field(default_factory=_Mean)
    new_frames: int = 0  # since the last row
    rates: deque[int] = field(default_factory=lambda: deque(maxlen=FPS_ROWS))


class State:
    """Takes frames with their answers, and gives them back as documents and pictures; any thread may call.

    Frames and results are kept as they came, not copied: one frame of each camera, one result of each task beside it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cameras: dict[str, _Camera] = {}
        self._sinks: dict[str, Sink] = {}
        self._stages: dict[str, _Mean] = {}
        self._rows: deque[dict[str, Any]] = deque(maxlen=MOST_ROWS)
        self._next_row = 0

    def write(self, frame: Frame, results: Sequence[Result]) -> bool:
        """Remember a frame and its answers; False where there are too many cameras already."""
        name, now = frame.camera, monotonic()
        with self._lock:
            camera = self._camera(name, now)
            if camera is None:
                return False
            camera.seen_s, camera.frame = now, frame
            camera.frames += 1
            camera.new_frames += 1
            camera.dropped += frame.dropped
            if frame.captured_s is not None:
                camera.age_ms.add((now - frame.captured_s) * 1e3)
            for result in results:
                camera.answers[result.task] = result
                for stage, value_ms in result.timings_ms.items():
                    self._stages.setdefault(stage, _Mean()).add(value_ms)
        return True

    def expect(self, name: str, reconnects: Callable[[], int]) -> None:
        """Show a camera from now on, with the times that it was opened again."""
        with self._lock:
            camera = self._camera(name, monotonic())
            if camera is not None:
                camera.reconnects = reconnects

    def watch(self, name: str, sink: Sink) -> None:
        """Show the losses of a sink."""
        with self._lock:
            self._sinks[name] = sink

    def tick(self, drifts: Mapping[str, Drift | None]) -> None:
        """Close a row; called once a second.

        Args:
            drifts: of each loaded task. What others answered is forgotten.
        """
        with self._lock:
            cameras = {}
            for name, camera in self._cameras.items():
                cameras[name] = {"fps": camera.new_frames, "age_ms": _number(camera.age_ms.take())}
                camera.rates.append(camera.new_frames)
                camera.new_frames = 0
                camera.answers = {task: answer for task, answer in camera.answers.items() if task in drifts}
            row = {
                "row": self._next_row,
                "at_s": round(monotonic(), 3),
                "cameras": cameras,
                "stages_ms": {stage: _number(mean.take()) for stage, mean in self._stages.items()},
                "drift": {task: _drift(drift) for task, drift in drifts.items()},
            }
            self._rows.append(row)
            self._next_row += 1

    def document(self, after: int, preprocess: Mapping[str, Preprocess]) -> dict[str, Any]:
        """Everything but pictures, as a JSON object.

        Args:
            after: Number of the last row that the reader has; -1 for none.
            preprocess: Preprocessing of each loaded task, which says what part of a frame the task sees.
        """
        with self._lock:
            now = monotonic()
            cameras = {name: (_camera(name, camera, now), camera) for name, camera in self._cameras.items()}
            answers = {name: list(camera.answers.values()) for name, camera in self._cameras.items()}
            rows, sinks = [row for row in self._rows if row["row"] > after], dict(self._sinks)
        # Sorting scores and asking others is done without the lock, which the loop waits for.
        for name, (document, camera) in cameras.items():
            document["reconnects"] = None if camera.reconnects is None else camera.reconnects()
            document["answers"] = [_answer(answer) for answer in answers[name]]
            seen = [preprocess[answer.task] for answer in answers[name] if answer.task in preprocess]
            document["seen"] = _seen(document["size_hw"], seen)
        return {
            "now_s": round(now, 3),
            "cameras": [document for document, _ in cameras.values()],
            "sinks": [{"name": name, **_losses(sink)} for name, sink in sinks.items()],
            "rows": rows,
        }

    def picture(self, name: str) -> tuple[int, np.ndarray] | None:
        """The newest frame of a camera, (h, w, 3) uint8 BGR, and its number; None where there is none."""
        with self._lock:
            camera = self._cameras.get(name)
            if camera is None or camera.frame is None:
                return None
            return camera.frames, camera.frame.image_bgr

    def canvas(self, name: str, task: str) -> tuple[int, np.ndarray] | None:
        """The newest canvas of a camera and task, see `Result`, and its number; None where there is none."""
        with self._lock:
            camera = self._cameras.get(name)
            result = None if camera is None else camera.answers.get(task)
            if camera is None or result is None or result.canvas is None:
                return None
            return camera.frames, result.canvas

    def _camera(self, name: str, now: float) -> _Camera | None:
        camera = self._cameras.get(name)
        if camera is None and len(self._cameras) < MOST_CAMERAS:
            camera = self._cameras[name] = _Camera(now)
        return camera


def _camera(name: str, camera: _Camera, now: float) -> dict[str, Any]:
    silent_s, rates = now - camera.seen_s, camera.rates
    return {
        "name": name,
        "path": _path(name),
        "size_hw": None if camera.frame is None else camera.frame.image_bgr.shape[:2],
        "frames": camera.frames,
        "dropped": camera.dropped,
        "at": None if camera.frame is None else utc(camera.frame.at_s),
        "fps": round(sum(rates) / len(rates), 1) if rates else None,
        "silent_s": round(silent_s, 1) if silent_s >= SILENT_S else None,
    }


def _seen(size_hw: tuple[int, int] | None, tasks: Sequence[Preprocess]) -> list[float] | None:
    """Part of a frame that at least one task sees, as edges x0, y0, x1, y1 in 0..1; None before the first answer."""
    if size_hw is None or not tasks:
        return None
    height, width = size_hw
    left, top, right, bottom = zip(*(task.box(height, width) for task in tasks), strict=True)
    edges = min(left) / width, min(top) / height, max(right) / width, max(bottom) / height
    return [round(edge, 4) for edge in edges]


def _path(name: str) -> str:
    """A name in an address; here, since scripts cannot encode what is no text, as in the name of a file may be."""
    return quote(name, safe="", errors="surrogatepass")


def _answer(result: Result) -> dict[str, Any]:
    return {**result.to_json(TOP), "path": _path(result.task), "canvas": result.canvas is not None}


def _drift(drift: Drift | None) -> dict[str, float | bool | None] | None:
    if drift is None:
        return None
    return {
        "entropy_z": _number(drift.entropy_z),
        "usage_divergence": _number(drift.usage_divergence),
        "strange": _number(drift.strange),
        "alarm": drift.alarm,
    }


def _losses(sink: Sink) -> dict[str, Any]:
    counts = sink.counts
    return {"sent": counts.sent, "lost": counts.lost + counts.dropped, "last_error": counts.last_error}


def _number(value: float | None) -> float | None:
    """JSON has no NaN and no infinity."""
    return None if value is None or not math.isfinite(value) else round(value, 4)

"""The answer record: one JSON object for each frame and task, the same in every sink."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from pgn_edge.runtime.result import Result
from pgn_edge.runtime.sources import Frame

SCHEMA = 1


@dataclass(frozen=True)
class AnswerRecord:
    """One answer, and where and when its frame was captured.

    Args:
        run: Id of the run.
        at: UTC time of the capture in ISO 8601, to the millisecond; of a file, the time when the frame was read.
        camera: Name of the camera; the file name of a video; `files` for images.
        sequence: Number of the frame among all frames of its camera or file, counted from 0.
        name: Name of the frame: `camera#sequence`, or the file name of an image.
        time_s: Media time of the frame in its file, seconds; None for cameras and images.
        answer: JSON object of the answer, as `Result.to_json` gives it.

    Example:
        >>> def on_frame(frame, results):
        ...     for result in results:
        ...         print(AnswerRecord.of(frame, result).to_json())
    """

    run: str
    at: str
    camera: str
    sequence: int
    name: str
    time_s: float | None
    answer: Mapping[str, Any]

    @classmethod
    def of(cls, frame: Frame, result: Result) -> AnswerRecord:
        """Make the record of one answer.

        Args:
            frame: Frame that was answered.
            result: Answer of one task.
        """
        time_s = None if frame.time_s is None else round(frame.time_s, 6)
        return cls(frame.run, utc(frame.at_s), frame.camera, frame.number, frame.name, time_s, result.to_json())

    def to_json(self) -> dict[str, Any]:
        """Give the record as a JSON object; `schema` is the version of its fields."""
        return {
            "schema": SCHEMA,
            "run": self.run,
            "at": self.at,
            "camera": self.camera,
            "sequence": self.sequence,
            "name": self.name,
            "time_s": self.time_s,
            **self.answer,
        }


def utc(at_s: float) -> str:
    """Write a time in ISO 8601.

    Args:
        at_s: Seconds since 1970, UTC.
    """
    text = datetime.fromtimestamp(at_s, timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")

"""Where answers go: an annotated video, or one line of JSON for each frame and task."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TextIO

import cv2
import numpy as np

from pgn_edge.contract import EngineFacts
from pgn_edge.errors import OutputError
from pgn_edge.files import atomic_write
from pgn_edge.runtime.annotate import annotate, fit_into
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.sources import Frame

TOP = 3


class Sink(Protocol):
    """A context manager that keeps what it is given; left by an exception, it leaves no file behind."""

    def write(self, frame: Frame, results: Sequence[Result]) -> None:
        """Take one frame and the answers of all tasks for it.

        Raises:
            OutputError: it cannot be written.
        """

    def __enter__(self) -> Sink: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...


class VideoSink:
    """An annotated .mp4, tasks below each other; frames of another shape than the first are fitted into it.

    Args:
        path: of the video; it appears when all frames are written and the file has been read back.
        facts: of the ViT engine, `Runtime.facts`.
        fps: frames per second.

    Raises:
        OutputError: another suffix than .mp4.
    """

    def __init__(self, path: str | Path, facts: EngineFacts, fps: float) -> None:
        self._path, self._facts, self._fps = Path(path), facts, fps
        if self._path.suffix.lower() != ".mp4":
            raise self._error("a name that ends in .mp4", repr(self._path.name), "choose such a name")
        self._stack = ExitStack()
        self._writer: Any = None
        self._frame_hw: tuple[int, int] | None = None
        self._written = 0

    def write(self, frame: Frame, results: Sequence[Result]) -> None:
        """See `Sink.write`."""
        self._frame_hw = self._frame_hw or frame.image_bgr.shape[:2]
        image_bgr = fit_into(frame.image_bgr, self._frame_hw)
        picture = np.vstack([annotate(image_bgr, result, self._facts) for result in results])
        if self._writer is None:
            self._writer = self._open_writer(picture.shape[:2])
        self._writer.write(picture)
        self._written += 1

    def __enter__(self) -> VideoSink:
        self._temporary = self._stack.enter_context(atomic_write(self._path))
        self._stack.push(self._finish)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)

    def _open_writer(self, size_hw: tuple[int, int]) -> Any:
        fourcc = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(self._temporary), fourcc, self._fps, size_hw[::-1])
        if not writer.isOpened():
            raise self._error(
                "an OpenCV that encodes mp4v",
                f"no writer for {size_hw[1]} x {size_hw[0]} at {self._fps:g} fps",
                "install opencv-python from PyPI, which brings the encoder",
            )
        return writer

    def _finish(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.release()
        if error is None:
            self._verify()

    def _verify(self) -> None:
        # cv2.VideoWriter says nothing when the disk is full or the encoder drops a frame.
        capture = cv2.VideoCapture(str(self._temporary)) if self._written else None
        held, readable = 0, False
        if capture is not None:
            held = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
            capture.set(cv2.CAP_PROP_POS_FRAMES, self._written - 1)
            readable = bool(capture.grab())
            capture.release()
        if not readable or held != self._written:
            raise self._error(
                f"a video of {max(self._written, 1)} frames that opens again",
                f"{held} frames" if readable else "one that does not read to its end",
                "check that the disk has free space",
            )

    def _error(self, expected: str, got: str, do: str) -> OutputError:
        return OutputError(str(self._path), expected=expected, got=got, do=do)


class JsonlSink:
    """One JSON object a line for each frame and task.

    Args:
        path: of a file, which appears when all is written; `-` is stdout, where each line is sent at once.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._stack = ExitStack()
        self._stream: TextIO

    def write(self, frame: Frame, results: Sequence[Result]) -> None:
        """See `Sink.write`."""
        lines = [json.dumps(_record(frame, result)) + "\n" for result in results]
        try:
            self._stream.writelines(lines)
            if self._path == "-":
                self._stream.flush()
        except BrokenPipeError as exc:
            # Python flushes stdout once more at exit, and would complain about the same pipe there.
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())
            raise self._error("a reader of stdout", "a closed pipe", "keep the reader running") from exc
        except OSError as exc:
            raise self._error("a place to write to", exc.strerror or str(exc), "free some space") from exc

    def __enter__(self) -> JsonlSink:
        if self._path == "-":
            self._stream = sys.stdout
        else:
            temporary = self._stack.enter_context(atomic_write(self._path))
            self._stream = self._stack.enter_context(open(temporary, "w", encoding="utf-8"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)

    def _error(self, expected: str, got: str, do: str) -> OutputError:
        return OutputError(f"jsonl {self._path}", expected=expected, got=got, do=do)


def _record(frame: Frame, result: Result) -> dict[str, Any]:
    return {
        "index": frame.index,
        "name": frame.name,
        "time_s": round(frame.time_s, 6),
        "task": result.task,
        "label": result.label,
        "score": round(result.score, 6),
        "top": [{"label": label, "score": round(score, 6)} for label, score in result.top(TOP)],
        "timings_ms": {stage: round(value_ms, 3) for stage, value_ms in result.timings_ms.items()},
    }

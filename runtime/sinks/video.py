"""A video of the frames with their answers drawn beside them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from pgn_edge.contract import EngineFacts
from pgn_edge.errors import OutputError
from pgn_edge.extras import cv2
from pgn_edge.files import atomic_write
from pgn_edge.runtime.annotate import annotate, fit_into
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.sinks.base import Counts, OnError, Tally, check_on_error
from pgn_edge.runtime.sources import Frame

# What must stay free: the encoder's buffers, and the index that an .mp4 gets at its end: without it nothing opens.
RESERVE_BYTES, INDEX_BYTES = 1 << 20, 64


class VideoSink:
    """An annotated .mp4, tasks below each other; frames of another shape than the first are fitted into it.

    Args:
        path: of the video; it appears when all frames are written and the file has been read back.
        facts: of the ViT engine, `Runtime.facts`.
        fps: frames per second.
        on_error: `raise` ends the run when the disk is full. `drop` leaves frames out while it is, and counts them as
            lost; a file that does not open at the end is removed, and all its frames are lost.

    Raises:
        OutputError: another suffix than .mp4, or another `on_error`.
    """

    def __init__(self, path: str | Path, facts: EngineFacts, fps: float, on_error: OnError = "raise") -> None:
        self._path, self._facts, self._fps, self._on_error = Path(path), facts, fps, on_error
        check_on_error(on_error, str(path))
        if self._path.suffix.lower() != ".mp4":
            raise self._error("a name that ends in .mp4", repr(self._path.name), "choose such a name")
        self._stack, self._tally = ExitStack(), Tally()
        self._writer: Any = None
        self._frame_hw: tuple[int, int] | None = None
        self._written = 0

    @property
    def counts(self) -> Counts:
        """See `Sink.counts`; frames are sent once the file has been read back."""
        return self._tally.counts

    def write(self, frame: Frame, results: Sequence[Result]) -> None:
        """See `Sink.write`."""
        with self._tally.attempt(self._on_error, sent=0):
            self._append(frame, results)

    def __enter__(self) -> VideoSink:
        self._temporary = self._stack.enter_context(atomic_write(self._path))
        self._stack.push(self._finish)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            return self._stack.__exit__(kind, error, trace)
        except OutputError as exc:
            self._tally.add(lost=self.counts.waiting)
            self._tally.fail(exc.got)
            if self._on_error == "raise" or error is not None:
                raise
            return None

    def _append(self, frame: Frame, results: Sequence[Result]) -> None:
        free_bytes = shutil.disk_usage(self._temporary.parent).free
        if free_bytes < RESERVE_BYTES + INDEX_BYTES * self._written:
            raise self._error("room on the disk", f"{free_bytes} bytes free", "free some space")
        self._frame_hw = self._frame_hw or frame.image_bgr.shape[:2]
        image_bgr = fit_into(frame.image_bgr, self._frame_hw)
        picture = np.vstack([annotate(image_bgr, result, self._facts) for result in results])
        if self._writer is None:
            self._writer = self._open_writer(picture.shape[:2])
        self._writer.write(picture)
        self._written += 1

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
            self._tally.add(sent=self._written)
        else:  # the file goes away, and the frames with it
            self._tally.add(lost=self._written)

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

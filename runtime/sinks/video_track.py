"""A video of constant rate whose pictures are shown when their frames were captured."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pgn_edge.extras import cv2

Codec = Literal["vp9", "vp8", "mp4v"]
CODECS: dict[str, tuple[Codec, ...]] = {
    ".mp4": ("vp9", "mp4v"),
    ".webm": ("vp8", "vp9"),
}  # the default first
FOURCC = {
    **{(".mp4", "vp9"): "vp09", (".mp4", "mp4v"): "mp4v"},
    **{(".webm", "vp8"): "VP80", (".webm", "vp9"): "VP90"},
}

MOST_LATE = 1  # places after its own that a picture still takes, where frames crowd


class VideoTrack:
    """Places pictures on the time axis of a video: a gap repeats the picture before it, a crowd loses pictures.

    The memory holds one picture. One thread calls.

    Args:
        path: Path of the file; its suffix chooses the container.
        fps: Rate of the video.
        codec: Codec of the video.
        most_gap_s: Longest gap that is filled at once, seconds; what a gap has beyond it is left out.
    """

    def __init__(self, path: Path, fps: float, codec: Codec, most_gap_s: float) -> None:
        self.path, self.fps, self.codec = path, fps, codec
        self.check: Callable[[], None] = lambda: None  # called before each picture; it raises where there is no room
        self._most_gap = round(most_gap_s * fps)
        self._writer: Any = None
        self._picture: np.ndarray | None = None
        self._start_s: float | None = None
        self._repeated = False  # whether the newest picture in the file fills a gap
        self.written = 0
        self.left_out_s = 0.0

    def put(self, picture: np.ndarray, at_s: float | None) -> bool:
        """Add a picture.

        Args:
            picture: (H, W, 3) uint8 BGR, H and W even and the same for all.
            at_s: Time of its frame, on any clock that all share; None places it right behind the one before.

        Returns:
            Whether it has a place of its own; a picture without one is shown only if the next is far.
        """
        place = self.written if at_s is None else self._place(at_s)
        if place < self.written - MOST_LATE and not self._repeated:
            self._picture = picture
            return False
        self._fill(place)
        self._picture, self._repeated = picture, False
        self._encode(picture)
        return True

    def fill_until(self, at_s: float, picture: np.ndarray | None = None) -> None:
        """Repeat the newest picture until a time.

        Args:
            at_s: Time on the clock of the frames.
            picture: Picture to repeat instead.
        """
        if self._picture is not None:
            self._picture = self._picture if picture is None else picture
            self._fill(self._place(at_s))

    def lasts_s(self, until_s: float) -> float:
        """Seconds from the first picture until a time on the clock of the frames; 0 before the first."""
        return 0.0 if self._start_s is None else until_s - self._start_s

    @property
    def picture(self) -> np.ndarray | None:
        """The newest picture."""
        return self._picture

    def close(self) -> None:
        """End the file."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None

    def _place(self, at_s: float) -> int:
        if self._start_s is None:
            self._start_s = at_s - self.written / self.fps
        return round((at_s - self._start_s) * self.fps)

    def _fill(self, place: int) -> None:
        assert self._start_s is not None or place == self.written
        beyond = place - self.written - self._most_gap
        if beyond > 0 and self._start_s is not None:
            self._start_s += beyond / self.fps
            self.left_out_s += beyond / self.fps
        for _ in range(min(place - self.written, self._most_gap)):
            assert self._picture is not None
            self._repeated = True
            self._encode(self._picture)

    def _encode(self, picture: np.ndarray) -> None:
        self.check()
        if self._writer is None:
            self._writer = self._open(picture.shape[:2])
        self._writer.write(picture)
        self.written += 1

    def _open(self, size_hw: tuple[int, int]) -> Any:
        fourcc = cv2.VideoWriter.fourcc(*FOURCC[self.path.suffix.lower(), self.codec])
        with _quiet_stderr():  # OpenCV prints a line about the tag of a codec in .webm, which is right all the same
            writer = cv2.VideoWriter(str(self.path), cv2.CAP_FFMPEG, fourcc, self.fps, size_hw[::-1])
        if not writer.isOpened():
            raise NoEncoderError(f"no writer for {size_hw[1]} x {size_hw[0]} at {self.fps:g} fps")
        return writer


class NoEncoderError(RuntimeError):
    """OpenCV has no encoder for a video."""


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Let what libraries print to stderr go nowhere."""
    kept_fd = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept_fd, 2)
        os.close(kept_fd)

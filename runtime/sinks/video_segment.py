"""One file of an annotated video: written under a temporary name, read back, and only then there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np

from pgn_edge.errors import OutputError
from pgn_edge.extras import cv2
from pgn_edge.files import atomic_write
from pgn_edge.runtime.sinks.video_track import NoEncoderError, VideoTrack

# What must stay free: the encoder's buffers, and the index that an .mp4 gets at its end: without it nothing opens.
RESERVE_BYTES, INDEX_BYTES = 1 << 20, 64


class _DiscardedError(Exception):
    """The file is not to be kept."""


class Segment:
    """A video file under way; one thread calls.

    Args:
        path: Path of the file once it is finished.
        make_track: Function that makes the track of a file under a temporary name.

    Raises:
        OutputError: The folder cannot be written.
    """

    def __init__(self, path: Path, make_track: Callable[[Path], VideoTrack]) -> None:
        self.path, self.shown, self.dark = path, 0, False
        self._stack = ExitStack()
        self._temporary = self._stack.enter_context(atomic_write(path))
        self.track = make_track(self._temporary)
        self.track.check = self._check_room

    def put(self, picture: np.ndarray, at_s: float | None) -> bool:
        """Add a picture, see `VideoTrack.put`.

        Raises:
            OutputError: The disk is full, or OpenCV has no encoder.
        """
        try:
            has_place = self.track.put(picture, at_s)
        except NoEncoderError as exc:
            do = "install opencv-python from PyPI, which brings the encoder"
            raise self._error(f"an OpenCV that encodes {self.track.codec}", str(exc), do) from exc
        self.shown += has_place
        self.dark = False
        return has_place

    def close(self, keep: bool, needed: bool) -> None:
        """End the file; it appears if it is to be kept and reads back.

        Args:
            keep: Whether the file is to be kept.
            needed: Whether a file without pictures is an error.

        Raises:
            OutputError: The file does not hold what was written.
        """
        self.track.close()
        with suppress(_DiscardedError), self._stack:
            if not keep or not (needed or self.track.written):
                raise _DiscardedError
            self._verify()

    def _check_room(self) -> None:
        free_bytes = shutil.disk_usage(self._temporary.parent).free
        if free_bytes < RESERVE_BYTES + INDEX_BYTES * self.track.written:
            raise self._error("room on the disk", f"{free_bytes} bytes free", "free some space")

    def _verify(self) -> None:
        # cv2.VideoWriter says nothing when the disk is full or the encoder drops a frame.
        written = self.track.written
        capture = cv2.VideoCapture(str(self._temporary)) if written else None
        held, readable = 0, False
        if capture is not None:
            held = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
            capture.set(cv2.CAP_PROP_POS_FRAMES, written - 1)
            readable = bool(capture.grab())
            capture.release()
        if not readable or held != written:
            raise self._error(
                f"a video of {max(written, 1)} frames that opens again",
                f"{held} frames" if readable else "one that does not read to its end",
                "check that the disk has free space",
            )

    def _error(self, expected: str, got: str, do: str) -> OutputError:
        return OutputError(str(self.path), expected=expected, got=got, do=do)

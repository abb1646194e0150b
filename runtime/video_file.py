"""Video files, decoded by OpenCV: every frame that can be read, and a count of those that cannot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from pgn_edge.errors import DataError
from pgn_edge.extras import cv2
from pgn_edge.file_kind import require_kind
from pgn_edge.runtime.mp4 import shown_times
from pgn_edge.runtime.sources import DEFAULT_FPS, HIGHEST_FPS, INDEXED_SUFFIXES, STATED_SUFFIXES, Frame, Missing

# OpenCV reports a damaged packet and the end of a file alike. A read at the end costs microseconds.
MOST_FAILURES, MOST_UNCOUNTED_FAILURES = 1000, 100


class VideoSource:
    """A video file, open from the start and proven to give a frame.

    A frame that cannot be decoded is counted as missing, and reading goes on with the next one.

    Args:
        path: of the video.

    Raises:
        DataError: it does not open, or gives no frame.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._file_name = path.name
        self._capture: Any = cv2.VideoCapture(self.name)
        try:
            fps = float(self._capture.get(cv2.CAP_PROP_FPS))
            self.fps = fps if 0 < fps <= HIGHEST_FPS else DEFAULT_FPS
            self._times_s = _times_s(path)
            self.count = self._count(path)
            self._index, self._last, self._damaged = 0, -1, 0
            self._first_missing = ""
            self._next = self._read()
            if self._next is None:
                require_kind(path, "video", "image", error=DataError, expected="a video or an image")
                raise DataError(
                    self.name,
                    expected="a video that OpenCV decodes, or an image",
                    got="no frame",
                    do="check that the file is whole, or convert it to H.264 in .mp4",
                )
        except BaseException:
            self._capture.release()
            raise

    @property
    def missing(self) -> Missing:
        """See `Source.missing`; what is cut short is known at the end."""
        if self.count is None or self._next is not None:
            return Missing(damaged=self._damaged, first=self._first_missing)
        total = max(self.count - self._index, 0)
        cut_short = min(max(self.count - 1 - self._last, 0), total)
        end = f"{self._file_name}#{self._last + 1}" if cut_short else ""
        return Missing(damaged=total - cut_short, cut_short=cut_short, first=self._first_missing or end)

    def __iter__(self) -> Iterator[Frame]:
        while self._next is not None:
            frame = self._next
            yield frame
            self._next = self._read()

    def _read(self) -> Frame | None:
        """Give the next frame that can be decoded; None at the end."""
        failures, decoded = 0, False
        while not decoded:
            decoded, image_bgr = self._capture.read()
            if not decoded:
                failures += 1
                if failures > self._most_failures():
                    return None
        clock_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
        # A backend without a clock says 0 for every frame.
        time_s = clock_s if clock_s > 0 else self._index / self.fps
        number = self._number(time_s, failures)
        if number > self._last + 1:
            self._damaged += number - self._last - 1
            self._first_missing = self._first_missing or f"{self._file_name}#{self._last + 1}"
        name = f"{self._file_name}#{number}"
        frame = Frame(self._index, name, time_s, image_bgr, sequence=number, camera=self._file_name)
        self._index, self._last = self._index + 1, number
        return frame

    def _most_failures(self) -> int:
        if self.count is None:
            return MOST_UNCOUNTED_FAILURES
        return min(self.count - 1 - self._last, MOST_FAILURES)

    def _count(self, path: Path) -> int | None:
        if self._times_s is not None:
            return len(self._times_s)
        stated = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        return stated if path.suffix.lower() in STATED_SUFFIXES and stated > 0 else None

    def _number(self, time_s: float, failures: int) -> int:
        """Number of a frame in its file; by its time where the file says when each frame is shown."""
        least = self._last + 1
        if self._times_s is not None:
            return max(_nearest(self._times_s, time_s), least)
        return least + failures if self.count is None else max(round(time_s * self.fps), least)

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._capture.release()


def _nearest(times_s: np.ndarray, time_s: float) -> int:
    after = int(np.searchsorted(times_s, time_s))
    near = [number for number in (after - 1, after) if 0 <= number < len(times_s)]
    return min(near, key=lambda number: abs(float(times_s[number]) - time_s))


def _times_s(path: Path) -> np.ndarray | None:
    """When each frame is shown, (N,) seconds from the first; None where the container does not say."""
    if path.suffix.lower() not in INDEXED_SUFFIXES:
        return None
    try:
        with path.open("rb") as file:
            return shown_times(file)
    except OSError:
        return None

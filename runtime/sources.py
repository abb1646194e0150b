"""Where frames come from: files and folders here; `open_source` also opens cameras and streams, see `live/`."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pgn_edge.errors import DataError
from pgn_edge.images import IMAGE_SUFFIXES, is_image, read_image

if TYPE_CHECKING:
    from pgn_edge.runtime.live import LiveOptions, LiveSource

# Of other containers OpenCV only estimates the count, from duration and rate: good for no claim about lost frames.
COUNTED_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi")
DEFAULT_FPS = 25.0
HIGHEST_FPS = 1000.0


def new_run() -> str:
    """Make the id of a run: 12 hexadecimal digits, by chance."""
    return uuid.uuid4().hex[:12]


@cache
def _process_run(_pid: int) -> str:
    return new_run()


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a source.

    Args:
        index: Number among the frames handed over, counted from 0.
        name: Name for people: `clip.mp4#12` in a video, `rtsp://camera/1#12` of a camera, the file name of an image.
        time_s: Media time in a video file, seconds; None for cameras and images.
        image_bgr: Picture, (h, w, 3) uint8 BGR.
        captured_s: Monotonic clock when the frame came from the camera, seconds; None in a file.
        age_ms: Milliseconds from the capture until the frame was handed over; None in a file.
        sequence: Number among all frames that the camera or the file gave, lost ones too; None where it is `index`.
        dropped: Number of camera frames between the one handed over before and this one.
        camera: Name of the camera, as records, topics and metrics have it; by default `name` without `#number`, or
            `files` where the name has no number.
        at_s: UTC time of the capture, seconds since 1970; of a file, the time when the frame was read.
        run: Id of the run. `run_app` and `run_cameras` set their own; in other loops it is one for each process.
    """

    index: int
    name: str
    time_s: float | None
    image_bgr: np.ndarray
    captured_s: float | None = None
    age_ms: float | None = None
    sequence: int | None = None
    dropped: int = 0
    camera: str = ""
    at_s: float = field(default_factory=time.time)
    run: str = field(default_factory=lambda: _process_run(os.getpid()))

    def __post_init__(self) -> None:
        if not self.camera:
            camera, mark, _ = self.name.rpartition("#")
            object.__setattr__(self, "camera", camera if mark and camera else "files")

    @property
    def number(self) -> int:
        """Number of the frame among all frames of its camera or file."""
        return self.index if self.sequence is None else self.sequence

    def of_camera(self, camera: str) -> Frame:
        """Give the same frame under the name of a camera; an image keeps the name of its file.

        Args:
            camera: Name of the camera.
        """
        is_numbered = self.name == f"{self.camera}#{self.number}"
        return replace(self, camera=camera, name=f"{camera}#{self.number}" if is_numbered else self.name)


class Source(Protocol):
    """A context manager that yields frames, once, in order."""

    @property
    def name(self) -> str:
        """What the user asked for, for messages."""

    @property
    def fps(self) -> float:
        """Frames per second; 25 where the source has no rate of its own."""

    @property
    def count(self) -> int | None:
        """Number of frames that it should give; None where nobody knows."""

    @property
    def missing_frames(self) -> int:
        """Frames short of `count`, once the iteration has ended."""

    def __iter__(self) -> Iterator[Frame]: ...

    def __enter__(self) -> Source: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_source(source: str | int | Iterable[np.ndarray], options: LiveOptions | None = None) -> Source:
    """Open what `source` names; a camera has given its first frame when this returns.

    Args:
        source: path of a video, of an image, or of a folder whose images are read in the order of their names; number
            of a camera, /dev/videoN, rtsp:// or http:// address, or GStreamer pipeline; or an iterable of images,
            (h, w, 3) uint8 BGR.
        options: how to read a camera or a stream; refused where there is none.

    Raises:
        DataError: no such path, a folder without images, a video that gives no frame, a camera that gives none within
            `connect_s`, or options without a camera.
    """
    if isinstance(source, str | int):
        source = str(source)
        live = _connected(source, options)
        if live is not None:
            return live
    if options is not None:
        raise DataError(
            source if isinstance(source, str) else "iterator",
            expected="a camera or a stream, which policies and rates are for",
            got="a file, a folder or an iterator, which is read at the speed of its answers",
            do="leave these options out",
        )
    return _open_file(source) if isinstance(source, str) else _iterator(source)


def _connected(source: str, options: LiveOptions | None) -> LiveSource | None:
    from pgn_edge.runtime.live import LiveSource
    from pgn_edge.runtime.live.address import live_address

    if live_address(source) is None:
        return None
    live = LiveSource(source, options)
    try:
        live.connect()
    except BaseException:
        live.close()
        raise
    return live


def _iterator(images: Iterable[np.ndarray]) -> Source:
    from pgn_edge.runtime.live.iterator import IteratorSource

    return IteratorSource(images)


def _open_file(source: str) -> Source:
    path = Path(source)
    if not path.exists():
        raise DataError(source, expected="a video, an image or a folder", got="no such path", do="check the path")
    if path.is_dir():
        images = sorted(file for file in path.iterdir() if is_image(file))
        if not images:
            raise DataError(
                source,
                expected=f"images ({', '.join(IMAGE_SUFFIXES)})",
                got="a folder without any",
                do="name a folder that holds images itself, not in folders below it",
            )
        return ImageSource(source, images)
    return ImageSource(source, [path]) if is_image(path) else VideoSource(path)


class ImageSource:
    """Images from files.

    Args:
        name: for messages.
        paths: in the order in which they are read.
    """

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        self.name, self.fps, self.missing_frames = name, DEFAULT_FPS, 0
        self.count: int | None = len(paths)
        self._paths = tuple(paths)

    def __iter__(self) -> Iterator[Frame]:
        for index, path in enumerate(self._paths):
            yield Frame(index, path.name, None, np.ascontiguousarray(read_image(path)[..., ::-1]), camera="files")

    def __enter__(self) -> ImageSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class VideoSource:
    """A video file, decoded by OpenCV. It is open from the start and proven to give a frame.

    Args:
        path: of the video.

    Raises:
        DataError: it does not open, or gives no frame.
    """

    def __init__(self, path: Path) -> None:
        import cv2

        self.name = str(path)
        self._file_name = path.name
        self._capture: Any = cv2.VideoCapture(self.name)
        try:
            self._next = self._read()
            if self._next is None:
                raise DataError(
                    self.name,
                    expected="a video that OpenCV decodes, or an image",
                    got="no frame",
                    do="check that the file is whole, or convert it to H.264 in .mp4",
                )
            fps = float(self._capture.get(cv2.CAP_PROP_FPS))
            stated = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        except BaseException:
            self._capture.release()
            raise
        self.fps = fps if 0 < fps <= HIGHEST_FPS else DEFAULT_FPS
        counted = path.suffix.lower() in COUNTED_SUFFIXES and stated > 0
        self.count = int(stated) if counted else None
        self.missing_frames = 0

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        while self._next is not None:
            image_bgr, clock_s = self._next
            # A backend without a clock says 0 for every frame.
            time_s = clock_s if clock_s > 0 else index / self.fps
            yield Frame(index, f"{self._file_name}#{index}", time_s, image_bgr, camera=self._file_name)
            index += 1
            self._next = self._read()
        self.missing_frames = max((self.count or 0) - index, 0)

    def _read(self) -> tuple[np.ndarray, float] | None:
        import cv2

        decoded, image_bgr = self._capture.read()
        if not decoded:
            return None
        return image_bgr, self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._capture.release()

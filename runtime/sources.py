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
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pgn_edge.errors import DataError
from pgn_edge.images import IMAGE_SUFFIXES, is_image, read_image, require_white
from pgn_edge.left_out import LeftOut, Reason
from pgn_edge.listing import list_images
from pgn_edge.redact import public_name

if TYPE_CHECKING:
    from pgn_edge.runtime.live import LiveOptions, LiveSource

# Of other containers OpenCV only estimates the count, from duration and rate, which is no base for a claim.
INDEXED_SUFFIXES, STATED_SUFFIXES = (".mp4", ".m4v", ".mov"), (".avi",)
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
        for name in ("name", "camera"):
            object.__setattr__(self, name, public_name(getattr(self, name)))

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


@dataclass(frozen=True)
class Missing:
    """Frames that a source should have given and did not.

    Args:
        damaged: Number of video frames that could not be decoded, with readable frames after them.
        cut_short: Number of video frames after the last readable one.
        unreadable: Number of images that could not be read.
        first: What was missing first, for people; empty where nothing is.
    """

    damaged: int = 0
    cut_short: int = 0
    unreadable: int = 0
    first: str = ""

    @property
    def frames(self) -> int:
        """Number of all of them."""
        return self.damaged + self.cut_short + self.unreadable


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
    def missing(self) -> Missing:
        """Frames that it should have given and did not, as far as it has been read."""

    def __iter__(self) -> Iterator[Frame]: ...

    def __enter__(self) -> Source: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_source(
    source: str | int | Iterable[np.ndarray],
    options: LiveOptions | None = None,
    *,
    strict: bool = False,
    white: int | None = None,
    left_out: LeftOut | None = None,
) -> Source:
    """Open what `source` names; a camera has given its first frame when this returns.

    Args:
        source: path of a video, of an image, or of a folder whose images are read in the order of their names; number
            of a camera, /dev/videoN, rtsp:// or http:// address, or GStreamer pipeline; or an iterable of images,
            (h, w, 3) uint8 BGR.
        options: how to read a camera or a stream; refused where there is none.
        strict: Whether the first image of a folder that cannot be read is an error; otherwise it is counted as missing.
        white: Value of white in image files of 16 bits a channel; None as for `pgn_edge.images.read_image`.
        left_out: Account of files of a folder that do not count; None for one of the source's own.

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
    if not isinstance(source, str):
        return _iterator(source)
    require_white(white)
    return _open_file(source, white, LeftOut(strict) if left_out is None else left_out)


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


def _open_file(source: str, white: int | None, left_out: LeftOut) -> Source:
    path = Path(source)
    if not path.exists():
        raise DataError(source, expected="a video, an image or a folder", got="no such path", do="check the path")
    if path.is_dir():
        images = list_images(path, left_out, deep=False)
        if not images:
            others = left_out.inside(source)
            raise DataError(
                source,
                expected=f"images ({', '.join(IMAGE_SUFFIXES)})",
                got="a folder without any" + (f" beside {others}" if others else ""),
                do="name a folder that holds images itself, not in folders below it",
            )
        return ImageSource(source, images, white=white, left_out=left_out)
    if is_image(path):
        return ImageSource(source, [path], strict=True, white=white)
    from pgn_edge.runtime.video_file import VideoSource  # with OpenCV: not at import

    return VideoSource(path)


class ImageSource:
    """Images from files.

    Args:
        name: for messages.
        paths: in the order in which they are read.
        strict: Whether an image that cannot be read is an error; otherwise it is left out and counted.
        white: Value of white in files of 16 bits a channel; None as for `pgn_edge.images.read_image`.
        left_out: Account of images that cannot be read; None for one of its own, which is as strict as the source.
    """

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        strict: bool = False,
        *,
        white: int | None = None,
        left_out: LeftOut | None = None,
    ) -> None:
        self.name, self.fps, self.missing = name, DEFAULT_FPS, Missing()
        self.count: int | None = len(paths)
        self.left_out = LeftOut(strict) if left_out is None else left_out
        self._paths, self._white = tuple(paths), white

    def __iter__(self) -> Iterator[Frame]:
        """Read one image after the other.

        Raises:
            DataError: an image cannot be read, and the source is strict; or none of several can.
        """
        self.missing = Missing()
        for number, path in enumerate(self._paths):
            try:
                image_bgr = np.ascontiguousarray(read_image(path, self._white)[..., ::-1])
            except DataError as exc:
                unreadable = self.missing.unreadable + 1
                if unreadable == len(self._paths):
                    raise
                self.left_out.add(str(path), Reason.UNREADABLE, exc)
                self.missing = Missing(unreadable=unreadable, first=self.missing.first or str(exc))
                continue
            index = number - self.missing.unreadable
            yield Frame(index, path.name, None, image_bgr, sequence=number, camera="files")

    def __enter__(self) -> ImageSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

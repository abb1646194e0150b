"""A live source: frames of a camera, as an app sees them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import TracebackType

from pgn_edge.errors import DataError
from pgn_edge.extras import cv2, import_opencv
from pgn_edge.runtime.events import Report, silent
from pgn_edge.runtime.live.address import Address, live_address
from pgn_edge.runtime.live.buffer import FrameBuffer
from pgn_edge.runtime.live.options import Counters, LiveOptions
from pgn_edge.runtime.live.remote_file import open_remote
from pgn_edge.runtime.live.supervisor import Supervisor
from pgn_edge.runtime.mp4 import shown_times
from pgn_edge.runtime.sources import DEFAULT_FPS, HIGHEST_FPS, INDEXED_SUFFIXES, STATED_SUFFIXES, Frame, Missing

CLOSE_S = 1.9


class LiveSource:
    """A camera or a stream, read by a process of its own from the moment that this is made.

    One thread iterates; `counters` and `close` may be called from any thread, also from a signal handler. The iteration
    goes on while the camera is away, also before its first frame. It ends only when the source is closed, or a file
    behind an address has ended.

    Args:
        source: camera number, /dev/videoN, rtsp:// or http:// address, or GStreamer pipeline.
        options: how to read it.
        report: Function that is told when the camera is lost, refused and back, and why; `EventLog.about` makes one.

    Raises:
        DataError: no live source, or a pipeline and an OpenCV without GStreamer.
        MissingExtraError: OpenCV is not installed.
    """

    def __init__(self, source: str, options: LiveOptions | None = None, report: Report = silent) -> None:
        address = live_address(source)
        if address is None:
            raise DataError(
                source, expected="a camera, an address or a pipeline", got="something else", do="use open_source"
            )
        # The grabber needs OpenCV in its own process, where a missing library would look like a camera that is away.
        import_opencv()
        if address.kind == "pipeline":
            _require_gstreamer(address)
        self.name = address.label
        self._address = address
        self._shown: int | None = None  # frames that a file shows by its own index, once that was asked for
        self._buffer = FrameBuffer()
        options = options or LiveOptions()
        self._until_s = time.monotonic() + options.connect_s
        self._supervisor = Supervisor(address, options, self._buffer, report)
        self._thread = threading.Thread(target=self._supervisor.run, name=f"pgn-edge {self.name}", daemon=True)
        self._thread.start()

    @property
    def fps(self) -> float:
        """As the stream states it; 25 where it does not, and before it is connected."""
        fps = self._supervisor.stream.fps
        return fps if 0 < fps <= HIGHEST_FPS else DEFAULT_FPS

    @property
    def count(self) -> int | None:
        """Number of frames of a file behind an address whose container states it; None of a camera."""
        if self._shown is not None:
            return self._shown or None
        count = self._supervisor.stream.count
        return count if count and self._address.suffix in (*INDEXED_SUFFIXES, *STATED_SUFFIXES) else None

    @property
    def missing(self) -> Missing:
        """Frames of a file behind an address that were not read; none of a camera, which states no count."""
        stream = self._supervisor.stream
        if stream.ended_after is None:
            return Missing()
        if self._shown is None and self._address.suffix in INDEXED_SUFFIXES and stream.ended_after < stream.count:
            # OpenCV counts the frames that a trimmed file holds, not those that it shows.
            self._shown = _shown_frames(self._address)
        short = max((self.count or 0) - stream.ended_after - stream.damaged, 0)
        first = f"{self.name}#{stream.ended_after}" if short and not stream.damaged else ""
        return Missing(damaged=stream.damaged, cut_short=short, first=first)

    @property
    def counters(self) -> Counters:
        """What has happened so far."""
        return self._buffer.counters()

    @property
    def grabber_pid(self) -> int | None:
        """Process that reads the camera; None while there is none."""
        return self._supervisor.grabber_pid

    def connect(self) -> None:
        """Wait for the first frame, `connect_s` from the moment that the source was made.

        The source goes on trying after an error, until it is closed.

        Raises:
            DataError: No frame came in time, the camera refused user and password, there is no such device, or there is
                no shared memory for the frame.
        """
        if not self._buffer.wait_for_first(self._until_s, lambda: self._supervisor.is_hopeless):
            raise self._supervisor.why()

    def close(self) -> None:
        """End the iteration at once and the grabber within 2 s, whatever it does."""
        self._buffer.close()
        self._supervisor.stop()
        self._thread.join(CLOSE_S)

    def __iter__(self) -> Iterator[Frame]:
        while (taken := self._buffer.take()) is not None:
            age_s = time.monotonic() - taken.captured_s
            time_s, damaged = taken.media or (None, 0)
            number = taken.sequence + damaged
            yield Frame(
                index=taken.index,
                name=f"{self.name}#{number}",
                time_s=time_s,
                image_bgr=taken.image_bgr,
                captured_s=taken.captured_s,
                age_ms=age_s * 1e3,
                sequence=number,
                dropped=taken.dropped,
                camera=self.name,
                at_s=time.time() - age_s,
            )

    def __enter__(self) -> LiveSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _shown_frames(address: Address) -> int:
    """Number of frames that a file behind an address shows; 0 where its server or its index does not say."""
    try:
        with open_remote(address.text) as file:
            times_s = shown_times(file)
    except OSError:
        return 0
    return 0 if times_s is None else len(times_s)


def _require_gstreamer(address: Address) -> None:
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        raise DataError(
            address.label,
            expected="an OpenCV built with GStreamer",
            got=f"OpenCV {cv2.__version__} without",
            do="use the system's OpenCV (JetPack, or apt install python3-opencv) in place of opencv-python",
        )

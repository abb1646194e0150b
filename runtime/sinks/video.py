"""A video of the frames with their answers drawn beside them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from time import monotonic
from types import TracebackType

import numpy as np

from pgn_edge.contract import EngineFacts
from pgn_edge.errors import OutputError
from pgn_edge.files import remove_leftovers
from pgn_edge.runtime.annotate import annotate, fit_into, silent
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.sinks.base import Counts, OnError, Tally, check_on_error
from pgn_edge.runtime.sinks.video_segment import Segment
from pgn_edge.runtime.sinks.video_track import CODECS, Codec, VideoTrack
from pgn_edge.runtime.sources import Frame

FASTEST = 120.0  # frames per second; a file that states more states the unit of its clock
MOST_GAP_S, MOST_LIVE_GAP_S = 600.0, 5.0
TICK_S = 0.5
MOST_PATHS = 1000
STAMP = r"-\d{8}T\d{6}Z(-\d+)?"  # what `_unused` adds to the stem
BEHIND_S, MOST_BEHIND_S = 1.0, 4.0  # behind the clock that the video goes on without a frame; more for late frames
OUTAGE_S = 5.0  # without a frame, after which the picture turns dark


class VideoSink:
    """An annotated .mp4 or .webm, tasks below each other; frames of another shape than the first are fitted into it.

    Each picture is shown when its frame was captured, or at its media time: a gap repeats the picture before it, so the
    video lasts as long as what it shows. Where frames come faster than `fps`, one picture stands for several.

    Args:
        path: Path of the video. It appears when all frames are written and the file has been read back.
        facts: Facts of the ViT engine, `Runtime.facts`.
        fps: Frames per second of the video.
        on_error: `raise` ends the run when the disk is full. `drop` leaves frames out while it is, and counts them as
            lost; a file that does not open at the end is removed, and all its frames are lost.
        codec: Codec; None for `vp9` in .mp4 and `vp8` in .webm, which play in browsers. `mp4v` plays in none.
        segment_s: Seconds of video in a file, for a camera; None for one file. A recording in segments goes on while
            the camera gives nothing, is kept whatever ends the run, and replaces no other file: a segment has the
            time of its start in its name where the name is taken.

    Raises:
        OutputError: Another suffix, a codec that does not go with it, or another `on_error`.

    Example:
        >>> with VideoSink("out.mp4", runtime.facts, source.fps) as sink:
        ...     sink.write(frame, runtime.infer_batch([("pets", frame.image_bgr)]))
    """

    def __init__(
        self,
        path: str | Path,
        facts: EngineFacts,
        fps: float,
        on_error: OnError = "raise",
        *,
        codec: Codec | None = None,
        segment_s: float | None = None,
    ) -> None:
        self._path, self._facts, self._on_error = Path(path), facts, on_error
        self._fps, self._segment_s = min(fps, FASTEST), segment_s
        check_on_error(on_error, str(path))
        suffix = self._path.suffix.lower()
        if suffix not in CODECS:
            raise self._error("a name that ends in .mp4 or .webm", repr(self._path.name), "choose such a name")
        self._codec = codec or CODECS[suffix][0]
        if self._codec not in CODECS[suffix]:
            expected = f"the codec {' or '.join(CODECS[suffix])} in {suffix}"
            raise self._error(expected, self._codec, "choose another codec")
        self._stack, self._tally = ExitStack(), Tally()
        self._frame_hw: tuple[int, int] | None = None
        self._segment: Segment | None = None
        self._last_s: float | None = None  # capture of the newest frame of a camera
        self._behind_s = BEHIND_S
        self._turn, self._closed = threading.Lock(), threading.Event()
        self._paths: deque[Path] = deque(maxlen=MOST_PATHS)

    @property
    def counts(self) -> Counts:
        """See `Sink.counts`, of pictures; they are sent once the file has been read back."""
        return self._tally.counts

    @property
    def paths(self) -> tuple[Path, ...]:
        """Paths of the finished files, the newest 1000."""
        return tuple(self._paths)

    def write(self, frame: Frame, results: Sequence[Result]) -> None:
        """See `Sink.write`."""
        with self._tally.attempt(self._on_error, sent=0), self._turn:
            self._append(frame, results)

    def __enter__(self) -> VideoSink:
        self._segment = self._open()
        if self._segment_s is not None:
            remove_leftovers(self._path, STAMP)
            ticker = threading.Thread(target=self._tick, name="pgn-edge video", daemon=True)
            ticker.start()
            self._stack.callback(ticker.join)
        self._stack.callback(self._closed.set)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        kept = error is None or self._segment_s is not None
        if self._segment_s is not None and self._last_s is not None:
            self._extend(monotonic())
        try:
            self._finish(keep=kept)
        except OutputError:
            if self._on_error == "raise" or error is not None:
                raise

    def _open(self) -> Segment:
        most_gap_s = MOST_GAP_S if self._segment_s is None else MOST_LIVE_GAP_S
        path = self._path if self._segment_s is None else _unused(self._path)
        return Segment(path, lambda place: VideoTrack(place, self._fps, self._codec, most_gap_s))

    def _finish(self, keep: bool = True) -> None:
        """End the file under way, and count what became of its frames."""
        segment, self._segment = self._segment, None
        if segment is None:
            return
        try:
            segment.close(keep, needed=self._segment_s is None)
        except OutputError as exc:
            self._tally.add(lost=segment.shown)
            self._tally.fail(exc.got)
            raise
        if keep and segment.track.written:
            self._paths.append(segment.path)
        self._tally.add(**{"sent" if keep else "lost": segment.shown})

    def _append(self, frame: Frame, results: Sequence[Result]) -> None:
        self._frame_hw = self._frame_hw or frame.image_bgr.shape[:2]
        image_bgr = fit_into(frame.image_bgr, self._frame_hw)
        picture = np.vstack([annotate(image_bgr, result, self._facts) for result in results])
        at_s = frame.captured_s if frame.time_s is None else frame.time_s
        segment = self._current(at_s)
        left_out_s = segment.track.left_out_s
        has_place = segment.put(picture, at_s)
        self._tally.add(offered=int(has_place) - 1)
        self._last_s = frame.captured_s if frame.time_s is None else None
        if self._last_s is not None:
            self._behind_s = min(max(BEHIND_S, 1.5 * (monotonic() - self._last_s)), MOST_BEHIND_S)
        if segment.track.left_out_s > left_out_s:
            short_s = segment.track.left_out_s
            self._tally.fail(f"{segment.path.name} is {short_s:.1f} s short: the encoder is slower than its rate")

    def _current(self, at_s: float | None) -> Segment:
        """The segment that a frame of this time belongs to."""
        segment = self._segment
        if segment is not None and at_s is not None and self._is_full(segment, at_s):
            segment.track.fill_until(at_s)
            self._finish()
        if self._segment is None:
            self._segment = self._open()
        return self._segment

    def _is_full(self, segment: Segment, at_s: float) -> bool:
        return self._segment_s is not None and segment.track.lasts_s(at_s) >= self._segment_s

    def _tick(self) -> None:
        """Go on while a camera gives nothing, so that no gap has to be filled at once."""
        while not self._closed.wait(TICK_S):
            with self._turn:
                if self._last_s is not None and monotonic() - self._last_s > self._behind_s:
                    self._extend(monotonic() - self._behind_s)

    def _extend(self, until_s: float) -> None:
        """Repeat the newest picture until a time; a dark one where the camera has been silent for long."""
        segment, last_s = self._segment, self._last_s
        if segment is None or segment.track.picture is None or last_s is None:
            return
        newest = segment.track.picture
        try:
            if not segment.dark and until_s - last_s > OUTAGE_S:
                segment.track.fill_until(last_s + OUTAGE_S)
                newest, segment.dark = silent(newest), True
            segment.track.fill_until(until_s, newest)
            if self._is_full(segment, until_s):
                self._finish()
                self._segment = self._open()
                self._segment.dark = segment.dark
                self._segment.track.put(newest, until_s)
        except OutputError as exc:
            self._tally.fail(exc.got)

    def _error(self, expected: str, got: str, do: str) -> OutputError:
        return OutputError(str(self._path), expected=expected, got=got, do=do)


def _unused(path: Path) -> Path:
    """The path, or one with the present time in its name where a recording of that name exists."""
    if not path.exists():
        return path
    stem = f"{path.stem}-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
    names = [stem, *(f"{stem}-{number}" for number in range(2, 100))]
    return next((place for name in names if not (place := path.with_name(name + path.suffix)).exists()), path)

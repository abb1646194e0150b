"""`pgn-edge run` from a plan to its summary."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from pgn_edge.cli.console import progress_bar
from pgn_edge.cli.run_plan import CameraPlan, RunPlan
from pgn_edge.cli.run_sinks import make_sinks, serving
from pgn_edge.cli.standard_output import leave_terminal
from pgn_edge.progress import Progress
from pgn_edge.redact import public_name

if TYPE_CHECKING:
    from pgn_edge.left_out import LeftOut
    from pgn_edge.runtime.app import RunSummary
    from pgn_edge.runtime.cameras import Camera
    from pgn_edge.runtime.sinks import Sink
    from pgn_edge.runtime.sources import Frame, Missing, Source

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Args:
        summary: Summary of the run.
        videos: Paths of the files of the annotated video.
        signal: Signal that ended a run on files before their end; 0 for none. It is how a run on cameras ends.
    """

    summary: RunSummary
    videos: tuple[str, ...]
    signal: int


class Stop:
    """Remembers the signal that asked a run to end."""

    def __init__(self) -> None:
        self.signal = 0

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal: the first lets the frame under way finish and keeps the files, the next breaks off."""
        if self.signal:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        self.signal = number


class _Stoppable:
    """A source that ends after the frame during which its run was asked to end."""

    def __init__(self, source: Source, stop: Stop) -> None:
        self._source, self._stop = source, stop
        self.name, self.fps, self.count = source.name, source.fps, source.count

    @property
    def missing(self) -> Missing:
        return self._source.missing

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._source:
            if self._stop.signal:
                return
            yield frame

    def __enter__(self) -> _Stoppable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def execute(plan: RunPlan, left_out: LeftOut) -> Outcome:
    """Open everything, run until every source has ended or a signal says so, and close everything.

    Args:
        plan: Run that is asked for.
        left_out: Account of files of folders that do not count.

    Raises:
        PgnEdgeError: anything but a camera that fails, which is in the summary.
    """
    from pgn_edge.runtime import Runtime
    from pgn_edge.runtime.app import run_app
    from pgn_edge.runtime.cameras import Camera, run_cameras
    from pgn_edge.runtime.live import LiveSource
    from pgn_edge.runtime.scheduler import Batching

    with ExitStack() as stack:
        sources = {}
        for camera in plan.cameras:
            source = stack.enter_context(_open(camera, len(plan.cameras) == 1, plan.white, left_out))
            sources[public_name(camera.name or source.name)] = source
        live = any(isinstance(source, LiveSource) for source in sources.values())
        runtime = stack.enter_context(Runtime(plan.vit, plan.tasks, canvases=plan.draws, **plan.engine))
        sinks = make_sinks(plan, runtime, sources)
        metrics = stack.enter_context(serving(plan.metrics, runtime, sinks))
        progress = _lenient(stack.enter_context(progress_bar()))
        places = list(sinks.values())
        stop = Stop()
        if len(sources) == 1 and not live:
            (source,) = sources.values()
            stack.enter_context(handled(stop))
            summary = run_app(runtime, _Stoppable(source, stop), places, progress, metrics, plan.cameras[0].name)
        else:
            cameras = [
                Camera(name, source, camera.tasks or tuple(plan.tasks))
                for camera, (name, source) in zip(plan.cameras, sources.items(), strict=True)
            ]
            stack.enter_context(_until_interrupted(cameras, stop))
            batching = Batching(**plan.batching)
            summary = run_cameras(runtime, cameras, places, batching=batching, progress=progress, metrics=metrics)
        return Outcome(summary, _videos(sinks), 0 if live else stop.signal)


def _open(camera: CameraPlan, alone: bool, white: int | None, left_out: LeftOut) -> Source:
    """Open a source; one camera alone is waited for, and of several each connects while the others run."""
    from pgn_edge.runtime.live import LiveOptions, LiveSource
    from pgn_edge.runtime.live.address import live_address
    from pgn_edge.runtime.sources import open_source

    options = LiveOptions(**camera.live) if camera.live else None
    if not alone and live_address(camera.source) is not None:
        return LiveSource(camera.source, options)
    return open_source(camera.source, options, white=white, left_out=left_out)


def _lenient(progress: Progress) -> Progress:
    """Progress that may be lost: a terminal that was closed a moment ago ends no run before its signal does."""

    def show(step: str, done: int, total: int, note: str = "") -> None:
        with suppress(OSError):
            progress(step, done, total, note)

    return show


def _videos(sinks: Mapping[str, Sink]) -> tuple[str, ...]:
    from pgn_edge.runtime.sinks import VideoSink

    sink = sinks.get("video")
    return tuple(map(str, sink.paths)) if isinstance(sink, VideoSink) else ()


@contextmanager
def _until_interrupted(cameras: Sequence[Camera], stop: Stop) -> Iterator[None]:
    """Let a signal end cameras as the end of a file would: what was written so far is kept."""

    def end(number: int, frame: FrameType | None) -> None:
        stop.signal = stop.signal or number
        for camera in cameras:
            camera.end()

    with handled(end):
        yield


@contextmanager
def handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle Ctrl-C, SIGTERM and SIGHUP; the latter comes when a terminal or an SSH session closes.

    SIGHUP stays ignored where it is from the start, as `nohup` wants it.

    Args:
        handler: Function that is called with the number of the signal.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            leave_terminal()
        handler(number, frame)

    without_terminal = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    asked = [number for number in ENDINGS if number != signal.SIGHUP or not without_terminal]
    before = {number: signal.signal(number, handle) for number in asked}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)

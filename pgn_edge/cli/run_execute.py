"""`pgn-edge run` from a plan to its summary."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

import click

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
    from pgn_edge.runtime.events import EventLog
    from pgn_edge.runtime.live import LiveSource
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
    from pgn_edge.runtime.events import EventLog
    from pgn_edge.runtime.live import LiveSource
    from pgn_edge.runtime.scheduler import Batching

    events = EventLog(_say)
    with ExitStack() as stack:
        sources = {}
        for camera in plan.cameras:
            live = _live(camera, plan.is_interactive, events)
            source = stack.enter_context(live or _open_file(camera, plan.white, left_out))
            sources[public_name(camera.name or source.name)] = source
        is_live = any(isinstance(source, LiveSource) for source in sources.values())
        runtime = stack.enter_context(Runtime(plan.vit, plan.tasks, canvases=plan.draws, **plan.engine))
        sinks = make_sinks(plan, runtime, sources, events)
        metrics = stack.enter_context(serving(plan, runtime, sinks, events))
        stack.enter_context(events.watching({name: sink for name, sink in sinks.items() if name != "web"}))
        progress = _lenient(stack.enter_context(progress_bar()))
        places = list(sinks.values())
        stop = Stop()
        if len(sources) == 1 and not is_live:
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
        return Outcome(summary, _videos(sinks), 0 if is_live else stop.signal)


def _live(camera: CameraPlan, is_interactive: bool, events: EventLog) -> LiveSource | None:
    """Open a camera; None where the source is a file.

    A person who waits at a terminal for one camera is told after `connect_s` that it does not come. A service, and a
    run of several cameras, tries for ever: after a power cut cameras come up later than the device.
    """
    from pgn_edge.runtime.live import LiveOptions, LiveSource
    from pgn_edge.runtime.live.address import live_address

    address = live_address(camera.source)
    if address is None:
        return None
    options = LiveOptions(**camera.live) if camera.live else None
    source = LiveSource(camera.source, options, events.about("camera", camera.name or address.label))
    if is_interactive:
        try:
            source.connect()
        except BaseException:
            source.close()
            raise
    return source


def _open_file(camera: CameraPlan, white: int | None, left_out: LeftOut) -> Source:
    from pgn_edge.runtime.live import LiveOptions
    from pgn_edge.runtime.sources import open_source

    options = LiveOptions(**camera.live) if camera.live else None
    return open_source(camera.source, options, white=white, left_out=left_out)


def _say(line: str) -> None:
    with suppress(OSError):  # a terminal that was closed ends no run
        click.echo(f"pgn-edge: {line}", err=True)


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

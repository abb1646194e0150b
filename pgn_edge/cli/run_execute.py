"""`pgn-edge run` from a plan to its summary."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from pgn_edge.cli.console import progress_bar
from pgn_edge.cli.run_plan import CameraPlan, RunPlan
from pgn_edge.cli.run_sinks import make_sinks, serving
from pgn_edge.redact import public_name

if TYPE_CHECKING:
    from pgn_edge.left_out import LeftOut
    from pgn_edge.runtime.app import RunSummary
    from pgn_edge.runtime.cameras import Camera
    from pgn_edge.runtime.sources import Source


def execute(plan: RunPlan, left_out: LeftOut) -> RunSummary:
    """Open everything, run until every source has ended, and close everything.

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
        progress = stack.enter_context(progress_bar())
        places = list(sinks.values())
        if len(sources) == 1 and not live:
            (source,) = sources.values()
            return run_app(runtime, source, places, progress, metrics, plan.cameras[0].name)
        cameras = [
            Camera(name, source, camera.tasks or tuple(plan.tasks))
            for camera, (name, source) in zip(plan.cameras, sources.items(), strict=True)
        ]
        stack.enter_context(_until_interrupted(cameras))
        batching = Batching(**plan.batching)
        return run_cameras(runtime, cameras, places, batching=batching, progress=progress, metrics=metrics)


def _open(camera: CameraPlan, alone: bool, white: int | None, left_out: LeftOut) -> Source:
    """Open a source; one camera alone is waited for, and of several each connects while the others run."""
    from pgn_edge.runtime.live import LiveOptions, LiveSource
    from pgn_edge.runtime.live.address import live_address
    from pgn_edge.runtime.sources import open_source

    options = LiveOptions(**camera.live) if camera.live else None
    if not alone and live_address(camera.source) is not None:
        return LiveSource(camera.source, options)
    return open_source(camera.source, options, white=white, left_out=left_out)


@contextmanager
def _until_interrupted(cameras: Sequence[Camera]) -> Iterator[None]:
    """Ctrl-C and SIGTERM end cameras as the end of a file would: what was written so far is kept."""

    def end(*_: object) -> None:
        for camera in cameras:
            camera.end()

    ends = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, before in ends.items():
            signal.signal(number, before)

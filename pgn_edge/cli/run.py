"""`pgn-edge run`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgn_edge.cli.console import engine_options, json_option, print_json, print_table, progress_bar, vit_option

if TYPE_CHECKING:
    from pgn_edge.runtime import Runtime
    from pgn_edge.runtime.app import RunSummary
    from pgn_edge.runtime.metrics import Metrics
    from pgn_edge.runtime.sinks import Sink
    from pgn_edge.runtime.sources import Source

MOST_LABELS = 20  # of a task in the table; --json has all


class _Tasks(click.ParamType):
    """`task.pgn` or `NAME=task.pgn`, as (name, path)."""

    name = "[NAME=]FILE"

    def convert(
        self, value: str | tuple[str, str], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, path = value.partition("=")
        # A path may hold an equals sign further down; a name holds no slash.
        if not equals or os.sep in name:
            name, path = Path(value).stem, value
        if not name or not path:
            self.fail(f"{value!r} is neither FILE nor NAME=FILE", param, ctx)
        return name, path


class _Address(click.ParamType):
    """`HOST`, `HOST:PORT` or `PORT`, as (host, port); the host is this machine if left out."""

    name = "[HOST:]PORT"

    def __init__(self, port: int) -> None:
        self.port = port

    def convert(
        self, value: str | tuple[str, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        host, _, port = ("", ":", value) if value.isdecimal() else value.partition(":")
        if port and not (port.isdecimal() and 0 < int(port) < 1 << 16):
            self.fail(f"{value!r} is neither HOST, HOST:PORT nor PORT", param, ctx)
        return host or "127.0.0.1", int(port or self.port)


def _unique(ctx: click.Context, param: click.Parameter, tasks: Sequence[tuple[str, str]]) -> dict[str, str]:
    named = dict(tasks)
    if len(named) < len(tasks):
        names = ", ".join(name for name, _ in tasks)
        raise click.BadParameter(f"two tasks of one name ({names}): give NAME=FILE", ctx, param)
    return named


@click.command()
@click.option(
    "--source",
    required=True,
    help="Video, image, folder of images, camera number, /dev/videoN, rtsp:// or http:// address, GStreamer pipeline.",
)
@click.option(
    "--policy",
    type=click.Choice(("latest", "drop-oldest", "wait")),
    help="Which frames of a camera an app that is slower gets; latest if left out.",
)
@click.option("--max-fps", type=float, help="No more frames of a camera per second than this.")
@vit_option
@click.option(
    "--task",
    "tasks",
    type=_Tasks(),
    multiple=True,
    required=True,
    callback=_unique,
    help="Task bundle; repeat for several. NAME is the file's stem if left out.",
)
@click.option("--output", type=click.Path(dir_okay=False), help="Write an annotated video, .mp4.")
@click.option("--jsonl", help="Write one JSON line for each frame and task; - is stdout.")
@click.option("--webhook", metavar="URL", help="Post each answer there; $PGN_EDGE_WEBHOOK_TOKEN is sent with it.")
@click.option("--mqtt", type=_Address(1883), help="Publish each answer to this broker.")
@click.option(
    "--metrics", type=_Address(9464), help="Serve /metrics and /healthz there; beyond loopback $PGN_EDGE_METRICS_TOKEN."
)
@engine_options
@json_option
def run(
    source: str, vit: str, tasks: dict[str, str], output: str | None, jsonl: str | None, as_json: bool, **options: Any
) -> None:
    """Run tasks on every frame of a video, a folder of images or a camera, all with one ViT engine."""
    if as_json and jsonl == "-":
        raise click.UsageError("--jsonl - and --json both want stdout: choose one")
    _check_outputs(source, output, jsonl)
    # FFmpeg would write its own lines between ours; what it finds is in our errors and in the summary.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    from pgn_edge.runtime import Runtime
    from pgn_edge.runtime.app import run_app
    from pgn_edge.runtime.live import LiveOptions
    from pgn_edge.runtime.sources import open_source

    policy, max_fps = options.pop("policy"), options.pop("max_fps")
    live = LiveOptions(policy, max_fps) if policy or max_fps is not None else None
    places = {"output": output, "jsonl": jsonl, **{name: options.pop(name) for name in ("webhook", "mqtt")}}
    address = options.pop("metrics")
    with open_source(source, live) as frames, Runtime(vit, tasks, canvases=output is not None, **options) as runtime:
        sinks = _sinks(places, runtime, max_fps or frames.fps)
        with _serving(address, frames, sinks) as metrics, _until_interrupted(frames), progress_bar() as progress:
            summary = run_app(runtime, frames, list(sinks.values()), progress, metrics)
    if as_json:
        print_json({"source": frames.name, "output": output, "jsonl": jsonl, **summary.to_json()})
        return
    with redirect_stdout(sys.stderr if jsonl == "-" else sys.stdout):
        _print_summary(summary)
        for path in filter(None, (output, jsonl)):
            if path != "-":
                click.echo(f"{path}: {summary.frames} frames, {Path(path).stat().st_size / 1e6:.2f} MB")


def _check_outputs(source: str, output: str | None, jsonl: str | None) -> None:
    paths = [Path(path).resolve() for path in (source, output, jsonl) if path not in (None, "-")]
    if len(set(paths)) < len(paths):
        raise click.UsageError("--source, --output and --jsonl must be different files")


def _sinks(places: Mapping[str, Any], runtime: Runtime, fps: float) -> dict[str, Sink]:
    """Sinks by the name of their option, of those that were asked for."""
    from pgn_edge.runtime import sinks

    token = os.environ.get("PGN_EDGE_WEBHOOK_TOKEN", "")
    made: dict[str, Callable[[Any], Sink]] = {
        "output": lambda path: sinks.VideoSink(path, runtime.facts, fps),
        "jsonl": sinks.JsonlSink,
        "webhook": lambda url: sinks.WebhookSink(url, sinks.WebhookOptions(token=token)),
        "mqtt": lambda address: sinks.MqttSink(*address),
    }
    return {name: make(places[name]) for name, make in made.items() if places[name]}


@contextmanager
def _serving(address: tuple[str, int] | None, source: Source, sinks: Mapping[str, Sink]) -> Iterator[Metrics | None]:
    """The metrics of a run, served at an address; None without one."""
    from pgn_edge.runtime.live import LiveSource
    from pgn_edge.runtime.metrics import Metrics
    from pgn_edge.runtime.metrics_server import MetricsServer

    if address is None:
        yield None
        return
    metrics = Metrics()
    for name, sink in sinks.items():
        metrics.watch(name, sink)
    if isinstance(source, LiveSource):
        metrics.expect(source.name)
        metrics.reconnects.follow(lambda: source.counters.reconnects, source.name)
    with MetricsServer(metrics, *address, token=os.environ.get("PGN_EDGE_METRICS_TOKEN", "")) as server:
        click.echo(f"metrics at {server.url}", err=True)
        yield metrics


@contextmanager
def _until_interrupted(source: Source) -> Iterator[None]:
    """Ctrl-C and SIGTERM end a camera as the end of a file would: what was written so far is kept."""
    from pgn_edge.runtime.live import LiveSource

    if not isinstance(source, LiveSource):
        yield
        return
    ends = {number: signal.signal(number, lambda *_: source.close()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, before in ends.items():
            signal.signal(number, before)


def _print_summary(summary: RunSummary) -> None:
    if not summary.frames:
        click.echo("no frames")
        return
    rows = [
        (task, label, str(count), f"{count / summary.frames:.1%}")
        for task, counts in summary.counts.items()
        for label, count in list(counts.items())[:MOST_LABELS]
    ]
    print_table("Answers", ("task", "label", "frames", "share"), rows)
    stages = [(stage, f"{value.p50:.2f}", f"{value.p95:.2f}") for stage, value in summary.latency_ms.items()]
    print_table("Latency, ms", ("stage", "p50", "p95"), stages)
    click.echo(f"{summary.frames} frames in {summary.seconds:.2f} s, {summary.fps:.1f} frames/s")
    if summary.missing_frames:
        stated = summary.frames + summary.missing_frames
        click.echo(f"the video ended early: {summary.missing_frames} of the {stated} frames it states are missing")


COMMANDS = (run,)

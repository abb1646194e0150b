"""`pgn-edge run`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgn_edge.cli.console import engine_options, json_option, print_json, print_table, progress_bar, vit_option

if TYPE_CHECKING:
    from pgn_edge.runtime.app import RunSummary

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


def _unique(ctx: click.Context, param: click.Parameter, tasks: Sequence[tuple[str, str]]) -> dict[str, str]:
    named = dict(tasks)
    if len(named) < len(tasks):
        names = ", ".join(name for name, _ in tasks)
        raise click.BadParameter(f"two tasks of one name ({names}): give NAME=FILE", ctx, param)
    return named


@click.command()
@click.option("--source", required=True, help="Video file, folder of images, or image.")
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
@engine_options
@json_option
def run(
    source: str, vit: str, tasks: dict[str, str], output: str | None, jsonl: str | None, as_json: bool, **options: Any
) -> None:
    """Run tasks on every frame of a video or a folder of images, all with one ViT engine."""
    if as_json and jsonl == "-":
        raise click.UsageError("--jsonl - and --json both want stdout: choose one")
    _check_outputs(source, output, jsonl)
    # FFmpeg would write its own lines between ours; what it finds is in our errors and in the summary.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    from pgn_edge.runtime import Runtime
    from pgn_edge.runtime.app import run_app
    from pgn_edge.runtime.sinks import JsonlSink, Sink, VideoSink
    from pgn_edge.runtime.sources import open_source

    with open_source(source) as frames, Runtime(vit, tasks, canvases=output is not None, **options) as runtime:
        sinks: list[Sink] = [VideoSink(output, runtime.facts, frames.fps)] if output else []
        if jsonl:
            sinks.append(JsonlSink(jsonl))
        with progress_bar() as progress:
            summary = run_app(runtime, frames, sinks, progress)
    if as_json:
        print_json({"source": source, "output": output, "jsonl": jsonl, **summary.to_json()})
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


def _print_summary(summary: RunSummary) -> None:
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

"""`pgn-edge run`."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from pgn_edge.cli.console import engine_options, json_option, print_json, tell_left_out, white_option
from pgn_edge.cli.run_config import read_config
from pgn_edge.cli.run_execute import execute
from pgn_edge.cli.run_plan import (
    METRICS_PORT,
    MQTT_PORT,
    WEB_PORT,
    CameraPlan,
    Listen,
    RunPlan,
    SinkPlan,
    parse_address,
)
from pgn_edge.cli.run_report import missing_lines, print_summary
from pgn_edge.left_out import LeftOut

LIVE = ("policy", "max_fps", "connect_s", "stall_s", "rtsp_transport")
BESIDE_CONFIG = ("config", "as_json")
# A path may hold an equals sign too, and so may an address and a pipeline, further down.
NAMED = re.compile(r"([A-Za-z][\w-]*)=(.+)", re.DOTALL)


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
        try:
            return parse_address(value, self.port)
        except ValueError:
            self.fail(f"{value!r} is neither HOST, HOST:PORT nor PORT", param, ctx)


def _unique(ctx: click.Context, param: click.Parameter, tasks: Sequence[tuple[str, str]]) -> dict[str, str]:
    named = dict(tasks)
    if len(named) < len(tasks):
        names = ", ".join(name for name, _ in tasks)
        raise click.BadParameter(f"two tasks of one name ({names}): give NAME=FILE", ctx, param)
    return named


def _cameras(ctx: click.Context, param: click.Parameter, sources: Sequence[str]) -> tuple[CameraPlan, ...]:
    plans = []
    for index, source in enumerate(sources, 1):
        match = None if os.path.exists(source) else NAMED.fullmatch(source)
        unnamed = "" if len(sources) == 1 else f"camera{index}"
        plans.append(CameraPlan(match[1], match[2]) if match else CameraPlan(unnamed, source))
    names = [plan.name for plan in plans]
    if len(set(names)) < len(names):
        raise click.BadParameter(f"two sources of one name ({', '.join(names)})", ctx, param)
    return tuple(plans)


@click.command()
@click.option("--config", type=click.Path(dir_okay=False), help="TOML file in place of all options but --json.")
@click.option(
    "--source",
    "cameras",
    metavar="[NAME=]SOURCE",
    multiple=True,
    callback=_cameras,
    help="Video, image, folder of images, camera number, /dev/videoN, rtsp:// or http:// address, GStreamer pipeline; "
    "repeat for several.",
)
@click.option(
    "--policy",
    type=click.Choice(("latest", "drop-oldest", "wait")),
    help="Which frames of a camera an app that is slower gets; latest if left out.",
)
@click.option("--max-fps", type=float, help="No more frames of a camera per second than this.")
@click.option("--connect-s", type=float, help="Seconds to wait for a camera's first frame. [default: 10]")
@click.option("--stall-s", type=float, help="Seconds without a frame until a camera is opened again.")
@click.option("--rtsp-transport", type=click.Choice(("tcp", "udp")), help="Transport of RTSP. [default: tcp]")
@click.option("--vit", help="ViT engine: .onnx, .plan, or a served model: triton+http://HOST:PORT/MODEL, or grpc.")
@click.option(
    "--task",
    "tasks",
    type=_Tasks(),
    multiple=True,
    callback=_unique,
    help="Task bundle; repeat for several. NAME is the file's stem if left out.",
)
@click.option("--output", type=click.Path(dir_okay=False), help="Write an annotated .mp4 or .webm; of one source.")
@click.option(
    "--codec",
    type=click.Choice(("vp9", "vp8", "mp4v")),
    help="Codec of --output. [default: vp9 in .mp4, vp8 in .webm]",
)
@click.option(
    "--segment-s",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    help="Seconds of a camera's --output in one file.",
)
@click.option("--jsonl", help="Write one JSON line for each frame and task; - is stdout.")
@click.option("--window", is_flag=True, help="Show the annotated frames of one source.")
@click.option("--webhook", metavar="URL", help="Post each answer there; $PGN_EDGE_WEBHOOK_TOKEN is sent with it.")
@click.option("--mqtt", type=_Address(MQTT_PORT), help="Publish each answer to this broker.")
@click.option("--mqtt-user", help="User of the broker; the password is $PGN_EDGE_MQTT_PASSWORD.")
@click.option("--mqtt-tls", is_flag=True, help="Encrypt the connection to the broker, mostly port 8883.")
@click.option("--mqtt-topic", metavar="TOPIC", help="Topic of answers. [default: pgn-edge/{camera}/{task}]")
@click.option(
    "--on-error",
    type=click.Choice(("raise", "drop")),
    help="What a file does that cannot be written; drop if left out and a source is a camera.",
)
@click.option(
    "--strict", is_flag=True, help="Stop at an unreadable image; status 1 if a video lacks frames. [default: go on]"
)
@white_option
@click.option(
    "--metrics",
    type=_Address(METRICS_PORT),
    help="Serve /metrics and /healthz there; beyond loopback $PGN_EDGE_METRICS_TOKEN.",
)
@click.option("--within-s", type=float, help="Seconds without an answer until /healthz misses a camera. [default: 5]")
@click.option("--healthy", type=click.Choice(("all", "any")), help="Cameras that /healthz needs. [default: all]")
@click.option("--web", type=_Address(WEB_PORT), help="Serve a live page there; beyond loopback $PGN_EDGE_WEB_TOKEN.")
@click.option("--bundles", type=click.Path(file_okay=False), help="Folder of bundles that the page may swap in.")
@engine_options
@json_option
def run(config: str | None, as_json: bool, **options: Any) -> None:
    """Run tasks on videos, cameras and folders of images.

    All tasks share one ViT engine and answer every frame.
    """
    ctx = click.get_current_context()
    if config is None:
        plan = _plan(**options)
    else:
        _require_alone(ctx)
        plan = read_config(config)
    if as_json and plan.sinks.jsonl == "-":
        raise click.UsageError("--jsonl - and --json both want stdout: choose one")
    _check_outputs(plan)
    # FFmpeg would write its own lines between ours; what it finds is in our errors and in the summary.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    left_out = LeftOut(plan.strict)
    outcome = execute(plan, left_out)
    summary = outcome.summary
    if as_json:
        outputs = {"output": list(outcome.videos), "jsonl": plan.sinks.jsonl}
        print_json({**outputs, **summary.to_json(), "left_out": left_out.to_json()})
    else:
        with redirect_stdout(sys.stderr if plan.sinks.jsonl == "-" else sys.stdout):
            print_summary(summary)
            for path in (*outcome.videos, plan.sinks.jsonl):
                if path and path != "-" and Path(path).exists():
                    click.echo(f"{path}: {Path(path).stat().st_size / 1e6:.2f} MB")
    tell_left_out(left_out)
    for line in missing_lines(summary):
        click.echo(f"pgn-edge: {line}", err=True)
    for name, error in summary.failed.items():
        click.echo(f"pgn-edge: {name}: {error}", err=True)
    if outcome.signal:
        name = signal.Signals(outcome.signal).name
        click.echo(f"pgn-edge: stopped by {name} after {summary.frames} frames, whose answers are kept", err=True)
        ctx.exit(128 + outcome.signal)
    incomplete = plan.strict and summary.missing_frames
    ctx.exit(1 if summary.failed or incomplete else 0)


def _require_alone(ctx: click.Context) -> None:
    """Refuse options beside a config that holds the same."""
    given = [
        param.opts[0]
        for param in ctx.command.params
        if param.name not in BESIDE_CONFIG
        and ctx.get_parameter_source(str(param.name)) not in (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
    ]
    if given:
        raise click.UsageError(f"--config holds what {', '.join(given)} would say: write it there, or leave it out")


def _plan(**options: Any) -> RunPlan:
    """What the options ask for."""
    for option, name in (("--source", "cameras"), ("--vit", "vit"), ("--task", "tasks")):
        if not options[name]:
            raise click.UsageError(f"Missing option '{option}', or --config")
    cameras, web = options["cameras"], options["web"]
    if len(cameras) > 1 and (options["output"] or options["window"]):
        shown = "--output" if options["output"] else "--window"
        raise click.UsageError(f"{shown} is for one --source; --web shows several")
    if options["bundles"] and not web:
        raise click.UsageError("--bundles is for --web")
    live = {name: options[name] for name in LIVE if options[name] is not None}
    webhook = {"url": options["webhook"], "token": os.environ.get("PGN_EDGE_WEBHOOK_TOKEN", "")}
    sinks = SinkPlan(
        jsonl=options["jsonl"],
        video=options["output"],
        codec=options["codec"],
        segment_s=options["segment_s"],
        window=options["window"],
        webhook=webhook if options["webhook"] else None,
        mqtt=_mqtt(options),
        on_error=options["on_error"],
    )
    return RunPlan(
        vit=options["vit"],
        tasks=options["tasks"],
        cameras=tuple(CameraPlan(plan.name, plan.source, plan.tasks, live) for plan in cameras),
        engine={name: options[name] for name in ("provider", "threads", "gpu")},
        sinks=sinks,
        metrics=_listen(options["metrics"], "PGN_EDGE_METRICS_TOKEN"),
        web=_listen(web, "PGN_EDGE_WEB_TOKEN"),
        health=_health(options),
        bundles=options["bundles"],
        strict=options["strict"],
        white=options["white"],
        is_interactive=len(cameras) == 1,
    )


def _health(options: dict[str, Any]) -> dict[str, Any]:
    given = {"within_s": options["within_s"], "cameras": options["healthy"]}
    given = {name: value for name, value in given.items() if value is not None}
    if given and not options["metrics"]:
        raise click.UsageError("--within-s and --healthy are for --metrics")
    return given


def _mqtt(options: dict[str, Any]) -> dict[str, Any] | None:
    given = {"user": options["mqtt_user"], "tls": options["mqtt_tls"], "topic": options["mqtt_topic"]}
    given = {name: value for name, value in given.items() if value}
    if not options["mqtt"]:
        if given:
            raise click.UsageError(f"--mqtt-{next(iter(given))} is for --mqtt")
        return None
    if "user" in given:
        given["password"] = os.environ.get("PGN_EDGE_MQTT_PASSWORD", "")
    host, port = options["mqtt"]
    return {"host": host, "port": port, **given}


def _listen(address: tuple[str, int] | None, token: str) -> Listen | None:
    return Listen(*address, token=os.environ.get(token, "")) if address else None


def _check_outputs(plan: RunPlan) -> None:
    written = [Path(path).resolve() for path in (plan.sinks.video, plan.sinks.jsonl) if path not in (None, "-")]
    read = {Path(camera.source).resolve() for camera in plan.cameras}
    if len(set(written)) < len(written) or read & set(written):
        raise click.UsageError("sources, video and JSONL must be different files")


COMMANDS = (run,)

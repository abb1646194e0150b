"""What `pgn-edge run` makes of a plan: sinks, and the numbers that it serves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from pgn_edge.cli.run_plan import Listen, RunPlan

if TYPE_CHECKING:
    from pgn_edge.runtime import Runtime
    from pgn_edge.runtime.events import EventLog
    from pgn_edge.runtime.metrics import Metrics
    from pgn_edge.runtime.sinks import Sink
    from pgn_edge.runtime.sinks.base import OnError
    from pgn_edge.runtime.sinks.video_track import Codec
    from pgn_edge.runtime.sources import Source
    from pgn_edge.runtime.web import LivePage

LIVE_FPS = {
    "vp9": 5.0,
    "vp8": 10.0,
    "mp4v": 30.0,
}  # of a recording, which encodes repeated frames too
LIVE_FLUSH_S = 1.0  # for documents that wait when a camera app is told to end: whoever told it waits too


def make_sinks(plan: RunPlan, runtime: Runtime, sources: Mapping[str, Source], events: EventLog) -> dict[str, Sink]:
    """The sinks of a plan, not yet entered, by their names in metrics.

    Args:
        plan: of the run.
        runtime: that draws with its facts.
        sources: by camera; where one is live, files lose what a full disk does not take, and the run goes on.
        events: Log that the page shows and writes its swaps to.

    Raises:
        OutputError: an option that a sink refuses, or a port that is taken.
    """
    from pgn_edge.runtime import sinks
    from pgn_edge.runtime.app import reconnects
    from pgn_edge.runtime.live import LiveSource

    wanted, live = plan.sinks, any(isinstance(source, LiveSource) for source in sources.values())
    on_error = cast("OnError", wanted.on_error or ("drop" if live else "raise"))
    made: dict[str, Sink] = {}
    if wanted.video:
        (source,) = sources.values()
        endless = live and source.count is None
        fps = _recording_fps(plan, source) if endless else source.fps
        codec, segment_s = cast("Codec | None", wanted.codec), wanted.segment_s if endless else None
        made["video"] = sinks.VideoSink(wanted.video, runtime.facts, fps, on_error, codec=codec, segment_s=segment_s)
    if wanted.jsonl:
        # A reader of stdout that went away does not come back.
        printed = wanted.jsonl == "-" and wanted.on_error is None
        made["jsonl"] = sinks.JsonlSink(wanted.jsonl, "raise" if printed else on_error, append=live)
    if wanted.webhook:
        options = _options(wanted.webhook, live)
        made["webhook"] = sinks.WebhookSink(options.pop("url"), sinks.WebhookOptions(**options))
    if wanted.mqtt:
        options = _options(wanted.mqtt, live)
        made["mqtt"] = sinks.MqttSink(options.pop("host"), options.pop("port"), sinks.MqttOptions(**options))
    if wanted.window:
        made["window"] = sinks.WindowSink(runtime.facts)
    if plan.web:
        page = _page(plan, plan.web, runtime, events)
        for name, sink in made.items():
            page.watch(name, sink)
        for camera, source in sources.items():
            if isinstance(source, LiveSource):
                page.expect(camera, partial(reconnects, source))
        made["web"] = page
    return made


def _recording_fps(plan: RunPlan, source: Source) -> float:
    """Rate of a camera's video: as stated, but no faster than asked for, and than its codec can usually be encoded."""
    from pgn_edge.runtime.sinks.video_track import CODECS

    codec = plan.sinks.codec or CODECS.get(Path(str(plan.sinks.video)).suffix.lower(), ("vp9",))[0]
    most = plan.cameras[0].live.get("max_fps") or source.fps
    return float(min(source.fps, most, LIVE_FPS[codec]))


def _options(given: Mapping[str, Any], live: bool) -> dict[str, Any]:
    return {**({"flush_s": LIVE_FLUSH_S} if live else {}), **given}


def _page(plan: RunPlan, listen: Listen, runtime: Runtime, events: EventLog) -> LivePage:
    from pgn_edge.runtime.web import LivePage, PageOptions

    folder = Path(plan.bundles) if plan.bundles else None
    page = LivePage(runtime, PageOptions(listen.host, listen.port, listen.token, folder), events)
    click.echo(f"page at {page.url}", err=True)
    return page


@contextmanager
def serving(plan: RunPlan, runtime: Runtime, sinks: Mapping[str, Sink], events: EventLog) -> Iterator[Metrics]:
    """The metrics of a run, served meanwhile where somebody listens."""
    from pgn_edge.runtime.metrics import Metrics
    from pgn_edge.runtime.metrics_server import Health, MetricsServer

    listen, metrics = plan.metrics, Metrics(events)
    if listen is None:
        yield metrics
        return
    metrics.watch_runtime(runtime)
    for name, sink in sinks.items():
        metrics.watch(name, sink)
    with MetricsServer(metrics, listen.host, listen.port, token=listen.token, health=Health(**plan.health)) as server:
        click.echo(f"metrics at {server.url}", err=True)
        yield metrics

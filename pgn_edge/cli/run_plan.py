"""What a run is made of, whether it was asked for with options or with a config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

METRICS_PORT, MQTT_PORT, WEB_PORT = 9464, 1883, 8080


@dataclass(frozen=True)
class CameraPlan:
    """One camera.

    Args:
        name: empty for that of its source, which only a single one can have.
        source: as `open_source` takes it.
        tasks: names of its tasks; empty for all.
        live: fields of `LiveOptions`; empty where none was given.
    """

    name: str
    source: str = field(repr=False)  # it may hold a password
    tasks: tuple[str, ...] = ()
    live: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SinkPlan:
    """Where answers go.

    Args:
        jsonl: path, `-` for stdout, or None.
        video: path or None.
        codec: Codec of the video, `vp9`, `vp8` or `mp4v`; None for what suits its suffix.
        segment_s: Seconds of a camera's video in one file.
        window: whether there is one.
        webhook: `url`, and fields of `WebhookOptions`; None for none.
        mqtt: `host`, `port`, and fields of `MqttOptions`; None for none.
        on_error: `raise` or `drop`; None for what suits the sources.
    """

    jsonl: str | None = None
    video: str | None = None
    codec: str | None = None
    segment_s: float = 60.0
    window: bool = False
    webhook: Mapping[str, Any] | None = field(default=None, repr=False)
    mqtt: Mapping[str, Any] | None = field(default=None, repr=False)
    on_error: str | None = None


@dataclass(frozen=True)
class Listen:
    """Where a server listens.

    Args:
        host: address or name.
        port: its port.
        token: that clients send; empty for none.
    """

    host: str
    port: int
    token: str = field(default="", repr=False)


@dataclass(frozen=True)
class RunPlan:
    """A whole run.

    Args:
        vit: file or address of the ViT engine.
        tasks: bundles by name.
        cameras: one or more.
        engine: `provider`, `threads` and `gpu` of the Runtime.
        batching: fields of `Batching`.
        sinks: where answers go.
        metrics: where numbers are served; None for nowhere.
        web: where the live page is; None for nowhere.
        health: Fields of `Health`, when the metrics server calls the run ready and alive.
        bundles: folder of bundles that the page may swap in; None for none.
        strict: Whether an unreadable image stops the run, and missing frames make it fail.
        is_interactive: Whether a person waits for a single camera, so that one that does not come ends the run.
        white: Value of white in image files of 16 bits a channel; None for 65,535, dark files refused.
    """

    vit: str
    tasks: Mapping[str, str]
    cameras: tuple[CameraPlan, ...]
    engine: Mapping[str, Any] = field(default_factory=dict)
    batching: Mapping[str, Any] = field(default_factory=dict)
    sinks: SinkPlan = SinkPlan()
    metrics: Listen | None = None
    web: Listen | None = None
    health: Mapping[str, Any] = field(default_factory=dict)
    bundles: str | None = None
    strict: bool = False
    white: int | None = None
    is_interactive: bool = False

    @property
    def draws(self) -> bool:
        """Whether anybody looks at pictures, which hold the canvas."""
        return self.sinks.video is not None or self.sinks.window or self.web is not None


def parse_address(text: str, port: int) -> tuple[str, int]:
    """Host and port of `HOST`, `HOST:PORT`, `[IPV6]:PORT` or `PORT`; the host is this machine if left out.

    Args:
        text: what the user wrote.
        port: where none is given.

    Raises:
        ValueError: none of these.
    """
    host, separator, number = ("", ":", text) if text.isdecimal() else text.rpartition(":")
    if not separator or text.endswith("]"):
        host, number = text, str(port)
    if not (number.isdecimal() and 0 < int(number) < 1 << 16) or (":" in host and not host.startswith("[")):
        raise ValueError(text)
    return host.strip("[]") or "127.0.0.1", int(number)

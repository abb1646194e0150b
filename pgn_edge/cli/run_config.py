"""The config of `pgn-edge run`: TOML, every table and key of it checked."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import quote

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
from pgn_edge.documents import read_toml, warn_of_open_secrets
from pgn_edge.errors import DataError
from pgn_edge.redact import keep_secret

Kinds = Mapping[str, type]

TOP: Kinds = {
    **{"vit": str, "provider": str, "threads": int, "gpu": int, "tasks": dict, "cameras": dict},
    **{"batching": dict, "sinks": dict, "metrics": dict, "web": dict, "strict": bool, "white": int},
}
CAMERA: Kinds = {
    **{"source": str, "tasks": list, "policy": str, "max_fps": float, "queue": int},
    **{"stall_s": float, "connect_s": float, "refused_s": float, "rtsp_transport": str},
}
BATCHING: Kinds = {"max_batch": int, "max_wait_ms": float}
SINKS: Kinds = {
    "on_error": str,
    "jsonl": str,
    "video": str,
    "codec": str,
    "segment_s": float,
    "window": bool,
    "webhook": dict,
    "mqtt": dict,
}
WEBHOOK: Kinds = {
    **{"url": str, "token": str, "ca_file": str, "queue": int, "deadline_s": float, "budget_s": float},
    **{"wait_s": float, "most_wait_s": float, "flush_s": float},
}
MQTT: Kinds = {
    **{"host": str, "port": int, "topic": str, "status_topic": str, "qos": int, "user": str, "password": str},
    **{"tls": bool, "ca_file": str, "queue": int, "keepalive_s": int, "flush_s": float},
}
LISTEN: Kinds = {"listen": str, "token": str}
METRICS: Kinds = {**LISTEN, "within_s": float, "alive_s": float, "healthy": str}
WEB: Kinds = {**LISTEN, "bundles": str}

CHOICES = {
    "provider": ("cpu", "cuda", "tensorrt"),
    "policy": ("latest", "drop-oldest", "wait"),
    "on_error": ("raise", "drop"),
    "rtsp_transport": ("tcp", "udp"),
    "healthy": ("all", "any"),
    "codec": ("vp9", "vp8", "mp4v"),
}
NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", list: "a list of strings"}
SECRETS = frozenset({"source", "url", "token", "user", "password"})  # keys that may take from the environment
VARIABLE = re.compile(r"\$\{([^}]*)\}")


def read_config(path: str | Path) -> RunPlan:
    """Read and check a config.

    Args:
        path: of a TOML file; relative paths in it start from its folder.

    Raises:
        DataError: a file that cannot be read, a key that is missing, unknown or of another type, or a variable that is
            not set. The message names the file and the key.
    """
    return _Config(Path(path)).plan()


@dataclass(frozen=True)
class _Config:
    """One file; its methods name it in their errors."""

    path: Path

    def plan(self) -> RunPlan:
        values = read_toml(self.path, DataError)
        warn_of_open_secrets(self.path, values)
        top = self.table("", values, TOP, ("vit", "tasks", "cameras"))
        tasks = self.table("tasks", top["tasks"], dict.fromkeys(top["tasks"], str))
        if not tasks or not top["cameras"]:
            empty = "cameras" if tasks else "tasks"
            raise self.error(empty, "at least one", "none", f"add one to [{empty}]")
        sinks = self.sinks(top.get("sinks", {}))
        cameras = tuple(self.camera(name, values, tasks) for name, values in top["cameras"].items())
        if len(cameras) > 1 and (sinks.video or sinks.window):
            key = "sinks.video" if sinks.video else "sinks.window"
            raise self.error(key, "a single camera", str(len(cameras)), "leave it out; [web] shows several")
        web = self.table("web", top.get("web", {}), WEB)
        return RunPlan(
            vit=top["vit"] if "://" in top["vit"] else self.file(top["vit"]),
            tasks={name: self.file(file) for name, file in tasks.items()},
            cameras=cameras,
            engine={name: top[name] for name in ("provider", "threads", "gpu") if name in top},
            batching=self.batching(top.get("batching", {})),
            sinks=sinks,
            metrics=self.listen("metrics", top, METRICS, METRICS_PORT),
            web=self.listen("web", top, WEB, WEB_PORT),
            health=self.health(top.get("metrics", {})),
            bundles=self.file(web["bundles"]) if "bundles" in web else None,
            strict=top.get("strict", False),
            white=top.get("white"),
        )

    def table(self, where: str, values: Any, kinds: Kinds, wanted: tuple[str, ...] = ()) -> dict[str, Any]:
        """The values of a table, checked, with variables filled in.

        Args:
            where: its name; empty for the whole file.
            values: what stands there.
            kinds: type of each key that it may have.
            wanted: keys that it must have.
        """
        if not isinstance(values, dict):
            raise self.error(where, "a table", type(values).__name__, f"write [{where}] and its keys below it")
        before = f"{where}." if where else ""
        for key in values:
            if key not in kinds:
                nearest = get_close_matches(key, kinds, 1, 0)[0]
                known = ", ".join(kinds)
                raise self.error(before + key, f"a known key ({known})", "an unknown one", f"did you mean {nearest}?")
        for key in wanted:
            if key not in values:
                raise self.error(before + key, "this key", "none", "add it")
        return {key: self.value(before + key, value, kinds[key]) for key, value in values.items()}

    def value(self, where: str, value: Any, kind: type) -> Any:
        # A truth value is a whole number to Python. What stands there may be a secret, and is not repeated.
        fits = type(value) is kind or (kind is float and type(value) is int)
        if not fits or (kind is list and not all(isinstance(item, str) for item in value)):
            raise self.error(where, NAMES.get(kind, "a table"), type(value).__name__, "change it")
        key = where.rpartition(".")[2]
        if key in CHOICES and value not in CHOICES[key]:
            raise self.error(where, f"one of {', '.join(CHOICES[key])}", repr(value), "choose one of them")
        return self.filled(where, value) if kind is str else value

    def filled(self, where: str, text: str) -> str:
        """A text with the variables of the environment that it names."""
        names = VARIABLE.findall(text)
        if names and (where.rpartition(".")[2] not in SECRETS or where.startswith("tasks.")):
            allowed = ", ".join(sorted(SECRETS))
            raise self.error(where, f"variables in secrets only ({allowed})", f"${{{names[0]}}}", "write it out")
        for name in names:
            if not os.environ.get(name):
                raise self.error(where, f"the environment to hold {name}", "nothing", f"set {name} before the start")
        key = where.rpartition(".")[2]
        if key in ("token", "password"):
            keep_secret(*(os.environ[name] for name in names))
        if key in ("source", "url"):
            return _filled_address(text)
        return VARIABLE.sub(lambda match: os.environ[match[1]], text)

    def camera(self, name: str, values: Any, tasks: Mapping[str, str]) -> CameraPlan:
        from pgn_edge.runtime.live import LiveOptions
        from pgn_edge.runtime.live.address import live_address

        where = f"cameras.{name}"
        given = self.table(where, values, CAMERA, ("source",))
        source, own = given.pop("source"), tuple(given.pop("tasks", tasks))
        for task in own:
            if task not in tasks:
                nearest = get_close_matches(task, tasks, 1, 0)[0]
                raise self.error(f"{where}.tasks", f"names in [tasks] ({', '.join(tasks)})", task, f"write {nearest}?")
        try:
            LiveOptions(**given)
            live = live_address(source) is not None
        except DataError as exc:
            raise self.error(f"{where}, {exc.subject}", exc.expected, exc.got, exc.do) from exc
        if not name or not own:
            key = f"{where}.tasks" if name else where
            raise self.error(key, "at least one task" if name else "a name", "none", "name one")
        return CameraPlan(name, source if live else self.file(source), own, given)

    def batching(self, values: Any) -> dict[str, Any]:
        from pgn_edge.errors import EngineError
        from pgn_edge.runtime.scheduler import Batching

        given = self.table("batching", values, BATCHING)
        try:
            Batching(**given)
        except EngineError as exc:
            raise self.error(exc.subject, exc.expected, exc.got, exc.do) from exc
        return given

    def sinks(self, values: Any) -> SinkPlan:
        given = self.table("sinks", values, SINKS)
        webhook, mqtt = given.pop("webhook", None), given.pop("mqtt", None)
        for key in ("jsonl", "video"):
            if given.get(key, "-") != "-":
                given[key] = self.file(given[key])
        if webhook is not None:
            webhook = self.table("sinks.webhook", webhook, WEBHOOK, ("url",))
            webhook.setdefault("token", os.environ.get("PGN_EDGE_WEBHOOK_TOKEN", ""))
        if mqtt is not None:
            mqtt = {"port": MQTT_PORT, **self.table("sinks.mqtt", mqtt, MQTT, ("host",))}
        for options in (webhook, mqtt):
            if options and "ca_file" in options:
                options["ca_file"] = self.file(options["ca_file"])
        return SinkPlan(**given, webhook=webhook, mqtt=mqtt)

    def listen(self, name: str, top: Mapping[str, Any], kinds: Kinds, port: int) -> Listen | None:
        if name not in top:
            return None
        values = self.table(name, top[name], kinds, ("listen",))
        try:
            host, port = parse_address(values["listen"], port)
        except ValueError as exc:
            key, got = f"{name}.listen", repr(values["listen"])
            raise self.error(key, "HOST, HOST:PORT or PORT", got, "write it so") from exc
        return Listen(host, port, values.get("token") or os.environ.get(f"PGN_EDGE_{name.upper()}_TOKEN", ""))

    def health(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        from pgn_edge.errors import OutputError
        from pgn_edge.runtime.metrics_server import Health

        names = {"within_s": "within_s", "alive_s": "alive_s", "healthy": "cameras"}
        given = {field: metrics[name] for name, field in names.items() if name in metrics}
        try:
            Health(**given)
        except OutputError as exc:
            raise self.error("metrics", exc.expected, exc.got, exc.do) from exc
        return given

    def file(self, text: str) -> str:
        """A path as this process finds it."""
        return str(self.path.parent / text)

    def error(self, where: str, expected: str, got: str, do: str) -> DataError:
        return DataError(f"{self.path}: {where}", expected=expected, got=got, do=do)


def _filled_address(template: str) -> str:
    """An address with its variables, encoded where they are a user, a password or a value of the query."""

    def fill(match: re.Match[str]) -> str:
        value, before, after = os.environ[match[1]], template[: match.start()], template[match.end() :]
        # Variables that stand for the whole user part, `user:password`, keep their colon.
        is_user = "://" in before and "@" not in before.rpartition("://")[2] and "@" in after
        if is_user or "?" in before:
            return quote(value, safe=":" if before.endswith("://") else "")
        return value

    return VARIABLE.sub(fill, template)

"""Each answer as a JSON document on an MQTT topic."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import string
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

from pgn_edge.errors import MissingExtraError, OutputError
from pgn_edge.redact import keep_secret
from pgn_edge.runtime.http_client import tls_context
from pgn_edge.runtime.record import AnswerRecord
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.sinks.base import Counts
from pgn_edge.runtime.sinks.outbox import GRACE_S, Document, Outbox
from pgn_edge.runtime.sources import Frame

WINDOW = 20  # messages under way at a time, as many as paho sends before it waits for an answer
MOST_SLEEP_S = 1.0
FIELDS = {"camera", "task"}


@dataclass(frozen=True)
class MqttOptions:
    """How a broker is reached, and how messages are sent to it.

    Args:
        topic: of a document; `{camera}` and `{task}` are filled in.
        status_topic: Topic that holds `online` or `offline`, retained; the broker itself writes `offline` when the
            connection breaks. `{device}` becomes the name of this machine. Two programs on one machine need two topics.
        qos: 0, sent once and counted when the network took it; or 1, sent until the broker confirms it.
        user: empty for none.
        password: never shown.
        tls: whether the connection is encrypted and the broker's certificate checked.
        ca_file: certificates that the broker's must follow from, .pem; empty takes the system's.
        queue: documents that may wait; then the oldest is dropped.
        keepalive_s: whole seconds after which a silent connection counts as broken.
        flush_s: for what still waits when the sink is closed.
    """

    topic: str = "pgn-edge/{camera}/{task}"
    status_topic: str = "pgn-edge/status/{device}"
    qos: Literal[0, 1] = 0
    user: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    ca_file: str = ""
    queue: int = 256
    keepalive_s: int = 30
    flush_s: float = 5.0


class MqttSink:
    """Publishes one JSON document for each frame and task, from threads of its own; `write` never waits.

    A broker that is away, also at the start, is tried again after 1 s, then 2 s, up to 30 s; documents wait meanwhile.

    Args:
        host: of the broker.
        port: of the broker; mostly 1883, and 8883 with TLS.
        options: how it is reached.

    Raises:
        MissingExtraError: paho-mqtt is not installed.
        OutputError: an option that no broker would take, or certificates that cannot be read.
    """

    def __init__(self, host: str, port: int = 1883, options: MqttOptions | None = None) -> None:
        self._options = options or MqttOptions()
        keep_secret(self._options.password)
        _check(host, port, self._options)
        self._address = host, port
        self._status_topic = self._options.status_topic.format(device=_level(socket.gethostname()))
        self._client = self._make_client()
        self._connected, self._awake = threading.Event(), threading.Event()
        self._acknowledged: deque[int] = deque()
        self._under_way: dict[int, Any] = {}
        self._outbox = Outbox(self._work, self._options.queue, self._awake.set)

    @property
    def counts(self) -> Counts:
        """See `Sink.counts`."""
        return self._outbox.counts

    def write(self, frame: Frame, results: Sequence[Result]) -> None:
        """See `Sink.write`; it never raises."""
        camera = _level(frame.camera)
        for result in results:
            topic = self._options.topic.format(camera=camera, task=_level(result.task))
            self._outbox.offer((topic, json.dumps(AnswerRecord.of(frame, result).to_json()).encode()))

    def __enter__(self) -> MqttSink:
        self._client.connect_async(*self._address, keepalive=self._options.keepalive_s)
        self._client.loop_start()
        self._outbox.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._outbox.close(self._options.flush_s)
        self._disconnect()

    def _make_client(self) -> Any:
        try:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        except ModuleNotFoundError as exc:
            raise MissingExtraError("paho-mqtt", "mqtt") from exc
        options = self._options
        client = Client(CallbackAPIVersion.VERSION2)
        client.reconnect_delay_set(1, 30)
        client.max_inflight_messages_set(WINDOW)
        client.will_set(self._status_topic, "offline", qos=1, retain=True)
        if options.user:
            client.username_pw_set(options.user, options.password or None)
        if options.tls:
            client.tls_set_context(tls_context(options.ca_file, OutputError))
        client.on_connect, client.on_connect_fail = self._on_connect, self._on_connect_fail
        client.on_disconnect, client.on_publish = self._on_disconnect, self._on_publish
        return client

    # paho's thread calls these.

    def _on_connect(self, client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._outbox.fail(f"refused: {reason}")
            return
        client.publish(self._status_topic, "online", qos=1, retain=True)
        self._connected.set()
        self._awake.set()

    def _on_connect_fail(self, _client: Any, _data: Any) -> None:
        self._outbox.fail("no connection")

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if self._connected.is_set():
            self._connected.clear()
            if reason.is_failure:
                self._outbox.fail(f"disconnected: {reason}")
        self._awake.set()

    def _on_publish(self, _client: Any, _data: Any, number: int, _reason: Any, _properties: Any) -> None:
        self._acknowledged.append(number)
        self._awake.set()

    # And this runs in the outbox's, which alone publishes documents.

    def _work(self) -> None:
        while not self._outbox.expired:
            self._awake.clear()
            self._settle()
            while self._connected.is_set() and len(self._under_way) < WINDOW:
                document = self._outbox.take(wait=False)
                if document is None or not self._publish(document):
                    break
            if self._outbox.closing and self._outbox.idle and not self._under_way:
                return
            self._awake.wait(max(min(self._outbox.left_s, MOST_SLEEP_S), 0))

    def _publish(self, document: Document) -> bool:
        from paho.mqtt.enums import MQTTErrorCode

        topic, body = document
        info = self._client.publish(topic, body, qos=self._options.qos)
        refused = info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE
        # Of QoS 1, paho keeps what it cannot send yet; of QoS 0 it forgets it.
        if refused or (info.rc == MQTTErrorCode.MQTT_ERR_NO_CONN and self._options.qos == 0):
            self._outbox.give_back(document)
            return False
        self._under_way[info.mid] = info
        return True

    def _settle(self) -> None:
        from paho.mqtt.enums import MQTTErrorCode

        while self._acknowledged:
            if self._under_way.pop(self._acknowledged.popleft(), None) is not None:
                self._outbox.settle(sent=True)
        # What was not written yet when a connection broke, which paho says once it connects again.
        broken = [mid for mid, info in self._under_way.items() if info.rc == MQTTErrorCode.MQTT_ERR_CONN_LOST]
        for mid in broken:
            del self._under_way[mid]
            self._outbox.settle(sent=False)

    def _disconnect(self) -> None:
        if self._connected.is_set():
            self._client.publish(self._status_topic, "offline", qos=0, retain=True)
        self._client.disconnect()
        # It joins paho's thread, which may hang in a connection or wait for answers that never come.
        stopping = threading.Thread(target=self._client.loop_stop, daemon=True)
        stopping.start()
        stopping.join(GRACE_S)
        connected = self._client.socket()
        if stopping.is_alive() and connected is not None:
            with contextlib.suppress(OSError):  # the other side was faster
                connected.shutdown(socket.SHUT_RDWR)
            stopping.join(GRACE_S)
        # They refer to us and we to it; paho closes its sockets when nobody refers to it any more.
        for event in ("on_connect", "on_connect_fail", "on_disconnect", "on_publish"):
            setattr(self._client, event, None)


def _level(text: str) -> str:
    """One level of a topic: no separator, no wildcard, nothing that a broker refuses."""
    return re.sub(r"[/+#]|[^ -~\u00a1-\ud7ff\uf900-\ufffd]", "_", text[:200]) or "_"


def _check(host: str, port: int, options: MqttOptions) -> None:
    _check_topics(options)
    if not host.isascii() or not host or "://" in host or ".." in host or not 0 < port < 65536:
        raise _refusal("a host name and a port from 1 to 65535", f"{host!r} and {port}")
    if options.qos not in (0, 1):
        raise _refusal("qos 0 or 1", options.qos)
    if options.password and not options.user:
        raise _refusal("a user where there is a password", "none")
    if options.ca_file and not options.tls:
        raise _refusal("tls where there are certificates", "none")
    if options.queue < 1 or not 0 < options.keepalive_s < 65536 or options.flush_s < 0:
        got = f"queue {options.queue}, keepalive {options.keepalive_s} s, flush {options.flush_s:g} s"
        raise _refusal("a queue of 1 or more, and times that can be", got)


def _check_topics(options: MqttOptions) -> None:
    _check_fields(options.topic, FIELDS, "{camera} and {task}")
    _check_fields(options.status_topic, {"device"}, "{device}")
    for topic in (options.topic, options.status_topic):
        if not topic or set(topic) & set("+#\0") or len(topic.encode()) > 1024:
            raise _refusal("a topic of 1 to 1024 bytes without wildcards", repr(topic[:100]))


def _check_fields(topic: str, known: set[str], names: str) -> None:
    try:
        parts = [part[1:] for part in string.Formatter().parse(topic) if part[1] is not None]
    except ValueError as exc:
        raise _refusal(f"a topic with {names}", repr(topic)) from exc
    if any(name not in known or spec or conversion for name, spec, conversion in parts):
        raise _refusal(f"a topic with no more than {names}", repr(topic))


def _refusal(expected: str, got: object) -> OutputError:
    return OutputError("mqtt", expected=expected, got=str(got), do="change the options of MqttSink")

"""MQTT against a real mosquitto that is killed, started again, stopped, and picky."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest

from pgn_edge.errors import MissingExtraError, OutputError
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.sinks import MqttOptions, MqttSink
from pgn_edge.runtime.sinks.mqtt import WINDOW
from pgn_edge.runtime.sources import Frame
from tests.runtime.conftest import apt_install

STATUS = f"pgn-edge/status/{socket.gethostname()}"  # two devices must not mark each other offline
RESULT = Result("pets", "owl", 0.75, np.float32([0.75]), ("owl",), np.zeros(8, np.float32), None, {"vit": 1.2})


def frame_at(index: int, camera: str = "front") -> Frame:
    return Frame(index, f"{camera}#{index}", index / 10, np.zeros((4, 4, 3), np.uint8))


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    end = monotonic() + seconds
    while not condition():
        assert monotonic() < end, "it never came to that"
        sleep(0.01)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="session")
def mosquitto() -> str:
    """Path of the broker, from Debian where we may install it."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    if shutil.which("mosquitto", path=path) is None:
        apt_install("mosquitto")
    found = shutil.which("mosquitto", path=path)
    if found is None:
        pytest.skip("mosquitto is not installed, and cannot be installed here")
    return found


class Broker:
    """A mosquitto on loopback that a test may kill and start again."""

    def __init__(self, program: str, folder: Path, *settings: str) -> None:
        self.port, self._program, self._file = free_port(), program, folder / "mosquitto.conf"
        lines = [f"listener {self.port} 127.0.0.1", "persistence false", "user root", *settings]
        self._file.write_text("\n".join(lines) + "\n")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [self._program, "-c", str(self._file)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._listens)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "mosquitto does not start"
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


@pytest.fixture
def make_broker(mosquitto: str, tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    brokers: list[Broker] = []

    def make(*settings: str) -> Broker:
        brokers.append(Broker(mosquitto, tmp_path, *(settings or ("allow_anonymous true",))))
        return brokers[-1]

    yield make
    for broker in brokers:
        broker.kill()


class Listener:
    """A subscriber to everything, which comes back by itself."""

    def __init__(self, port: int) -> None:
        client = pytest.importorskip("paho.mqtt.client", reason="pip install 'pgn-edge[mqtt]'")
        enums = pytest.importorskip("paho.mqtt.enums")
        self.heard: list[tuple[str, bytes, bool]] = []
        self.subscribed = threading.Event()
        self._client = client.Client(enums.CallbackAPIVersion.VERSION2)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda *_: self._client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: self.subscribed.set()
        self._client.on_disconnect = lambda *_: self.subscribed.clear()
        self._client.on_message = lambda _c, _d, m: self.heard.append((m.topic, m.payload, m.retain))
        self._client.connect_async("127.0.0.1", port)

    def documents(self) -> list[tuple[str, int]]:
        return [
            (topic, json.loads(body)["sequence"])
            for topic, body, _ in list(self.heard)
            if not topic.startswith("pgn-edge/status/")
        ]

    def status(self) -> list[str]:
        return [body.decode() for topic, body, _ in list(self.heard) if topic == STATUS]

    def __enter__(self) -> Listener:
        self._client.loop_start()
        assert self.subscribed.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        for event in ("on_connect", "on_subscribe", "on_disconnect", "on_message"):
            setattr(self._client, event, None)


def outcome(sink: MqttSink) -> tuple[int, int, int]:
    assert sink.counts.waiting == 0
    return sink.counts.sent, sink.counts.dropped, sink.counts.lost


def threads_left() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("pgn-edge sink", "paho-mqtt-client"))]


@pytest.mark.parametrize("qos", [0, 1])
def test_documents_arrive_in_order_on_the_topic_of_camera_and_task(make_broker: Any, qos: Any) -> None:
    broker = make_broker()
    broker.start()
    with Listener(broker.port) as listener:
        with MqttSink("127.0.0.1", broker.port, MqttOptions(qos=qos, queue=1000)) as sink:
            for index in range(200):
                sink.write(frame_at(index), [RESULT])
            sink.write(frame_at(200, "rtsp://10.0.0.1/a+b"), [RESULT])
        until(lambda: len(listener.documents()) == 201 and "offline" in listener.status())
        documents = listener.documents()
        first = next(json.loads(body) for topic, body, _ in listener.heard if topic == "pgn-edge/front/pets")
    assert documents[:200] == [("pgn-edge/front/pets", index) for index in range(200)]
    assert documents[200] == ("pgn-edge/rtsp:__10.0.0.1_a_b/pets", 200)
    assert (first["label"], first["score"], first["timings_ms"]) == ("owl", 0.75, {"vit": 1.2})
    assert listener.status() == ["online", "offline"]
    assert (outcome(sink), sink.counts.errors) == ((201, 0, 0), 0)


def test_the_status_is_retained(make_broker: Any) -> None:
    broker = make_broker()
    broker.start()
    with MqttSink("127.0.0.1", broker.port) as sink:
        sink.write(frame_at(0), [RESULT])
        until(lambda: sink.counts.sent == 1)
        with Listener(broker.port) as listener:
            until(listener.status)
        assert (STATUS, b"online", True) in listener.heard
    with Listener(broker.port) as listener:
        until(listener.status)
    assert listener.heard == [(STATUS, b"offline", True)]


DIES = """
import os, signal, sys
from pathlib import Path
import numpy as np
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.sinks import MqttSink
from pgn_edge.runtime.sources import Frame
result = Result("pets", "owl", 1.0, np.ones(1, np.float32), ("owl",), np.zeros(8), None, {})
with MqttSink("127.0.0.1", int(sys.argv[1])) as sink:
    sink.write(Frame(7, "front#7", 0.0, np.zeros((4, 4, 3), np.uint8)), [result])
    while not sink.counts.sent:
        pass
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_device_that_dies_is_offline_by_its_last_will(make_broker: Any) -> None:
    broker = make_broker()
    broker.start()
    with Listener(broker.port) as listener:
        child = subprocess.Popen([sys.executable, "-c", DIES, str(broker.port)], stdin=subprocess.PIPE)
        until(lambda: ("pgn-edge/front/pets", 7) in listener.documents())
        assert listener.status() == ["online"]
        child.communicate()
        assert child.returncode == -signal.SIGKILL
        until(lambda: listener.status() == ["online", "offline"])


def test_a_broker_that_is_killed_and_comes_back_gets_what_waited(make_broker: Any) -> None:
    broker = make_broker()
    with MqttSink("127.0.0.1", broker.port, MqttOptions(queue=20)) as sink:
        sink.write(frame_at(0), [RESULT])
        until(lambda: sink.counts.errors)
        assert sink.counts.last_error == "no connection"
        broker.start()
        until(lambda: sink.counts.sent == 1)
        broker.kill()
        until(lambda: sink.counts.last_error.startswith("disconnected"))
        for index in range(1, 101):
            sink.write(frame_at(index), [RESULT])
        assert sink.counts.dropped == 80
        broker.start()
        until(lambda: sink.counts.waiting == 0)
        with Listener(broker.port) as listener:
            sink.write(frame_at(101), [RESULT])
            until(lambda: ("pgn-edge/front/pets", 101) in listener.documents())
    # QoS 0 counts what the network took: some may reach the broker after the listener did.
    heard = [index for _, index in listener.documents()]
    assert heard == list(range(102 - len(heard), 102))
    assert outcome(sink) == (22, 80, 0)


def test_what_the_broker_did_not_confirm_is_sent_again_to_the_next_one(make_broker: Any) -> None:
    broker = make_broker()
    broker.start()
    with MqttSink("127.0.0.1", broker.port, MqttOptions(qos=1, queue=100)) as sink:
        sink.write(frame_at(0), [RESULT])
        until(lambda: sink.counts.sent == 1)
        broker.signal(signal.SIGSTOP)
        for index in range(1, 51):
            sink.write(frame_at(index), [RESULT])
        sleep(0.2)
        assert sink.counts.sent == 1, "nobody confirmed anything"
        broker.kill()
        broker.start()
        until(lambda: sink.counts.waiting == 0)
    assert outcome(sink) == (51, 0, 0)


def test_what_was_half_sent_with_qos_0_is_lost_and_the_rest_goes_to_the_next_broker(make_broker: Any) -> None:
    broker = make_broker()
    long = replace(RESULT, label="x" * 400_000)
    broker.start()
    with MqttSink("127.0.0.1", broker.port, MqttOptions(queue=100)) as sink:
        sink.write(frame_at(0), [RESULT])
        until(lambda: sink.counts.sent == 1)
        broker.signal(signal.SIGSTOP)
        for index in range(1, 61):
            sink.write(frame_at(index), [long])
        until(lambda: sink.counts.sent > 1)
        sleep(0.3)
        assert sink.counts.waiting > WINDOW, "the buffers of the system hold some of them"
        broker.kill()
        broker.start()
        until(lambda: sink.counts.waiting == 0)
    sent, dropped, lost = outcome(sink)
    assert (sent + lost, dropped) == (61, 0)
    assert 0 < lost <= WINDOW


@pytest.mark.parametrize("state", ["away", "stopped"])
def test_a_broker_that_does_not_answer_holds_neither_the_loop_nor_the_end(make_broker: Any, state: str) -> None:
    broker = make_broker()
    with MqttSink("127.0.0.1", broker.port, MqttOptions(qos=1, queue=10, flush_s=0.3)) as sink:
        if state == "stopped":
            broker.start()
            sink.write(frame_at(0), [RESULT])
            until(lambda: sink.counts.sent == 1)
            broker.signal(signal.SIGSTOP)
        start = monotonic()
        for index in range(1000):
            sink.write(frame_at(index), [RESULT])
        wrote_s = monotonic() - start
    closed_s = monotonic() - start - wrote_s
    assert wrote_s < 5
    assert closed_s < 4
    counts = sink.counts
    assert counts.sent + counts.dropped + counts.lost == counts.offered == 1000 + counts.sent
    assert 10 <= counts.lost <= 30
    sleep(0.1)
    assert sink.counts == counts
    until(lambda: not threads_left())


def test_a_broker_that_wants_a_password(make_broker: Any, mosquitto: str, tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    tool = shutil.which("mosquitto_passwd", path=f"{os.environ['PATH']}:/usr/sbin")
    assert tool is not None, "it comes with mosquitto"
    subprocess.run([tool, "-b", "-c", passwords, "camera", "s3cret"], check=True, capture_output=True)
    broker = make_broker("allow_anonymous false", f"password_file {passwords}")
    broker.start()
    right, wrong = (MqttOptions(user="camera", password=word, flush_s=0.3) for word in ("s3cret", "guess"))
    with MqttSink("127.0.0.1", broker.port, wrong) as refused:
        refused.write(frame_at(0), [RESULT])
        until(lambda: refused.counts.errors)
        assert refused.counts.last_error.startswith("refused: ")
    assert outcome(refused) == (0, 0, 1)
    with MqttSink("127.0.0.1", broker.port, right) as taken:
        taken.write(frame_at(0), [RESULT])
        until(lambda: taken.counts.sent)
    assert outcome(taken) == (1, 0, 0)
    assert "s3cret" not in f"{right!r} {taken!r} {taken.counts!r}"


# paho leaves a socket whose handshake failed to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"], ids=["known", "of another name"])
def test_tls_goes_to_the_right_broker_only(make_broker: Any, tmp_path: Path, host: str) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate of the broker")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost "
    words += f"-addext subjectAltName=DNS:localhost -keyout {key} -out {certificate}"
    subprocess.run(["openssl", *words.split()], check=True, capture_output=True)
    broker = make_broker("allow_anonymous true", f"certfile {certificate}", f"keyfile {key}")
    broker.start()
    options = MqttOptions(tls=True, ca_file=str(certificate), flush_s=0.3)
    with MqttSink(host, broker.port, options) as sink:
        sink.write(frame_at(0), [RESULT])
        until(lambda: sink.counts.sent or sink.counts.errors)
    assert outcome(sink) == ((1, 0, 0) if host == "localhost" else (0, 0, 1))
    until(lambda: not threads_left())
    gc.collect()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topic": "a/{frame}"}, "no more than {camera} and {task}"),
        ({"topic": "a/{camera:d}"}, "no more than {camera} and {task}"),
        ({"topic": "a/{camera"}, "a topic with {camera} and {task}"),
        ({"topic": "a/#"}, "without wildcards"),
        ({"status_topic": ""}, "without wildcards"),
        ({"qos": 2}, "qos 0 or 1, got 2"),
        ({"password": "s3cret"}, "a user where there is a password"),
        ({"ca_file": "ca.pem"}, "tls where there are certificates"),
        ({"tls": True, "ca_file": "missing.pem"}, r"expected a \.pem file"),
        ({"queue": 0}, "a queue of 1 or more"),
        ({"keepalive_s": 0}, "times that can be"),
    ],
    ids=str,
)
def test_options_that_no_broker_takes_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OutputError, match=message) as caught:
        MqttSink("localhost", options=MqttOptions(**options))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(("host", "port"), [("", 1883), ("mqtt://host", 1883), ("host", 0), ("a..b", 1883)])
def test_addresses_that_are_none_are_refused(host: str, port: int) -> None:
    with pytest.raises(OutputError, match="a host name and a port"):
        MqttSink(host, port)


def test_without_paho_the_pip_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pgn-edge\[mqtt\]'"):
        MqttSink("localhost")

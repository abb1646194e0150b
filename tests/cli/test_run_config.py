"""The config of `pgn-edge run`: what it holds, and how it is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pgn_edge.cli.run_config import BATCHING, CAMERA, MQTT, WEBHOOK, read_config
from pgn_edge.cli.run_plan import CameraPlan, Listen, SinkPlan, parse_address
from pgn_edge.errors import DataError
from pgn_edge.runtime.live import LiveOptions
from pgn_edge.runtime.scheduler import Batching
from pgn_edge.runtime.sinks import MqttOptions, WebhookOptions

SMALL = """
vit = "vit.onnx"
[tasks]
pets = "pets.pgn"
[cameras.front]
source = "clip.mp4"
"""
WHOLE = """
vit = "engines/vit.onnx"
provider = "cuda"
threads = 2
gpu = 1
[tasks]
pets = "pets.pgn"
roads = "/srv/roads.pgn"
[cameras.front]
source = "rtsp://user:${FRONT}@10.0.0.2/stream"
policy = "drop-oldest"
queue = 8
max_fps = 10
stall_s = 3
connect_s = 20.5
[cameras.back]
source = "0"
tasks = ["roads"]
[batching]
max_batch = 4
max_wait_ms = 2
[sinks]
on_error = "raise"
jsonl = "answers.jsonl"
[sinks.webhook]
url = "https://example.org/answers"
token = "${HOOK}"
ca_file = "ca.pem"
[sinks.mqtt]
host = "broker"
qos = 1
[metrics]
listen = "9464"
[web]
listen = "0.0.0.0"
token = "${PAGE}"
bundles = "bundles"
"""


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FRONT": "se$cret", "HOOK": "hook", "PAGE": "page", "EMPTY": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NOWHERE", raising=False)
    monkeypatch.setenv("PGN_EDGE_METRICS_TOKEN", "from the environment")


def write(folder: Path, text: str) -> Path:
    path = folder / "app.toml"
    path.write_text(text)
    return path


def test_everything_arrives_and_paths_start_from_the_folder_of_the_file(tmp_path: Path) -> None:
    plan = read_config(write(tmp_path, WHOLE))
    assert plan.vit == str(tmp_path / "engines/vit.onnx")
    assert plan.tasks == {"pets": str(tmp_path / "pets.pgn"), "roads": "/srv/roads.pgn"}
    assert plan.engine == {"provider": "cuda", "threads": 2, "gpu": 1}
    front = {"policy": "drop-oldest", "queue": 8, "max_fps": 10, "stall_s": 3, "connect_s": 20.5}
    assert plan.cameras == (
        CameraPlan("front", "rtsp://user:se%24cret@10.0.0.2/stream", ("pets", "roads"), front),
        CameraPlan("back", "0", ("roads",), {}),
    )
    assert plan.batching == {"max_batch": 4, "max_wait_ms": 2}
    webhook = {"url": "https://example.org/answers", "token": "hook", "ca_file": str(tmp_path / "ca.pem")}
    mqtt = {"host": "broker", "port": 1883, "qos": 1}
    assert plan.sinks == SinkPlan(jsonl=str(tmp_path / "answers.jsonl"), webhook=webhook, mqtt=mqtt, on_error="raise")
    assert plan.metrics == Listen("127.0.0.1", 9464, "from the environment")
    assert plan.web == Listen("0.0.0.0", 8080, "page")
    assert plan.bundles == str(tmp_path / "bundles")
    assert plan.draws


def test_no_secret_is_in_the_repr(tmp_path: Path) -> None:
    shown = repr(read_config(write(tmp_path, WHOLE)))
    assert [secret for secret in ("se$cret", "se%24cret", "'hook'", "'page'") if secret in shown] == []


def test_the_example_of_the_documentation_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "app.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    for name in re.findall(r"\$\{(\w+)\}", example):
        monkeypatch.setenv(name, f"<{name}>")
    plan = read_config(write(tmp_path, example))
    assert [camera.name for camera in plan.cameras] == ["door", "gate"]
    assert plan.cameras[1].source == "rtsp://viewer:%3CGATE_PASSWORD%3E@10.0.0.2/stream"
    # The values of the example are the defaults, but for the rate.
    assert LiveOptions(**plan.cameras[1].live) == LiveOptions(policy="latest", max_fps=10)
    assert Batching(**plan.batching) == Batching()


def test_what_is_left_out_is_what_the_library_does(tmp_path: Path) -> None:
    plan = read_config(write(tmp_path, SMALL))
    assert plan.cameras == (CameraPlan("front", str(tmp_path / "clip.mp4"), ("pets",), {}),)
    assert (plan.engine, plan.batching, plan.sinks) == ({}, {}, SinkPlan())
    assert (plan.metrics, plan.web, plan.bundles) == (None, None, None)
    assert not plan.draws


def test_addresses_and_stdout_are_no_paths(tmp_path: Path) -> None:
    text = SMALL.replace("vit.onnx", "triton+http://host:8000/vit").replace("clip.mp4", "/dev/video0")
    plan = read_config(write(tmp_path, text + '[sinks]\njsonl = "-"\n'))
    assert (plan.vit, plan.cameras[0].source, plan.sinks.jsonl) == ("triton+http://host:8000/vit", "/dev/video0", "-")


@pytest.mark.parametrize(
    ("keys", "options", "beside"),
    [
        (CAMERA, LiveOptions, {"source", "tasks"}),
        (WEBHOOK, WebhookOptions, {"url"}),
        (MQTT, MqttOptions, {"host", "port"}),
        (BATCHING, Batching, set()),
    ],
    ids=["camera", "webhook", "mqtt", "batching"],
)
def test_every_option_has_its_key(keys: dict[str, type], options: type, beside: set[str]) -> None:
    fields = set(options.__dataclass_fields__)  # type: ignore[attr-defined]
    # One frame of a camera is under way at a time: its queue in the scheduler is never longer.
    assert set(keys) == (fields | beside) - ({"queue"} if options is Batching else set())


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        (SMALL.replace("vit =", "vits ="), "vits", "did you mean vit?"),
        (SMALL + "polices = 1", "cameras.front.polices", "did you mean policy?"),
        (SMALL + "[batchin]", "batchin", "did you mean batching?"),
        (SMALL + "[sinks.webhook]\nurls = 'x'", "sinks.webhook.urls", "did you mean url?"),
        (SMALL.replace('vit = "vit.onnx"', ""), "vit", "expected this key"),
        (SMALL + 'policy = "newest"', "cameras.front.policy", "one of latest, drop-oldest, wait"),
        (SMALL.replace('source = "clip.mp4"', ""), "cameras.front.source", "expected this key"),
        (SMALL.replace('pets = "pets.pgn"', ""), "tasks", "at least one"),
        ('vit = "v"\ncameras = {}\n[tasks]\na = "b"', "cameras", "at least one"),
        (SMALL.replace('"pets.pgn"', "1"), "tasks.pets", "expected a string, got int"),
        (SMALL.replace("[cameras.front]\nsource", "[cameras]\nfront"), "cameras.front", "a table"),
        (SMALL + 'tasks = "pets"', "cameras.front.tasks", "a list of strings, got str"),
        (SMALL + "tasks = [1]", "cameras.front.tasks", "a list of strings"),
        (SMALL + "tasks = []", "cameras.front.tasks", "at least one task"),
        (SMALL + 'tasks = ["petz"]', "cameras.front.tasks", "write pets?"),
        (SMALL + "queue = true", "cameras.front.queue", "a whole number, got bool"),
        (SMALL + "max_fps = 0", "cameras.front", "max_fps: expected a number above 0"),
        (SMALL.replace("clip.mp4", "gopher://x"), "cameras.front", "an address that starts with one of"),
        (SMALL + "[batching]\nmax_batch = 0", "batching, max_batch", "1 or more"),
        ("provider = 'gpu'" + SMALL, "provider", "one of cpu, cuda, tensorrt"),
        (SMALL + "[metrics]\nlisten = 'here:there'", "metrics.listen", "HOST:PORT"),
        (SMALL + "[web]\nbundles = 'x'", "web.listen", "expected this key"),
        (SMALL + "[sinks]\nwindow = 'yes'", "sinks.window", "true or false"),
        (SMALL + "[cameras.back]\nsource = '0'\n[sinks]\nvideo = 'x.mp4'", "sinks.video", "a single camera"),
        (SMALL + "[cameras.back]\nsource = '0'\n[sinks]\nwindow = true", "sinks.window", "a single camera"),
        (SMALL.replace("vit.onnx", "${FRONT}"), "vit", "variables in secrets only"),
        (SMALL.replace("pets.pgn", "${FRONT}"), "tasks.pets", "variables in secrets only"),
        (SMALL.replace("clip.mp4", "rtsp://u:${NOWHERE}@h/s"), "cameras.front.source", "to hold NOWHERE"),
        (SMALL + "[web]\nlisten = '1'\ntoken = '${EMPTY}'", "web.token", "to hold EMPTY"),
        (SMALL + "[broken", "", "expected TOML"),
    ],
    ids=[
        *("misspelt key", "misspelt key of a camera", "misspelt table", "misspelt key of a sink", "no vit"),
        *("no such policy", "no source", "no tasks", "no cameras", "a bundle that is a number", "a camera in one line"),
        *("one task without brackets", "a task that is a number", "a camera of no tasks", "a task that is not there"),
        *("a truth value is no number", "a rate of zero", "an address of another kind", "batches of none"),
        *("no such provider", "no address", "a page without its place", "a truth value in quotes"),
        *("one video of two cameras", "one window of two cameras", "a variable in a path", "a variable in a bundle"),
        *("a variable that is not set", "a token that would be empty", "no TOML"),
    ],
)  # fmt: skip
def test_an_error_names_the_file_and_the_key(tmp_path: Path, text: str, key: str, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_config(path)
    assert str(caught.value).startswith(f"{path}: {key}" if key else f"{path}: ")
    assert says in str(caught.value)


def test_a_secret_of_the_wrong_type_is_not_repeated(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL + "[web]\nlisten = '1'\ntoken = 271828")
    with pytest.raises(DataError) as caught:
        read_config(path)
    assert "271828" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["no such file", "no UTF-8"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "app.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"app\.toml"):
        read_config(path)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9000", ("127.0.0.1", 9000)),
        ("host", ("host", 80)),
        ("host:9000", ("host", 9000)),
        (":9000", ("127.0.0.1", 9000)),
        ("[::1]:9000", ("::1", 9000)),
        ("[::]", ("::", 80)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text, 80) == address


@pytest.mark.parametrize("text", ["host:", "0", "host:65536", "host:port", "::1", "99999"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        parse_address(text, 80)


def test_health_is_configured_and_a_wrong_time_is_refused(tmp_path: Path) -> None:
    metrics = '[metrics]\nlisten = "9464"\nwithin_s = 60\nhealthy = "any"\n'
    assert read_config(write(tmp_path, SMALL + metrics)).health == {"within_s": 60, "cameras": "any"}
    for wrong in (metrics.replace("60", "0"), metrics.replace("any", "most")):
        with pytest.raises(DataError, match="metrics"):
            read_config(write(tmp_path, SMALL + wrong))

"""A stock ViT behind a real HTTP service: equal to open_clip, bounded, and every fault named."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from pgn_edge.errors import EngineError
from pgn_edge.runtime.engines.service_body import JsonBody
from pgn_edge.runtime.engines.service_client import ServiceClient, ServiceError
from pgn_edge.runtime.engines.service_config import ServiceConfig, read_service
from pgn_edge.runtime.retry import Backoff, NoAnswerError
from pgn_edge.transport import Transport
from tests.runtime.embedding_server import FORM_PATH, JSON_PATH, SIDE, WIDTH, EmbeddingServer, write_config
from tests.runtime.triton_server import Proxy, tls_proxy

SLACK_S = 1.0  # a busy machine
PNG = Transport("png")
Ask = Callable[..., ServiceClient]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """(5, 32, 32, 3) uint8: noise, where every pixel counts."""
    return np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), np.uint8)


@pytest.fixture(scope="module")
def files(images: np.ndarray) -> list[bytes]:
    return [PNG.encode(image) for image in images]


@pytest.fixture(scope="module")
def wanted(tower: Path, images: np.ndarray) -> np.ndarray:
    """What open_clip itself makes of them."""
    model, _, preprocess = open_clip.create_model_and_transforms("tower", pretrained=str(tower / "tower.pt"))
    with torch.no_grad():
        return model.eval().encode_image(torch.stack([preprocess(Image.fromarray(each)) for each in images])).numpy()


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Ask]:
    """Makes clients of an address, which are closed when the test is over."""
    clients: list[ServiceClient] = []

    def make(url: str, more: str = "", **options: Any) -> ServiceClient:
        config = written(tmp_path, url, more)
        clients.append(ServiceClient(replace(config, options=replace(config.options, **options))))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def written(folder: Path, url: str, more: str = "") -> ServiceConfig:
    return read_service(write_config(folder / "service.toml", url, more))


# Equal to the model.


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("path", [JSON_PATH, FORM_PATH])
def test_it_answers_as_open_clip(
    tower_server: EmbeddingServer, ask: Ask, files: list[bytes], wanted: np.ndarray, path: str, batch: int
):
    key = f"{path} {batch}"
    client = ask(tower_server.url(path, key=key), f"batch = {batch}")
    rows = client.embed(files, "image/png")
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, wanted, rtol=1e-4, atol=1e-5)
    ports = tower_server.seen(key)
    assert len(ports) == -(-len(files) // batch), "requests"
    assert len(set(ports)) == 1, "connections"


@pytest.mark.parametrize(
    ("fault", "batch"),
    [
        pytest.param("out of order", 5, id="each vector says which image it is of"),
        pytest.param("alpha", 1, id="there is no alpha to drop"),
    ],
)
def test_what_does_no_harm(
    tower_server: EmbeddingServer, ask: Ask, files: list[bytes], wanted: np.ndarray, fault: str, batch: int
):
    rows = ask(tower_server.url(fault=fault), f"batch = {batch}").embed(files, "image/png")
    np.testing.assert_allclose(rows, wanted, rtol=1e-4, atol=1e-5)


def test_null_is_nan_in_its_own_row(tower_server: EmbeddingServer, ask: Ask, files: list[bytes]):
    rows = ask(tower_server.url(fault="null"), "batch = 2").embed(files[:2], "image/png")
    assert np.isnan(rows).tolist() == [[True] + [False] * (WIDTH - 1), [False] * WIDTH]


# Refusals and answers that are none.


@pytest.mark.parametrize(
    ("cue", "reason", "says"),
    [
        ({"status": 413}, "size", "rejects the size of the image: 'Request Entity Too Large'"),
        (
            {"status": 422, "said": "image must be 224x224"},
            "size",
            "rejects the size of the image: 'image must be 224x",
        ),
        ({"status": 400, "said": "unsupported image format"}, "format", "rejects the format of the image"),
        ({"status": 400, "said": "out of luck"}, "request", "rejects the request: 'out of luck'"),
        ({"status": 401}, "rights", "refuses the token"),
        ({"status": 403}, "rights", "refuses the token"),
        ({"status": 404}, "address", "does not know the address"),
        ({"fault": "redirect"}, "redirect", "sends elsewhere, which is not followed: 'http://elsewhere.example'"),
        ({"fault": "text"}, "answer", "expected JSON, got '<html>Welcome"),
        ({"fault": "deep"}, "answer", "expected JSON, got '[[["),
        ({"fault": "elsewhere"}, "answer", 'expected data in the answer, got \'{"result"'),
        ({"fault": "no vector"}, "answer", "a list of numbers at data.*.embedding, got 'null'"),
        ({"fault": "strings"}, "answer", "a list of numbers at data.*.embedding"),
        ({"fault": "one too few"}, "answer", "1 vectors, one for each image, got 0"),
        ({"fault": "huge"}, "answer", "an answer of at most 1114112 bytes"),
        ({"fault": "narrow"}, "dimension", "vectors of 24 numbers, as the head of the task, got [23]"),
        ({"status": 418, "said": "\x1b[31m" + "long " * 100}, "request", "request: '[31mlong long"),
    ],
    ids=lambda value: " ".join(map(str, value.values()))[:24] if isinstance(value, dict) else "",
)
def test_a_refusal_is_final_and_named(
    tower_server: EmbeddingServer, ask: Ask, files: list[bytes], cue: dict[str, Any], reason: str, says: str
):
    key = json.dumps(cue)
    client = ask(tower_server.url(key=key, **cue))
    with pytest.raises(ServiceError) as refused:
        client.start(files[:1], "image/png", WIDTH).result()
    assert says in str(refused.value)
    assert "\x1b" not in str(refused.value)
    assert (refused.value.reason, refused.value.status) == (reason, cue.get("status", refused.value.status))
    assert len(tower_server.seen(key)) == 1, "attempts"


@pytest.mark.parametrize("path", [JSON_PATH, FORM_PATH])
def test_another_format_than_the_service_takes(tower_server: EmbeddingServer, ask: Ask, images: np.ndarray, path: str):
    webp = Transport("webp")
    with pytest.raises(ServiceError, match="rejects the format of the image") as refused:
        ask(tower_server.url(path)).embed([webp.encode(images[0])], webp.content_type)
    assert (refused.value.status, refused.value.reason) == (415, "format")
    assert "only" in refused.value.said


def test_vectors_of_unequal_length(tower_server: EmbeddingServer, ask: Ask, files: list[bytes]):
    with pytest.raises(ServiceError, match=r"vectors of one length, got \[23, 24\]"):
        ask(tower_server.url(fault="ragged"), "batch = 2").embed(files[:2], "image/png")


def test_a_body_that_the_service_does_not_understand(tower_server: EmbeddingServer, files: list[bytes], tmp_path: Path):
    config = written(tmp_path, tower_server.url())
    with (
        ServiceClient(replace(config, body=JsonBody({"picture": "{base64}"}))) as client,
        pytest.raises(ServiceError, match="status 422: the service rejects the request: 'Field required'"),
    ):
        client.embed(files[:1], "image/png")


# Attempts and limits.


@pytest.mark.parametrize("cue", [{"status": 500}, {"status": 503}, {"status": 408}, {"fault": "cut"}], ids=str)
def test_what_may_pass_is_tried_again(
    tower_server: EmbeddingServer, ask: Ask, files: list[bytes], wanted: np.ndarray, cue: dict[str, Any]
):
    key = f"twice {cue}"
    rows = ask(tower_server.url(key=key, times=2, **cue), backoff=Backoff(4, 0.01)).embed(files[:1], "image/png")
    np.testing.assert_allclose(rows, wanted[:1], rtol=1e-4, atol=1e-5)
    assert len(tower_server.seen(key)) == 3


def test_a_rate_limit_is_kept_within_the_deadline(
    tower_server: EmbeddingServer, ask: Ask, files: list[bytes], wanted: np.ndarray
):
    start = monotonic()
    rows = ask(tower_server.url(key="limit", times=1, status=429, retry_after=1)).embed(files[:1], "image/png")
    np.testing.assert_allclose(rows, wanted[:1], rtol=1e-4, atol=1e-5)
    assert monotonic() - start >= 1.0
    assert len(tower_server.seen("limit")) == 2


def test_a_rate_limit_beyond_the_deadline_is_named_at_once(tower_server: EmbeddingServer, ask: Ask, files: list[bytes]):
    client = ask(tower_server.url(key="far", status=429, retry_after=3600, said="slow down"))
    start = monotonic()
    with pytest.raises(
        NoAnswerError, match=r"the limit of its rate, asks to wait .* 'slow down', in 1 attempt"
    ) as late:
        client.embed(files[:1], "image/png")
    assert monotonic() - start < SLACK_S
    assert late.value.status == 429
    assert len(tower_server.seen("far")) == 1


def test_attempts_end_at_their_number(tower_server: EmbeddingServer, ask: Ask, files: list[bytes]):
    client = ask(tower_server.url(key="broken", status=500, said="oh no"), "retries = 2", backoff=Backoff(2, 0.01))
    with pytest.raises(NoAnswerError, match="status 500: 'oh no', in 3 attempts") as failed:
        client.embed(files[:1], "image/png")
    assert failed.value.status == 500
    assert len(tower_server.seen("broken")) == 3


@pytest.mark.parametrize("fault", ["refuse", "reset", "cut", "hang", "drip", "garbage"])
def test_a_fault_on_the_way_is_survived_or_named_in_time(
    tower_server: EmbeddingServer, ask: Ask, files: list[bytes], wanted: np.ndarray, fault: str
):
    proxy = Proxy(tower_server.port)
    client = ask(tower_server.url(port=proxy.port), deadline_s=0.8, attempt_s=0.25, backoff=Backoff(4, 0.01))
    faults = iter([fault])
    proxy.fault = lambda: next(faults, "")
    rows = client.embed(files[:1], "image/png")
    np.testing.assert_allclose(rows, wanted[:1], rtol=1e-4, atol=1e-5)
    proxy.fault = fault
    proxy.drop()
    start = monotonic()
    with pytest.raises(
        NoAnswerError, match=r"an answer within 0.8 s, got (timeout|connection: \w+|half of it, or none), in \d"
    ):
        client.embed(files[:1], "image/png")
    assert monotonic() - start < 0.8 + SLACK_S
    proxy.close()


def test_a_connection_that_was_closed_while_idle_is_no_fault(
    tower_server: EmbeddingServer, ask: Ask, files: list[bytes], wanted: np.ndarray
):
    proxy = Proxy(tower_server.port)
    client = ask(tower_server.url(port=proxy.port), backoff=Backoff(0))
    for _ in range(2):
        np.testing.assert_allclose(client.embed(files[:1], "image/png"), wanted[:1], rtol=1e-4, atol=1e-5)
        proxy.drop()
        sleep(0.05)
    proxy.close()


def test_one_request_too_many_is_refused_at_once(tower_server: EmbeddingServer, ask: Ask, files: list[bytes]):
    client = ask(tower_server.url(fault="hang"), "in_flight = 2", deadline_s=0.3)
    pending = [client.start(files[:1], "image/png", None) for _ in range(2)]
    with pytest.raises(EngineError, match="at most 2 requests in flight"):
        client.embed(files[:1], "image/png")
    for each in pending:
        with pytest.raises(NoAnswerError, match=r"within 0\.3 s"):
            each.result()


def test_a_service_that_does_not_answer_is_left_alone_for_a_while(
    tower_server: EmbeddingServer, ask: Ask, files: list[bytes], wanted: np.ndarray
):
    url = tower_server.url(key="left alone", status=503, times=2)
    client = ask(url, "retries = 0\nbreaker_failures = 2\nbreaker_pause_s = 0.3", backoff=Backoff(0))
    for _ in range(2):
        with pytest.raises(NoAnswerError, match="status 503"):
            client.embed(files[:1], "image/png")
    with pytest.raises(EngineError, match="no answer to the last 2 requests or more: status 503"):
        client.embed(files[:1], "image/png")
    assert len(tower_server.seen("left alone")) == 2
    sleep(0.35)
    np.testing.assert_allclose(client.embed(files[:1], "image/png"), wanted[:1], rtol=1e-4, atol=1e-5)


def test_more_images_than_a_request_takes(tower_server: EmbeddingServer, ask: Ask, files: list[bytes]):
    client = ask(tower_server.url())
    for count in (0, 2):
        with pytest.raises(EngineError, match="1 to 1 images in a request"):
            client.start(files[:count], "image/png", None)
    with pytest.raises(EngineError, match="1 to 1 images"):
        client.embed([], "image/png")


# Secrets.


def test_the_token_is_sent_and_never_said(
    tower_server: EmbeddingServer, ask: Ask, files: list[bytes], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SERVICE_TOKEN", "s3cret")
    assert len(ask(tower_server.url(token="s3cret"), 'token = "${SERVICE_TOKEN}"').embed(files[:1], "image/png")) == 1
    with pytest.raises(ServiceError, match=r"Incorrect key provided: Bearer \*\*\*") as refused:
        ask(tower_server.url(token="other"), 'token = "${SERVICE_TOKEN}"').embed(files[:1], "image/png")
    assert "s3cret" not in str(refused.value) + refused.value.said


def test_tls_goes_to_the_right_server_only(
    tower_server: EmbeddingServer, ask: Ask, files: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate of the server")
    monkeypatch.setenv("SERVICE_TOKEN", "s3cret")
    key, pem = tmp_path / "key.pem", tmp_path / "cert.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost "
    words += f"-addext subjectAltName=DNS:localhost -keyout {key} -out {pem}"
    subprocess.run(["openssl", *words.split()], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    with tls_proxy(tower_server.port, context) as port:
        url = tower_server.url(port=port, token="s3cret").replace("http://127.0.0.1", "https://localhost")
        token = 'token = "${SERVICE_TOKEN}"'
        known = ask(url, f'{token}\nca_file = "cert.pem"')
        assert len(known.embed(files[:1], "image/png")) == 1
        known.close()  # before the proxy
        for where, more in ((url, token), (url.replace("localhost", "127.0.0.1"), f'{token}\nca_file = "cert.pem"')):
            with pytest.raises(EngineError, match=r"a certificate that is known, got certificate: .*; check ca_file"):
                ask(where, more).embed(files[:1], "image/png")

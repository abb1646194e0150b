"""Configs of embedding services: what is refused before anything is sent, and what a request looks like."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path

import pytest

from pgn_edge.errors import EngineError
from pgn_edge.runtime.engines import EngineOptions, open_engine
from pgn_edge.runtime.engines.service_body import FormBody, JsonBody
from pgn_edge.runtime.engines.service_config import ServiceConfig, read_service

OPENAI = """
url = "https://api.example.com/v1/embeddings?version=2"
request = "json"
answer = "data.*.embedding"
body = { model = "clip", input = ["{data_url}"] }
"""
FORM = """
url = "http://127.0.0.1:1/embed"
request = "multipart"
answer = "embeddings"
field = "file"
fields = { model = "clip" }
"""


def config(tmp_path: Path, text: str) -> ServiceConfig:
    path = tmp_path / "service.toml"
    path.touch(mode=0o600)
    path.write_text(text)
    return read_service(path)


def test_the_smallest_config_and_its_defaults(tmp_path: Path):
    read = config(tmp_path, OPENAI)
    assert read.name == f"{tmp_path / 'service.toml'} (https://api.example.com)"
    assert read.body == JsonBody({"model": "clip", "input": ["{data_url}"]}, 1)
    assert (read.answer, str(read.transport)) == (("data", "*", "embedding"), "png")
    assert (read.task, read.batch, read.headers) == (None, 1, {})
    assert (read.options.deadline_s, read.options.backoff.retries) == (10.0, 4)


def test_a_config_with_every_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SERVICE_TOKEN", "s3cret")
    monkeypatch.setenv("PROJECT", "pr0ject")
    (tmp_path / "ca.pem").touch()
    more = """
    transport = "webp:80"
    batch = 4
    task = "pets.pgn"
    token = "${SERVICE_TOKEN}"
    ca_file = "ca.pem"
    deadline_s = 2
    attempt_s = 0.5
    retries = 1
    in_flight = 2
    breaker_failures = 3
    breaker_pause_s = 0.25
    headers = { X-Project = "id ${PROJECT}" }
    """
    read = config(tmp_path, OPENAI + more)
    assert (read.batch, read.transport.loss, read.task) == (4, "webp:80", tmp_path / "pets.pgn")
    assert read.headers == {"Authorization": "Bearer s3cret", "X-Project": "id pr0ject"}
    options = read.options
    assert (options.deadline_s, options.attempt_s, options.backoff.retries) == (2, 0.5, 1)
    assert (options.in_flight, options.breaker_failures, options.breaker_pause_s) == (2, 3, 0.25)
    assert options.ca_file == tmp_path / "ca.pem"
    assert "s3cret" not in repr(read)
    assert "pr0ject" not in repr(read)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("url = 3\n" + OPENAI.partition("\n")[2], "TOML", id="a key twice"),
        pytest.param(OPENAI + "batches = 3", "did you mean batch?", id="an unknown key"),
        pytest.param(OPENAI + "batch = true", "a whole number, got bool", id="another type"),
        pytest.param(OPENAI + "batch = 0", "1 to 256", id="an empty batch"),
        pytest.param(OPENAI + "deadline_s = 0", "deadline_s: expected seconds", id="no time"),
        pytest.param(OPENAI + "retries = -1", "0 or more", id="fewer attempts than one"),
        pytest.param(OPENAI + "in_flight = 0", "in_flight: expected 1", id="no request"),
        pytest.param(OPENAI + "transport = 'jpeg'", "transport: expected png, webp", id="no such transport"),
        pytest.param(OPENAI + "field = 'file'", "field: expected no such key for request = 'json'", id="of a form"),
        pytest.param(OPENAI.replace("answer", "#"), "answer: expected this key", id="no path"),
        pytest.param(OPENAI.replace("data.*.embedding", "data..x"), "data.*.embedding", id="half a path"),
        pytest.param(OPENAI.replace("body", "#"), "body: expected this key for request = 'json'", id="no body"),
        pytest.param(OPENAI.replace('"json"', '"xml"'), "request: expected json or multipart", id="another request"),
        pytest.param(OPENAI.replace("{data_url}", "x"), "one {data_url} or {base64}", id="no place for an image"),
        pytest.param(OPENAI.replace("clip", "{base64}"), "got 2", id="two places"),
        pytest.param(
            OPENAI.replace('["{data_url}"]', '"{data_url}"') + "batch = 2", "a list", id="no list for a batch"
        ),
        pytest.param(OPENAI.replace('{data_url}"]', '{data_url}", 3]') + "batch = 2", "a list", id="a list with more"),
        pytest.param(OPENAI.replace('"clip"', "2024-01-01"), "values that JSON has", id="a date"),
        pytest.param(OPENAI.replace('"clip"', "nan"), "not finite", id="no number"),
        pytest.param(OPENAI.replace("clip", "${HOME}"), "variables in token and headers only", id="a variable"),
        pytest.param(OPENAI.replace("https", "ftp"), "url: expected http://", id="another scheme"),
        pytest.param(OPENAI + "token = '${NO_SUCH}'", "the environment to hold NO_SUCH", id="not set"),
        pytest.param(OPENAI + 'token = "two\\nlines"', "printable ASCII", id="a token that would be two headers"),
        pytest.param(OPENAI + "headers = { Host = 'x' }", "headers.Host", id="a header of ours"),
        pytest.param(OPENAI + "headers = { X = 1 }", "headers.X: expected a string", id="a header that is a number"),
        pytest.param(OPENAI + "token = 'x'\nheaders = { authorization = 'y' }", "both", id="two tokens"),
        pytest.param(OPENAI + "ca_file = 'none.pem'", "a PEM file", id="no certificates"),
        pytest.param(FORM + "body = {}", "body: expected no such key for request = 'multipart'", id="of JSON"),
        pytest.param(FORM.replace('"file"', "'f\"'"), "a name of plain characters", id="a quote in a name"),
        pytest.param(FORM.replace('"clip"', "3"), "fields: expected strings", id="a field that is a number"),
        pytest.param(FORM + f"ca_file = '{__file__}'", "https:// for certificates", id="certificates for nothing"),
    ],
)
def test_what_is_refused_and_named(tmp_path: Path, text: str, says: str):
    with pytest.raises(EngineError) as refused:
        config(tmp_path, text)
    assert str(refused.value).startswith(str(tmp_path / "service.toml"))
    assert says in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(EngineError, match=r"none\.toml: expected a config"):
        read_service(tmp_path / "none.toml")


@pytest.mark.parametrize("secret", ["token = 's3cret'", "headers = { X-Key = 's3cret' }"])
def test_secrets_in_the_clear_are_refused_unless_they_stay_on_this_machine(tmp_path: Path, secret: str):
    assert config(tmp_path, FORM + secret).headers
    with pytest.raises(EngineError, match="https://") as refused:
        config(tmp_path, FORM.replace("127.0.0.1", "10.255.0.1") + secret)
    assert "s3cret" not in str(refused.value)


def test_a_password_in_the_address_is_refused_and_not_repeated(tmp_path: Path):
    with pytest.raises(EngineError, match="a user or password") as refused:
        config(tmp_path, OPENAI.replace("https://", "https://me:hunter2@"))
    assert "hunter2" not in str(refused.value)


def test_an_engine_needs_to_know_whose_vit_the_service_runs(tmp_path: Path):
    config(tmp_path, OPENAI)
    with pytest.raises(EngineError, match="task, a bundle made for the ViT"):
        open_engine(tmp_path / "service.toml")
    with pytest.raises(EngineError, match="the server chooses"):
        open_engine(tmp_path / "service.toml", EngineOptions("cuda"))


# What is sent.


@pytest.mark.parametrize(
    ("template", "batch", "wanted"),
    [
        pytest.param({"input": "{base64}"}, 1, {"input": "YQ=="}, id="bare"),
        pytest.param({"input": ["{data_url}"]}, 1, {"input": ["data:image/png;base64,YQ=="]}, id="a list of one"),
        pytest.param({"input": ["x{base64}"], "n": [1]}, 3, {"input": ["xYQ==", "xYg=="], "n": [1]}, id="a batch"),
        pytest.param(
            {"in": {"of": [{"kind": 1, "content": [{"image": "{base64}"}]}]}},
            3,
            {"in": {"of": [{"kind": 1, "content": [{"image": text}]} for text in ("YQ==", "Yg==")]}},
            id="the outermost list is the batch",
        ),
        pytest.param({"in": [1, ["{base64}"]]}, 1, {"in": [1, ["YQ=="]]}, id="anywhere"),
    ],
)
def test_images_in_a_json_document(template: dict[str, object], batch: int, wanted: dict[str, object]):
    files = [b"a", b"b"][:batch]
    kind, body = JsonBody(template, batch).encode(files, "image/png")
    assert (kind, json.loads(body)) == ("application/json", wanted)


def test_images_as_files_of_a_form():
    # Read by the server's own parser in test_service.py; here what no parser would miss.
    kind, body = FormBody("file", {"model": "clïp"}, 2).encode([b"\r\n--a", b"b"], "image/webp")
    mark = kind.removeprefix("multipart/form-data; boundary=")
    assert body.count(f"--{mark}".encode()) == 4
    assert body.endswith(f"--{mark}--\r\n".encode())
    assert b'name="file"; filename="1.webp"\r\nContent-Type: image/webp\r\n\r\nb\r\n' in body
    assert 'name="model"\r\n\r\nclïp\r\n'.encode() in body
    assert b64encode(b"b") not in body

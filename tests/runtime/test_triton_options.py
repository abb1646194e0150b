"""Addresses of served models, and options that are refused before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgn_edge.errors import EngineError
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.engines import EngineOptions, TritonEngine, TritonOptions, open_engine
from pgn_edge.runtime.engines.triton_options import TritonAddress


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("triton+http://camera:8000/vit", ("http", False, "camera", 8000, "vit", "")),
        ("triton+https://10.0.0.1:443/vit-b.32/versions/7", ("http", True, "10.0.0.1", 443, "vit-b.32", "7")),
        ("triton+grpc://localhost:8001/vit_2", ("grpc", False, "localhost", 8001, "vit_2", "")),
        ("triton+grpcs://[::1]:8001/vit", ("grpc", True, "::1", 8001, "vit", "")),
    ],
)
def test_an_address_is_read_and_written(url: str, parts: tuple[object, ...]):
    address = TritonAddress.parse(url)
    assert address == TritonAddress(*parts)
    assert str(address) == url


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://camera:8000/vit", id="not said to be Triton's"),
        pytest.param("triton+ftp://camera:8000/vit", id="another protocol"),
        pytest.param("triton+http://camera/vit", id="no port"),
        pytest.param("triton+http://:8000/vit", id="no host"),
        pytest.param("triton+http://camera:99999/vit", id="no such port"),
        pytest.param("triton+http://camera:8000", id="no model"),
        pytest.param("triton+http://camera:8000/v2/models/vit", id="a path of the protocol"),
        pytest.param("triton+http://camera:8000/vit/versions/latest", id="a version that is no number"),
        pytest.param("triton+http://camera:8000/vit?timeout=3", id="a query"),
        pytest.param("triton+http://camera:8000/vit#1", id="a fragment"),
        pytest.param("triton+http://[camera:8000/vit", id="half a bracket"),
    ],
)
def test_an_address_that_is_none(url: str):
    with pytest.raises(EngineError, match=r"triton\+http://host:port/model"):
        TritonAddress.parse(url)


def test_a_password_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(EngineError, match="a user or a password") as refused:
        TritonAddress.parse("triton+http://me:hunter2@camera:8000/vit")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("host", "here"), [("localhost", True), ("127.0.0.9", True), ("[::1]", True), ("10.0.0.1", False), ("cam", False)]
)
def test_which_hosts_share_memory(host: str, here: bool):
    assert TritonAddress.parse(f"triton+http://{host}:1/vit").loopback is here


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"deadline_s": 0}, id="no time"),
        pytest.param({"deadline_s": float("inf")}, id="no deadline"),
        pytest.param({"attempt_s": -1.0}, id="an attempt before now"),
        pytest.param({"ready_s": float("nan")}, id="no number"),
        pytest.param({"in_flight": 0}, id="no request"),
        pytest.param({"breaker_failures": 0}, id="a breaker that is never closed"),
        pytest.param({"ca_file": Path("no-such.pem")}, id="no such file"),
        pytest.param({"key_file": Path(__file__)}, id="a key without its certificate"),
        pytest.param({"token": "two\nlines"}, id="a token that would be two headers"),
    ],
)
def test_options_that_are_refused(wrong: dict[str, object]):
    with pytest.raises(EngineError):
        TritonOptions(**wrong)


def test_the_environment_says_what_no_command_line_should(tmp_path: Path):
    path = tmp_path / "file.pem"
    path.touch()
    names = ("CA_FILE", "CERT_FILE", "KEY_FILE")
    given = {"PGN_EDGE_TRITON_TOKEN": "s3cret", "PGN_EDGE_TRITON_DEADLINE_S": "0.25"}
    options = TritonOptions.from_environment({**given, **{f"PGN_EDGE_TRITON_{name}": str(path) for name in names}})
    assert (options.token, options.deadline_s) == ("s3cret", 0.25)
    assert (options.ca_file, options.cert_file, options.key_file) == (path, path, path)
    assert "s3cret" not in repr(options)
    assert TritonOptions.from_environment({}) == TritonOptions()
    with pytest.raises(EngineError, match="soon"):
        TritonOptions.from_environment({"PGN_EDGE_TRITON_DEADLINE_S": "soon"})


@pytest.mark.parametrize(
    ("url", "given"),
    [
        pytest.param("triton+http://10.255.0.1:8000/vit", {"token": "s3cret"}, id="a token in the clear"),
        pytest.param("triton+grpc://127.0.0.1:8001/vit", {"ca_file": Path(__file__)}, id="certificates for nothing"),
    ],
)
def test_secrets_without_tls_are_refused_before_anything_is_sent(url: str, given: dict[str, object]):
    with pytest.raises(EngineError, match="TLS") as refused:
        TritonEngine(url, TritonOptions(**given))
    assert "s3cret" not in str(refused.value)
    assert url.replace("://", "s://") in str(refused.value)


def test_a_provider_is_for_files():
    with pytest.raises(EngineError, match="the server chooses"):
        open_engine("triton+http://127.0.0.1:1/vit", EngineOptions("cuda"))


def test_the_runtime_takes_an_address_and_says_what_is_wrong_with_it():
    with pytest.raises(EngineError, match="no host or no port"):
        Runtime("triton+http://camera/vit")

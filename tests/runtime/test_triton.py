"""A ViT on a real Triton server: equal to the local engine, and bounded whatever the server does."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from pgn_edge.cli import cli
from pgn_edge.errors import EngineError, PairingError
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.engines import Engine, TritonEngine, TritonOptions, open_engine
from pgn_edge.runtime.retry import Backoff
from pgn_edge.runtime.triton_repository import ServingOptions, write_model_folder
from tests.runtime.triton_server import (
    Proxy,
    TritonServer,
    UnavailableError,
    cue,
    install_client,
    install_server,
    serve_with_python,
    tls_proxy,
)

SLACK_S = 1.0  # a busy machine; benchmarks/remote.py measures what is held to 50 ms
PATIENT = {"deadline_s": 20.0, "ready_s": 20.0}
Open = Callable[..., TritonEngine]


@pytest.fixture(scope="module")
def environment() -> Path:
    """Where the server is installed; its client can be imported from then on."""
    try:
        install_client()
        return install_server()
    except UnavailableError as exc:
        pytest.skip(f"no Triton server here: {exc}")


def change_fingerprint(folder: Path, to: str) -> None:
    config = folder / "config.pbtxt"
    lines = config.read_text().splitlines(keepends=True)
    (at,) = (at for at, line in enumerate(lines) if "pgn_edge.fingerprint" in line)
    lines[at] = f'parameters {{ key: "pgn_edge.fingerprint" value {{ string_value: "\\"{to}\\"" }} }}\n'
    config.write_text("".join(lines))


@pytest.fixture(scope="module")
def repository(tiny_pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`vit`, and `other`, which says that it is another ViT."""
    folder = tmp_path_factory.mktemp("triton") / "models"
    for name in ("vit", "other"):
        options = ServingOptions(name, max_batch=4, warm_up=name == "vit")
        serve_with_python(write_model_folder(tiny_pair.vit, folder, options).path)
    change_fingerprint(folder / "other", "ab" * 32)
    return folder


@pytest.fixture(scope="module")
def server(environment: Path, repository: Path) -> Iterator[TritonServer]:
    """One that stays up."""
    running = TritonServer(environment, repository)
    try:
        running.start()
        yield running
    finally:
        running.kill()


@pytest.fixture
def opened() -> Iterator[Open]:
    """Open engines that are closed when the test is over."""
    engines: list[TritonEngine] = []

    def make(url: str, **options: Any) -> TritonEngine:
        engines.append(TritonEngine(url, TritonOptions(**{**PATIENT, **options})))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture(scope="module")
def local(tiny_pair) -> Iterator[Engine]:
    engine = open_engine(tiny_pair.vit)
    yield engine
    engine.close()


@pytest.fixture
def proxy(server: TritonServer, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    made = Proxy(server.http_port if getattr(request, "param", "http") == "http" else server.grpc_port)
    yield made
    made.close()


def canvases(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    return {"canvas": np.random.default_rng(seed).standard_normal((count, 3, 80, 64)).astype(np.float32)}


def same(answer: Mapping[str, np.ndarray], local: Engine, feeds: Mapping[str, np.ndarray]) -> bool:
    wanted = local.infer(feeds)
    assert answer.keys() == wanted.keys()
    return all(np.allclose(answer[name], wanted[name], atol=1e-5) for name in wanted)


# Equal to the local engine.


@pytest.mark.parametrize("shared", [True, False], ids=["shared memory", "plain"])
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_it_answers_as_the_local_engine(server: TritonServer, opened: Open, local: Engine, protocol: str, shared: bool):
    engine = opened(server.url(protocol), shared_memory=shared)
    assert ("shared memory" in engine.device) is shared
    assert engine.metadata == local.metadata
    assert engine.inputs["canvas"].most == 4
    for count in (1, 4, 2):
        feeds = canvases(count, count)
        answer = engine.infer(feeds)
        assert same(answer, local, feeds)
        assert all(array.flags.writeable and array.base is None for array in answer.values())
    feeds, outputs = canvases(2), {"embedding": np.zeros((2, 128), np.float32)}
    run = engine.bind(feeds, outputs)
    feeds["canvas"][:] = canvases(2, 5)["canvas"]
    run()
    assert same(outputs, local, feeds)


def test_answers_that_are_waited_for_later(server: TritonServer, opened: Open, local: Engine):
    engine = opened(server.url("grpc"), in_flight=3)
    feeds = [canvases(1, seed) for seed in range(3)]
    sent = [{"canvas": each["canvas"].copy()} for each in feeds]
    pending = [engine.infer_async(each) for each in sent]
    for each in sent:
        each["canvas"][:] = 0  # read already
    assert all(same(each.result(), local, wanted) for each, wanted in zip(pending, feeds, strict=True))
    assert all(each.done() for each in pending)


def test_the_runtime_runs_a_task_with_it(server: TritonServer, tiny_pair, golden_images: np.ndarray):
    frames = [("digits", image) for image in golden_images[:6]]
    with (
        Runtime(tiny_pair.vit, {"digits": tiny_pair.task}) as near,
        Runtime(TritonEngine(server.url("http"), TritonOptions(**PATIENT)), {"digits": tiny_pair.task}) as far,
    ):
        assert far.vit.device.startswith("triton http at 127.0.0.1:")
        for ours, theirs in zip(far.infer_batch(frames), near.infer_batch(frames), strict=True):
            assert ours.label == theirs.label
            np.testing.assert_allclose(ours.embedding, theirs.embedding, atol=1e-5)


def test_the_bench_times_a_served_vit_beside_a_file(server: TritonServer, tiny_pair, tmp_path: Path):
    url, report = server.url("http"), tmp_path / "report.json"
    engines = ("--engine", url, "--engine", str(tiny_pair.vit), "--task", str(tiny_pair.task))
    done = CliRunner().invoke(cli, ["bench", *engines, "--samples", "3", "--warmup", "0", "--json-file", str(report)])
    assert done.exit_code == 0, done.output
    document = json.loads(report.read_text())
    served, file = (document["parts"][role] for role in ("vit", "vit.2"))
    assert (served["name"], served["sha256"]) == (url, None)
    assert served["device"].startswith("triton http at 127.0.0.1:")
    assert file["sha256"]
    assert len(document["samples_ms"]["chain.total"]) == 3


def test_no_memory_is_left_behind(server: TritonServer, repository: Path, opened: Open):
    import tritonclient.http

    engine = opened(server.url("http"), deadline_s=0.5)
    with cue(repository / "vit", sleep_s=0.7), pytest.raises(EngineError):
        engine.infer(canvases(1))
    sleep(0.5)  # the region of that attempt is left to the server until it answers again
    engine.infer(canvases(1))
    engine.infer(canvases(4))  # a larger region
    mine = f"pgn_edge_{os.getpid()}_"
    assert [path for path in os.listdir("/dev/shm") if path.startswith(mine)]
    engine.close()
    assert not [path for path in os.listdir("/dev/shm") if path.startswith(mine)]
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.http_port}") as client:
        regions = client.get_system_shared_memory_status()
    assert not [region for region in regions if region["name"].startswith(mine)]


def test_a_server_that_does_not_see_our_memory_gets_plain_tensors(
    server: TritonServer, opened: Open, local: Engine, monkeypatch: pytest.MonkeyPatch
):
    from tritonclient.utils import shared_memory

    create = shared_memory.create_shared_memory_region

    def elsewhere(name: str, key: str, size: int, create_only: bool = False) -> Any:
        region = create(name, key, size, create_only)
        os.unlink(f"/dev/shm/{key}")  # as for a server in a container with a /dev/shm of its own
        return region

    monkeypatch.setattr(shared_memory, "create_shared_memory_region", elsewhere)
    engine = opened(server.url("http"))
    assert "shared memory was refused" in engine.device
    assert same(engine.infer(canvases(2)), local, canvases(2))


# Opening.


def test_another_vit_is_refused_with_both_fingerprints(server: TritonServer, opened: Open, tiny_pair, local: Engine):
    with pytest.raises(PairingError) as refused:
        Runtime(opened(server.url("http", "other")), {"digits": tiny_pair.task})
    assert "ab" * 32 in str(refused.value)
    assert json.loads(local.metadata["pgn_edge.fingerprint"]) in str(refused.value)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("model", ["missing", "vit/versions/9"], ids=["a model", "a version"])
def test_what_the_server_does_not_have(server: TritonServer, opened: Open, protocol: str, model: str):
    start = monotonic()
    with pytest.raises(EngineError, match=r"missing|version"):
        opened(server.url(protocol, model), ready_s=2.0)
    assert monotonic() - start < 2.0 + SLACK_S


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("fault", ["refuse", "hang"])
def test_a_server_that_is_not_ready_is_waited_for_no_longer_than_asked(
    server: TritonServer, opened: Open, protocol: str, fault: str
):
    proxy = Proxy(server.http_port if protocol == "http" else server.grpc_port)
    proxy.fault = fault
    start = monotonic()
    with pytest.raises(EngineError, match=r"ready within 0.5 s"):
        opened(server.url(protocol, port=proxy.port), ready_s=0.5)
    assert monotonic() - start < 0.5 + SLACK_S
    proxy.close()


def test_a_server_that_becomes_ready_meanwhile(server: TritonServer, opened: Open, proxy: Proxy):
    proxy.fault = "refuse"
    timer = threading.Timer(0.4, lambda: setattr(proxy, "fault", ""))
    timer.start()
    assert opened(server.url("http", port=proxy.port)).inputs
    timer.join()


# Faults on the way.


@pytest.mark.parametrize("proxy", ["http", "grpc"], indirect=True)
@pytest.mark.parametrize("fault", ["refuse", "reset", "cut", "hang", "drip", "garbage"])
def test_a_fault_on_the_way_is_survived_or_named_in_time(
    server: TritonServer, opened: Open, local: Engine, proxy: Proxy, fault: str, request: pytest.FixtureRequest
):
    protocol = request.node.callspec.params["proxy"]
    options = {"deadline_s": 1.0, "attempt_s": 0.3, "breaker_failures": 100}
    engine = opened(server.url(protocol, port=proxy.port), **options)
    faults = iter([fault])
    proxy.fault = lambda: next(faults, "")
    proxy.drop()
    assert same(engine.infer(canvases(1)), local, canvases(1)), "one fault, and a second attempt"
    proxy.fault = fault
    proxy.drop()
    start = monotonic()
    with pytest.raises(EngineError, match=r"an answer within 1 s, got .+"):
        engine.infer(canvases(1))
    assert monotonic() - start < options["deadline_s"] + SLACK_S
    proxy.fault = ""
    proxy.drop()
    assert same(engine.infer(canvases(2, 3)), local, canvases(2, 3)), "the server is back"


@pytest.mark.parametrize("shared", [True, False], ids=["shared memory", "plain"])
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_late_answer_is_refused_and_never_taken_for_the_next(
    server: TritonServer, repository: Path, opened: Open, local: Engine, protocol: str, shared: bool
):
    engine = opened(server.url(protocol), deadline_s=0.4, shared_memory=shared, backoff=Backoff(0))
    start = monotonic()
    with cue(repository / "vit", sleep_s=0.6), pytest.raises(EngineError, match=r"within 0.4 s"):
        engine.infer(canvases(1, 1))
    assert monotonic() - start < 0.4 + SLACK_S
    patient = opened(server.url(protocol), shared_memory=shared)
    assert same(patient.infer(canvases(1, 2)), local, canvases(1, 2))
    assert same(engine.infer(canvases(1, 3)), local, canvases(1, 3))


# Answers that are wrong.


@pytest.mark.parametrize("shared", [True, False], ids=["shared memory", "plain"])
@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize(
    ("what", "says"), [("narrow", "127"), ("half", "FP16"), ("fail", "out of luck")], ids=["shape", "type", "error"]
)
def test_a_wrong_answer_is_named(
    server: TritonServer, repository: Path, opened: Open, protocol: str, *, shared: bool, what: str, says: str
):
    engine = opened(server.url(protocol), shared_memory=shared)
    with cue(repository / "vit", **{what: True}), pytest.raises(EngineError) as refused:
        engine.infer(canvases(1))
    if not shared:  # else the server's own reason: what does not fit into its place is not written
        assert says in str(refused.value)
    assert engine.infer(canvases(1))


def test_nan_is_passed_on_and_the_runtime_marks_the_frame(
    server: TritonServer, repository: Path, opened: Open, tiny_pair, golden_images: np.ndarray
):
    engine = opened(server.url("http"))
    with Runtime(engine, {"digits": tiny_pair.task}) as runtime, cue(repository / "vit", nan=True):
        assert np.isnan(engine.infer(canvases(1))["embedding"]).all()
        result = runtime.infer("digits", golden_images[0])
        assert (result.label, result.degraded) == ("", "embedding")


def test_feeds_are_checked_before_they_travel(server: TritonServer, opened: Open):
    engine = opened(server.url("http"))
    for feeds in ({}, canvases(5), canvases(0), {"canvas": np.zeros((1, 3, 80, 64))}):
        with pytest.raises(EngineError):
            engine.infer(feeds)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(canvases(1))


# Limits.


def test_one_request_too_many_is_refused_at_once(server: TritonServer, repository: Path, opened: Open, local: Engine):
    engine = opened(server.url("http"), in_flight=2)
    with cue(repository / "vit", sleep_s=0.5):
        pending = [engine.infer_async(canvases(1, seed)) for seed in range(2)]
        with pytest.raises(EngineError, match="at most 2 requests in flight"):
            engine.infer(canvases(1))
        assert all(same(each.result(), local, canvases(1, seed)) for seed, each in enumerate(pending))
    assert same(engine.infer(canvases(1)), local, canvases(1))


def test_a_server_that_does_not_answer_is_left_alone_for_a_while(
    server: TritonServer, opened: Open, local: Engine, proxy: Proxy
):
    options = {"breaker_failures": 2, "breaker_pause_s": 0.5, "backoff": Backoff(0)}
    engine = opened(server.url("http", port=proxy.port), **options)
    proxy.fault = "refuse"
    proxy.drop()
    for _ in range(2):
        with pytest.raises(EngineError, match="an answer within"):
            engine.infer(canvases(1))
    proxy.fault = ""
    with pytest.raises(EngineError, match="no answer to the last 2 requests"):
        engine.infer(canvases(1))
    sleep(0.6)
    assert same(engine.infer(canvases(1)), local, canvases(1))


# A server that goes and comes back.


def test_killed_in_mid_request_restarted_and_replaced(
    environment: Path, repository: Path, opened: Open, local: Engine, tmp_path: Path
):
    models = tmp_path / "models"
    ways = [("http", True), ("http", False), ("grpc", True), ("grpc", False)]
    shutil.copytree(repository / "vit", models / "vit")
    server = TritonServer(environment, models)
    options = {"deadline_s": 2.0, "breaker_failures": 100}
    try:
        server.start()
        engines = [opened(server.url(protocol), shared_memory=shared, **options) for protocol, shared in ways]
        with cue(models / "vit", sleep_s=1.0):
            pending = [engine.infer_async(canvases(1)) for engine in engines]
            sleep(0.2)
            server.kill()
            start = monotonic()
            for each in pending:
                with pytest.raises(EngineError, match="within 2 s"):
                    each.result()
            assert monotonic() - start < 2.0 + SLACK_S
        server.start()
        assert all(same(engine.infer(canvases(2)), local, canvases(2)) for engine in engines)
        server.kill()
        server.start()  # between two requests, so that none fails
        assert all(same(engine.infer(canvases(2)), local, canvases(2)) for engine in engines)
        server.kill()
        change_fingerprint(models / "vit", "cd" * 32)
        server.start()
        for engine in engines:
            with pytest.raises(PairingError, match="cd" * 32) as refused:
                engine.infer(canvases(1))
            assert json.loads(local.metadata["pgn_edge.fingerprint"]) in str(refused.value)
    finally:
        server.kill()


# Secrets.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("certificates are made by openssl")
    folder = tmp_path_factory.mktemp("tls")
    key, pem = folder / "key.pem", folder / "cert.pem"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    names = ("-subj", "/CN=camera", "-addext", "subjectAltName=IP:127.0.0.1")
    command = ["openssl", "req", "-x509", *curve, *names, "-keyout", str(key), "-out", str(pem)]
    subprocess.run(command, check=True, capture_output=True)
    return pem, key


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tls_with_certificates_of_both_sides(
    server: TritonServer, opened: Open, local: Engine, certificate: tuple[Path, Path], protocol: str
):
    pem, key = certificate
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pem))
    context.load_cert_chain(pem, key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2", "http/1.1"] if protocol == "grpc" else ["http/1.1"])
    with tls_proxy(server.http_port if protocol == "http" else server.grpc_port, context) as port:
        url = server.url(f"{protocol}s", port=port)
        engine = opened(url, ca_file=pem, cert_file=pem, key_file=key, token="s3cret")
        assert "with TLS" in engine.device
        assert same(engine.infer(canvases(1)), local, canvases(1))
        engine.close()
        for options in ({}, {"ca_file": pem}):  # a certificate that nobody vouches for; none of the client's own
            with pytest.raises(EngineError):
                opened(url, ready_s=1.0, token="s3cret", **options)


@pytest.mark.parametrize("proxy", ["http", "grpc"], indirect=True)
def test_the_token_is_sent_and_never_said(
    server: TritonServer, opened: Open, proxy: Proxy, request: pytest.FixtureRequest
):
    protocol = request.node.callspec.params["proxy"]
    engine = opened(server.url(protocol, port=proxy.port), token="s3cret")
    if protocol == "http":  # gRPC packs its headers
        assert b"authorization: bearer s3cret" in proxy.seen.lower()
    proxy.fault = "refuse"
    proxy.drop()
    with pytest.raises(EngineError) as refused:
        engine.infer(canvases(1))
    for said in (str(refused.value), engine.device, engine.name, repr(TritonOptions(token="s3cret"))):
        assert "s3cret" not in said

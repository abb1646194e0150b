"""A real Triton server on the CPU, installed once outside the repository, and a proxy that spoils what passes it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep

SERVER = ("nvidia-pytriton==0.7.0", "numpy<2", "onnxruntime")
# tritonclient caps protobuf and ml_dtypes below what the tests of exports are pinned to, and runs with both: without
# its dependencies it stands beside them.
CLIENT = (
    *("tritonclient==2.73.0", "geventhttpclient==2.6.1", "gevent==26.9.0", "greenlet==3.3.2", "zope.event==6.2"),
    *("zope.interface==8.7", "python-rapidjson==1.25", "brotli==1.2.1", "urllib3==2.8.0", "certifi==2026.10.18"),
)
# The wheel brings the python backend alone: this serves the same graph with ONNX Runtime, and misbehaves on cue.
MODEL = """
import json, os, sys, time
sys.path.insert(0, os.environ["TEST_SITE_PACKAGES"])
import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.folder = os.path.join(args["model_repository"], args["model_version"])
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.path.join(self.folder, "model.onnx"), settings)

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        canvas = pb_utils.get_input_tensor_by_name(request, "canvas").as_numpy()
        (value,) = self.session.run(None, {"canvas": canvas})
        try:
            with open(os.path.join(self.folder, "cue.json")) as file:
                cue = json.load(file)
        except FileNotFoundError:
            cue = {}
        time.sleep(cue.get("sleep_s", 0))
        if cue.get("fail"):
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("out of luck"))
        if cue.get("nan"):
            value = np.full_like(value, np.nan)
        if cue.get("narrow"):
            value = np.ascontiguousarray(value[:, :-1])
        if cue.get("half"):
            value = value.astype(np.float16)
        return pb_utils.InferenceResponse([pb_utils.Tensor(self.session.get_outputs()[0].name, value)])
"""


class UnavailableError(Exception):
    """The server or its client cannot be installed here; says why."""


def cache() -> Path:
    """Where installations are kept from one run of the tests to the next."""
    named = os.environ.get("PGN_EDGE_TEST_CACHE")
    return (Path(named) if named else Path("~/.cache/pgn-edge/tests").expanduser()) / "triton"


def install_client() -> None:
    """Make `import tritonclient` work in this process.

    Raises:
        UnavailableError: pip cannot.
    """
    try:
        import tritonclient.http  # noqa: F401
    except (ImportError, RuntimeError):
        for name in [name for name in sys.modules if name.startswith("tritonclient")]:
            del sys.modules[name]
        folder = cache() / "client"
        _once(folder, lambda made: _pip(sys.executable, "--no-deps", "--target", str(made), *CLIENT))
        sys.path.append(str(folder))


def install_server() -> Path:
    """The folder of an environment that holds a server.

    Raises:
        UnavailableError: another platform, or pip cannot.
    """
    if sys.platform != "linux":
        raise UnavailableError("the server's wheel is for Linux")
    return _once(cache() / "server", _make_server)


def _make_server(folder: Path) -> None:
    # A virtual environment names its own folder in scripts, which are not used; so it may be renamed.
    _run(sys.executable, "-m", "venv", str(folder))
    _pip(str(folder / "bin/python"), *SERVER)
    (package,) = folder.glob("lib/python3*/site-packages/pytriton/tritonserver")
    release = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = package / "python_backend_stubs" / release / "triton_python_backend_stub"
    if not stub.exists():
        raise UnavailableError(f"the server's wheel has no python backend for Python {release}")
    shutil.copy(stub, package / "backends/python")


def _once(folder: Path, make: Callable[[Path], None]) -> Path:
    if not folder.exists():
        made = folder.with_name(f"{folder.name}.{os.getpid()}")
        made.parent.mkdir(parents=True, exist_ok=True)
        try:
            make(made)
            with contextlib.suppress(OSError):  # another run of the tests may have been faster
                made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return folder


def _pip(python: str, *arguments: str) -> None:
    _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments)


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.SubprocessError) as exc:
        said = (getattr(exc, "stderr", None) or str(exc)).strip().splitlines()
        raise UnavailableError(f"{' '.join(command[1:4])}: {said[-1] if said else exc}") from exc


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class TritonServer:
    """One server process; ports stay the same when it is started again.

    Args:
        environment: from `install_server`.
        repository: of models.
        options: further options of the command.
    """

    def __init__(self, environment: Path, repository: Path, *options: str) -> None:
        self._environment, self._repository, self._options = environment, repository, options
        self.http_port, self.grpc_port = free_ports(2)
        self._process: subprocess.Popen[bytes] | None = None
        self.log = repository.with_name(f"{repository.name}.log")

    def start(self, wait_s: float = 30.0) -> None:
        """Start it, and wait until it is ready; with 0 do not wait."""
        (site,) = self._environment.glob("lib/python3*/site-packages")
        package = site / "pytriton/tritonserver"
        libraries = [site / "nvidia_pytriton.libs", Path(sys.base_prefix) / "lib"]
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
            "TEST_SITE_PACKAGES": str(site),
            "PYTHONHOME": sys.base_prefix,
            "OMP_NUM_THREADS": "1",
        }
        command = [
            str(package / "bin/tritonserver"),
            f"--model-repository={self._repository}",
            f"--backend-directory={package / 'backends'}",
            *("--http-address", "127.0.0.1", "--http-port", str(self.http_port)),
            *("--grpc-address", "127.0.0.1", "--grpc-port", str(self.grpc_port)),
            *("--allow-metrics", "false", "--exit-timeout-secs", "1", "--exit-on-error", "false"),
            *self._options,
        ]
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        end = monotonic() + wait_s
        while wait_s and not self.ready():
            assert self._process.poll() is None, self.log.read_text()[-3000:]
            assert monotonic() < end, self.log.read_text()[-3000:]
            sleep(0.1)

    def ready(self) -> bool:
        """Whether it says so."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/v2/health/ready", timeout=1) as answer:
                return answer.status == 200
        except OSError:
            return False

    def kill(self) -> None:
        """End it and its children at once."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def url(self, protocol: str, model: str = "vit", port: int | None = None) -> str:
        """The address of a model."""
        own = self.http_port if protocol == "http" else self.grpc_port
        return f"triton+{protocol}://127.0.0.1:{port or own}/{model}"


def serve_with_python(folder: Path) -> None:
    """Turn what `pgn-edge triton-repo` wrote into a model of the python backend, with the same configuration."""
    config = folder / "config.pbtxt"
    text = config.read_text()
    platform = 'platform: "onnxruntime_onnx"\n'
    assert platform in text
    config.write_text(text.replace(platform, 'backend: "python"\n'))
    (folder / "1/model.py").write_text(MODEL)


@contextlib.contextmanager
def cue(folder: Path, **what: object) -> Iterator[None]:
    """Have the model in `folder` misbehave meanwhile: sleep_s, fail, nan, narrow, half."""
    path = folder / "1/cue.json"
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(what))
    beside.replace(path)
    try:
        yield
    finally:
        path.unlink()


class Proxy:
    """A TCP proxy on loopback with a fault for each connection, or none.

    Faults: `refuse` closes at once, `reset` resets after the request, `cut` ends in the middle of the answer, `hang`
    passes nothing back, `drip` passes a byte every 50 ms back, `garbage` answers with noise.

    Args:
        port: where the server listens.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self.fault: str | Callable[[], str] = ""
        self.seen = b""  # the beginning of what clients sent last
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            fault = self.fault() if callable(self.fault) else self.fault
            threading.Thread(target=self._serve, args=(near, fault), daemon=True).start()

    def _serve(self, near: socket.socket, fault: str) -> None:
        with contextlib.suppress(OSError), near:
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if fault == "refuse":
                return
            with socket.create_connection(("127.0.0.1", self._target)) as far:
                far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._open |= {near, far}
                try:
                    threading.Thread(target=self._pump, args=(near, far), daemon=True).start()
                    self._back(far, near, fault)
                finally:
                    with self._lock:
                        self._open -= {near, far}
                    for each in (near, far):
                        with contextlib.suppress(OSError):
                            each.shutdown(socket.SHUT_RDWR)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.seen = data[:4096]
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def _back(self, far: socket.socket, near: socket.socket, fault: str) -> None:
        while data := far.recv(1 << 16):
            if fault == "hang":
                continue
            if fault == "reset":
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                return
            if fault == "cut":
                near.sendall(data[: len(data) // 2])
                return
            if fault == "garbage":
                near.sendall(b"\x00\xff no answer at all " * 20)
                return
            if fault == "drip":
                for byte in data:
                    near.sendall(bytes([byte]))
                    sleep(0.05)
                continue
            near.sendall(data)

    def drop(self) -> None:
        """Break every connection that is open."""
        with self._lock:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop listening, and break what is open."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()


@contextlib.contextmanager
def tls_proxy(port: int, context: ssl.SSLContext) -> Iterator[int]:
    """A proxy that speaks TLS with its clients, and plainly with the server at `port`; gives its own port."""

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                target.write(data)
                await target.drain()
        target.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

    async def listen() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        ports.append(server.sockets[0].getsockname()[1])
        started.set()
        await stop.wait()
        server.close()

    ports: list[int] = []
    started, stop, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, what: None)  # clients that refuse the certificate are what is tested
    thread = threading.Thread(target=loop.run_until_complete, args=(listen(),), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()

"""ONNX Runtime on the CPU, and how its sessions are opened on any device."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pgn_edge.errors import EngineError, install_line
from pgn_edge.extras import import_onnxruntime
from pgn_edge.runtime.deadline import RunLimit
from pgn_edge.runtime.engines.base import Provider, TensorSpec, check_binding, check_feeds

TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(uint16)": np.uint16,
    "tensor(int16)": np.int16,
    "tensor(uint32)": np.uint32,
    "tensor(int32)": np.int32,
    "tensor(uint64)": np.uint64,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


PROVIDERS: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
INSTALL = "install its libraries and the driver, see: pgn-edge doctor; or choose another provider"


class OnnxRuntimeEngine:
    """An ONNX graph on the CPU.

    One thread at a time may call it; the arrays that it returns belong to the caller.

    Args:
        model: path of an ONNX file, or its bytes.
        name: for messages.
        threads: on the CPU; 0 takes one for each core.
        deadline_s: Seconds that one frame may take; a run of several frames may take as many times that. 0 for no
            limit.

    Raises:
        EngineError: no such file, or no ONNX.
        MissingExtraError: onnxruntime is not installed.
    """

    def __init__(self, model: str | Path | bytes, name: str, threads: int = 0, deadline_s: float = 0.0) -> None:
        self._session: Any = open_session(model, name, [("cpu", {})], threads)
        self._describe(name, "cpu")
        self._deadline_s = deadline_s
        self._limit = RunLimit(import_onnxruntime().RunOptions()) if deadline_s else None

    def _describe(self, name: str, provider: Provider) -> None:
        self.name = name
        self.device = f"onnxruntime {import_onnxruntime().__version__} {PROVIDERS[provider]}"
        try:
            self.inputs = {value.name: _spec(value, name) for value in self._session.get_inputs()}
            self.outputs = {value.name: _spec(value, name) for value in self._session.get_outputs()}
            self.metadata: Mapping[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        except UnicodeDecodeError as exc:  # ONNX Runtime itself takes any bytes for a name
            got = "one that is not UTF-8"
            raise EngineError(name, expected="names and metadata as text", got=got, do="export it again") from exc
        self._names = list(self.outputs)

    def infer(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Engine.infer`."""
        check_feeds(self, feeds)
        frames = len(next(iter(feeds.values())))
        with self._running() as session, self._within(self._limit, frames) as options:
            return dict(zip(self._names, session.run(self._names, dict(feeds), options), strict=True))

    def bind(self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> Callable[[], None]:
        """See `Engine.bind`."""
        check_binding(self, inputs, outputs)
        with self._running() as session:
            binding = session.io_binding()
            for name, array in inputs.items():
                binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            for name, array in outputs.items():
                binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        return partial(self._run_bound, binding, (*inputs.values(), *outputs.values()))

    def _run_bound(self, binding: Any, arrays: tuple[np.ndarray, ...]) -> None:
        # The arrays come along only to stay alive: the binding knows no more than their addresses.
        with self._running() as session, self._within(self._limit, len(arrays[0])) as options:
            session.run_with_iobinding(binding, options)

    def _within(self, limit: RunLimit | None, frames: int) -> AbstractContextManager[Any]:
        """Time limit of a run of so many frames; it gives the `RunOptions` that the run needs."""
        return nullcontext() if limit is None else limit.within(self._deadline_s * frames)

    @contextmanager
    def _running(self) -> Iterator[Any]:
        """The open session; what it raises is mapped."""
        if self._session is None:
            raise EngineError(self.name, expected="an open engine", got="a closed one", do="open it again")
        try:
            yield self._session
        except TimeoutError as exc:
            raise EngineError(
                self.name,
                expected="a graph that answers in time",
                got=str(exc),
                do="use a smaller generator, or a device with less load",
            ) from exc
        except Exception as exc:
            # ONNX Runtime's exceptions share no base class but this one.
            raise EngineError(
                self.name,
                expected="a run without errors",
                got=_reason(exc),
                do="check the input and the device",
            ) from exc

    def close(self) -> None:
        """See `Engine.close`."""
        self._session = None


def open_session(
    model: str | Path | bytes, name: str, providers: Sequence[tuple[Provider, Mapping[str, str]]], threads: int
) -> Any:
    """A session on the first of some execution providers, or an error: never on another one.

    Args:
        model: path of an ONNX file, or its bytes.
        name: for messages.
        providers: with their options; those after the first take what it cannot run.
        threads: on the CPU; 0 takes one for each core.

    Raises:
        EngineError: no such file, no ONNX, or a provider that is not there or does not start.
        MissingExtraError: onnxruntime is not installed.
    """
    runtime = require_provider(providers[0][0], name)
    wanted = PROVIDERS[providers[0][0]]
    settings = runtime.SessionOptions()
    settings.log_severity_level = 4  # errors come as exceptions, and need not be printed too
    settings.intra_op_num_threads = threads
    # Threads spin within a run and stop with it: by default they would go on for milliseconds, and keep a core from
    # the stage that comes next.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    source = model if isinstance(model, bytes) else str(model)
    try:
        session = runtime.InferenceSession(
            source,
            settings,
            providers=[(PROVIDERS[each], dict(options)) for each, options in providers],
            enable_fallback=0,  # it would print to stdout, and start again on another provider
        )
    except Exception as exc:
        # ONNX Runtime's exceptions share no base class but this one.
        if "xternal" in str(exc):
            raise _without_weights(name, str(exc)) from exc
        reason = _reason(exc)
        # The provider of TensorRT raises where its libraries are missing; that of CUDA is left out, see below.
        do = INSTALL if "Please install" in reason else "export it again"
        raise EngineError(name, expected="an ONNX graph that ONNX Runtime loads", got=reason, do=do) from exc
    # Kept by the module to start again on other providers, which must not happen; it is the size of the graph.
    session._model_bytes = b""
    # A provider whose libraries or driver are missing is left out with no more than a line in the log.
    # Source: github.com/microsoft/onnxruntime, issues 17801 and 23372.
    if session.get_providers()[0] != wanted:
        raise EngineError(
            name,
            expected=f"a session on {wanted}",
            got=f"one on {session.get_providers()[0]}: the provider did not start",
            do=INSTALL,
        )
    return session


def _without_weights(name: str, said: str) -> EngineError:
    """The error for a graph whose weights, in a file of their own, are missing or cut short."""
    paths = re.findall(r'["\[]([^"\[\]]*[^"\[\]\s])["\]]', said)
    missing = [Path(name).parent / path for path in paths if not path.startswith("ONNXRuntimeError")]
    named = next((str(path) for path in missing if not path.exists()), "")
    got = f"no file {named}" if named else said.split("\n", maxsplit=1)[0].rstrip(".")[-160:]
    do = "copy the file with its weights beside it, whole and under the name that it was saved with"
    return EngineError(name, expected="a graph with its weights, which are in a file of their own", got=got, do=do)


def require_provider(provider: Provider, name: str) -> ModuleType:
    """The module, where it has a provider.

    Args:
        provider: wanted.
        name: of the engine, for the message.

    Raises:
        EngineError: the module has no such provider.
        MissingExtraError: onnxruntime is not installed.
    """
    runtime = import_onnxruntime()
    available = runtime.get_available_providers()
    if PROVIDERS[provider] not in available:
        raise EngineError(
            name,
            expected=f"ONNX Runtime with {PROVIDERS[provider]}",
            got=f"only {', '.join(available)}",
            do=f"pip uninstall onnxruntime, then {install_line('gpu')}; or choose another provider",
        )
    return runtime


def _spec(value: Any, name: str) -> TensorSpec:
    if value.type not in TYPES:
        raise EngineError(
            f"{name}: {value.name}",
            expected=f"one of {', '.join(TYPES)}",
            got=value.type,
            do="export the image encoder alone, with tensors of numbers",
        )
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return TensorSpec(shape, np.dtype(TYPES[value.type]))


def _reason(exc: Exception) -> str:
    return f"{exc}".split("\n")[0][:300]

"""Engines on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pgn_edge.errors import EngineError, MissingExtraError
from pgn_edge.runtime.engines.base import TensorSpec, check_binding, check_feeds

TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
}


@dataclass(frozen=True)
class OrtOptions:
    """How a session is set up.

    Args:
        provider: execution provider; never replaced by another behind the user's back.
        threads: of the intra-op pool; 0 takes one for each core.
    """

    provider: str = "CPUExecutionProvider"
    threads: int = 0


class OnnxRuntimeEngine:
    """An ONNX graph on one execution provider.

    One thread at a time may call `infer`; the arrays that it returns belong to the caller.

    Args:
        model: path of an ONNX file, or its bytes.
        name: for messages.
        options: provider and threads.

    Raises:
        EngineError: no such file, no ONNX, or a provider that is not installed.
        MissingExtraError: onnxruntime is not installed.
    """

    def __init__(self, model: str | Path | bytes, name: str, options: OrtOptions | None = None) -> None:
        options = options or OrtOptions()
        runtime = _import_onnxruntime()
        available = runtime.get_available_providers()
        if options.provider not in available:
            raise EngineError(
                name,
                expected=f"ONNX Runtime with {options.provider}",
                got=f"only {', '.join(available)}",
                do="install the onnxruntime package that has it, or choose another provider",
            )
        settings = runtime.SessionOptions()
        settings.log_severity_level = 3
        settings.intra_op_num_threads = options.threads
        # Threads spin within a run and stop with it: by default they would go on for milliseconds, and keep a core from
        # the stage that comes next.
        settings.add_session_config_entry("session.force_spinning_stop", "1")
        source = model if isinstance(model, bytes) else str(model)
        try:
            self._session: Any = runtime.InferenceSession(source, settings, providers=[options.provider])
        except Exception as exc:
            # ONNX Runtime's exceptions share no base class but this one.
            raise EngineError(
                name, expected="an ONNX graph that ONNX Runtime loads", got=_reason(exc), do="export it again"
            ) from exc
        self.name = name
        self.device = f"onnxruntime {runtime.__version__} {options.provider}"
        self.inputs = {value.name: _spec(value, name) for value in self._session.get_inputs()}
        self.outputs = {value.name: _spec(value, name) for value in self._session.get_outputs()}
        self.metadata: Mapping[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self._names = list(self.outputs)

    def infer(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Engine.infer`."""
        check_feeds(self, feeds)
        with self._running() as session:
            return dict(zip(self._names, session.run(self._names, dict(feeds)), strict=True))

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
        with self._running() as session:
            session.run_with_iobinding(binding)

    @contextmanager
    def _running(self) -> Iterator[Any]:
        """The open session; what it raises is mapped."""
        if self._session is None:
            raise EngineError(self.name, expected="an open engine", got="a closed one", do="open it again")
        try:
            yield self._session
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


def _import_onnxruntime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as exc:
        raise MissingExtraError("onnxruntime", "cpu") from exc
    module: ModuleType = onnxruntime
    return module


def _spec(value: Any, name: str) -> TensorSpec:
    if value.type not in TYPES:
        raise EngineError(
            f"{name}: {value.name}",
            expected=f"one of {', '.join(TYPES)}",
            got=value.type,
            do="export it with pgn-edge export-vit",
        )
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return TensorSpec(shape, np.dtype(TYPES[value.type]))


def _reason(exc: Exception) -> str:
    return f"{exc}".split("\n")[0][:300]

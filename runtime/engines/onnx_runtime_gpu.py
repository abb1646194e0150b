"""ONNX Runtime on an NVIDIA GPU: its CUDA and TensorRT providers, with tensors that stay on the GPU.

Source: ONNX Runtime's documentation of the two providers and of `OrtRunOptions` (`gpu_graph_id`,
`disable_synchronize_execution_providers`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from functools import cache, partial
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pgn_edge.contract import PREFIX
from pgn_edge.extras import import_onnxruntime
from pgn_edge.runtime.cuda import Cuda, DeviceArray
from pgn_edge.runtime.deadline import RunLimit
from pgn_edge.runtime.engines.base import EngineOptions, Provider, TensorSpec, check_binding
from pgn_edge.runtime.engines.device import HostAccess
from pgn_edge.runtime.engines.onnx_runtime import OnnxRuntimeEngine, open_session, require_provider

Model = str | Path | bytes


class OrtGpuEngine(OnnxRuntimeEngine):
    """An ONNX graph on the CUDA or the TensorRT provider; all runs are queued on the stream of `cuda`.

    Where every size is fixed (`export-vit --batch 1`), each binding is replayed as a CUDA graph of ONNX Runtime's own.
    One thread at a time may call it; the arrays that it returns belong to the caller.

    Args:
        model: path of an ONNX file, or its bytes.
        name: for messages.
        options: provider and GPU.
        cuda: the GPU, if another engine has opened it already; else this one does, and closes it.

    Raises:
        EngineError: no such file, no ONNX, no GPU, or a provider that is not there or does not start.
        MissingExtraError: onnxruntime is not installed.
    """

    capturable = False  # ONNX Runtime may take memory and wait for the device whenever it likes

    def __init__(self, model: Model, name: str, options: EngineOptions, cuda: Cuda | None = None) -> None:
        runtime = require_provider(options.provider, name)
        self.provider: Provider = options.provider
        self._owned = cuda is None
        self.cuda = cuda or Cuda(options.gpu)
        self._session: Any = None
        self._host: HostAccess | None = None
        try:
            _preload(runtime)
            self._session = _open(model, name, options, self.cuda)
            self._describe(name, options.provider)
            self._deadline_s = options.deadline_s
            self._host = HostAccess(self, self.cuda)
        except BaseException:
            self.close()
            raise
        self.device = f"{self.device} on {self.cuda.name}"
        self._graphs = count(1) if _fixed(self.inputs) else None

    def infer(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Engine.infer`."""
        return self._access().infer(feeds)

    def bind(self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> Callable[[], None]:
        """See `Engine.bind`."""
        return self._access().bind(inputs, outputs)

    def bind_device(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> Callable[[], None]:
        """See `DeviceEngine.bind_device`."""
        host = self._access()
        check_binding(self, inputs, outputs, DeviceArray)
        with self._running() as session:
            binding = session.io_binding()
            place = ("cuda", self.cuda.device)
            for name, array in inputs.items():
                binding.bind_input(name, *place, array.dtype.type, array.shape, array.address)
            for name, array in outputs.items():
                binding.bind_output(name, *place, array.dtype.type, array.shape, array.address)
        options = import_onnxruntime().RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        # A graph keeps the addresses that it was recorded with: each binding has one of its own.
        options.add_run_config_entry("gpu_graph_id", "-1" if self._graphs is None else str(next(self._graphs)))
        limit = RunLimit(options) if self._deadline_s else None
        return host.queued(partial(self._queue, binding, (options, limit), (*inputs.values(), *outputs.values())))

    def _access(self) -> HostAccess:
        with self._running():
            assert self._host is not None
            return self._host

    def _queue(self, binding: Any, how: tuple[Any, RunLimit | None], arrays: tuple[DeviceArray, ...]) -> None:
        # The arrays come along only to stay alive: the binding knows no more than their addresses.
        options, limit = how
        with self._running() as session, self._within(limit, arrays[0].shape[0]):
            self.cuda.use()
            session.run_with_iobinding(binding, options)

    def close(self) -> None:
        """See `Engine.close`."""
        if self._host is not None:
            self._host.close()
        super().close()
        if self._owned:
            self.cuda.close()


@cache
def _preload(runtime: ModuleType) -> None:
    """Load CUDA and cuDNN from pip's packages if they are there: once, since stdout belongs to all threads."""
    if hasattr(runtime, "preload_dlls"):
        with redirect_stdout(sys.stderr):  # what it prints belongs to no --json
            runtime.preload_dlls()


def _open(model: Model, name: str, options: EngineOptions, cuda: Cuda) -> Any:
    common = {"device_id": str(cuda.device), "user_compute_stream": str(cuda.stream)}
    # Known before the session is: a graph with a free size cannot be recorded, and TensorRT must be told of fp16.
    plain = OnnxRuntimeEngine(model, name, threads=1)
    try:
        fixed, precision = _fixed(plain.inputs), plain.metadata.get(f"{PREFIX}precision", "")
    finally:
        plain.close()
    on_cuda = {**common, "enable_cuda_graph": "1" if fixed else "0", "use_tf32": "0"}
    if options.provider == "cuda":
        return open_session(model, name, [("cuda", on_cuda)], options.threads)
    on_tensorrt = {
        **common,
        "trt_cuda_graph_enable": "1" if fixed else "0",
        "trt_fp16_enable": "1" if "fp16" in precision else "0",
        # Else fp16 sums of squares overflow in them.
        "trt_layer_norm_fp32_fallback": "1",
    }
    return open_session(model, name, [("tensorrt", on_tensorrt), ("cuda", on_cuda)], options.threads)


def _fixed(specs: Mapping[str, TensorSpec]) -> bool:
    return all(None not in spec.shape for spec in specs.values())

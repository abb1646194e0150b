"""Plans of TensorRT, 10.3 to 11, and of TensorRT-RTX: two Python modules of one interface.

Source: the Python bindings of TensorRT 10.3 and 11.1, `python/src/infer/pyCore.cpp`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from pgn_edge.errors import EngineError
from pgn_edge.runtime.cuda import Cuda, DeviceArray
from pgn_edge.runtime.engines.base import TensorSpec, check_binding
from pgn_edge.runtime.engines.device import HostAccess
from pgn_edge.runtime.engines.plan import Plan

MOST_SAID = 300  # characters of the library's own reasons


class TensorRtEngine:
    """A plan on one GPU; all runs are queued on the stream of `cuda`.

    Every binding has an execution context of its own: its shapes and addresses never change, as a CUDA graph needs.
    One thread at a time may call it; the arrays that it returns belong to the caller.

    Args:
        plan: verified.
        gpu: number of the GPU, where this engine opens it.
        cuda: the GPU, if another engine has opened it already; else this one does, and closes it.

    Raises:
        EngineError: no GPU, no memory, or the library refuses the plan; with its reasons.
    """

    capturable = True

    def __init__(self, plan: Plan, gpu: int = 0, cuda: Cuda | None = None) -> None:
        self.name, self.backend, self.metadata = plan.name, plan.backend, plan.metadata
        self._trt = plan.module
        self._owned = cuda is None
        self._engine: Any = None
        self._host: HostAccess | None = None
        self.cuda = cuda or Cuda(gpu)
        try:
            self.cuda.use()
            self._logger, self._reasons = _logger(self._trt)
            # The engine needs its runtime for as long as it lives.
            self._runtime = self._trt.Runtime(self._logger)
            self._engine = self._runtime.deserialize_cuda_engine(plan.data)
            if self._engine is None:
                raise self._failed("a plan that this GPU and this release load", plan.rebuild)
            self.inputs, self.outputs = self._specs()
            self._prepare(plan)
            self._host = HostAccess(self, self.cuda)
        except BaseException:
            self.close()
            raise
        self.device = f"{plan.backend} {self._trt.__version__} on {self.cuda.name}"

    def _prepare(self, plan: Plan) -> None:
        """What a backend does between loading and the first context."""

    def _context(self) -> Any:
        return self._engine.create_execution_context()

    def infer(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Engine.infer`."""
        return self._require_open().infer(feeds)

    def bind(self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> Callable[[], None]:
        """See `Engine.bind`."""
        return self._require_open().bind(inputs, outputs)

    def bind_device(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> Callable[[], None]:
        """See `DeviceEngine.bind_device`."""
        host = self._require_open()
        check_binding(self, inputs, outputs, DeviceArray)
        self.cuda.use()
        context = self._context()
        if context is None:
            raise self._failed("an execution context", "free memory on the GPU")
        for name, array in inputs.items():
            if not context.set_input_shape(name, array.shape):
                raise self._failed(f"{name} of {array.shape} inside the plan's profile", "send fewer frames at once")
        for name, array in (*inputs.items(), *outputs.items()):
            if not context.set_tensor_address(name, array.address):
                raise self._failed(f"an address for {name}", "report this plan")
        # The arrays come along only to stay alive: the context knows no more than their addresses.
        return host.queued(partial(self._queue, context, (*inputs.values(), *outputs.values())))

    def _queue(self, context: Any, arrays: tuple[DeviceArray, ...]) -> None:
        queued = context.execute_async_v3(self.cuda.stream)
        del context, arrays  # an error's traceback would keep them beyond the GPU's own end
        if not queued:
            raise self._failed("a run without errors", "check the input and the device")

    def close(self) -> None:
        """See `Engine.close`."""
        if self._host is not None:
            self._host.close()
        self._host = self._engine = self._runtime = None
        if self._owned:
            self.cuda.close()

    def _require_open(self) -> HostAccess:
        if self._host is None:
            raise EngineError(self.name, expected="an open engine", got="a closed one", do="open it again")
        return self._host

    def _specs(self) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
        inputs: dict[str, TensorSpec] = {}
        outputs: dict[str, TensorSpec] = {}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            is_input = self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
            (inputs if is_input else outputs)[name] = self._spec(name, is_input)
        return inputs, outputs

    def _spec(self, name: str, is_input: bool) -> TensorSpec:
        shape = tuple(None if size < 0 else int(size) for size in self._engine.get_tensor_shape(name))
        kind = self._engine.get_tensor_dtype(name)
        try:
            dtype = np.dtype(self._trt.nptype(kind))
        except TypeError as exc:
            raise EngineError(
                f"{self.name}: {name}", expected="a type that numpy has", got=str(kind), do="compile it with another"
            ) from exc
        most = None
        if is_input and shape and shape[0] is None:
            _, _, largest = self._engine.get_tensor_profile_shape(name, 0)
            most = int(largest[0])
        return TensorSpec(shape, dtype, most)

    def _failed(self, expected: str, do: str) -> EngineError:
        said = "; ".join(dict.fromkeys(self._reasons))[:MOST_SAID] or "a refusal without a reason"
        self._reasons.clear()
        return EngineError(self.name, expected=expected, got=said, do=do)


def _logger(trt: Any) -> tuple[Any, list[str]]:
    """A logger that keeps errors for our own messages, and drops the rest."""
    reasons: list[str] = []
    errors = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in errors:
                reasons.append(" ".join(msg.split()))

    return Logger(), reasons

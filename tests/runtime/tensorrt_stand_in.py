"""A stand-in for the part of TensorRT's module that runs plans: on the stand-in driver, and without a GPU.

A plan is an ONNX graph behind a line of options; ONNX Runtime computes it when the stream comes to it. No public name
here is missing from TensorRT 10.3 to 11, and what the real classes refuse is refused: a False or a None and an error in
the log, never an exception. Stricter than they are in three things: an address is refused at once where it is not
aligned as NvInferRuntime.h asks, memory is only had with a current CUDA context, and a run of a context that is gone is
an error in the log and not a crash.
"""

from __future__ import annotations

import json
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from ctypes import CDLL, CFUNCTYPE, byref, c_char, c_size_t, c_void_p
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from math import prod
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

MAGIC = b"stand-in plan\n"
CACHE_MAGIC = b"stand-in kernels\n"
ALIGNMENT = 256  # of addresses, in bytes
WORKSPACE_BYTES = 4096  # of a context; the kernels that its first run loads take as much again
Work = CFUNCTYPE(None, c_void_p)
Answer = TypeVar("Answer")


def plan_bytes(onnx: bytes, **options: Any) -> bytes:
    """A plan of a graph.

    Args:
        onnx: the graph.
        options: `batch`, the smallest, best and largest value of its free sizes; `fails`, what does not work on it:
            "context" or "run"; `name`.
    """
    return MAGIC + json.dumps(options).encode() + b"\n" + onnx


def toy(kind: int = TensorProto.FLOAT) -> bytes:
    """z = x * y, both (n, 64); rows of 256 bytes, so that each row may be an address."""
    values = [helper.make_tensor_value_info(name, kind, ("n", 64)) for name in "xyz"]
    graph = helper.make_graph([helper.make_node("Mul", ["x", "y"], ["z"])], "toy", values[:2], values[2:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def stand_in(cuda_library: str, rtx: bool = False) -> ModuleType:
    """The module: `tensorrt` 10.3.0, or `tensorrt_rtx`.

    Args:
        cuda_library: path of the stand-in driver.
        rtx: with runtime caches, and engines that take them.
    """
    private = {"_driver": Driver(cuda_library), "_kind": RtxEngine if rtx else ICudaEngine}
    module = ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    names: list[Any] = [Dims, DataType, TensorIOMode, ILogger, Logger, IExecutionContext, nptype]
    names += [IRuntimeConfig, IRuntimeCache] if rtx else []
    vars(module).update({value.__name__: value for value in names})
    vars(module).update(__version__="1.7.1" if rtx else "10.3.0", ICudaEngine=private["_kind"])
    vars(module).update(Runtime=type("Runtime", (Runtime,), private))
    return module


class TensorIOMode(Enum):
    NONE, INPUT, OUTPUT = range(3)


class DataType(Enum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8 = range(6)
    BF16, INT64 = 7, 8


def _data_type(onnx_type: str) -> DataType:
    """Of ONNX Runtime's `tensor(float16)`, for example."""
    name = onnx_type.removeprefix("tensor(").removesuffix(")")
    return DataType[{"float": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}.get(name, name.upper())]


def nptype(trt_type: DataType) -> Any:
    """The type that numpy has for it; TypeError for bfloat16, which it has not."""
    if trt_type is DataType.BF16:
        raise TypeError(f"numpy has no {trt_type}")
    names = {DataType.FLOAT: "float32", DataType.HALF: "float16", DataType.BOOL: "bool_"}
    return getattr(np, names.get(trt_type, trt_type.name.lower()))


class Severity(Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    Severity = Severity
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    def __init__(self) -> None:
        self._made = True

    def log(self, severity: Any, msg: str) -> None:
        raise RuntimeError("log must be overridden")


class Logger(ILogger):
    def __init__(self, min_severity: Severity = Severity.WARNING) -> None:
        super().__init__()
        self.min_severity = min_severity

    def log(self, severity: Any, msg: str) -> None:
        if severity.value <= self.min_severity.value:
            sys.stderr.write(f"{msg}\n")


class Dims:
    """Sizes: a sequence and no tuple. Without any for a tensor that there is not: even its length is an error then."""

    def __init__(self, shape: tuple[int, ...] | None) -> None:
        self._sizes = shape

    def __len__(self) -> int:
        return -1 if self._sizes is None else len(self._sizes)

    def __getitem__(self, index: Any) -> Any:
        return (self._sizes or ())[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._sizes or ())

    def __eq__(self, other: Any) -> bool:
        return self._sizes == (other._sizes if isinstance(other, Dims) else tuple(other))

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return str(self._sizes)


class Driver:
    """What TensorRT asks of the driver. Every call gives back whether it succeeded, or 0 for no memory."""

    def __init__(self, library: str) -> None:
        self._library = CDLL(library)
        self._library.cuMemFree_v2.argtypes = [c_size_t]
        self._library.cuLaunchHostFunc.argtypes = [c_size_t, Work, c_void_p]
        self.queued: list[Any] = []  # a callback must outlive every graph that it was captured in

    def allocate(self, nbytes: int) -> int:
        address = c_size_t()
        return address.value if self._library.cuMemAlloc_v2(byref(address), c_size_t(nbytes)) == 0 else 0

    def free(self, address: int) -> bool:
        return bool(self._library.cuMemFree_v2(address) == 0)

    def launch(self, stream: int, work: Any) -> bool:
        return bool(self._library.cuLaunchHostFunc(stream, work, None) == 0)

    def array(self, address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        nbytes = prod(shape) * np.dtype(dtype).itemsize
        return np.ndarray(shape, dtype, (c_char * nbytes).from_address(address))


@dataclass(frozen=True)
class Tensor:
    """One input or output; a free size has a name in its shape."""

    mode: TensorIOMode
    dtype: DataType
    shape: tuple[int | str, ...]

    def sized(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Its shape, -1 for a size that is not known."""
        return tuple(size if isinstance(size, int) else sizes.get(size, -1) for size in self.shape)


class Runtime:
    _driver: Driver
    _kind: type[ICudaEngine]

    def __init__(self, logger: ILogger) -> None:
        if not (isinstance(logger, ILogger) and hasattr(logger, "_made")):
            raise TypeError("expected an ILogger whose own __init__ was called")
        self.logger = logger

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        data = bytes(memoryview(serialized_engine))
        header, _, onnx = data.removeprefix(MAGIC).partition(b"\n")
        try:
            options = json.loads(header if data.startswith(MAGIC) else b"")
            settings = onnxruntime.SessionOptions()
            settings.log_severity_level, settings.intra_op_num_threads = 4, 1
            session = onnxruntime.InferenceSession(onnx, settings, providers=["CPUExecutionProvider"])
        except Exception as exc:  # of ONNX Runtime, which share no other base class
            self.logger.log(Severity.ERROR, f"deserialize_cuda_engine: not a plan of this release:\n{exc}")
            return None
        return self._kind(self, session, sha256(onnx).hexdigest(), options)


class ICudaEngine:
    num_optimization_profiles = 1
    device_memory_size_v2 = WORKSPACE_BYTES

    def __init__(self, runtime: Runtime, session: Any, digest: str, options: dict[str, Any]) -> None:
        self.name = options.get("name", "")
        self._runtime, self._session, self._digest = runtime, session, digest
        self._batch, self._fails = tuple(options.get("batch", (1, 1, 1))), options.get("fails")
        self._tensors: dict[str, Tensor] = {}
        for mode, values in ((TensorIOMode.INPUT, session.get_inputs()), (TensorIOMode.OUTPUT, session.get_outputs())):
            for one in values:
                shape = tuple(size or f"{one.name} {axis}" for axis, size in enumerate(one.shape))
                self._tensors[one.name] = Tensor(mode, _data_type(one.type), shape)

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str | None:
        if 0 <= index < len(self._tensors):
            return list(self._tensors)[index]
        return self._refuse(None, f"get_tensor_name: there is no tensor {index}")

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self._tensors[name].mode if self._has(name) else TensorIOMode.NONE

    def get_tensor_dtype(self, name: str) -> DataType:
        return self._tensors[name].dtype if self._has(name) else DataType.FLOAT

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(self._tensors[name].sized({}) if self._has(name) else None)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        if not self._has(name) or self._tensors[name].mode != TensorIOMode.INPUT or profile_index != 0:
            return self._refuse([Dims(None)] * 3, f"no profile {profile_index} of an input {name}")
        return [Dims(self._tensors[name].sized(dict.fromkeys(self._free(name), size))) for size in self._batch]

    def create_execution_context(self) -> IExecutionContext | None:
        return self._context(None)

    def _context(self, config: IRuntimeConfig | None) -> IExecutionContext | None:
        memory = 0 if self._fails == "context" else self._runtime._driver.allocate(WORKSPACE_BYTES)
        if not memory:
            return self._refuse(None, f"create_execution_context: no memory for {WORKSPACE_BYTES} bytes")
        return IExecutionContext(self, memory, config)

    def _free(self, name: str) -> list[str]:
        return [size for size in self._tensors[name].shape if isinstance(size, str)]

    def _has(self, name: str) -> bool:
        return name in self._tensors or self._refuse(False, f"there is no tensor {name}")

    def _refuse(self, answer: Answer, reason: str) -> Answer:
        self._runtime.logger.log(Severity.ERROR, f"[stand-in] {reason}")
        return answer


class IExecutionContext:
    def __init__(self, engine: ICudaEngine, memory: int, config: IRuntimeConfig | None) -> None:
        self.engine, self._config = engine, config
        self._memory = [memory]
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._work: dict[Any, Any] = {}
        weakref.finalize(self, _give_back, self._memory, engine).atexit = False

    @property
    def all_binding_shapes_specified(self) -> bool:
        return not self.infer_shapes()

    def infer_shapes(self) -> list[str]:
        tensors = self.engine._tensors.items()
        inputs = [name for name, tensor in tensors if tensor.mode == TensorIOMode.INPUT]
        return [name for name in inputs if self.engine._free(name) and name not in self._shapes]

    def set_input_shape(self, name: str, shape: Any) -> bool:
        if not isinstance(shape, tuple | list | Dims):
            raise TypeError("a shape is a tuple, a list or Dims")
        engine, given = self.engine, tuple(shape)
        if engine.get_tensor_mode(name) != TensorIOMode.INPUT:
            return engine._refuse(False, f"set_input_shape: there is no input {name}")
        least, _, most = (tuple(one) for one in engine.get_tensor_profile_shape(name, 0))
        fits = len(given) == len(least)
        if not fits or any(not low <= size <= high for low, size, high in zip(least, given, most, strict=True)):
            return engine._refuse(False, f"set_input_shape: {name} of {given} is not from {least} to {most}")
        self._shapes[name] = given
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        if not self.engine._has(name):
            return Dims(None)
        sizes: dict[str, int] = {}
        for known, shape in self._shapes.items():
            free = zip(self.engine._tensors[known].shape, shape, strict=True)
            sizes.update({size: value for size, value in free if isinstance(size, str)})
        return Dims(self.engine._tensors[name].sized(sizes))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if not self.engine._has(name):
            return False
        if memory % ALIGNMENT:
            return self.engine._refuse(False, f"set_tensor_address: {name}: not a multiple of {ALIGNMENT}")
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        driver, missing = self.engine._runtime._driver, self._missing()
        if missing:
            return self.engine._refuse(False, f"execute_async_v3: {missing}")
        if not self._load(driver):
            return self.engine._refuse(False, "execute_async_v3: no memory for kernels, or a stream is being captured")
        if not driver.launch(stream_handle, self._bound_work(driver)):
            return self.engine._refuse(False, "execute_async_v3: the driver refuses the launch")
        return True

    def _missing(self) -> str:
        if unset := self.infer_shapes():
            return f"no shape of {unset}"
        if unset := [name for name in self.engine._tensors if not self._addresses.get(name)]:
            return f"no address of {unset}"
        if other := [name for name, shape in self._shapes.items() if self.get_tensor_shape(name) != shape]:
            return f"{other} and another input have different batches"
        return "it fails on cue" if self.engine._fails == "run" else ""

    def _load(self, driver: Driver) -> bool:
        if len(self._memory) == 1:
            address = driver.allocate(WORKSPACE_BYTES)
            if not address:
                return False
            self._memory.append(address)
            if self._config is not None:
                self._config._compile(self.engine)
        return True

    def _bound_work(self, driver: Driver) -> Any:
        """A callback with the addresses and sizes of this moment."""
        tensors = self.engine._tensors
        key = tuple((self._addresses[name], tuple(self.get_tensor_shape(name))) for name in tensors)
        if key not in self._work:
            places = {name: (*place, nptype(tensors[name].dtype)) for name, place in zip(tensors, key, strict=True)}
            self._work[key] = Work(_runner(weakref.ref(self), self.engine, places))
            driver.queued.append(self._work[key])
        return self._work[key]


def _runner(alive: Callable[[], object], engine: ICudaEngine, places: Mapping[str, Any]) -> Callable[[Any], None]:
    session, driver, tensors = engine._session, engine._runtime._driver, engine._tensors

    def run(user_data: Any) -> None:
        try:
            if alive() is None:
                raise RuntimeError("the execution context is gone")
            arrays = {name: driver.array(*place) for name, place in places.items()}
            feeds = {name: array for name, array in arrays.items() if tensors[name].mode == TensorIOMode.INPUT}
            names = [name for name in arrays if name not in feeds]
            for name, value in zip(names, session.run(names, feeds), strict=True):
                np.copyto(arrays[name], value)
        except Exception as exc:  # nobody is there to catch it on the device
            engine._runtime.logger.log(Severity.INTERNAL_ERROR, f"[stand-in] on the device: {exc}")

    return run


def _give_back(memory: list[int], engine: ICudaEngine) -> None:
    if not all([engine._runtime._driver.free(address) for address in memory]):  # noqa: C419, each one is given back
        engine._refuse(None, "the memory of a context cannot be given back: is the CUDA context gone?")


class IRuntimeCache:
    """Of TensorRT-RTX: which kernels were compiled on this machine."""

    def __init__(self) -> None:
        self._kernels: set[str] = set()

    def serialize(self) -> memoryview:
        return memoryview(CACHE_MAGIC + json.dumps(sorted(self._kernels)).encode())

    def deserialize(self, blob: Any) -> bool:
        data = bytes(memoryview(blob))
        if not data.startswith(CACHE_MAGIC):
            return False
        self._kernels = set(json.loads(data.removeprefix(CACHE_MAGIC)))
        return True


class IRuntimeConfig:
    """Of TensorRT-RTX."""

    def __init__(self) -> None:
        self._cache = IRuntimeCache()

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self._cache = cache
        return True

    def _compile(self, engine: ICudaEngine) -> None:
        found = engine._digest in self._cache._kernels
        self._cache._kernels.add(engine._digest)
        engine._runtime.logger.log(Severity.INFO, f"kernels {'from the cache' if found else 'compiled'}")


class RtxEngine(ICudaEngine):
    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    def create_execution_context(self, runtime_config: IRuntimeConfig | None = None) -> IExecutionContext | None:
        return self._context(runtime_config)

"""The stand-in for TensorRT behaves as the real library does where callers go wrong."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from pgn_edge.errors import EngineError
from pgn_edge.runtime.cuda import Cuda
from tests.runtime.tensorrt_stand_in import plan_bytes, stand_in, toy


class Bench:
    """An engine of the toy, a context and arrays for a batch of two; what was logged."""

    def __init__(self, cuda: Cuda, library: str, rtx: bool = False, **options: Any) -> None:
        trt = stand_in(library, rtx)
        self.logged: list[tuple[str, str]] = []
        outer = self

        class Log(trt.ILogger):  # type: ignore[misc,name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                outer.logged.append((severity.name, msg))

        self.cuda, self.trt = cuda, trt
        self.runtime = trt.Runtime(Log())
        self.engine = self.runtime.deserialize_cuda_engine(plan_bytes(toy(), **{"batch": (1, 2, 4), **options}))
        self.x, self.y = np.arange(128, dtype=np.float32).reshape(2, 64), np.full((2, 64), 3, np.float32)
        self.z = np.zeros((2, 64), np.float32)
        self.arrays = {name: cuda.empty((2, 64), np.float32) for name in "xyz"}

    def errors(self) -> list[str]:
        return [text for severity, text in self.logged if severity == "ERROR"]

    def bound(self, context: Any = None) -> Any:
        """A context that lacks nothing but a run."""
        context = context or self.engine.create_execution_context()
        assert all(context.set_input_shape(name, (2, 64)) for name in "xy")
        assert all(context.set_tensor_address(name, array.address) for name, array in self.arrays.items())
        return context

    def upload(self) -> None:
        self.cuda.upload(self.arrays["x"], self.x)
        self.cuda.upload(self.arrays["y"], self.y)

    def result(self) -> np.ndarray:
        self.cuda.download(self.z, self.arrays["z"])
        self.cuda.synchronize()
        return self.z


@pytest.fixture
def bench(cuda: Cuda, cuda_library: str) -> Bench:
    return Bench(cuda, cuda_library)


def test_an_engine_says_what_the_graph_has(bench: Bench):
    engine, mode = bench.engine, bench.trt.TensorIOMode
    assert [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)] == ["x", "y", "z"]
    assert [engine.get_tensor_mode(name) for name in "xyz"] == [mode.INPUT, mode.INPUT, mode.OUTPUT]
    assert bench.trt.nptype(engine.get_tensor_dtype("z")) is np.float32
    assert engine.get_tensor_shape("z") == (-1, 64)
    assert engine.get_tensor_profile_shape("x", 0) == [(1, 64), (2, 64), (4, 64)]
    assert bench.logged == []
    assert (engine.get_tensor_name(3), engine.get_tensor_mode("w")) == (None, mode.NONE)
    with pytest.raises(ValueError, match="__len__"):
        len(engine.get_tensor_shape("w"))
    assert len(bench.errors()) == 3


def test_a_run_gives_what_the_graph_gives_once_the_stream_comes_to_it(bench: Bench):
    context = bench.bound()
    assert context.get_tensor_shape("z") == (2, 64)
    bench.upload()
    assert context.execute_async_v3(bench.cuda.stream)
    np.testing.assert_array_equal(bench.result(), bench.x * 3)
    assert bench.logged == []


def test_a_run_keeps_the_addresses_that_it_was_queued_with(bench: Bench):
    context, other = bench.bound(), bench.cuda.empty((2, 64), np.float32)
    bench.upload()
    bench.cuda.upload(other, np.full((2, 64), 5, np.float32))
    context.execute_async_v3(bench.cuda.stream)
    context.set_tensor_address("z", other.address)
    np.testing.assert_array_equal(bench.result(), bench.x * 3)
    context.execute_async_v3(bench.cuda.stream)
    bench.cuda.download(bench.z, other)
    bench.cuda.synchronize()
    np.testing.assert_array_equal(bench.z, bench.x * 3)


def test_rows_of_an_array_are_addresses_too(bench: Bench):
    context = bench.bound()
    bench.upload()
    for name in "xy":
        context.set_input_shape(name, [1, 64])
        context.set_tensor_address(name, bench.arrays[name].rows(1, 2).address)
    assert context.execute_async_v3(bench.cuda.stream)
    np.testing.assert_array_equal(bench.result()[0], bench.x[1] * 3)


REFUSED: dict[str, tuple[Callable[[Bench, Any], Any], str]] = {
    "an unknown input": (lambda bench, context: context.set_input_shape("w", (2, 64)), "no tensor w"),
    "the shape of an output": (lambda bench, context: context.set_input_shape("z", (2, 64)), "no input z"),
    "a batch above the profile": (lambda bench, context: context.set_input_shape("x", (5, 64)), "not from"),
    "a batch of nothing": (lambda bench, context: context.set_input_shape("x", (0, 64)), "not from"),
    "another fixed size": (lambda bench, context: context.set_input_shape("x", (2, 63)), "not from"),
    "an axis too many": (lambda bench, context: context.set_input_shape("x", (2, 64, 1)), "not from"),
    "an unknown tensor": (lambda bench, context: context.set_tensor_address("w", 256), "no tensor w"),
    "an address between": (lambda bench, context: context.set_tensor_address("x", 264), "multiple of 256"),
    "a run with nothing set": (
        lambda bench, context: bench.engine.create_execution_context().execute_async_v3(bench.cuda.stream),
        r"no shape of \['x', 'y'\]",
    ),
    "a run with an address taken back": (
        lambda bench, context: context.set_tensor_address("z", 0) and context.execute_async_v3(bench.cuda.stream),
        r"no address of \['z'\]",
    ),
    "a run with two batches": (
        lambda bench, context: context.set_input_shape("y", (1, 64)) and context.execute_async_v3(bench.cuda.stream),
        "different batches",
    ),
    "a run on a stream that is not there": (lambda bench, context: context.execute_async_v3(1 << 40), "launch"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_real_one_refuses_is_refused_and_logged(bench: Bench, case: str):
    attempt, says = REFUSED[case]
    assert attempt(bench, bench.bound()) is False
    assert re.search(says, bench.errors()[0])


def test_failures_on_cue(cuda: Cuda, cuda_library: str):
    without, failing = Bench(cuda, cuda_library, fails="context"), Bench(cuda, cuda_library, fails="run")
    assert without.engine.create_execution_context() is None
    assert "no memory" in without.errors()[0]
    assert not failing.bound().execute_async_v3(cuda.stream)
    assert "on cue" in failing.errors()[0]


@pytest.mark.parametrize(
    "data",
    [b"", b"code for a GPU", plan_bytes(toy())[:-9], plan_bytes(b""), toy(), b"{}\n" + toy()],
    ids=["empty", "text", "truncated", "no graph", "a bare graph", "no header"],
)
def test_bytes_that_are_no_plan(bench: Bench, data: bytes):
    assert bench.runtime.deserialize_cuda_engine(data) is None
    assert "not a plan" in bench.errors()[0]


def test_wrong_types_are_errors_of_python(bench: Bench):
    class Forgetful(bench.trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            pass

    for logger in (Forgetful(), print):
        with pytest.raises(TypeError):
            bench.trt.Runtime(logger)
    with pytest.raises(TypeError):
        bench.bound().set_input_shape("x", 2)


def test_the_first_run_cannot_be_captured_and_the_second_can(bench: Bench):
    context, answers = bench.bound(), []

    def work() -> None:
        bench.upload()
        answers.append(context.execute_async_v3(bench.cuda.stream))

    with pytest.raises(EngineError, match="CAPTURE"):
        bench.cuda.capture(work)
    assert "captured" in bench.errors()[0]
    work()
    bench.cuda.synchronize()
    graph = bench.cuda.capture(work)
    assert answers == [False, True, True]
    for factor in (4, 7):
        bench.y[:] = factor
        graph.launch()
        np.testing.assert_array_equal(bench.result(), bench.x * factor)


def test_a_graph_outlives_its_context_only_to_fail(bench: Bench):
    context = bench.bound()
    assert context.execute_async_v3(bench.cuda.stream)
    graph = bench.cuda.capture(partial(context.execute_async_v3, bench.cuda.stream))
    del context
    gc.collect()
    graph.launch()
    bench.cuda.synchronize()
    assert bench.logged[-1] == ("INTERNAL_ERROR", "[stand-in] on the device: the execution context is gone")


def test_a_context_gives_its_memory_back_and_not_too_late(bench: Bench):
    free, _ = bench.cuda.memory()
    context = bench.bound()
    context.execute_async_v3(bench.cuda.stream)
    bench.cuda.synchronize()
    assert bench.cuda.memory()[0] < free
    del context
    assert bench.cuda.memory()[0] == free
    context = bench.bound()
    bench.cuda.close()
    del context
    assert "cannot be given back" in bench.errors()[-1]


def test_kernels_are_compiled_once_with_a_cache_of_rtx(cuda: Cuda, cuda_library: str):
    bench = Bench(cuda, cuda_library, rtx=True)
    kept = b""
    for said in ("kernels compiled", "kernels from the cache"):
        config = bench.engine.create_runtime_config()
        cache = config.create_runtime_cache()
        assert not cache.deserialize(b"of another release")
        assert cache.deserialize(kept) is (kept != b"")
        assert config.set_runtime_cache(cache)
        assert bench.bound(bench.engine.create_execution_context(runtime_config=config)).execute_async_v3(cuda.stream)
        assert bench.logged[-1] == ("INFO", said)
        kept = bytes(cache.serialize())

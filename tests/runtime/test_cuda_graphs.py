"""Points in time, work that is recorded once and launched often, and threads: on the stand-in for the driver."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from ctypes import CDLL, CFUNCTYPE, byref, c_size_t, c_void_p
from typing import Any

import numpy as np
import pytest

from pgn_edge.errors import EngineError
from pgn_edge.runtime.cuda import Cuda, DeviceArray
from tests.runtime.conftest import numbers, through

INVALID_VALUE, OUT_OF_MEMORY, INVALID_CONTEXT = 1, 2, 201
MIB = 1 << 20


# Events.


def test_events_take_the_time_between_them(cuda: Cuda):
    first, second = cuda.event(), cuda.event()
    first.record()
    before = time.perf_counter()
    cuda.synchronize()  # the GPU comes by the first one
    time.sleep(0.002)
    second.record()
    elapsed_ms = second.elapsed_ms(first)  # waits for the second one
    assert 2 <= elapsed_ms <= (time.perf_counter() - before) * 1e3 + 1
    assert first.elapsed_ms(second) == -elapsed_ms


def test_waiting_for_an_event_does_what_is_queued_before_it(cuda: Cuda):
    device, back, event = cuda.empty((6,), np.float32), np.zeros(6, np.float32), cuda.event()
    cuda.upload(device, numbers())
    cuda.download(back, device)
    event.record()
    cuda.upload(device, numbers(start=9))
    assert event.elapsed_ms(event) == 0
    np.testing.assert_array_equal(back, numbers())


def test_an_event_that_was_never_recorded_has_no_time(cuda: Cuda):
    recorded, other = cuda.event(), cuda.event()
    recorded.record()
    cuda.capture(other.record)
    with pytest.raises(
        EngineError, match=r"^GPU 0 .*two events .*never recorded, or is in a graph that was never launched"
    ):
        other.elapsed_ms(recorded)


# Capture.


def test_a_graph_replays_what_was_recorded_with_what_the_arrays_hold_now(cuda: Cuda):
    source, target = cuda.pinned((6,), np.float32), cuda.pinned((6,), np.float32)
    device = cuda.empty((6,), np.float32)

    def work() -> None:
        cuda.upload(device, source)
        cuda.download(target, device)

    source[:] = 1
    graph = cuda.capture(work)
    cuda.synchronize()
    assert not target.any(), "a capture records and does not run"
    for value in (2, 3):
        source[:] = value
        graph.launch()
        cuda.synchronize()
        assert (target == value).all()


def test_events_in_a_graph_take_the_time_of_each_launch(cuda: Cuda):
    first, second, device = cuda.event(), cuda.event(), cuda.empty((MIB,), np.float32)

    def work() -> None:
        first.record()
        cuda.upload(device, np.zeros(MIB, np.float32))
        second.record()

    graph = cuda.capture(work)
    times = []
    for _ in range(3):
        graph.launch()
        assert second.elapsed_ms(first) > 0
        cuda.synchronize()
        base = cuda.event()
        base.record()
        times.append(base.elapsed_ms(first))
    assert all(after >= 0 for after in times)
    assert len(set(times)) > 1


def test_a_graph_keeps_the_arrays_that_it_reads(cuda: Cuda):
    device, back = cuda.empty((MIB,), np.float32), np.zeros(MIB, np.float32)
    graph = cuda.capture(lambda: cuda.upload(device, np.full(MIB, 4, np.float32)))
    np.full(MIB, 5, np.float32)  # would lie there now
    graph.launch()
    cuda.synchronize()
    del graph  # what it queued goes on
    cuda.download(back, device)
    cuda.synchronize()
    assert (back == 4).all()


def test_what_an_engine_queues_is_recorded_too(cuda: Cuda, cuda_library: str):
    runs: list[int] = []
    function = CFUNCTYPE(None, c_void_p)(runs.append)
    launch = CDLL(cuda_library).cuLaunchHostFunc
    launch.argtypes = [c_size_t, type(function), c_void_p]

    def work() -> None:
        assert launch(cuda.stream, function, 7) == 0

    graph = cuda.capture(work)
    assert runs == []
    graph.launch()
    graph.launch()
    cuda.synchronize()
    assert runs == [7, 7]


def test_a_closed_graph_is_not_launched(cuda: Cuda, stand_in: Any):
    graph = cuda.capture(lambda: None)
    graph.close()
    graph.close()
    assert "exec" not in stand_in.live()
    with pytest.raises(EngineError, match="expected an open graph, got one that is closed; capture it again"):
        graph.launch()


def test_closing_a_graph_waits_for_it(cuda: Cuda):
    device, back = cuda.empty((6,), np.float32), np.zeros(6, np.float32)

    def work() -> None:
        cuda.upload(device, numbers())
        cuda.download(back, device)

    graph = cuda.capture(work)
    graph.launch()
    graph.close()
    np.testing.assert_array_equal(back, numbers())


ILLEGAL: dict[str, Callable[[Cuda, DeviceArray], object]] = {
    "asking for memory": lambda cuda, device: cuda.empty((1,), np.uint8),
    "asking for memory of the host": lambda cuda, device: cuda.pinned((1,), np.uint8),
    "giving memory back": lambda cuda, device: device.close(),
    "waiting": lambda cuda, device: cuda.synchronize(),
}


@pytest.mark.parametrize("what", ILLEGAL)
def test_what_cannot_be_captured_is_refused_and_the_stream_goes_on(cuda: Cuda, stand_in: Any, what: str):
    device = cuda.empty((6,), np.float32)
    with pytest.raises(EngineError, match=r"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED .*; do this before the capture"):
        cuda.capture(lambda: ILLEGAL[what](cuda, device))
    assert through(cuda, numbers()).any()
    assert cuda.capture(lambda: cuda.upload(device, numbers()))
    assert "graph" not in stand_in.live()


def test_a_capture_is_refused_also_where_the_work_swallows_the_reason(cuda: Cuda, stand_in: Any):
    def work() -> None:
        with pytest.raises(EngineError):
            cuda.synchronize()

    with pytest.raises(EngineError, match=r"cuStreamEndCapture .*CAPTURE_INVALIDATED .*capture only work that queues"):
        cuda.capture(work)
    assert through(cuda, numbers()).any()
    assert "exec" not in stand_in.live()


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_what_the_work_raises_goes_on_and_the_stream_is_as_before(
    cuda: Cuda, stand_in: Any, error: type[BaseException]
):
    back = np.zeros(6, np.float32)
    device = cuda.empty((6,), np.float32)
    cuda.upload(device, numbers())

    def work() -> None:
        cuda.upload(device, numbers(start=9))
        raise error

    with pytest.raises(error):
        cuda.capture(work)
    cuda.download(back, device)
    cuda.synchronize()
    np.testing.assert_array_equal(back, numbers())
    assert not {"graph", "exec"} & stand_in.live().keys()


def test_the_error_of_the_work_is_not_hidden_by_a_capture_that_ends_badly(cuda: Cuda, stand_in: Any):
    def work() -> None:
        stand_in.fail("cuGraphDestroy", INVALID_VALUE)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cuda.capture(work)


@pytest.mark.parametrize("function", ["cuStreamBeginCapture_v2", "cuGraphInstantiateWithFlags"])
def test_a_capture_that_fails_leaves_nothing(cuda: Cuda, stand_in: Any, function: str):
    stand_in.fail(function, OUT_OF_MEMORY)
    with pytest.raises(EngineError, match=f"{function} to succeed, got CUDA_ERROR_OUT_OF_MEMORY"):
        cuda.capture(lambda: None)
    assert not {"graph", "exec"} & stand_in.live().keys()
    assert through(cuda, numbers()).any()
    cuda.capture(lambda: None).launch()


def test_one_capture_at_a_time(cuda: Cuda):
    with pytest.raises(EngineError, match="expected one capture at a time, got one inside another"):
        cuda.capture(lambda: cuda.capture(lambda: None) and None)
    cuda.capture(lambda: None)


def test_a_gpu_is_not_closed_under_its_capture(cuda: Cuda):
    with pytest.raises(EngineError, match="expected no capture, got one under way"):
        cuda.capture(cuda.close)
    assert through(cuda, numbers()).any()


# Threads.


def in_thread(work: Callable[[], object]) -> list[object]:
    """What `work` returns or raises in another thread."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(work())
        except EngineError as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results


def test_any_thread_may_use_it(cuda: Cuda):
    (back,) = in_thread(lambda: through(cuda, numbers()))
    np.testing.assert_array_equal(back, numbers())


def test_an_array_is_filled_from_another_thread(cuda: Cuda):
    device, back = cuda.empty((6,), np.float32), np.zeros(6, np.float32)
    in_thread(lambda: cuda.upload(device, numbers()))
    cuda.download(back, device)
    cuda.synchronize()
    np.testing.assert_array_equal(back, numbers())


def test_use_makes_the_context_current_for_other_libraries(cuda: Cuda, cuda_library: str):
    def allocate() -> int:
        return int(CDLL(cuda_library).cuMemAlloc_v2(byref(c_size_t()), c_size_t(1)))

    assert in_thread(allocate) == [INVALID_CONTEXT]
    assert in_thread(lambda: cuda.use() or allocate()) == [0]


def test_while_one_thread_captures_another_may_ask_for_memory(cuda: Cuda, cuda_library: str):
    def ask() -> int:
        with Cuda(0, cuda_library) as other:
            return other.empty((3,), np.uint8).nbytes

    def work() -> None:
        assert in_thread(ask) == [3]

    cuda.capture(work).launch()


def test_a_thread_that_closes_it_need_not_be_the_one_that_opened_it(stand_in: Any):
    cuda = Cuda(library=stand_in.path)
    cuda.empty((6,), np.float32), cuda.pinned((6,), np.float32), cuda.event()
    in_thread(cuda.close)
    assert stand_in.live() == {}

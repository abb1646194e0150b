"""One GPU through its driver: order, capture, memory given back, and what the user is told."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import weakref
from collections.abc import Callable
from ctypes import CDLL, byref, c_size_t
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgn_edge.errors import EngineError
from pgn_edge.runtime.cuda import Cuda, DeviceArray, Event
from pgn_edge.runtime.cuda.driver import FUNCTIONS
from tests.runtime.conftest import numbers, through

INVALID_VALUE, OUT_OF_MEMORY, NOT_INITIALIZED, INVALID_CONTEXT = 1, 2, 3, 201
ILLEGAL_ADDRESS, LAUNCH_FAILED, UNKNOWN = 700, 719, 31337
MIB = 1 << 20


# The table of functions.


def test_the_stand_in_exports_what_is_bound_and_no_more(cuda_library: str):
    if shutil.which("nm") is None:
        pytest.skip("nm reads what a library exports")
    listed = subprocess.run(["nm", "-D", "--defined-only", cuda_library], check=True, capture_output=True, text=True)
    exported = set(re.findall(r"^\S+ T (cu\w+)$", listed.stdout, re.MULTILINE))
    assert exported == set(FUNCTIONS) | {"cuLaunchHostFunc"}  # which engines call by themselves


def test_each_symbol_is_the_one_that_programs_in_c_are_given():
    # Where a later version of a function replaced the first, the plain name has other arguments, or is gone.
    versioned = {name.removesuffix("_v2") for name in FUNCTIONS if name.endswith("_v2")}
    replaced = {"cuMemGetInfo", "cuMemAlloc", "cuMemFree", "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync"}
    replaced |= {
        "cuMemcpyDtoDAsync",
        "cuStreamDestroy",
        "cuEventDestroy",
        "cuDevicePrimaryCtxRelease",
        "cuStreamBeginCapture",
    }
    assert versioned == replaced


# Opening.


def test_what_is_known_of_the_gpu(cuda: Cuda):
    assert (cuda.device, cuda.name, cuda.driver_version) == (0, "Stand-in", (12, 4))
    assert cuda.stream
    assert cuda.memory() == (1 << 30, 1 << 30)


def test_without_a_driver_the_message_says_what_is_missing():
    with pytest.raises(
        EngineError, match=r"^CUDA: expected an NVIDIA driver, got .*libnot-there\.so.*; install the dr"
    ):
        Cuda(library="libnot-there.so")


def test_the_driver_is_looked_for_under_its_own_name(cuda_by_default: Any):
    with Cuda() as cuda:
        assert cuda.name == "Stand-in"


@pytest.mark.skipif(shutil.which("cc") is None, reason="an old driver is compiled with cc")
def test_a_driver_that_is_too_old(tmp_path: Path):
    (tmp_path / "old.c").write_text("int cuInit(unsigned flags) { return flags; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", "old.so", "old.c"], cwd=tmp_path, check=True)
    with pytest.raises(EngineError, match=r"CUDA 11\.4 or later, got one without cuGetErrorName; update the driver"):
        Cuda(library=str(tmp_path / "old.so"))


def test_a_driver_without_a_gpu(stand_in: Any):
    stand_in.reset(devices=0)
    with pytest.raises(EngineError, match=r"^CUDA: .*with a GPU, got CUDA_ERROR_NO_DEVICE \(no .*\); see: pgn-edge"):
        Cuda(library=stand_in.path)


@pytest.mark.parametrize("device", [2, -1])
def test_no_gpu_of_that_index(stand_in: Any, device: int):
    with pytest.raises(
        EngineError, match=rf"^GPU {device}: expected an index from 0 to 1, got 2 GPUs that CUDA sees; "
    ):
        Cuda(device, stand_in.path)
    assert stand_in.live() == {}


def test_the_second_gpu(stand_in: Any):
    with Cuda(1, stand_in.path) as second, Cuda(0, stand_in.path) as first:
        second.empty((MIB,), np.uint8)
        assert first.memory()[0] - second.memory()[0] == MIB


OPENING = (
    *("cuInit", "cuDriverGetVersion", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetName"),
    *("cuDevicePrimaryCtxRetain", "cuCtxSetCurrent", "cuStreamCreate"),
)


@pytest.mark.parametrize("function", OPENING)
def test_what_opens_only_half_way_gives_everything_back(stand_in: Any, function: str):
    stand_in.fail(function, INVALID_VALUE)
    with pytest.raises(EngineError, match=r"CUDA_ERROR_INVALID_VALUE \(invalid argument\)"):
        Cuda(library=stand_in.path)
    assert stand_in.live() == {}


def test_the_first_failure_is_told_where_giving_back_fails_too(stand_in: Any):
    stand_in.fail("cuStreamCreate", OUT_OF_MEMORY)
    stand_in.fail("cuDevicePrimaryCtxRelease_v2", INVALID_VALUE)
    with pytest.raises(EngineError, match="cuStreamCreate to succeed, got CUDA_ERROR_OUT_OF_MEMORY"):
        Cuda(library=stand_in.path)


# Copies.


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(np.arange(24, dtype=np.float32).reshape(2, 3, 4), id="fp32"),
        pytest.param(np.arange(5, dtype=np.float16), id="fp16"),
        pytest.param(np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3), id="an image"),
        pytest.param(np.array(7, np.int64), id="one number"),
    ],
)
def test_there_and_back(cuda: Cuda, array: np.ndarray):
    np.testing.assert_array_equal(through(cuda, array), array)


def test_memory_is_not_zero_by_chance(cuda: Cuda):
    back = np.zeros(3, np.float32)
    cuda.download(back, cuda.empty((3,), np.float32))
    cuda.synchronize()
    assert np.isnan(back).all()


def test_nothing_is_done_before_someone_waits(cuda: Cuda):
    device, back = cuda.empty((6,), np.float32), np.zeros(6, np.float32)
    cuda.upload(device, numbers())
    cuda.download(back, device)
    assert not back.any()
    cuda.synchronize()
    np.testing.assert_array_equal(back, numbers())


def test_a_source_that_nobody_else_keeps_is_kept_until_then(cuda: Cuda):
    device = cuda.empty((MIB,), np.float32)
    back = np.zeros(MIB, np.float32)
    for value in range(4):  # each lies where the one before did, if that was let go
        cuda.upload(device, np.full(MIB, value, np.float32))
        cuda.download(back, device)
        cuda.upload(device, np.full(MIB, -1, np.float32))
    cuda.download(again := np.zeros(MIB, np.float32), device)
    cuda.synchronize()
    assert (back == 3).all()
    assert (again == -1).all()


@pytest.mark.parametrize("verb", ["upload", "download"])
def test_an_array_of_the_host_is_kept_until_its_copy_is_done_and_no_longer(cuda: Cuda, verb: str):
    device, host = cuda.empty((6,), np.float32), numbers()
    arguments = (device, host) if verb == "upload" else (host, device)
    getattr(cuda, verb)(*arguments)
    kept = weakref.ref(host)
    del host, arguments
    assert kept() is not None
    cuda.synchronize()
    assert kept() is None


def test_rows_share_the_memory(cuda: Cuda):
    whole, back = cuda.empty((4, 3), np.float32), np.zeros((4, 3), np.float32)
    cuda.upload(whole, numbers(12).reshape(4, 3))
    rows = whole.rows(1, 4).rows(1, 3)
    assert (rows.shape, rows.dtype, rows.nbytes) == ((2, 3), np.dtype(np.float32), 24)
    assert rows.address == whole.address + 24
    cuda.upload(rows, np.full((2, 3), -1, np.float32))
    cuda.download(back, whole)
    cuda.synchronize()
    np.testing.assert_array_equal(back, [[0, 1, 2], [3, 4, 5], [-1, -1, -1], [-1, -1, -1]])


@pytest.mark.parametrize(("start", "stop"), [(0, 5), (-1, 2), (2, 2), (3, 1)])
def test_rows_that_there_are_not(cuda: Cuda, start: int, stop: int):
    with pytest.raises(EngineError, match=rf"expected rows within 0 to 4, got {start} to {stop}"):
        cuda.empty((4, 3), np.float32).rows(start, stop)


def test_one_number_has_no_rows(cuda: Cuda):
    with pytest.raises(EngineError, match="expected an array with rows"):
        cuda.empty((), np.float32).rows(0, 1)


READ_ONLY = numbers(4).reshape(2, 2)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("host", "message"),
    [
        pytest.param(numbers(4), r"a float32 array \(2, 2\) at .*, got float32 \(4,\)", id="another shape"),
        pytest.param(np.zeros((2, 2)), r"float32 array .*got float64 \(2, 2\)", id="another type"),
        pytest.param(np.zeros((2, 2), ">f4"), "got >f4", id="another byte order"),
        pytest.param(
            np.zeros((2, 2), np.float32, order="F"), "got one with gaps or another order", id="Fortran's order"
        ),
        pytest.param(np.zeros((2, 4), np.float32)[:, ::2], "C-contiguous .*got one with gaps", id="gaps"),
    ],
)
def test_arrays_that_cannot_be_copied_are_refused_both_ways(cuda: Cuda, host: np.ndarray, message: str):
    device = cuda.empty((2, 2), np.float32)
    for copying in (lambda: cuda.upload(device, host), lambda: cuda.download(host, device)):
        with pytest.raises(EngineError, match=message):
            copying()


def test_a_read_only_array_is_read_and_not_written(cuda: Cuda):
    device = cuda.empty((2, 2), np.float32)
    cuda.upload(device, READ_ONLY)
    with pytest.raises(EngineError, match="that can be written, got one that is read-only"):
        cuda.download(READ_ONLY, device)


def test_a_copy_within_the_gpu(cuda: Cuda):
    source, target, back = cuda.empty((6,), np.float32), cuda.empty((3,), np.float32), np.zeros(3, np.float32)
    cuda.upload(source, numbers())
    cuda.copy(target, source.rows(2, 5))
    cuda.download(back, target)
    cuda.synchronize()
    np.testing.assert_array_equal(back, [2, 3, 4])


def test_a_copy_within_the_gpu_of_another_shape_or_a_closed_array(cuda: Cuda):
    source, target = cuda.empty((6,), np.float32), cuda.empty((6,), np.float32)
    with pytest.raises(EngineError, match=r"float32 array \(6,\) at the other end of a copy, got float32 \(3,\)"):
        cuda.copy(target, source.rows(0, 3))
    source.close()
    with pytest.raises(EngineError, match="got one that is closed"):
        cuda.copy(target, source)


# Memory.


def test_pinned_memory_is_an_array_like_any_other(cuda: Cuda, stand_in: Any):
    array = cuda.pinned((2, 3), np.float32)
    assert (array.shape, array.dtype) == ((2, 3), np.float32)
    assert array.flags.c_contiguous
    assert not array.any()
    array[1] = 5
    np.testing.assert_array_equal(through(cuda, array), array)
    assert stand_in.live()["pinned"] == 1


def test_pinned_memory_is_given_back_once_what_is_queued_has_used_it(cuda: Cuda, stand_in: Any):
    array, device, back = cuda.pinned((6,), np.float32), cuda.empty((6,), np.float32), np.zeros(6, np.float32)
    array[:] = numbers()
    cuda.upload(device, array)
    cuda.release(array)
    assert "pinned" not in stand_in.live()
    cuda.download(back, device)
    cuda.synchronize()
    np.testing.assert_array_equal(back, numbers())


def test_only_pinned_memory_is_given_back_and_only_once(cuda: Cuda):
    array = cuda.pinned((6,), np.float32)
    cuda.release(array)
    for other in (array, numbers()):
        with pytest.raises(EngineError, match=r"expected an array from Cuda\.pinned, got another, or one given back"):
            cuda.release(other)


SHAPES = [
    pytest.param((0,), np.float32, id="nothing in it"),
    pytest.param((2, -1), np.float32, id="a free size that nobody filled in"),
    pytest.param((2,), object, id="objects"),
    pytest.param((2,), "V0", id="a type without a size"),
]


@pytest.mark.parametrize(("shape", "dtype"), SHAPES)
@pytest.mark.parametrize("verb", ["empty", "pinned"])
def test_arrays_that_cannot_be(cuda: Cuda, verb: str, shape: tuple[int, ...], dtype: Any):
    with pytest.raises(EngineError, match=r"^GPU 0 \(Stand-in\): expected a shape of sizes from 1 up"):
        getattr(cuda, verb)(shape, dtype)


@pytest.mark.parametrize(
    ("elements", "asked"),
    [
        pytest.param(3 * MIB, "12.0 MiB", id="more than is free"),
        pytest.param(1 << 70, f"{1 << 52}.0 MiB", id="more than an address can say"),
    ],
)
def test_a_gpu_without_room_says_what_was_asked_and_what_is_free(stand_in: Any, elements: int, asked: str):
    stand_in.reset(memory_bytes=16 * MIB)
    with Cuda(library=stand_in.path) as cuda:
        cuda.empty((5 * MIB,), np.uint8)
        message = rf"^GPU 0 \(Stand-in\): expected room for {asked}, got 11\.0 MiB free of 16\.0 MiB; close what else"
        with pytest.raises(EngineError, match=message):
            cuda.empty((elements,), np.float32)
        cuda.empty((11 * MIB,), np.uint8)  # and it goes on


def test_a_gpu_without_room_that_does_not_say_how_much_it_has(cuda: Cuda, stand_in: Any):
    stand_in.fail("cuMemGetInfo_v2", INVALID_VALUE)
    with pytest.raises(EngineError, match=r"expected room for 2048\.0 MiB, got less than that; "):
        cuda.empty((2 << 30,), np.uint8)


def test_a_host_without_room(stand_in: Any):
    stand_in.reset(memory_bytes=MIB)
    with Cuda(library=stand_in.path) as cuda:
        with pytest.raises(EngineError, match=r"expected 2\.0 MiB of page-locked memory on the host, got less"):
            cuda.pinned((2 * MIB,), np.uint8)
        with pytest.raises(EngineError, match="page-locked"):
            cuda.pinned((1 << 70,), np.uint8)


def test_another_failure_is_not_taken_for_a_lack_of_room(cuda: Cuda, stand_in: Any):
    stand_in.fail("cuMemAlloc_v2", UNKNOWN)
    with pytest.raises(
        EngineError, match=r"^CUDA: expected cuMemAlloc_v2 to succeed, got status 31337 \(no text\); see: "
    ):
        cuda.empty((1,), np.uint8)


def test_a_closed_array_is_refused_wherever_it_is_used(cuda: Cuda, stand_in: Any):
    whole = cuda.empty((4,), np.float32)
    rows = whole.rows(0, 2)
    fewer = rows.rows(0, 1)
    whole.close()
    whole.close()
    assert "memory" not in stand_in.live()
    uses: list[Callable[[], object]] = [
        lambda: whole.address,
        lambda: rows.address,
        lambda: fewer.address,
        lambda: whole.rows(0, 1),
        lambda: cuda.upload(whole, numbers(4)),
        lambda: cuda.download(numbers(2), rows),
    ]
    for use in uses:
        with pytest.raises(
            EngineError, match=r"float32 array \(\d,\) on GPU 0 .*got one that is closed; make a new one"
        ):
            use()


def test_rows_cannot_be_closed(cuda: Cuda, stand_in: Any):
    whole = cuda.empty((4,), np.float32)
    with pytest.raises(EngineError, match="memory of its own, got rows; close the whole"):
        whole.rows(0, 2).close()
    assert stand_in.live()["memory"] == 1


def test_closing_an_array_waits_for_what_uses_it(cuda: Cuda):
    device, back = cuda.empty((6,), np.float32), np.zeros(6, np.float32)
    cuda.upload(device, numbers())
    cuda.download(back, device)
    device.close()
    np.testing.assert_array_equal(back, numbers())


def test_an_array_that_the_driver_keeps_can_be_closed_later(cuda: Cuda, stand_in: Any):
    device = cuda.empty((4,), np.float32)
    stand_in.fail("cuMemFree_v2", INVALID_VALUE)
    with pytest.raises(EngineError, match="cuMemFree_v2"):
        device.close()
    assert device.address
    device.close()
    assert "memory" not in stand_in.live()


# Closing.


def filled(cuda: Cuda) -> tuple[DeviceArray, np.ndarray, Event]:
    """Something of everything, some of it still queued."""
    device, host, event = cuda.empty((6,), np.float32), cuda.pinned((6,), np.float32), cuda.event()
    cuda.capture(lambda: cuda.upload(device, host)).launch()
    cuda.upload(device, host)
    event.record()
    return device, host, event


def test_closing_gives_everything_back(stand_in: Any):
    cuda = Cuda(library=stand_in.path)
    filled(cuda)
    live = stand_in.live()
    assert live == {"memory": 1, "pinned": 1, "stream": 1, "event": 1, "exec": 1, "context": 1, "queued": 3}
    cuda.close()
    cuda.close()
    assert stand_in.live() == {}


def test_closing_runs_what_is_queued_first(stand_in: Any):
    back = np.zeros(6, np.float32)
    with Cuda(library=stand_in.path) as cuda:
        device = cuda.empty((6,), np.float32)
        cuda.upload(device, numbers())
        cuda.download(back, device)
    np.testing.assert_array_equal(back, numbers())


def test_after_closing_everything_is_refused(stand_in: Any):
    with Cuda(library=stand_in.path) as cuda:
        device, host, event = filled(cuda)
        graph = cuda.capture(lambda: None)
    verbs: list[Callable[[], object]] = [
        cuda.use,
        cuda.synchronize,
        cuda.memory,
        cuda.event,
        event.record,
        graph.launch,
        lambda: event.elapsed_ms(event),
        lambda: cuda.empty((1,), np.uint8),
        lambda: cuda.pinned((1,), np.uint8),
        lambda: cuda.capture(lambda: None),
        lambda: cuda.upload(device, numbers()),
        lambda: device.address,
    ]
    for verb in verbs:
        with pytest.raises(EngineError, match="got one that is closed"):
            verb()
    device.close()
    graph.close()
    cuda.release(host)
    assert stand_in.live() == {}


def test_a_thread_keeps_no_context_that_may_be_gone(stand_in: Any, cuda_library: str):
    first, second = Cuda(0, cuda_library), Cuda(1, cuda_library)
    first.use()
    second.close()
    assert CDLL(cuda_library).cuMemAlloc_v2(byref(c_size_t()), c_size_t(1)) == INVALID_CONTEXT
    assert through(first, numbers()).any()
    first.close()
    assert stand_in.live() == {}


RELEASES = ("cuStreamSynchronize", "cuMemFree_v2", "cuMemFreeHost", "cuEventDestroy_v2", "cuStreamDestroy_v2")


@pytest.mark.parametrize("function", RELEASES)
def test_a_failure_while_closing_is_told_and_stops_nothing(stand_in: Any, function: str):
    cuda = Cuda(library=stand_in.path)
    filled(cuda)
    stand_in.fail(function, INVALID_VALUE)
    with pytest.raises(EngineError, match=f"{function} to succeed"):
        cuda.close()
    cuda.close()
    assert "context" not in stand_in.live()
    assert sum(stand_in.live().values()) <= 1  # what the driver itself kept


def test_a_failure_while_closing_does_not_hide_what_went_wrong_before(stand_in: Any):
    cuda = Cuda(library=stand_in.path)
    stand_in.fail("cuStreamSynchronize", INVALID_VALUE)
    with pytest.raises(ZeroDivisionError), cuda:
        raise ZeroDivisionError
    assert stand_in.live() == {}


# Work that fails on the GPU.


def test_a_failure_of_queued_work_is_not_hidden_by_what_comes_after(stand_in: Any):
    with Cuda(library=stand_in.path) as cuda:
        device, graph = cuda.empty((6,), np.float32), cuda.capture(lambda: None)
        cuda.upload(device, numbers())
        stand_in.fail("work", ILLEGAL_ADDRESS)
        with pytest.raises(
            EngineError, match=r"cuStreamSynchronize .*CUDA_ERROR_ILLEGAL_ADDRESS \(an.*\); start the pr"
        ):
            cuda.synchronize()
        stand_in.fail("cuMemAlloc_v2", OUT_OF_MEMORY)
        first = "after cuStreamSynchronize failed with CUDA_ERROR_ILLEGAL_ADDRESS; start the process again"
        for verb in (lambda: cuda.empty((1,), np.uint8), cuda.synchronize, cuda.memory, graph.launch):
            with pytest.raises(EngineError, match=first):
                verb()
        device.close()  # nothing is left to wait for or to give back, and everyone was told
        graph.close()
    assert stand_in.live() == {}


def test_a_failure_that_only_closing_finds_is_told(stand_in: Any):
    cuda = Cuda(library=stand_in.path)
    filled(cuda)
    stand_in.fail("work", LAUNCH_FAILED, nth=2)
    with pytest.raises(EngineError, match="CUDA_ERROR_LAUNCH_FAILED"):
        cuda.close()
    assert stand_in.live() == {}


def test_a_lost_gpu_does_not_open_again(stand_in: Any):
    with Cuda(library=stand_in.path) as cuda:
        filled(cuda)
        stand_in.fail("work", LAUNCH_FAILED)
        with pytest.raises(EngineError, match="LAUNCH_FAILED"):
            cuda.synchronize()
    with pytest.raises(EngineError, match=r"cuDevicePrimaryCtxRetain .*LAUNCH_FAILED .*; start the process again"):
        Cuda(library=stand_in.path)


def test_after_a_fork_the_way_out_is_named(cuda: Cuda, stand_in: Any):
    stand_in.fail("cuCtxSetCurrent", NOT_INITIALIZED)
    with pytest.raises(EngineError, match="start child processes with spawn"):
        cuda.use()


def test_nothing_is_freed_by_dropping_a_reference(cuda: Cuda, stand_in: Any):
    for _ in range(3):
        cuda.empty((4,), np.float32)
        cuda.event()
    assert (stand_in.live()["memory"], stand_in.live()["event"]) == (3, 3)


def test_errors_of_the_driver_survive_a_worker_process(cuda: Cuda, stand_in: Any):
    stand_in.fail("cuMemGetInfo_v2", INVALID_VALUE)
    with pytest.raises(EngineError) as caught:
        cuda.memory()
    assert str(copy.copy(caught.value)) == str(caught.value)


def test_a_real_gpu_does_the_same():
    try:
        cuda = Cuda()
    except EngineError as exc:
        pytest.skip(f"no GPU: {exc.got}")
    with cuda:
        source, target, first, last = *(cuda.pinned((6,), np.float32) for _ in range(2)), cuda.event(), cuda.event()
        device, other = cuda.empty((6,), np.float32), cuda.empty((6,), np.float32)

        def work() -> None:
            first.record()
            cuda.upload(device, source)
            cuda.copy(other, device)
            cuda.download(target, other)
            last.record()

        graph = cuda.capture(work)
        with pytest.raises(EngineError, match="CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"):
            cuda.capture(cuda.synchronize)
        for value in (2, 3):
            source[:] = value
            graph.launch()
            cuda.synchronize()
            assert (target == value).all()
            assert 0 < last.elapsed_ms(first) < 1e3
        with pytest.raises(EngineError, match="expected room for"):
            cuda.empty((1 << 50,), np.uint8)
        np.testing.assert_array_equal(through(cuda, numbers()), numbers())

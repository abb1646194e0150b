"""A graph that never answers is ended, costs its own task alone, and a forked process is told that it is one."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import pgn_edge.bundle
import pgn_edge.runtime.bulkhead as bulkhead_module
from pgn_edge.bundle import read_bundle
from pgn_edge.errors import EngineError, PairingError, TaskError
from pgn_edge.runtime import Runtime, deadline, pairing
from pgn_edge.runtime.app import run_app
from pgn_edge.runtime.deadline import RunLimit
from pgn_edge.runtime.engines import EngineOptions, OnnxRuntimeEngine
from pgn_edge.runtime.scheduler import Batching, Scheduler
from pgn_edge.runtime.sources import Frame, Missing
from tests.hostile import Change, changed, loop_for_ever, loop_on_black, members, pack

DEADLINE_S = 0.3
PATIENCE_S = 60.0
BLACK, GREY = np.zeros((48, 64, 3), np.uint8), np.full((48, 64, 3), 120, np.uint8)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@pytest.fixture
def ungated(monkeypatch: pytest.MonkeyPatch) -> None:
    """No gate, so that a loop reaches the engine, and a short deadline."""
    monkeypatch.setattr(pgn_edge.bundle, "check_graph", lambda *_: None)
    monkeypatch.setattr(EngineOptions.__init__, "__defaults__", _defaults_with(DEADLINE_S))


def _defaults_with(deadline_s: float) -> tuple[object, ...]:
    *others, _ = EngineOptions.__init__.__defaults__
    return (*others, deadline_s)


def with_graph(good: Path, path: Path, change: Change) -> Path:
    parts = members(good)
    path.write_bytes(pack({**parts, "pgn.onnx": changed(parts["pgn.onnx"], change)}))
    return path


def test_a_golden_run_that_never_ends_is_ended_and_the_old_task_goes_on(ungated, tiny_pair, tmp_path: Path):
    path = with_graph(tiny_pair.task, tmp_path / "loop.pgn", loop_for_ever)
    with Runtime(tiny_pair.vit, {"a": tiny_pair.task}) as runtime:
        with pytest.raises(TaskError, match=r"loop\.pgn.*expected a graph that answers in time, got no answer within"):
            runtime.swap("a", path)
        assert runtime.infer("a", GREY).label
        runtime.swap("a", tiny_pair.task)


def test_a_task_that_hangs_on_a_black_frame_costs_its_own_answer_and_the_app_goes_on(
    ungated, tiny_pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bulkhead_module, "SLOW_S", DEADLINE_S / 2)
    path = with_graph(tiny_pair.task, tmp_path / "dark.pgn", loop_on_black)
    with Runtime(tiny_pair.vit, {"dark": path, "good": tiny_pair.task}, canvases=True) as runtime:
        expected = runtime.infer("good", BLACK).label
        with pytest.raises(TaskError, match="no answer within"):
            runtime.infer("dark", BLACK)
        dark, good = runtime.answer_batch([("dark", BLACK), ("good", BLACK)])
        assert (dark.label, dark.score, good.label, good.degraded) == ("", 0.0, expected, "")
        assert dark.degraded.startswith("engine failed: no answer within ")
        assert dark.reason == dark.degraded
        assert (dark.canvas.shape, dark.embedding.shape) == (good.canvas.shape, good.embedding.shape)
        assert dark.to_json()["label"] is None

        # It rests now: its frames are answered at once, without a run.
        monkeypatch.setattr(runtime.tasks["dark"].pgn, "_run_bound", None)
        dark, good = runtime.answer_batch([("dark", GREY), ("good", GREY)])
        assert dark.degraded.startswith("engine failed: ")
        assert good.label

    with Runtime(tiny_pair.vit, {"dark": path, "good": tiny_pair.task}) as runtime:
        monkeypatch.setattr(bulkhead_module, "SLOW_S", PATIENCE_S)
        summary = run_app(runtime, Pictures([GREY, BLACK, GREY]))
        assert summary.frames == 3
        assert summary.degraded == {"dark": 1}
        assert sum(summary.counts["good"].values()) == 3


class Pictures:
    """A source of some frames."""

    name, count, fps, missing = "pictures", None, None, Missing()

    def __init__(self, frames: list[np.ndarray]) -> None:
        self._frames = frames

    def __iter__(self):
        for index, image in enumerate(self._frames):
            yield Frame(index, f"picture {index}", None, image)

    def close(self) -> None:
        pass


def test_a_scheduler_answers_the_other_cameras_of_a_batch_whose_task_fails(ungated, tiny_pair, tmp_path: Path):
    path = with_graph(tiny_pair.task, tmp_path / "dark.pgn", loop_on_black)
    with (
        Runtime(tiny_pair.vit, {"dark": path, "good": tiny_pair.task}) as runtime,
        Scheduler(runtime, Batching(max_wait_ms=50)) as scheduler,
    ):
        futures = [scheduler.submit(name, [(name, BLACK)]) for name in ("dark", "good")]
        (dark,), (good,) = (future.result(PATIENCE_S) for future in futures)
    assert dark.degraded.startswith("engine failed: ")
    assert good.label


def test_a_vit_engine_that_fails_is_an_error_for_every_task(tiny_pair):
    with Runtime(tiny_pair.vit, {"a": tiny_pair.task}) as runtime:
        runtime.vit.close()
        with pytest.raises(EngineError, match="closed") as caught:
            runtime.answer_batch([("a", GREY)])
    assert not isinstance(caught.value, TaskError)


# The deadline itself.


@pytest.fixture
def endless(tiny_pair) -> OnnxRuntimeEngine:
    data = changed(read_bundle(tiny_pair.task).pgn_onnx, loop_on_black)
    return OnnxRuntimeEngine(data, "dark.onnx", 1, DEADLINE_S)


def pixels(engine: OnnxRuntimeEngine, value: int) -> dict[str, np.ndarray]:
    return {"image": np.full([size or 1 for size in engine.inputs["image"].shape], value, np.uint8)}


def test_a_run_after_one_that_was_ended_is_whole(endless: OnnxRuntimeEngine):
    good = endless.infer(pixels(endless, 90))
    for _ in range(2):
        with pytest.raises(EngineError, match=r"dark\.onnx: expected a graph that answers in time, got no answer"):
            endless.infer(pixels(endless, 0))
        np.testing.assert_array_equal(endless.infer(pixels(endless, 90))["canvas"], good["canvas"])


def test_an_error_before_the_deadline_is_not_called_a_deadline():
    limit = RunLimit(onnxruntime.RunOptions())
    with pytest.raises(ValueError, match="of its own"), limit.within(PATIENCE_S):
        raise ValueError("of its own")


def test_a_flag_that_is_raised_late_does_not_end_the_next_run():
    limit = RunLimit(onnxruntime.RunOptions())
    with limit.within(1e-6):
        wait_for(lambda: limit.options.terminate)
    assert not limit.options.terminate
    limit.look()
    assert not limit.options.terminate


def test_the_watching_thread_ends_with_the_last_engine():
    limit = RunLimit(onnxruntime.RunOptions())
    watcher = deadline._watchers[0]
    assert watcher.is_alive()
    del limit
    gc.collect()
    wait_for(lambda: not deadline._limits or not watcher.is_alive())


def test_vit_engines_have_no_deadline(tiny_pair):
    with Runtime(tiny_pair.vit, {"a": tiny_pair.task}) as runtime:
        assert runtime.vit._limit is None
        assert runtime.tasks["a"].pgn._limit is not None


# The proof covers frames of other sizes.


def test_a_task_is_proved_with_a_frame_of_another_size_before_it_is_loaded(
    tiny_pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shapes = []
    kind = type(read_bundle(tiny_pair.task).facts.preprocess)
    real = kind.__call__
    monkeypatch.setattr(
        kind, "__call__", lambda self, frame, order: (shapes.append(frame.shape), real(self, frame, order))[1]
    )
    with Runtime(tiny_pair.vit) as runtime:
        runtime.add("a", tiny_pair.task)
        assert shapes == [(95, 145, 3)]
        monkeypatch.setattr(kind, "__call__", lambda self, frame, order: np.zeros((48, 48, 3), np.uint8))
        with pytest.raises(
            PairingError, match=r"frame of 95 x 145 pixels: expected an image of 64 x 64, got \(48, 48, 3\)"
        ):
            runtime.swap("a", tiny_pair.task)


def test_a_task_whose_frame_of_another_size_is_not_finite_is_not_loaded(
    ungated, tiny_pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its golden images are answered; a white picture is divided by zero."""
    monkeypatch.setattr(pairing, "_odd_frame", lambda height, width: np.full((height, width, 3), 255, np.uint8))

    def fragile(model: onnx.ModelProto) -> None:
        graph = model.graph
        for node in graph.node:
            node.output[:] = ["whole" if name == "canvas" else name for name in node.output]
        pixels = graph.node[0].output[0]
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 2, 3]), "all but the batch"))
        make = onnx.helper.make_node
        graph.initializer.append(onnx.numpy_helper.from_array(np.float32(255), "white"))
        graph.node.extend(
            [
                make("ReduceMin", [pixels, "all but the batch"], ["least"], keepdims=1),
                make("Sub", ["white", "least"], ["room"]),
                make("Div", ["room", "room"], ["one"]),
                make("Mul", ["whole", "one"], ["canvas"]),
            ]
        )

    path = with_graph(tiny_pair.task, tmp_path / "fragile.pgn", fragile)
    with (
        Runtime(tiny_pair.vit) as runtime,
        pytest.raises(PairingError, match=r"frame of 95 x 145 pixels: expected finite numbers, got NaN or Inf"),
    ):
        runtime.add("a", path)


# Forks.


def in_a_fork(work: Callable[[], str]) -> str:
    """What `work` returns in a forked child, or what it raises."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = work()
        except BaseException as exc:
            said = f"{type(exc).__name__} {exc}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_after_a_runtime_was_made_is_told_in_one_sentence(tiny_pair):
    with Runtime(tiny_pair.vit, {"a": tiny_pair.task}) as runtime, Scheduler(runtime) as scheduler:
        tries: list[Callable[[], object]] = [
            lambda: runtime.infer("a", GREY),
            lambda: runtime.answer_batch([("a", GREY)]),
            lambda: runtime.add("b", tiny_pair.task),
            lambda: runtime.swap("a", tiny_pair.task),
            lambda: runtime.remove("a"),
            lambda: scheduler.submit("camera", [("a", GREY)]),
        ]
        for attempt in tries:
            said = in_a_fork(lambda attempt=attempt: str(attempt()))
            assert said.startswith("EngineError "), said
            assert "forked" in said
            assert "make it after the fork" in said

        def leave() -> str:
            with scheduler, runtime:
                return "left"

        assert in_a_fork(leave) == "left"
        assert runtime.infer("a", GREY).label, "the parent goes on"

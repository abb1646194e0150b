"""Several cameras at once, on a real Runtime: what one of them does is no other's trouble."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest

from pgn_edge.errors import DataError, EngineError, OutputError, PairingError, PgnEdgeError
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.cameras import Camera, run_cameras
from pgn_edge.runtime.engines import FakeEngine, OnnxRuntimeEngine
from pgn_edge.runtime.live import LiveOptions, LiveSource
from pgn_edge.runtime.live.iterator import IteratorSource
from pgn_edge.runtime.metrics import Metrics
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.scheduler import Batching
from pgn_edge.runtime.sinks import CallbackSink, JsonlSink
from pgn_edge.runtime.sources import Frame, Missing, open_source

SOON_S = 20.0
NOISE = np.random.default_rng(0).integers(0, 256, (6, 48, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def runtime(tiny_pair) -> Iterator[Runtime]:
    with Runtime(tiny_pair.vit, {"a": tiny_pair.task, "b": tiny_pair.task_fp16}, threads=1) as opened:
        yield opened


@pytest.fixture(autouse=True)
def leaves_no_thread() -> Iterator[None]:
    yield
    until_s = monotonic() + SOON_S
    while left := [thread.name for thread in threading.enumerate() if thread.name.startswith("pgn-edge")]:
        assert monotonic() < until_s, left
        sleep(0.01)


def camera(name: str, images: Iterable[np.ndarray], *tasks: str) -> Camera:
    return Camera(name, IteratorSource(images), tasks or ("a",))


def endless() -> Iterator[np.ndarray]:
    for index in count():
        yield NOISE[index % len(NOISE)]


class Faulty:
    """A source that gives what it is given: frames, and errors in their place."""

    name, fps, count, missing = "faulty", 25.0, None, Missing()

    def __init__(self, items: Iterable[np.ndarray | Exception]) -> None:
        self._items = enumerate(items)

    def __iter__(self) -> Faulty:
        return self

    def __next__(self) -> Frame:
        index, item = next(self._items)
        if isinstance(item, Exception):
            raise item
        return Frame(index, f"faulty#{index}", 0.0, item)

    def __enter__(self) -> Faulty:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def refusal() -> DataError:
    return DataError("frame", expected="a picture", got="garbage", do="look at the cable")


def test_each_camera_goes_through_its_tasks_in_order_and_in_the_callers_thread(runtime: Runtime) -> None:
    seen: list[tuple[str, int, tuple[str, ...], int]] = []

    def note(frame: Frame, results: Sequence[Result]) -> None:
        seen.append((frame.name, frame.index, tuple(one.task for one in results), threading.get_ident()))

    cameras = [camera("x", NOISE, "b", "a"), camera("y", NOISE[:4]), camera("z", NOISE, "b")]
    steps: list[int] = []
    summary = run_cameras(
        runtime, cameras, [CallbackSink(note)], progress=lambda step, done, total, note="": steps.append(done)
    )
    for name, frames, tasks in (("x", 6, ("b", "a")), ("y", 4, ("a",)), ("z", 6, ("b",))):
        rows = [row for row in seen if row[0].startswith(name)]
        assert [row[:3] for row in rows] == [(f"{name}#{index}", index, tasks) for index in range(frames)]
    assert {row[3] for row in seen} == {threading.get_ident()}
    assert steps == list(range(1, 17))
    assert summary.frames == 16
    assert {name: one.frames for name, one in summary.cameras.items()} == {"x": 6, "y": 4, "z": 6}
    assert {task: sum(labels.values()) for task, labels in summary.counts.items()} == {"b": 12, "a": 10}
    assert summary.batching is not None
    assert summary.batching.frames == 22
    assert summary.cameras["x"].age_ms is not None
    assert summary.failed == {}


def test_answers_are_those_of_the_frame(runtime: Runtime) -> None:
    wrong: list[str] = []

    def check(frame: Frame, results: Sequence[Result]) -> None:
        wanted = runtime.infer_batch([(one.task, frame.image_bgr) for one in results])
        if not all(np.allclose(a.embedding, b.embedding, atol=1e-4) for a, b in zip(results, wanted, strict=True)):
            wrong.append(frame.name)

    cameras = [camera("x", NOISE, "a", "b"), camera("y", NOISE[::-1], "b"), camera("z", NOISE[3:])]
    assert run_cameras(runtime, cameras, [CallbackSink(check)]).frames == 15
    assert wrong == []


def broken() -> Iterator[np.ndarray]:
    yield NOISE[0]
    raise ZeroDivisionError("a bug of the user's own")


def bad_image(folder: Path) -> None:
    (folder / "0.png").write_bytes(b"no image")


@pytest.mark.parametrize(
    ("source", "says", "frames"),
    [
        (lambda _: IteratorSource(broken()), "ZeroDivisionError: a bug", 1),
        (lambda _: Faulty([NOISE[0], refusal()]), "got garbage", 1),
        (lambda folder: (bad_image(folder), open_source(str(folder)))[1], r"0.png", 0),
    ],
    ids=["a bug in an iterator", "ends with an error", "a folder of a bad image"],
)
def test_a_camera_that_fails_does_not_end_the_others(
    runtime: Runtime, tmp_path: Path, source: Callable[[Path], IteratorSource], says: str, frames: int
) -> None:
    metrics = Metrics()
    with source(tmp_path) as opened:
        summary = run_cameras(runtime, [Camera("bad", opened, ("a",)), camera("good", NOISE)], metrics=metrics)
    assert list(summary.failed) == ["bad"]
    assert says in summary.failed["bad"]
    assert summary.last_error is not None
    assert (summary.last_error["subject"], summary.last_error["state"]) == ("bad", "failed")
    assert {name: one.frames for name, one in summary.cameras.items()} == {"bad": frames, "good": 6}
    assert 'pgn_edge_errors_total{kind="camera"} 1' in metrics.render()
    assert json.loads(json.dumps(summary.to_json()))["cameras"]["bad"]["error"] == summary.failed["bad"]


def test_a_frame_that_is_no_picture_is_skipped_and_counted(runtime: Runtime) -> None:
    garbage = [np.zeros((48, 64), np.uint8), NOISE[0][:0], NOISE[0].astype(np.float32), np.zeros((8, 8, 4), np.uint8)]
    items = [refusal(), NOISE[0], *garbage, refusal(), refusal(), NOISE[1]]
    metrics, names = Metrics(), []
    summary = run_cameras(
        runtime,
        [Camera("x", Faulty(items), ("a",)), camera("y", NOISE)],
        [CallbackSink(lambda frame, results: names.append(frame.name))],
        metrics=metrics,
    )
    assert [name for name in names if name.startswith("x")] == ["x#1", "x#8"]
    assert (summary.cameras["x"].frames, summary.cameras["x"].skipped) == (2, 7)
    assert (summary.cameras["y"].frames, summary.cameras["y"].skipped) == (6, 0)
    assert 'pgn_edge_errors_total{kind="frame"} 7' in metrics.render()
    assert summary.failed == {}


def test_frames_of_odd_kinds_are_answered(runtime: Runtime) -> None:
    large = np.zeros((4320, 7680, 3), np.uint8)
    kinds = [large, NOISE[0][..., 0], NOISE[0][..., :1], np.dstack([NOISE[0], NOISE[0][..., 0]]), NOISE[0][:1, :1]]
    summary = run_cameras(runtime, [camera("x", kinds)])
    assert (summary.frames, summary.cameras["x"].skipped) == (5, 0)


def test_a_camera_that_is_told_to_end_ends_and_the_files_are_whole(runtime: Runtime, tmp_path: Path) -> None:
    cameras = [camera("x", endless()), camera("y", endless(), "b")]

    def end(frame: Frame, results: Sequence[Result]) -> None:
        if frame.index == 3:
            for one in cameras:
                one.end()

    path = tmp_path / "out.jsonl"
    summary = run_cameras(runtime, cameras, [JsonlSink(path), CallbackSink(end)])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == summary.frames >= 4
    assert summary.failed == {}


def failing_runtime(tiny_pair) -> Runtime:
    """Its third pass fails, and the attempt to answer what was in it."""
    real = OnnxRuntimeEngine(tiny_pair.vit, "vit.onnx")
    vit = FakeEngine(real.inputs, real.outputs, real.infer, metadata=real.metadata)
    Runtime(vit, {"a": tiny_pair.task}).close()
    fail_at = frozenset(range(vit.calls + 2, vit.calls + 50))
    failing = FakeEngine(real.inputs, real.outputs, real.infer, metadata=real.metadata, fail_at=fail_at)
    return Runtime(failing, {"a": tiny_pair.task})


def test_an_engine_that_fails_ends_the_run_and_no_sink_leaves_a_file(tiny_pair, tmp_path: Path) -> None:
    cameras = [camera("x", endless()), camera("y", endless())]
    with failing_runtime(tiny_pair) as runtime, pytest.raises(EngineError, match="failure on cue"):
        run_cameras(runtime, cameras, [JsonlSink(tmp_path / "out.jsonl")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [(ValueError("full"), OutputError), (KeyboardInterrupt(), KeyboardInterrupt), (SystemExit(143), SystemExit)],
    ids=["a sink that cannot write", "ctrl-c", "sigterm"],
)
def test_whatever_is_raised_in_the_callers_thread_ends_the_run(
    runtime: Runtime, tmp_path: Path, error: BaseException, expected: type[BaseException]
) -> None:
    def fail(frame: Frame, results: Sequence[Result]) -> None:
        if frame.index == 2:
            raise error

    cameras = [camera("x", endless()), camera("y", endless())]
    with pytest.raises(expected):
        run_cameras(runtime, cameras, [JsonlSink(tmp_path / "out.jsonl"), CallbackSink(fail)])
    assert list(tmp_path.iterdir()) == []


def test_a_sink_that_drops_loses_what_it_counts_and_the_run_goes_on(runtime: Runtime) -> None:
    def fail(frame: Frame, results: Sequence[Result]) -> None:
        if frame.camera == "x":
            raise ValueError("no room")

    summary = run_cameras(runtime, [camera("x", NOISE), camera("y", NOISE)], [CallbackSink(fail, on_error="drop")])
    assert (summary.frames, summary.lost) == (12, {"CallbackSink": 6})


def test_a_sink_that_is_slow_holds_the_cameras_up_and_nothing_piles_up(runtime: Runtime) -> None:
    taken, ahead = count(), []
    last = -1

    def images() -> Iterator[np.ndarray]:
        nonlocal last
        for last in taken:
            if last == 30:
                return
            yield NOISE[last % len(NOISE)]

    def write(frame: Frame, results: Sequence[Result]) -> None:
        sleep(0.01)
        ahead.append(last - frame.index)

    run_cameras(runtime, [camera("x", images())], [CallbackSink(write)])
    assert len(ahead) == 30
    assert max(ahead) <= 3  # one in the queue, one at its door and one that is read


def test_a_task_that_is_removed_is_left_out_and_the_last_one_is_the_cameras_error(runtime: Runtime, tiny_pair) -> None:
    runtime.add("short", tiny_pair.task)
    seen: list[tuple[str, ...]] = []

    def remove(frame: Frame, results: Sequence[Result]) -> None:
        seen.append(tuple(one.task for one in results))
        if frame.index == 1 and "short" in runtime.tasks:
            runtime.remove("short")

    cameras = [camera("both", NOISE, "a", "short"), camera("one", endless(), "short")]
    summary = run_cameras(runtime, cameras, [CallbackSink(remove)])
    assert list(summary.failed) == ["one"]
    assert "task short" in summary.failed["one"]
    assert summary.cameras["both"].frames + summary.cameras["both"].skipped == 6
    assert seen[-1] == ("a",)


@pytest.mark.parametrize(
    ("cameras", "error", "says"),
    [
        (lambda: [], DataError, "one or more of different names"),
        (lambda: [camera("x", NOISE), camera("x", NOISE)], DataError, "got x, x"),
        (lambda: [camera("x", NOISE, "nobody")], PairingError, "task nobody"),
        (lambda: [camera("x", NOISE, "a", "b", "a")], DataError, "at most 2 tasks"),
        (lambda: [camera("", NOISE)], DataError, "a name"),
        (lambda: [Camera("x", IteratorSource(NOISE), ())], PairingError, "at least one task"),
    ],
    ids=["none", "one name twice", "no such task", "more tasks than a batch", "no name", "no task"],
)
def test_what_cannot_run_is_refused(
    runtime: Runtime, cameras: Callable[[], list[Camera]], error: type[PgnEdgeError], says: str
) -> None:
    with pytest.raises(error, match=says):
        run_cameras(runtime, cameras(), batching=Batching(max_batch=2))


def test_a_camera_that_still_connects_is_told_to_end_as_well(runtime: Runtime) -> None:
    with socket.socket() as silent:  # takes the connection, and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with LiveSource(f"http://127.0.0.1:{silent.getsockname()[1]}/stream", LiveOptions(connect_s=600)) as source:
            waiting = Camera("x", source, ("a",))
            threading.Timer(0.2, waiting.end).start()
            start = monotonic()
            summary = run_cameras(runtime, [waiting, camera("y", NOISE)])
    assert monotonic() - start < SOON_S
    assert {name: one.frames for name, one in summary.cameras.items()} == {"x": 0, "y": 6}
    assert summary.failed == {}


def test_garbage_of_an_iterator_is_skipped(runtime: Runtime) -> None:
    images = [NOISE[0], NOISE[0][:0], NOISE[0].astype(np.float32), NOISE[1], None]
    summary = run_cameras(runtime, [camera("x", images), camera("y", NOISE)])
    assert (summary.cameras["x"].frames, summary.cameras["x"].skipped) == (2, 2)
    assert "iterator#4" in summary.failed["x"]

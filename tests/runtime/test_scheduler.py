"""Mixed batches on a real Runtime, held at a gate where the order of things matters."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from time import monotonic

import numpy as np
import pytest

from pgn_edge.errors import DataError, EngineError, PairingError
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.engines import FakeEngine, OnnxRuntimeEngine
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.runtime import Colour
from pgn_edge.runtime.scheduler import Batching, Scheduler

SOON_S = 20.0  # on a busy machine; nothing here takes a tenth of it
NOISE = np.random.default_rng(0).integers(0, 256, (16, 48, 64, 3), dtype=np.uint8)
GREY = np.zeros((48, 64), np.uint8)


class Gated(Runtime):
    """A Runtime whose passes wait for a gate; it notes what each pass was asked."""

    gate: threading.Event
    passes: list[tuple[str, ...]]

    def infer_batch(self, frames: Sequence[tuple[str, np.ndarray]], colour: Colour = "bgr") -> list[Result]:
        """See `Runtime.infer_batch`."""
        self.passes.append(tuple(task for task, _ in frames))
        assert self.gate.wait(SOON_S)
        return super().infer_batch(frames, colour)


@pytest.fixture(scope="module")
def opened(tiny_pair) -> Iterator[Gated]:
    with Gated(tiny_pair.vit, {"a": tiny_pair.task, "b": tiny_pair.task_fp16}, threads=1) as runtime:
        yield runtime


@pytest.fixture
def runtime(opened: Gated) -> Gated:
    opened.gate, opened.passes = threading.Event(), []
    opened.gate.set()
    return opened


def hold(runtime: Gated, scheduler: Scheduler) -> Future[list[Result]]:
    """Let a first pass of a camera that never comes back stand at the gate, so that what is submitted next waits."""
    runtime.gate.clear()
    first = scheduler.submit("held", [("a", NOISE[0])])
    until_s = monotonic() + SOON_S
    while not runtime.passes:
        assert monotonic() < until_s
        threading.Event().wait(0.001)
    runtime.passes.clear()
    return first


def result(future: Future[list[Result]]) -> list[Result]:
    return future.result(SOON_S)


def test_frames_of_several_cameras_share_a_pass_and_get_their_own_answers(runtime: Gated) -> None:
    with Scheduler(runtime, Batching(max_batch=4)) as scheduler:
        hold(runtime, scheduler)
        pairs = {"x": [("b", NOISE[1]), ("a", NOISE[2])], "y": [("a", NOISE[3])]}
        futures = {camera: scheduler.submit(camera, asked) for camera, asked in pairs.items()}
        runtime.gate.set()
        answers = {camera: result(future) for camera, future in futures.items()}
    assert runtime.passes == [("b", "a", "a")]
    for camera, asked in pairs.items():
        alone = runtime.infer_batch(asked)
        assert [one.task for one in answers[camera]] == [task for task, _ in asked]
        for one, wanted in zip(answers[camera], alone, strict=True):
            np.testing.assert_allclose(one.embedding, wanted.embedding, atol=1e-4)


def test_counts_are_of_what_was_done(runtime: Gated) -> None:
    with Scheduler(runtime, Batching(max_batch=2)) as scheduler:
        assert scheduler.counts.mean_batch == scheduler.counts.wait_ms_p95 == 0
        first = hold(runtime, scheduler)
        futures = [scheduler.submit(camera, [("a", NOISE[1])]) for camera in "xyz"]
        runtime.gate.set()
        for future in (first, *futures):
            result(future)
        counts = scheduler.counts
    assert (counts.batches, counts.frames, counts.split) == (3, 4, 0)  # one, two and one
    assert counts.mean_batch == pytest.approx(4 / 3)
    assert counts.wait_ms_p95 > 0


def test_a_camera_that_is_greedy_delays_others_by_its_own_turn_only(runtime: Gated) -> None:
    slow = [f"slow {index}" for index in range(7)]
    with Scheduler(runtime, Batching(max_batch=4, queue=10)) as scheduler:
        hold(runtime, scheduler)
        order: list[str] = []

        def note(camera: str) -> Future[list[Result]]:
            future = scheduler.submit(camera, [("a", NOISE[1])])
            future.add_done_callback(lambda _: order.append(camera))
            return future

        futures = [note("greedy") for _ in range(10)] + [note(camera) for camera in slow]
        runtime.gate.set()
        for future in futures:
            result(future)
    # Eight cameras take two passes of four; the greedy one's other frames come after every slow one.
    assert sorted(order[:8]) == ["greedy", *slow]
    assert order[8:] == ["greedy"] * 9


def test_slow_cameras_wait_one_pass_at_most_while_a_greedy_one_never_stops(runtime: Gated) -> None:
    stop, passes = threading.Event(), []
    with Scheduler(runtime, Batching(max_batch=8)) as scheduler:

        def be_greedy() -> None:
            while not stop.is_set():
                scheduler.submit("greedy", [("a", NOISE[0])])

        def be_slow(camera: str) -> None:
            for _ in range(5):
                before = len(runtime.passes)
                future = scheduler.submit(camera, [("b", NOISE[1])])
                future.add_done_callback(lambda _, before=before: passes.append(len(runtime.passes) - before))
                result(future)
                stop.wait(0.005)

        greedy = threading.Thread(target=be_greedy)
        slow = [threading.Thread(target=be_slow, args=(f"slow {index}",)) for index in range(7)]
        for thread in (greedy, *slow):
            thread.start()
        for thread in slow:
            thread.join(SOON_S)
        stop.set()
        greedy.join(SOON_S)
        assert not greedy.is_alive()
    assert len(passes) == 35
    # Its own, and one that began after we looked and before the submission was there; what ran already is not counted.
    assert max(passes) <= 2


def test_a_single_camera_is_not_kept_waiting_for_others(runtime: Gated) -> None:
    with Scheduler(runtime, Batching(max_wait_ms=SOON_S * 1e3)) as scheduler:
        start = monotonic()
        for index in range(3):
            result(scheduler.submit("only", [("a", NOISE[index])]))
    assert monotonic() - start < SOON_S


def test_a_pass_waits_for_the_cameras_of_the_last_one(runtime: Gated) -> None:
    with Scheduler(runtime, Batching(max_wait_ms=SOON_S * 1e3)) as scheduler:
        futures = []
        first = hold(runtime, scheduler)
        futures = [scheduler.submit(camera, [("a", NOISE[1])]) for camera in ("held", "y")]
        runtime.gate.set()
        for future in (first, *futures):
            result(future)
        # Both cameras were in that pass: the first to come back waits for the other.
        early = scheduler.submit("y", [("a", NOISE[2])])
        with pytest.raises(TimeoutError):
            early.result(0.05)
        late = scheduler.submit("held", [("b", NOISE[3])])
        result(early)
        result(late)
    assert runtime.passes[-1] == ("a", "b")


def test_it_waits_for_a_camera_that_went_away_no_longer_than_max_wait(runtime: Gated) -> None:
    with Scheduler(runtime, Batching(max_wait_ms=1.0)) as scheduler:
        result(scheduler.submit("gone", [("a", NOISE[0])]))
        result(scheduler.submit("here", [("a", NOISE[1])]))
    assert len(runtime.passes) == 2


@pytest.mark.parametrize(
    ("pairs", "error"),
    [([("nobody", NOISE[1])], PairingError), ([("a", GREY)], DataError), ([("a", NOISE[1][:0])], DataError)],
    ids=["a task that is not there", "a grey frame", "a frame without pixels"],
)
def test_an_error_is_that_of_its_submission_only(runtime: Gated, pairs: list, error: type[Exception]) -> None:
    with Scheduler(runtime) as scheduler:
        hold(runtime, scheduler)
        good, bad = scheduler.submit("good", [("a", NOISE[1])]), scheduler.submit("bad", pairs)
        runtime.gate.set()
        with pytest.raises(error):
            result(bad)
        assert result(good)[0].label == runtime.infer("a", NOISE[1]).label
        assert result(scheduler.submit("bad", [("a", NOISE[1])]))
        assert scheduler.counts.split == 1


def test_a_task_that_is_removed_before_the_pass_is_an_error_of_its_submission(runtime: Gated, tiny_pair) -> None:
    runtime.add("short", tiny_pair.task)
    with Scheduler(runtime) as scheduler:
        hold(runtime, scheduler)
        gone, good = scheduler.submit("x", [("short", NOISE[1])]), scheduler.submit("y", [("a", NOISE[1])])
        runtime.remove("short")
        runtime.gate.set()
        with pytest.raises(PairingError, match="short"):
            result(gone)
        assert result(good)[0].task == "a"


def test_an_engine_that_stays_broken_is_an_error_of_each(tiny_pair) -> None:
    real = OnnxRuntimeEngine(tiny_pair.vit, "vit.onnx")
    vit = FakeEngine(real.inputs, real.outputs, real.infer, metadata=real.metadata)
    with Runtime(vit, {"a": tiny_pair.task}) as runtime, Scheduler(runtime, Batching(max_wait_ms=1e4)) as scheduler:
        broken = FakeEngine(
            real.inputs, real.outputs, real.infer, metadata=real.metadata, fail_at=frozenset(range(vit.calls + 100))
        )
        vit.infer = broken.infer  # type: ignore[method-assign]
        futures = [scheduler.submit(camera, [("a", NOISE[1])]) for camera in "xyz"]
        for future in futures:
            with pytest.raises(EngineError, match="failure on cue"):
                result(future)


def test_a_full_queue_blocks_its_own_camera_only(runtime: Gated) -> None:
    with Scheduler(runtime, Batching(queue=1)) as scheduler:
        hold(runtime, scheduler)
        scheduler.submit("x", [("a", NOISE[1])])
        with pytest.raises(EngineError, match=r"a place in the queue within 0\.05 s"):
            scheduler.submit("x", [("a", NOISE[2])], timeout=0.05)
        scheduler.submit("y", [("a", NOISE[3])], timeout=0.05)
        blocked: list[Future[list[Result]]] = []
        thread = threading.Thread(target=lambda: blocked.append(scheduler.submit("x", [("a", NOISE[2])])))
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()
        runtime.gate.set()
        thread.join(SOON_S)
        assert result(blocked[0])


def test_closing_finishes_what_runs_and_cancels_what_waits(runtime: Gated) -> None:
    scheduler = Scheduler(runtime, Batching(queue=1))
    running = hold(runtime, scheduler)
    waiting = scheduler.submit("x", [("a", NOISE[1])])
    refused: list[BaseException] = []

    def submit() -> None:
        try:
            scheduler.submit("x", [("a", NOISE[2])])
        except EngineError as exc:
            refused.append(exc)

    blocked = threading.Thread(target=submit)
    blocked.start()
    closing = threading.Thread(target=scheduler.close)
    closing.start()
    blocked.join(SOON_S)
    assert "a closed one" in str(refused[0])
    with pytest.raises(CancelledError):
        result(waiting)
    assert closing.is_alive()  # until the pass has ended
    runtime.gate.set()
    closing.join(SOON_S)
    assert not closing.is_alive()
    assert result(running)
    with pytest.raises(EngineError, match="a closed one"):
        scheduler.submit("x", [("a", NOISE[1])])
    scheduler.close()


def test_a_submission_may_be_cancelled_while_it_waits(runtime: Gated) -> None:
    with Scheduler(runtime) as scheduler:
        hold(runtime, scheduler)
        cancelled, kept = scheduler.submit("x", [("a", NOISE[1])]), scheduler.submit("y", [("b", NOISE[1])])
        assert cancelled.cancel()
        runtime.gate.set()
        assert result(kept)[0].task == "b"
    assert runtime.passes == [("b",)]


def test_more_frames_than_a_batch_takes_are_refused(runtime: Gated) -> None:
    with Scheduler(runtime, Batching(max_batch=2)) as scheduler, pytest.raises(DataError, match="at most 2 frames"):
        scheduler.submit("x", [("a", NOISE[1])] * 3)


@pytest.mark.parametrize(
    "options",
    [{"max_batch": 0}, {"queue": 0}, {"max_wait_ms": -1.0}, {"max_wait_ms": float("nan")}, {"max_wait_ms": np.inf}],
    ids=["no batch", "no queue", "back in time", "no time", "for ever"],
)
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(EngineError, match=next(iter(options))):
        Batching(**options)  # type: ignore[arg-type]


def test_many_threads_get_each_frame_answered_once(runtime: Gated) -> None:
    wanted = [runtime.infer("a", image).embedding for image in NOISE]
    wrong: list[str] = []
    with Scheduler(runtime, Batching(max_batch=4, max_wait_ms=1.0)) as scheduler:

        def work(camera: int) -> None:
            for index in range(16):
                (answer,) = result(scheduler.submit(str(camera), [("a", NOISE[index])]))
                if not np.allclose(answer.embedding, wanted[index], atol=1e-4):
                    wrong.append(f"camera {camera}, frame {index}")

        threads = [threading.Thread(target=work, args=(camera,)) for camera in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SOON_S)
        assert scheduler.counts.frames == 96
        assert scheduler.counts.mean_batch > 1
    assert wrong == []

"""Mixed batches: what waits of several cameras goes through one pass of the ViT."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from time import monotonic
from types import TracebackType

import numpy as np

from pgn_edge.errors import DataError, EngineError
from pgn_edge.runtime.process import ProcessGuard
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.runtime import Runtime

MOST_WAITS = 10_000  # of which the tail is known; an app may run for years


@dataclass(frozen=True)
class Batching:
    """How frames are gathered.

    Args:
        max_batch: frames of one pass at the most, a frame counted once for each of its tasks.
        max_wait_ms: milliseconds that a free engine waits for more frames at the most.
        queue: submissions of one camera that may wait; one more blocks its submitter.

    Raises:
        EngineError: a value out of its range.
    """

    max_batch: int = 8
    max_wait_ms: float = 5.0
    queue: int = 2

    def __post_init__(self) -> None:
        for name, value in (("max_batch", self.max_batch), ("queue", self.queue)):
            if value < 1:
                raise EngineError(f"batching, {name}", expected="1 or more", got=str(value), do="give a larger number")
        if not (self.max_wait_ms >= 0 and math.isfinite(self.max_wait_ms)):
            got = f"{self.max_wait_ms:g}"
            raise EngineError(
                "batching, max_wait_ms", expected="milliseconds, 0 or more", got=got, do="give such a time"
            )


@dataclass(frozen=True)
class BatchCounts:
    """What a scheduler has done so far.

    Args:
        batches: passes that were answered.
        frames: frames that they answered, each once for each of its tasks.
        mean_batch: frames / batches; 0 before the first.
        split: batches that failed, and whose submissions were then answered one by one.
        wait_ms_p95: milliseconds from the queue to the pass, 95 % of the last 10,000 submissions; 0 before the first.
    """

    batches: int
    frames: int
    mean_batch: float
    split: int
    wait_ms_p95: float


@dataclass(frozen=True, eq=False)
class _Job:
    """One submission: its frames, where its answers go, and when it came (monotonic clock)."""

    pairs: tuple[tuple[str, np.ndarray], ...]
    future: Future[list[Result]]
    came_s: float


class Scheduler:
    """Gathers frames of cameras that each have a thread, and answers them with as few passes of the ViT as it can.

    A submission waits for the pass that is under way, and then at most `max_wait_ms` for others to join it; no longer
    than until the batch is full, or every camera of the last pass has something waiting again. Cameras take turns: one
    that submits faster than others never delays theirs by more than its own turn. A submission is never torn apart.

    If a batch fails, its submissions are answered one by one, so that each gets its own answers or its own error.

    Any thread may call it; `close` is not for a signal handler. The Runtime stays the caller's, who closes it later.

    Args:
        runtime: that answers; other threads may use it beside, also to swap tasks.
        options: how frames are gathered.
    """

    def __init__(self, runtime: Runtime, options: Batching | None = None) -> None:
        self._runtime, self._options = runtime, options or Batching()
        self._changed = threading.Condition()
        self._process = ProcessGuard("scheduler")
        self._waiting: dict[str, deque[_Job]] = {}  # whose turn comes next stands in front
        self._last: frozenset[str] = frozenset()
        self._closed = False
        self._batches = self._frames = self._split = 0
        self._waits_ms: deque[float] = deque(maxlen=MOST_WAITS)
        self._thread = threading.Thread(target=self._work, name="pgn-edge scheduler", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> BatchCounts:
        """What it has done so far."""
        with self._changed:
            batches, frames, waits_ms = self._batches, self._frames, list(self._waits_ms)
            split = self._split
        p95 = float(np.percentile(waits_ms, 95)) if waits_ms else 0.0
        return BatchCounts(batches, frames, frames / batches if batches else 0.0, split, p95)

    def submit(
        self, camera: str, pairs: Sequence[tuple[str, np.ndarray]], timeout: float | None = None
    ) -> Future[list[Result]]:
        """Queue frames; they go through one pass together.

        Args:
            camera: whose turn it takes.
            pairs: (task name, frame) as `Runtime.infer_batch` takes them, `max_batch` at the most. The frames are read
                until the answer is there: leave them alone.
            timeout: seconds to wait for a place where `queue` submissions of this camera wait; None waits for ever.

        Returns:
            One result for each pair, in order; or what `Runtime.answer_batch` raises for these pairs. It is cancelled
            if the scheduler is closed before its pass, and may be cancelled until then.

        Raises:
            DataError: more pairs than a batch takes.
            EngineError: no place within `timeout`, the scheduler is closed, or the process is a fork.
        """
        self._process.check()
        if len(pairs) > self._options.max_batch:
            raise DataError(
                f"camera {camera}",
                expected=f"at most {self._options.max_batch} frames at a time, one for each task",
                got=str(len(pairs)),
                do="raise max_batch, or submit them in parts",
            )
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or self._has_place(camera), timeout):
                raise EngineError(
                    f"camera {camera}",
                    expected=f"a place in the queue within {timeout:g} s",
                    got=f"{self._options.queue} submissions that still wait",
                    do="submit fewer frames, or wait longer",
                )
            if self._closed:
                raise _closed()
            job = _Job(tuple(pairs), Future(), monotonic())
            self._waiting.setdefault(camera, deque()).append(job)
            self._changed.notify_all()
        return job.future

    def close(self) -> None:
        """Finish the pass under way, cancel what waits, and let nobody wait any longer; twice does no harm."""
        if self._process.is_fork:
            return  # its thread, which might hold the lock, stayed in the parent
        with self._changed:
            self._closed = True
            waiting = [job for jobs in self._waiting.values() for job in jobs]
            self._waiting.clear()
            self._changed.notify_all()
        for job in waiting:
            job.future.cancel()
        if threading.current_thread() is not self._thread:  # a callback of a future may close it too
            self._thread.join()

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _has_place(self, camera: str) -> bool:
        return len(self._waiting.get(camera, ())) < self._options.queue

    def _work(self) -> None:
        while not self._closed:
            self._answer(self._gather())

    def _gather(self) -> list[_Job]:
        """Wait for a batch, and take it; nothing once it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._waiting))
            # From here on and not from when the first came: else what came during the last pass would always go at
            # once, without the cameras which that pass answered, and the two halves would never meet again.
            self._changed.wait_for(lambda: self._closed or self._is_complete(), self._options.max_wait_ms / 1e3)
            batch = self._take()
            self._changed.notify_all()
        return batch

    def _is_complete(self) -> bool:
        """Whether waiting longer would add nothing that is to be expected."""
        frames = sum(len(job.pairs) for jobs in self._waiting.values() for job in jobs)
        return frames >= self._options.max_batch or self._last <= self._waiting.keys()

    def _take(self) -> list[_Job]:
        """Take submissions in turns until the next one does not fit."""
        batch: list[_Job] = []
        cameras, room, now_s = set(), self._options.max_batch, monotonic()
        while self._waiting:
            camera, jobs = next(iter(self._waiting.items()))
            if len(jobs[0].pairs) > room:
                break
            job = jobs.popleft()
            del self._waiting[camera]
            if jobs:
                self._waiting[camera] = jobs  # behind all others
            if job.future.set_running_or_notify_cancel():
                batch.append(job)
                cameras.add(camera)
                room -= len(job.pairs)
                self._waits_ms.append((now_s - job.came_s) * 1e3)
        self._last = frozenset(cameras)
        return batch

    def _answer(self, batch: Sequence[_Job]) -> None:
        if not batch:
            return
        try:
            results = self._runtime.answer_batch([pair for job in batch for pair in job.pairs])
        except Exception as exc:  # whatever it is, somebody waits for it
            self._refuse(batch, exc)
            return
        with self._changed:
            self._batches += 1
            self._frames += len(results)
        start = 0
        for job in batch:
            job.future.set_result(results[start : start + len(job.pairs)])
            start += len(job.pairs)

    def _refuse(self, batch: Sequence[_Job], error: Exception) -> None:
        """Answer a batch that failed one by one; of a single submission the error is its own."""
        if len(batch) == 1:
            batch[0].future.set_exception(error)
            return
        with self._changed:
            self._split += 1
        for job in batch:
            if self._closed:
                job.future.set_exception(_closed())
            else:
                self._answer([job])


def _closed() -> EngineError:
    return EngineError("scheduler", expected="an open one", got="a closed one", do="make a new one")

"""Several cameras, each read by a thread of its own, through one scheduler and into the same sinks."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from time import monotonic, perf_counter
from types import TracebackType
from typing import NoReturn

from pgn_edge.errors import DataError, PairingError, PgnEdgeError
from pgn_edge.progress import Progress, silent
from pgn_edge.redact import public_name
from pgn_edge.runtime.app import Account, RunSummary
from pgn_edge.runtime.live import LiveSource
from pgn_edge.runtime.metrics import Metrics
from pgn_edge.runtime.runtime import Runtime
from pgn_edge.runtime.scheduler import Batching, Scheduler
from pgn_edge.runtime.sinks import Sink
from pgn_edge.runtime.sources import Frame, Source

POLL_S = 0.1  # between two looks whether a camera was told to end
PAUSE_S = 0.01  # after a frame that cannot be read, so that an endless row of them takes no core
CLOSE_S = 2.0  # for the reader of a source that gives nothing and cannot be closed

Work = Callable[[], object]


@dataclass(frozen=True, eq=False)
class Camera:
    """One camera of a run.

    Args:
        name: frames are named `<name>#<sequence>`, and counted under it; an image keeps the name of its file.
        source: opened by the caller, who closes it too. What it drops while the app is busy is its own policy.
        tasks: names of the tasks that its frames go through, in one pass of the ViT.

    Raises:
        DataError: no name.
        PairingError: no task.
    """

    name: str
    source: Source
    tasks: tuple[str, ...]
    _told: list[bool] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", public_name(self.name))
        if not self.name:
            raise DataError("camera", expected="a name", got="none", do="give one")
        if not self.tasks:
            raise PairingError(f"camera {self.name}", expected="at least one task", got="none", do="name one")

    def end(self) -> None:
        """End it as the end of a file would; any thread may call, also a signal handler."""
        self._told.append(True)  # a lock might be held by the very thread that a signal interrupts

    @property
    def told_to_end(self) -> bool:
        """Whether `end` was called."""
        return bool(self._told)


def run_cameras(
    runtime: Runtime,
    cameras: Sequence[Camera],
    sinks: Sequence[Sink] = (),
    *,
    batching: Batching | None = None,
    progress: Progress = silent,
    metrics: Metrics | None = None,
) -> RunSummary:
    """Send the frames of every camera through its tasks until all cameras have ended.

    One frame of each camera is under way at a time, so that what is answered is new. Sinks are entered, written to and
    left in this thread; they get the frames of a camera in order. If a camera fails, the others go on. If an engine or
    a sink fails, or the run is interrupted, no sink leaves a file.

    A frame that is no picture is counted and skipped, and so is one whose task is removed at that moment. A camera
    whose tasks are all removed has failed.

    Args:
        runtime: with the tasks of all cameras.
        cameras: of different names. Live sources are closed when the run ends.
        sinks: not yet entered.
        batching: how frames are gathered.
        progress: called after each frame.
        metrics: told of every result, every frame that was skipped and every camera that failed; its `log` is told of
            cameras that failed, too.

    Raises:
        DataError: no camera, two of one name, or more tasks than a batch takes.
        PairingError: a task that is not loaded.
        EngineError: an engine failed.
        OutputError: a sink cannot write.
    """
    batching = batching or Batching()
    _check(runtime, cameras, batching)
    tasks = dict.fromkeys(task for camera in cameras for task in camera.tasks)
    account = Account({camera.name: camera.source for camera in cameras}, tasks, progress, metrics)
    with ExitStack() as stack:
        for sink in sinks:
            stack.enter_context(sink)
        start = perf_counter()
        scheduler = stack.enter_context(Scheduler(runtime, batching))
        readers = stack.enter_context(_Readers(runtime, scheduler, cameras, account, sinks))
        for work in readers.work():
            work()
        seconds = perf_counter() - start
    return account.summary(seconds, sinks, scheduler.counts)


class _Readers:
    """The threads of the cameras; what they find is work for the thread that runs them all.

    Args:
        runtime: with the tasks.
        scheduler: closed with the readers, so that none waits for an answer.
        cameras: one thread each.
        account: called by the work alone.
        sinks: likewise.
    """

    def __init__(
        self,
        runtime: Runtime,
        scheduler: Scheduler,
        cameras: Sequence[Camera],
        account: Account,
        sinks: Sequence[Sink],
    ) -> None:
        self._runtime, self._scheduler, self._cameras = runtime, scheduler, cameras
        self._account, self._sinks = account, sinks
        self._work: queue.Queue[Work] = queue.Queue(len(cameras))  # a slow sink holds the readers up
        self._stopped = threading.Event()
        self._running = {camera.name for camera in cameras}
        self._threads = [
            threading.Thread(target=self._read, args=(camera,), name=f"pgn-edge {camera.name}", daemon=True)
            for camera in cameras
        ]
        self._closers: dict[str, threading.Thread] = {}

    def work(self) -> Iterator[Work]:
        """What is to be done, in order for each camera, until all have ended."""
        while self._running:
            self._account.beat()
            for camera in self._cameras:
                if camera.told_to_end:
                    self._close(camera)
            try:
                yield self._work.get(timeout=POLL_S)
            except queue.Empty:
                continue

    def __enter__(self) -> _Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        for camera in self._cameras:
            self._close(camera)
        self._scheduler.close()
        until_s = monotonic() + CLOSE_S
        for thread in (*self._threads, *self._closers.values()):
            thread.join(max(until_s - monotonic(), 0))

    def _close(self, camera: Camera) -> None:
        """Close a live source, beside everything else: a grabber may take a while."""
        if camera.name not in self._closers and isinstance(camera.source, LiveSource):
            closer = threading.Thread(target=camera.source.close, name=f"pgn-edge close {camera.name}", daemon=True)
            self._closers[camera.name] = closer
            closer.start()

    def _is_over(self, camera: Camera) -> bool:
        return self._stopped.is_set() or camera.told_to_end

    def _read(self, camera: Camera) -> None:
        error = ""
        try:
            for frame in self._frames(camera):
                self._answer(camera, frame)
        except CancelledError:
            pass  # the run is over
        except PgnEdgeError as exc:
            error = str(exc)
        except Exception as exc:  # an iterator is the user's own code, and this thread has nobody above it
            error = f"{type(exc).__name__}: {exc}"
        self._hand(partial(self._end, camera.name, error))

    def _frames(self, camera: Camera) -> Iterator[Frame]:
        """Frames of a camera; one that cannot be read is skipped if another one follows, else it is the end."""
        frames, refusal = iter(camera.source), None
        while not self._is_over(camera):
            try:
                frame = next(frames)
            except StopIteration:
                break
            except DataError as exc:
                if refusal is not None:
                    self._hand(partial(self._account.skip, camera.name))
                refusal = exc
                self._stopped.wait(PAUSE_S)
                continue
            if refusal is not None:
                self._hand(partial(self._account.skip, camera.name))
                refusal = None
            yield frame
        if refusal is not None and not self._is_over(camera):
            raise refusal

    def _answer(self, camera: Camera, frame: Frame) -> None:
        loaded = self._runtime.tasks
        pairs = [(task, frame.image_bgr) for task in camera.tasks if task in loaded]
        if not pairs:
            got = ", ".join(loaded) or "none"
            do = "swap a task instead of removing it"
            raise PairingError(f"camera {camera.name}", expected=f"task {' or '.join(camera.tasks)}", got=got, do=do)
        try:
            results = self._scheduler.submit(camera.name, pairs).result()
        except (DataError, PairingError):
            self._hand(partial(self._account.skip, camera.name))
        except CancelledError:
            raise
        except Exception as exc:
            self._hand(partial(_throw, exc))
        else:
            self._hand(partial(self._account.deliver, camera.name, frame.of_camera(camera.name), results, self._sinks))

    def _hand(self, work: Work) -> None:
        """Leave work for the other thread, unless that has ended the run."""
        while not self._stopped.is_set():
            try:
                self._work.put(work, timeout=POLL_S)
                return
            except queue.Full:
                continue

    def _end(self, camera: str, error: str) -> None:
        self._running.remove(camera)
        if error:
            self._account.fail(camera, error)


def _throw(error: Exception) -> NoReturn:
    raise error


def _check(runtime: Runtime, cameras: Sequence[Camera], batching: Batching) -> None:
    names = [camera.name for camera in cameras]
    if not names or len(set(names)) < len(names):
        got = ", ".join(names) or "none"
        raise DataError("cameras", expected="one or more of different names", got=got, do="name them")
    for camera in cameras:
        missing = [task for task in camera.tasks if task not in runtime.tasks]
        if missing:
            got = ", ".join(runtime.tasks) or "none"
            raise PairingError(f"camera {camera.name}", expected=f"task {missing[0]}", got=got, do="add it first")
        if len(camera.tasks) > batching.max_batch:
            raise DataError(
                f"camera {camera.name}",
                expected=f"at most {batching.max_batch} tasks, max_batch",
                got=str(len(camera.tasks)),
                do="raise max_batch, or give it fewer tasks",
            )

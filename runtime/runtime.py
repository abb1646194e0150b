"""One frozen ViT engine and any number of tasks beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import RLock
from time import perf_counter
from types import TracebackType
from typing import Literal

import numpy as np

from pgn_edge.contract import EngineFacts
from pgn_edge.errors import DataError, EngineError, PairingError
from pgn_edge.preprocess import Order
from pgn_edge.runtime.bulkhead import Bulkhead
from pgn_edge.runtime.chain import Chain, link
from pgn_edge.runtime.drift import Drift
from pgn_edge.runtime.engines import DeviceEngine, Engine, EngineOptions, open_engine
from pgn_edge.runtime.engines.base import Provider, infer_all
from pgn_edge.runtime.pairing import canvas_spec, check_tensors
from pgn_edge.runtime.process import ProcessGuard
from pgn_edge.runtime.result import Result, judge
from pgn_edge.runtime.tasks import Loader, Task

Colour = Literal["bgr", "rgb"]

ORDERS: dict[Colour, Order] = {"bgr": "BGR", "rgb": "RGB"}
MOST_BOUND = 128  # frames of the batches that are kept bound; each holds a canvas


class Runtime:
    """Pairs task bundles with a separately compiled ViT engine, and runs frames through both.

    Every task is checked against the ViT (fingerprint, geometry and canvas), and must reproduce its golden pair on
    this device, before its first frame. Any thread may call a Runtime: frames take turns, and tasks are loaded beside
    them. Results belong to the caller.

    Arrays are made once for each combination of tasks that is asked for: the PGN writes its canvas where the ViT reads
    it, on a GPU within one CUDA graph, and nothing is allocated for a frame but what its result keeps.

    Args:
        vit: a ViT engine file, `.onnx` or `.plan`, or an engine that is already open.
        tasks: bundles by name.
        provider: of ONNX Runtime, for an `.onnx`; never replaced by another behind the user's back.
        threads: CPU threads of each engine; 0 takes one for each core.
        gpu: number of the GPU, counted from 0.
        canvases: whether results hold the canvas, for pictures of it; a copy that nothing else needs.

    Raises:
        EngineError: the ViT engine cannot be opened, or is no export of ours.
        BundleError: a bundle is damaged.
        PairingError: a task was not made for this ViT, or does not reproduce its golden pair; or `tasks` is no mapping.
    """

    def __init__(
        self,
        vit: str | Path | Engine,
        tasks: Mapping[str, str | Path] | None = None,
        *,
        provider: Provider = "cpu",
        threads: int = 0,
        gpu: int = 0,
        canvases: bool = False,
    ) -> None:
        _require_arguments(vit, tasks)
        self._options, self._canvases = EngineOptions(provider, threads, gpu), canvases
        self._tasks: dict[str, Task] = {}
        self._swaps: dict[str, int] = {}
        self._chains: dict[tuple[str, ...], Chain] = {}
        self._lock, self._closed = RLock(), False
        self._process = ProcessGuard("runtime")
        self._vit = open_engine(vit, self._options) if isinstance(vit, str | Path) else vit
        try:
            self.facts = EngineFacts.from_metadata(self._vit.metadata, self._vit.name)
            if self.facts.role != "vit":
                raise EngineError(
                    self._vit.name, expected="a ViT engine", got="a PGN engine", do="give the task as a bundle instead"
                )
            check_tensors(self._vit, self.facts)
            # Sessions on a CPU run side by side; a GPU has one stream, and takes one call at a time.
            self._turn = self._lock if isinstance(self._vit, DeviceEngine) else nullcontext()
            self._loader = Loader(self._vit, self.facts, self._options, self._width(), self._turn)
            canvas = canvas_spec(self.facts) if canvases else None
            self._bulkhead = Bulkhead(self._loader.width, canvas)
            for name, path in (tasks or {}).items():
                self.add(name, path)
        except BaseException:
            self.close()
            raise

    def add(self, name: str, path: str | Path) -> None:
        """Load, check and prove a task; the runtime is as before if anything fails.

        Raises:
            BundleError: the bundle is damaged.
            PairingError: the name is taken, or the task does not belong to this ViT.
            EngineError: its PGN engine cannot be opened where the ViT engine is.
        """
        self._process.check()
        self._require_new(name)
        task = self._loader.load(name, path)
        with self._lock:
            try:
                self._require_new(name)  # while it was loading, another thread may have taken it
            except BaseException:
                task.close()
                raise
            self._tasks[name], self._swaps[name] = task, 0

    def swap(self, name: str, path: str | Path) -> None:
        """Put another bundle in the place of a task, between two frames.

        The new one is loaded, checked and proved while the old one goes on answering; if anything fails, the old one
        stays, and the error says why. A result is of one or of the other, and no frame is lost.

        Raises:
            PairingError: no such task, or the new one does not belong to this ViT.
            BundleError, EngineError: as `add`.
        """
        self._process.check()
        self._task(name)
        task = self._loader.load(name, path)
        with self._lock:
            try:
                self._task(name)  # while the new one was loading, another thread may have removed it
            except BaseException:
                task.close()
                raise
            old, self._tasks[name] = self._tasks[name], task
            self._swaps[name] += 1
            stale = self._drop_chains(name)
        self._close(stale, old)

    def remove(self, name: str) -> None:
        """Forget a task, between two frames.

        Raises:
            PairingError: no such task.
        """
        self._process.check()
        with self._lock:
            old = self._task(name)
            del self._tasks[name], self._swaps[name]
            stale = self._drop_chains(name)
        self._close(stale, old)

    @property
    def tasks(self) -> dict[str, Task]:
        """Loaded tasks by name."""
        return dict(self._tasks)

    @property
    def swaps(self) -> dict[str, int]:
        """How often each loaded task was swapped since it was added."""
        return dict(self._swaps)

    def drift(self, name: str) -> Drift | None:
        """Say how unlike its training data a task's last frames are; None without a profile, or before the first frame.

        Example:
            >>> drift = runtime.drift("pets")
            >>> if drift is not None and drift.alarm:
            ...     print(f"{drift.strange:.0%} of the last frames are unlike the training data")

        Raises:
            PairingError: no such task.
        """
        monitor = self._task(name).monitor
        return None if monitor is None else monitor.read()

    @property
    def vit(self) -> Engine:
        """The ViT engine."""
        return self._vit

    @property
    def notes(self) -> tuple[str, ...]:
        """Why frames may be answered slower than they could be; empty where they are not."""
        chains = [*(task.chain for task in self._tasks.values()), *self._chains.values()]
        return tuple(dict.fromkeys(chain.note for chain in chains if chain.note))

    def infer(self, task: str, frame: np.ndarray, colour: Colour = "bgr") -> Result:
        """Answer one frame.

        Args:
            task: name of a loaded task.
            frame: Frame (h, w, 3) uint8 of any size.
            colour: Order of the frame's channels: `bgr` from OpenCV, `rgb` from picamera2 and Pillow.

        Example:
            >>> result = runtime.infer("pets", frame_bgr)
            >>> image = PIL.Image.open("cat.jpg").convert("RGB")
            >>> result = runtime.infer("pets", numpy.asarray(image), colour="rgb")

        Raises:
            PairingError: no such task.
            DataError: not a colour frame, or another word for `colour`.
            EngineError: an engine failed; a frame whose numbers are not finite is no error but a degraded result.
        """
        return self.infer_batch([(task, frame)], colour)[0]

    def infer_batch(self, frames: Sequence[tuple[str, np.ndarray]], colour: Colour = "bgr") -> list[Result]:
        """Answer frames of any tasks with one pass of the ViT.

        Args:
            frames: (task name, frame) pairs, frames as in `infer`.
            colour: Order of the channels of every frame, as in `infer`.

        Returns:
            One result for each, in order; their timings are those of the batch.

        Raises:
            PairingError, DataError, EngineError: as `infer`; then no frame is answered.
        """
        self._process.check()
        if colour not in ORDERS:
            raise DataError("colour", expected=" or ".join(ORDERS), got=repr(colour), do="choose one of them")
        if not frames:
            return []
        with self._lock:
            return self._infer(frames, ORDERS[colour])

    def answer_batch(self, frames: Sequence[tuple[str, np.ndarray]]) -> list[Result]:
        """Answer frames of any tasks as `infer_batch` does, but let no task take the others down.

        If the PGN engine of a task fails, its frames get degraded results that say why, and the others are answered.
        An engine that failed only after more than a second rests for half a minute, so it cannot slow the others down.

        Args:
            frames: (task name, frame) pairs, frames as in `infer`.

        Returns:
            One result for each, in order.

        Raises:
            PairingError, DataError: as `infer`; then no frame is answered.
            EngineError: the ViT engine failed, or the process is a fork; then no frame is answered.
        """
        self._process.check()
        with self._lock:
            tasks = {name: self._task(name) for name, _ in frames}
            return self._bulkhead.answer(frames, tasks, self.infer_batch)

    def _infer(self, frames: Sequence[tuple[str, np.ndarray]], order_of_channels: Order) -> list[Result]:
        # Frames of one task stand together: its PGN takes them in one call, and mixtures of tasks share a chain.
        order = sorted(range(len(frames)), key=lambda index: frames[index][0])
        names = tuple(frames[index][0] for index in order)
        tasks = [self._task(name) for name in names]
        chain = self._chain(names, tasks)
        timings: dict[str, float] = {}
        with _timed(timings, "preprocess"):
            for row, (index, task) in enumerate(zip(order, tasks, strict=True)):
                chain.images[row] = task.facts.preprocess(frames[index][1], order_of_channels)
        timings.update(chain.run())
        with _timed(timings, "head"):
            answers = _answers(tasks, chain)
        canvases = chain.canvases() if self._canvases else None
        timings["total"] = sum(timings.values())
        results = {}
        for row, (index, (scores, degraded)) in enumerate(zip(order, answers, strict=True)):
            labels, best = tasks[row].head.labels, int(scores.argmax())
            label, score = "" if degraded else labels[best], float(scores[best])
            canvas, embedding = None if canvases is None else canvases[row], chain.embeddings[row].copy()
            results[index] = Result(
                *(names[row], label, score, scores, labels, embedding, canvas, timings, degraded),
                bundle=tasks[row].digest,
            )
        return [results[index] for index in range(len(frames))]

    def close(self) -> None:
        """Close every engine; calling twice does no harm. A task that is being loaded meanwhile is an error there."""
        if self._process.is_fork:
            # The threads that the engines would wait for stayed in the parent, and so may the lock.
            self._process.abandon(self._vit, dict(self._tasks), dict(self._chains))
            return
        with self._lock:
            for chain in self._chains.values():
                chain.close()
            for task in self._tasks.values():
                task.close()
            self._chains.clear()
            self._tasks.clear()
            self._swaps.clear()
            self._vit.close()
            self._closed = True

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _task(self, name: str) -> Task:
        if name not in self._tasks:
            loaded = ", ".join(self._tasks) or "none"
            raise PairingError(f"task {name}", expected=f"a loaded task ({loaded})", got=repr(name), do="add it first")
        return self._tasks[name]

    def _chain(self, names: tuple[str, ...], tasks: Sequence[Task]) -> Chain:
        """The chain of a combination of tasks; the one that was not asked for longest makes room for a new one."""
        if len(tasks) == 1:
            return tasks[0].chain
        chain = self._chains.pop(names, None)
        if chain is None:
            while self._chains and sum(map(len, self._chains)) + len(names) > MOST_BOUND:
                self._chains.pop(next(iter(self._chains))).close()
            chain = link(self._vit, [task.pgn for task in tasks], self._loader.width)
        self._chains[names] = chain
        return chain

    def _drop_chains(self, name: str) -> list[Chain]:
        """Take out the chains of batches that hold a task."""
        return [self._chains.pop(names) for names in list(self._chains) if name in names]

    def _close(self, chains: Sequence[Chain], task: Task) -> None:
        """Close what no frame can reach any more."""
        with self._turn:
            for chain in chains:
                chain.close()
            task.close()

    def _require_new(self, name: str) -> None:
        if self._closed:
            raise EngineError(self._vit.name, expected="an open runtime", got="a closed one", do="make a new one")
        if name in self._tasks:
            raise PairingError(f"task {name}", expected="a new name", got="one that is taken", do="choose another name")

    def _width(self) -> int:
        """D, of the embedding."""
        width = self._vit.outputs[self.facts.output].shape[1]
        if width is None:
            canvas = np.zeros([size or 1 for size in canvas_spec(self.facts).shape], self.facts.canvas)
            width = infer_all(self._vit, "canvas", canvas)[self.facts.output].shape[1]
        return width


def _answers(tasks: Sequence[Task], chain: Chain) -> list[tuple[np.ndarray, str]]:
    """Scores of each frame, and what was not finite; the drift of a task is followed where nothing was."""
    answers = []
    for task, embedding, mixtures, flaw in zip(tasks, chain.embeddings, chain.coefficients, chain.flaws(), strict=True):
        scores, degraded = judge(task.head, embedding[None], flaw)
        if task.monitor is not None and mixtures is not None and not degraded:
            task.monitor.observe(mixtures, embedding, float(scores.max()))
        answers.append((scores, degraded))
    return answers


def _require_arguments(vit: object, tasks: object) -> None:
    """Refuse what Python's type hints do not keep out."""
    if not isinstance(vit, str | Path) and not hasattr(vit, "infer"):
        expected, got = "the path of an engine file, an address, or an open engine", type(vit).__name__
        raise EngineError("vit", expected=expected, got=got, do="pass a path such as 'vit.onnx'")
    if tasks is not None and not isinstance(tasks, Mapping):
        expected, do = "bundles by name", "name each bundle: Runtime('vit.onnx', tasks={'pets': 'pets.pgn'})"
        raise PairingError("tasks", expected=expected, got=f"{type(tasks).__name__} {str(tasks)!r}", do=do)


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    start = perf_counter()
    yield
    timings[stage] = (perf_counter() - start) * 1e3

"""One frozen ViT engine and any number of tasks beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import TracebackType

import numpy as np

from pgn_edge.bundle import Bundle, read_bundle
from pgn_edge.contract import EngineFacts
from pgn_edge.errors import EngineError, PairingError
from pgn_edge.runtime.engines import Engine, OnnxRuntimeEngine, OrtOptions, open_engine
from pgn_edge.runtime.engines.base import infer_all
from pgn_edge.runtime.pairing import check_facts, check_golden, check_tensors
from pgn_edge.runtime.result import Result


@dataclass(frozen=True, eq=False)
class _Task:
    """A loaded task.

    Args:
        bundle: as read.
        pgn: its engine.
        image: (1, H, W, 3) uint8, what the PGN reads when frames come one by one.
        paint: runs the PGN from `image` into the runtime's own canvas.
    """

    bundle: Bundle
    pgn: Engine
    image: np.ndarray
    paint: Callable[[], None]


class Runtime:
    """Pairs task bundles with a separately compiled ViT engine, and runs frames through both.

    Every task is checked against the ViT (fingerprint and geometry), and must reproduce its golden pair on
    this device, before its first frame. One thread at a time may call a Runtime; results belong to the caller.

    Frames that come one by one go through arrays that are made once: the PGN writes its canvas where the ViT reads it,
    and nothing is allocated for a frame but what its result keeps.

    Args:
        vit: a ViT engine file from `pgn-edge export-vit`, or an engine that is already open.
        tasks: bundles by name.
        threads: CPU threads of each engine; 0 takes one for each core.

    Raises:
        EngineError: the ViT engine cannot be opened, or is no export of ours.
        BundleError: a bundle is damaged.
        PairingError: a task was not made for this ViT, or does not reproduce its golden pair.
    """

    def __init__(
        self, vit: str | Path | Engine, tasks: Mapping[str, str | Path] | None = None, *, threads: int = 0
    ) -> None:
        self._threads = threads
        self._tasks: dict[str, _Task] = {}
        self._vit = open_engine(vit, OrtOptions(threads=threads)) if isinstance(vit, str | Path) else vit
        try:
            self.facts = EngineFacts.from_metadata(self._vit.metadata, self._vit.name)
            if self.facts.role != "vit":
                raise EngineError(
                    self._vit.name, expected="a ViT engine", got="a PGN engine", do="give the task as a bundle instead"
                )
            check_tensors(self._vit, self.facts)
            self._canvas, self._embedding = self._buffers()
            self._encode = self._vit.bind({"canvas": self._canvas}, {self.facts.output: self._embedding})
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
        """
        if name in self._tasks:
            raise PairingError(f"task {name}", expected="a new name", got="one that is taken", do="choose another name")
        bundle = read_bundle(path)
        check_facts(self.facts, bundle.facts, name)
        pgn = OnnxRuntimeEngine(bundle.pgn_onnx, f"{path}: pgn.onnx", OrtOptions(threads=self._threads))
        try:
            check_tensors(pgn, bundle.facts)
            check_golden(bundle, self._vit, self.facts, pgn)
            image = np.zeros((1, *bundle.facts.geometry.content_hw, 3), np.uint8)
            paint = pgn.bind({"image": image}, {"canvas": self._canvas[:1]})
        except BaseException:
            pgn.close()
            raise
        self._tasks[name] = _Task(bundle, pgn, image, paint)

    @property
    def tasks(self) -> dict[str, Bundle]:
        """Loaded bundles by name."""
        return {name: task.bundle for name, task in self._tasks.items()}

    @property
    def vit(self) -> Engine:
        """The ViT engine."""
        return self._vit

    def infer(self, task: str, frame_bgr: np.ndarray) -> Result:
        """Answer one frame.

        Args:
            task: name of a loaded task.
            frame_bgr: (h, w, 3) uint8 BGR, as OpenCV delivers it, any size.

        Raises:
            PairingError: no such task.
            DataError: not a colour frame.
            EngineError: an engine failed.
        """
        loaded = self._task(task)
        timings: dict[str, float] = {}
        with _timed(timings, "preprocess"):
            loaded.image[0] = loaded.bundle.facts.preprocess(frame_bgr, "BGR")
        with _timed(timings, "pgn"):
            loaded.paint()
        with _timed(timings, "vit"):
            self._encode()
        with _timed(timings, "head"):
            (scores,) = _scores([loaded], self._embedding[:1])
        timings["total"] = sum(timings.values())
        return _result(task, loaded.bundle, scores, self._embedding[0].copy(), self._canvas[0].copy(), timings)

    def infer_batch(self, frames: Sequence[tuple[str, np.ndarray]]) -> list[Result]:
        """Answer frames of any tasks with one pass of the ViT.

        Args:
            frames: (task name, frame) pairs, frames as in `infer`.

        Returns:
            One result for each, in order; their timings are those of the batch.

        Raises:
            PairingError, DataError, EngineError: as `infer`; then no frame is answered.
        """
        if len(frames) < 2:
            return [self.infer(*frame) for frame in frames]
        tasks = [self._task(name) for name, _ in frames]
        timings: dict[str, float] = {}
        with _timed(timings, "preprocess"):
            images = [
                task.bundle.facts.preprocess(frame_bgr, "BGR")[None]
                for task, (_, frame_bgr) in zip(tasks, frames, strict=True)
            ]
        with _timed(timings, "pgn"):
            canvases = self._canvases(tasks, images)
        with _timed(timings, "vit"):
            embeddings = infer_all(self._vit, "canvas", canvases)[self.facts.output]
        with _timed(timings, "head"):
            scores = _scores(tasks, embeddings)
        timings["total"] = sum(timings.values())
        return [
            _result(name, task.bundle, score, embedding, canvas, timings)
            for (name, _), task, score, embedding, canvas in zip(
                frames, tasks, scores, embeddings, canvases, strict=True
            )
        ]

    def close(self) -> None:
        """Close every engine; calling twice does no harm."""
        for task in self._tasks.values():
            task.pgn.close()
        self._tasks.clear()
        self._vit.close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _task(self, name: str) -> _Task:
        if name not in self._tasks:
            loaded = ", ".join(self._tasks) or "none"
            raise PairingError(f"task {name}", expected=f"a loaded task ({loaded})", got=repr(name), do="add it first")
        return self._tasks[name]

    def _buffers(self) -> tuple[np.ndarray, np.ndarray]:
        """A canvas and an embedding of the ViT's smallest batch, zero."""
        batch = self._vit.inputs["canvas"].shape[0] or 1
        canvas = np.zeros((batch, 3, *self.facts.geometry.canvas_hw), np.float32)
        width = self._vit.outputs[self.facts.output].shape[1]
        if width is None:
            width = infer_all(self._vit, "canvas", canvas)[self.facts.output].shape[1]
        return canvas, np.zeros((batch, width), np.float32)

    def _canvases(self, tasks: Sequence[_Task], images: Sequence[np.ndarray]) -> np.ndarray:
        canvases = np.empty((len(tasks), 3, *self.facts.geometry.canvas_hw), np.float32)
        for task in dict.fromkeys(tasks):
            where = [index for index, other in enumerate(tasks) if other is task]
            batch = np.concatenate([images[index] for index in where])
            canvases[where] = task.pgn.infer({"image": batch})["canvas"]
        return canvases


def _scores(tasks: Sequence[_Task], embeddings: np.ndarray) -> list[np.ndarray]:
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and Inf are refused with the result
        return [task.bundle.head.scores(embeddings[i : i + 1])[0] for i, task in enumerate(tasks)]


def _result(
    name: str,
    bundle: Bundle,
    scores: np.ndarray,
    embedding: np.ndarray,
    canvas: np.ndarray,
    timings: dict[str, float],
) -> Result:
    if not np.isfinite(scores).all():
        raise EngineError(f"task {name}", expected="finite scores", got="NaN or Inf", do="check the engine's precision")
    best = int(scores.argmax())
    labels = bundle.head.labels
    return Result(name, labels[best], float(scores[best]), scores, labels, embedding, canvas, timings)


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    start = perf_counter()
    yield
    timings[stage] = (perf_counter() - start) * 1e3

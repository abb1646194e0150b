"""From images to embeddings: PGN and ViT engines whose arrays are made once, on the host or on a GPU.

On a GPU everything between the pinned image and the pinned embedding is one CUDA graph: the image goes up, each PGN
engine writes its canvas where the ViT engine reads it, and the embedding and the mixture coefficients come down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import groupby, pairwise
from time import perf_counter
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from pgn_edge.errors import EngineError, TaskError
from pgn_edge.mixtures import COEFFICIENTS
from pgn_edge.runtime.cuda import Cuda, DeviceArray, Event, Graph
from pgn_edge.runtime.engines.base import DeviceEngine, Engine, parts
from pgn_edge.runtime.guard import flaw

ALIGNMENT = 256  # bytes, of an address that TensorRT takes; rows of odd sizes go through arrays of their own

Step = Callable[[], None]
AnyEngine = TypeVar("AnyEngine", bound=Engine)
Sizes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


class Chain(Protocol):
    """One pass of the ViT engine over frames whose tasks are known beforehand. One thread at a time may use it.

    Attributes:
        images: (n, H, W, 3) uint8 RGB; the caller fills it before a run.
        embeddings: (n, D) float32; overwritten by the next run.
        coefficients: (K, N) float32 of each frame, its mixture coefficients; None where its PGN engine gives none, and
            overwritten by the next run. N is the library size of the frame's own task.
        note: why it is slower than it could be; empty where it is not.
    """

    images: np.ndarray
    embeddings: np.ndarray
    coefficients: list[np.ndarray | None]
    note: str

    def run(self) -> dict[str, float]:
        """Answer what `images` holds.

        Returns:
            Milliseconds by stage.

        Raises:
            TaskError: the PGN engine of one task failed.
            EngineError: another engine failed.
        """

    def flaws(self) -> list[str]:
        """What of the last run is not finite, the first of it for each frame; empty where all is.

        It is `mixture coefficients`, `canvas` (its prompt rows, where they are floats on the host) or `embedding`.
        """

    def canvases(self) -> np.ndarray:
        """A copy of what the ViT engine saw in the last run: (n, 3, H_c, W_c) float32, or (n, H_c, W_c, 3) uint8."""

    def close(self) -> None:
        """Give its memory back; calling twice does no harm."""


def link(vit: Engine, pgns: Sequence[Engine], width: int) -> Chain:
    """Bind a ViT engine and the PGN engine of each frame to common arrays.

    Args:
        vit: input `canvas`, one output.
        pgns: one for each frame, in order; frames of one engine should stand together. Input `image`, output `canvas`,
            and `coefficients` where it has them.
        width: D, of the embedding.

    Raises:
        EngineError: engines that do not share a device, or arrays that one of them cannot use.
    """
    if isinstance(vit, DeviceEngine):
        return CudaChain(vit, _on_one_gpu(vit, pgns), width)
    return HostChain(vit, pgns, width)


class HostChain:
    """See `Chain`; all arrays are numpy's.

    Args:
        vit: as in `link`.
        pgns: as in `link`.
        width: as in `link`.
    """

    note = ""

    def __init__(self, vit: Engine, pgns: Sequence[Engine], width: int) -> None:
        images, canvases, embeddings = _sizes(vit, pgns, width)
        dtype = vit.inputs["canvas"].dtype
        self.images, self._canvases = np.zeros(images, np.uint8), np.zeros(canvases, dtype)
        self._embeddings = np.zeros(embeddings, np.float32)
        self.embeddings = self._embeddings[: len(pgns)]
        (output,) = vit.outputs
        # Under the image, in every layout. Bytes hold no NaN.
        self._prompts = [rows[:, images[1] :] if dtype.kind == "f" else None for rows in self._canvases]
        self.coefficients: list[np.ndarray | None] = []
        self._paint = []
        for pgn, part in _turns(pgns):
            outputs = {name: np.zeros(shape, np.float32) for name, shape in _mixtures(pgn, part).items()}
            self.coefficients.extend(outputs.get(COEFFICIENTS, [None] * (part.stop - part.start)))
            step = pgn.bind({"image": self.images[part]}, {"canvas": self._canvases[part], **outputs})
            self._paint.append(_of_task(step))
        self._encode = [
            vit.bind({"canvas": self._canvases[part]}, {output: self._embeddings[part]})
            for part in parts(vit.inputs["canvas"], 0, len(pgns))
        ]

    def run(self) -> dict[str, float]:
        """See `Chain.run`."""
        start = perf_counter()
        for step in self._paint:
            step()
        painted = perf_counter()
        for step in self._encode:
            step()
        return {"pgn": (painted - start) * 1e3, "vit": (perf_counter() - painted) * 1e3}

    def flaws(self) -> list[str]:
        """See `Chain.flaws`."""
        # The canvas too: a ViT in int8 makes ordinary numbers of NaN.
        rows = zip(self.coefficients, self._prompts, self.embeddings, strict=False)
        return [flaw({"mixture coefficients": c, "canvas": canvas, "embedding": e}) for c, canvas, e in rows]

    def canvases(self) -> np.ndarray:
        """See `Chain.canvases`."""
        return self._canvases[: len(self.images)].copy()

    def close(self) -> None:
        """See `Chain.close`: numpy's arrays go with the last reference."""


class CudaChain:
    """See `Chain`; canvases never leave the GPU unless they are asked for.

    Args:
        vit: as in `link`.
        pgns: as in `link`, on the same GPU.
        width: as in `link`.
    """

    def __init__(self, vit: DeviceEngine, pgns: Sequence[DeviceEngine], width: int) -> None:
        self._cuda = vit.cuda
        images, canvases, embeddings = _sizes(vit, pgns, width)
        kind = vit.inputs["canvas"].dtype
        with ExitStack() as owned:
            self.images, self._answers = (
                _pinned(self._cuda, owned, shape, dtype)
                for shape, dtype in ((images, np.uint8), (embeddings, np.float32))
            )
            self._device_images, self._canvases, self._device_embeddings = (
                _array(self._cuda, owned, shape, dtype)
                for shape, dtype in ((images, np.uint8), (canvases, kind), (embeddings, np.float32))
            )
            self.embeddings = self._answers[: len(pgns)]
            self.coefficients: list[np.ndarray | None] = []
            self._stages = self._bind(vit, pgns, owned)
            owned.callback(self._stages.clear)  # with them go what the libraries hold for each binding
            self._marks = [_event(self._cuda, owned) for _ in range(len(self._stages) + 1)]
            self._queue()  # TensorRT loads kernels and takes memory in the first run, which no graph may record
            self._cuda.synchronize()
            self._launch, self.note = self._record(owned, [vit, *pgns])
            self._owned = owned.pop_all()

    def _bind(self, vit: DeviceEngine, pgns: Sequence[DeviceEngine], owned: ExitStack) -> dict[str, list[Step]]:
        images, canvases, embeddings = self._device_images, self._canvases, self._device_embeddings
        stages: dict[str, list[Step]] = {"upload": [lambda: self._cuda.upload(images, self.images)], "pgn": []}
        download: list[Step] = [lambda: self._cuda.download(self._answers, embeddings)]
        for pgn, part in _turns(pgns):
            rows = images.rows(part.start, part.stop), canvases.rows(part.start, part.stop)
            more = {name: _array(self._cuda, owned, shape, np.float32) for name, shape in _mixtures(pgn, part).items()}
            stages["pgn"] += map(_of_task, self._call(pgn, rows, more, owned))
            down = {name: _pinned(self._cuda, owned, array.shape, array.dtype) for name, array in more.items()}
            download += [partial(self._cuda.download, down[name], array) for name, array in more.items()]
            self.coefficients.extend(down.get(COEFFICIENTS, [None] * (part.stop - part.start)))
        stages["vit"] = [
            step
            for part in parts(vit.inputs["canvas"], 0, len(pgns))
            for step in self._call(vit, tuple(a.rows(part.start, part.stop) for a in (canvases, embeddings)), {}, owned)
        ]
        return {**stages, "download": download}

    def _call(
        self, engine: DeviceEngine, rows: tuple[DeviceArray, ...], more: Mapping[str, DeviceArray], owned: ExitStack
    ) -> list[Step]:
        """Steps that run an engine from rows of one array to rows of another; `more` are outputs beside it."""
        cuda, (read,), (written,) = self._cuda, engine.inputs, engine.outputs.keys() - more.keys()
        source, target = rows
        if not (source.address % ALIGNMENT or target.address % ALIGNMENT):
            return [engine.bind_device({read: source}, {written: target, **more})]
        here, there = (_array(cuda, owned, array.shape, array.dtype) for array in (source, target))
        queue = engine.bind_device({read: here}, {written: there, **more})
        return [lambda: cuda.copy(here, source), queue, lambda: cuda.copy(target, there)]

    def _queue(self) -> None:
        self._marks[0].record()
        for steps, mark in zip(self._stages.values(), self._marks[1:], strict=True):
            for step in steps:
                step()
            mark.record()

    def _record(self, owned: ExitStack, engines: Sequence[DeviceEngine]) -> tuple[Step, str]:
        """What queues one run, and why it is not one graph if it is none."""
        stubborn = [engine.name for engine in engines if not engine.capturable]
        if stubborn:
            return self._queue, f"no CUDA graph over the chain: {stubborn[0]} keeps its own"
        try:
            graph: Graph = self._cuda.capture(self._queue)
        except EngineError as exc:
            # Slower by the launches alone, and the reader of a report is told.
            return self._queue, f"no CUDA graph over the chain: {exc}"
        owned.callback(graph.close)
        return graph.launch, ""

    def run(self) -> dict[str, float]:
        """See `Chain.run`; the times are those of the GPU."""
        self._launch()
        self._cuda.synchronize()
        pairs = pairwise(self._marks)
        return {name: after.elapsed_ms(before) for name, (before, after) in zip(self._stages, pairs, strict=True)}

    def flaws(self) -> list[str]:
        """See `Chain.flaws`; what is on both sides of the canvas speaks for it."""
        rows = zip(self.coefficients, self.embeddings, strict=True)
        return [flaw({"mixture coefficients": c, "embedding": embedding}) for c, embedding in rows]

    def canvases(self) -> np.ndarray:
        """See `Chain.canvases`."""
        copy = np.empty(self._canvases.shape, self._canvases.dtype)
        self._cuda.download(copy, self._canvases)
        self._cuda.synchronize()
        return copy[: len(self.images)]

    def close(self) -> None:
        """See `Chain.close`."""
        self._owned.close()


def _of_task(step: Step) -> Step:
    """A step of one task, whose errors say so."""

    def run() -> None:
        try:
            step()
        except EngineError as exc:
            raise TaskError(exc.subject, expected=exc.expected, got=exc.got, do=exc.do) from exc

    return run


def _turns(pgns: Sequence[AnyEngine]) -> Iterator[tuple[AnyEngine, slice]]:
    """Each engine with the frames of one of its calls."""
    start = 0
    for _, group in groupby(pgns, key=id):
        run = list(group)
        for part in parts(run[0].inputs["image"], start, start + len(run)):
            yield run[0], part
        start += len(run)


def _mixtures(pgn: Engine, part: slice) -> dict[str, tuple[int, ...]]:
    """Shape of the mixture coefficients of some frames, under the output's name; nothing where an engine has none."""
    spec = pgn.outputs.get(COEFFICIENTS)
    return {} if spec is None else {COEFFICIENTS: (part.stop - part.start, *(size or 0 for size in spec.shape[1:]))}


def _sizes(vit: Engine, pgns: Sequence[Engine], width: int) -> Sizes:
    """Shapes of images, canvases and embeddings; the last two as long as the ViT's calls reach."""
    last = parts(vit.inputs["canvas"], 0, len(pgns))[-1].stop
    image, canvas = (
        tuple(size or 0 for size in spec.shape[1:]) for spec in (pgns[0].inputs["image"], vit.inputs["canvas"])
    )
    return (len(pgns), *image), (last, *canvas), (last, width)


def _array(cuda: Cuda, owned: ExitStack, shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
    array = cuda.empty(shape, dtype)
    owned.callback(array.close)
    return array


def _pinned(cuda: Cuda, owned: ExitStack, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    array = cuda.pinned(shape, dtype)
    owned.callback(cuda.release, array)
    return array


def _event(cuda: Cuda, owned: ExitStack) -> Event:
    event = cuda.event()
    owned.callback(event.close)
    return event


def _on_one_gpu(vit: DeviceEngine, pgns: Sequence[Engine]) -> list[DeviceEngine]:
    here = [pgn for pgn in pgns if isinstance(pgn, DeviceEngine) and pgn.cuda is vit.cuda]
    if len(here) < len(pgns):
        strange = next(pgn for pgn in pgns if pgn not in here)
        raise EngineError(
            strange.name,
            expected=f"a PGN engine on {vit.device}, as the ViT engine",
            got=strange.device,
            do="open both with one Runtime",
        )
    return here

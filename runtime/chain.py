"""From images to embeddings: PGN and ViT engines whose arrays are made once, on the host or on a GPU.

On a GPU everything between the pinned image and the pinned embedding is one CUDA graph: the image goes up, each PGN
engine writes its canvas where the ViT engine reads it, and the embedding comes down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby, pairwise
from time import perf_counter
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from pgn_edge.errors import EngineError
from pgn_edge.runtime.cuda import Cuda, DeviceArray, Event, Graph
from pgn_edge.runtime.engines.base import DeviceEngine, Engine, parts

ALIGNMENT = 256  # bytes, of an address that TensorRT takes; rows of odd sizes go through arrays of their own

Step = Callable[[], None]
AnyEngine = TypeVar("AnyEngine", bound=Engine)
Sizes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


class Chain(Protocol):
    """One pass of the ViT engine over frames whose tasks are known beforehand. One thread at a time may use it.

    Attributes:
        images: (n, H, W, 3) uint8 RGB; the caller fills it before a run.
        embeddings: (n, D) float32; overwritten by the next run.
        note: why it is slower than it could be; empty where it is not.
    """

    images: np.ndarray
    embeddings: np.ndarray
    note: str

    def run(self) -> dict[str, float]:
        """Answer what `images` holds.

        Returns:
            Milliseconds by stage.

        Raises:
            EngineError: an engine failed.
        """

    def canvases(self) -> np.ndarray:
        """A copy of what the ViT engine saw in the last run: (n, 3, H_c, W_c) float32."""

    def close(self) -> None:
        """Give its memory back; calling twice does no harm."""


def link(vit: Engine, pgns: Sequence[Engine], width: int) -> Chain:
    """Bind a ViT engine and the PGN engine of each frame to common arrays.

    Args:
        vit: input `canvas`, one output.
        pgns: one for each frame, in order; frames of one engine should stand together. Input `image`, output `canvas`.
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
        self.images, self._canvases = np.zeros(images, np.uint8), np.zeros(canvases, np.float32)
        self._embeddings = np.zeros(embeddings, np.float32)
        self.embeddings = self._embeddings[: len(pgns)]
        (output,) = vit.outputs
        self._paint = [
            pgn.bind({"image": self.images[part]}, {"canvas": self._canvases[part]}) for pgn, part in _turns(pgns)
        ]
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
        with ExitStack() as owned:
            self.images, self._answers = (
                _pinned(self._cuda, owned, shape, dtype)
                for shape, dtype in ((images, np.uint8), (embeddings, np.float32))
            )
            self._device_images, self._canvases, self._device_embeddings = (
                _array(self._cuda, owned, shape, dtype)
                for shape, dtype in ((images, np.uint8), (canvases, np.float32), (embeddings, np.float32))
            )
            self.embeddings = self._answers[: len(pgns)]
            self._stages = self._bind(vit, pgns, owned)
            owned.callback(self._stages.clear)  # with them go what the libraries hold for each binding
            self._marks = [_event(self._cuda, owned) for _ in range(len(self._stages) + 1)]
            self._queue()  # TensorRT loads kernels and takes memory in the first run, which no graph may record
            self._cuda.synchronize()
            self._launch, self.note = self._record(owned, [vit, *pgns])
            self._owned = owned.pop_all()

    def _bind(self, vit: DeviceEngine, pgns: Sequence[DeviceEngine], owned: ExitStack) -> dict[str, list[Step]]:
        images, canvases, embeddings = self._device_images, self._canvases, self._device_embeddings
        return {
            "upload": [lambda: self._cuda.upload(images, self.images)],
            "pgn": [step for pgn, part in _turns(pgns) for step in self._call(pgn, (images, canvases), part, owned)],
            "vit": [
                step
                for part in parts(vit.inputs["canvas"], 0, len(pgns))
                for step in self._call(vit, (canvases, embeddings), part, owned)
            ],
            "download": [lambda: self._cuda.download(self._answers, embeddings)],
        }

    def _call(
        self, engine: DeviceEngine, arrays: tuple[DeviceArray, DeviceArray], part: slice, owned: ExitStack
    ) -> list[Step]:
        """Steps that run an engine from rows of one array to the same rows of another."""
        cuda, (read,), (written,) = self._cuda, engine.inputs, engine.outputs
        source, target = (array.rows(part.start, part.stop) for array in arrays)
        if not (source.address % ALIGNMENT or target.address % ALIGNMENT):
            return [engine.bind_device({read: source}, {written: target})]
        here, there = (_array(cuda, owned, array.shape, array.dtype) for array in (source, target))
        queue = engine.bind_device({read: here}, {written: there})
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

    def canvases(self) -> np.ndarray:
        """See `Chain.canvases`."""
        copy = np.empty(self._canvases.shape, np.float32)
        self._cuda.download(copy, self._canvases)
        self._cuda.synchronize()
        return copy[: len(self.images)]

    def close(self) -> None:
        """See `Chain.close`."""
        self._owned.close()


def _turns(pgns: Sequence[AnyEngine]) -> Iterator[tuple[AnyEngine, slice]]:
    """Each engine with the frames of one of its calls."""
    start = 0
    for _, group in groupby(pgns, key=id):
        run = list(group)
        for part in parts(run[0].inputs["image"], start, start + len(run)):
            yield run[0], part
        start += len(run)


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

"""Decoded and preprocessed images of a split: kept in memory where they fit, read ahead by threads where not."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np

from pgn_edge.errors import DataError
from pgn_edge.left_out import LeftOut, Reason
from pgn_edge.preprocess import Preprocess
from pgn_edge.train.data.samples import Arrays, Samples

CACHE_BYTES = 2 << 30  # of preprocessed images; what would take more is decoded in every epoch
MOST_WORKERS = 8
AHEAD = 4  # batches that are being decoded while one is trained on

Picture = tuple[np.ndarray, int] | None  # an image and its index, or nothing if it cannot be read
Read = Callable[[int], Picture]


def thread_count(workers: int | None) -> int:
    """Threads to decode with: as many as were asked for, or one for each core that may be used, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS) if workers is None else workers


class Pictures:
    """Preprocessed images of a split, each decoded once where all of them fit into `CACHE_BYTES`.

    Any number of threads may read at once.

    Args:
        samples: the split.
        preprocess: frame -> image of the PGN.
        left_out: counts what cannot be read.
    """

    def __init__(self, samples: Samples, preprocess: Preprocess, left_out: LeftOut) -> None:
        self.samples, self.preprocess, self.left_out = samples, preprocess, left_out
        self.bad: set[int] = set()
        shape = (len(samples), *preprocess.size_hw, 3)
        self._kept: np.ndarray | None = None
        self._known = np.zeros(len(samples), bool)
        if isinstance(samples, Arrays) and samples.images.shape == shape:
            self._kept, self._known[:] = samples.images, True
        elif math.prod(shape) <= CACHE_BYTES:
            self._kept = np.empty(shape, np.uint8)

    @property
    def in_memory(self) -> bool:
        """Whether nothing is left to decode."""
        return self._kept is not None and int(self._known.sum()) + len(self.bad) == len(self._known)

    def read(self, index: int) -> Picture:
        """The preprocessed image `index`, (H, W, 3) uint8, or None if it cannot be read."""
        if self._kept is not None and self._known[index]:
            return self._kept[index], index
        frame = self.frame(index)
        if frame is None:
            return None
        image = self.preprocess(frame)
        if self._kept is not None:
            self._kept[index] = image
            self._known[index] = True  # last: another thread may be looking
        return image, index

    def frame(self, index: int) -> np.ndarray | None:
        """The decoded image `index` at its own size, or None if it cannot be read."""
        if index in self.bad:
            return None
        try:
            return self.samples.read(index)
        except DataError as exc:
            self.left_out.add(self.samples.name(index), Reason.UNREADABLE, exc)
            self.bad.add(index)
            return None


def unreadable(left_out: LeftOut) -> DataError:
    """What to raise where not one image of a split can be read."""
    got = left_out.first() or "no image"
    return DataError("images", expected="at least one that can be read", got=got, do="check the files")


class Ahead:
    """Reads groups of images in order, up to `AHEAD` groups before they are asked for.

    Args:
        read: index -> image; called by many threads at once.
        workers: threads; 0 reads in the caller's own.
    """

    def __init__(self, read: Read, workers: int) -> None:
        self.read = read
        # Pillow, OpenCV and reading a file let go of the interpreter, so threads do run side by side.
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="decode") if workers else None

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *reason: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def over(self, groups: Iterable[Iterable[int]]) -> Iterator[list[Picture]]:
        """The images of each group."""
        if self.pool is None:
            for group in groups:
                yield [self.read(int(index)) for index in group]
            return
        rest = iter(groups)
        waiting: deque[list[Future[Picture]]] = deque(self._ask(group) for group in islice(rest, AHEAD))
        while waiting:
            futures = waiting.popleft()
            waiting.extend(self._ask(group) for group in islice(rest, 1))
            yield [future.result() for future in futures]

    def _ask(self, group: Iterable[int]) -> list[Future[Picture]]:
        assert self.pool is not None
        return [self.pool.submit(self.read, int(index)) for index in group]

"""From samples to batches: threads decode ahead of the training step, and small sets stay in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

from pgn_edge.errors import DataError
from pgn_edge.left_out import LeftOut
from pgn_edge.nn.canvas import to_input
from pgn_edge.preprocess import Preprocess
from pgn_edge.train.augment import light_table, paper
from pgn_edge.train.config import Schedule
from pgn_edge.train.data.samples import Samples
from pgn_edge.train.pictures import Ahead, Picture, Pictures, Read, thread_count, unreadable

EVALUATION_BATCH = 128


def in_order(
    samples: Samples,
    preprocess: Preprocess,
    *,
    batch: int = EVALUATION_BATCH,
    workers: int | None = None,
    left_out: LeftOut | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All images of a split in its order, preprocessed.

    Args:
        samples: the split.
        preprocess: frame -> image of the PGN.
        batch: images in a batch, at most.
        workers: threads that decode; None for as many as there are cores, at most 8.
        left_out: counts what cannot be read; None leaves it out in silence.

    Yields:
        (B, H, W, 3) uint8 RGB images, and the indices (B,) int64 of those that could be read.

    Raises:
        DataError: an image cannot be read and `skipped` is strict.
    """
    yield from in_groups(Pictures(samples, preprocess, left_out or LeftOut()), range(len(samples)), batch, workers)


def in_groups(
    pictures: Pictures, indices: Sequence[int], batch: int, workers: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """As `in_order`, for some of the images."""
    groups = [indices[start : start + batch] for start in range(0, len(indices), batch)]
    with Ahead(pictures.read, _threads(pictures, workers)) as ahead:
        for found in ahead.over(groups):
            readable = [picture for picture in found if picture is not None]
            if readable:
                yield np.stack([image for image, _ in readable]), np.array([index for _, index in readable])


def read_all(samples: Samples, preprocess: Preprocess, left_out: LeftOut | None = None) -> np.ndarray:
    """All readable images of a small split, (n, H, W, 3) uint8 RGB, preprocessed; arguments as of `in_order`."""
    parts = [images for images, _ in in_order(samples, preprocess, left_out=left_out)]
    return np.concatenate(parts) if parts else np.empty((0, *preprocess.size_hw, 3), np.uint8)


@torch.no_grad()
def answers(
    model: nn.Module,
    pictures: Pictures,
    indices: Sequence[int],
    workers: int | None,
    batch: int = EVALUATION_BATCH,
) -> Iterator[tuple[Tensor, np.ndarray]]:
    """Logits (B, C) of images in groups of `batch`, in evaluation mode where the model lies, and their indices (B,)."""
    model.eval()
    tensors = chain(model.parameters(), model.buffers())
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    for images, found in in_groups(pictures, indices, batch, workers):
        yield model(to_input(torch.from_numpy(images), pictures.preprocess, device)), found


@dataclass(frozen=True)
class Part:
    """What one process works on at a time.

    Args:
        images: (b, H, W, 3) uint8 RGB.
        labels: (b,) int64.
        changes: (b, 17) rows of `light_table`, or None where images stay as they are.
        weight: share of the images of the whole step that are in here, 0..1.
    """

    images: Tensor
    labels: Tensor
    changes: Tensor | None
    weight: float


class TrainLoader:
    """Shuffled batches of training images.

    Order and augmentation depend on seed, epoch and index alone: not on threads, processes, or where a run resumed. An
    image that cannot be read is counted, and the next readable one takes its place.

    Args:
        pictures: of the training split.
        schedule: batch, parts of a batch, augmentation and seed.
        workers: threads that decode; None for as many as there are cores, at most 8.
        place: number of this process, and how many there are.
    """

    def __init__(
        self, pictures: Pictures, schedule: Schedule, workers: int | None = None, place: tuple[int, int] = (0, 1)
    ) -> None:
        self.pictures, self.schedule, self.workers = pictures, schedule, workers
        self.process, self.processes = place
        self.waited_s = 0.0
        self._asked_s = 0.0

    @property
    def steps(self) -> int:
        """Steps in an epoch; none of a single image, with which batch norm may have nothing to average over."""
        count = len(self.pictures.samples)
        return max(1, min(math.ceil(count / self.schedule.batch), count // max(2, self.processes)))

    @property
    def waiting(self) -> float:
        """Share of the time since the epoch began that training stood still for images, 0..1."""
        return self.waited_s / max(perf_counter() - self._asked_s, 1e-9)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[Part]]:
        """Parts of each step of one epoch.

        Args:
            epoch: its number, from 0.
            start: steps to leave out at the beginning.

        Raises:
            DataError: fewer images than processes, no image can be read, or one cannot and the count is strict.
        """
        samples = self.pictures.samples
        if len(samples) < self.processes:
            got = f"{len(samples)} for {self.processes} processes"
            raise DataError("training images", expected="one for each process", got=got, do="take fewer processes")
        generator = torch.Generator().manual_seed(self.schedule.seed * 100_003 + epoch)
        order = torch.randperm(len(samples), generator=generator).numpy()
        table = light_table(len(samples), generator) if self.schedule.augment == "light" else None
        chosen = np.array_split(order, self.steps)[start:]
        plan = [self._parts(indices) for indices in chosen]
        self.waited_s, self._asked_s = 0.0, perf_counter()
        with Ahead(self._reader(epoch), self._threads()) as ahead:
            groups = ahead.over([own for parts in plan for own in parts])
            for indices, parts in zip(chosen, plan, strict=True):
                yield [self._part(own, found, len(indices), table) for own, found in self._timed(groups, parts)]

    def _parts(self, indices: np.ndarray) -> list[np.ndarray]:
        """This process's share of each part of a step."""
        pieces = max(1, min(self.schedule.accumulate, len(indices) // max(2, self.processes)))
        return [piece[self.process :: self.processes] for piece in np.array_split(indices, pieces)]

    def _timed(
        self, groups: Iterator[list[Picture]], parts: list[np.ndarray]
    ) -> Iterator[tuple[np.ndarray, list[Picture]]]:
        for own in parts:
            began = perf_counter()
            found = next(groups)
            self.waited_s += perf_counter() - began
            yield own, found

    def _part(self, own: np.ndarray, found: list[Picture], total: int, table: Tensor | None) -> Part:
        pictures = [picture for picture in found if picture is not None]  # the reader leaves no gap
        labels = self.pictures.samples.labels[[index for _, index in pictures]]
        return Part(
            torch.from_numpy(np.stack([image for image, _ in pictures])),
            torch.from_numpy(np.asarray(labels, np.int64)),
            None if table is None else table[torch.from_numpy(own)],
            len(own) / total,
        )

    def _threads(self) -> int:
        if self.schedule.augment == "paper":
            return thread_count(self.workers)
        return _threads(self.pictures, self.workers)

    def _reader(self, epoch: int) -> Read:
        """What reads an image of this epoch, and the next one that can be read in the place of one that cannot."""
        count = len(self.pictures.samples)

        def augmented(index: int, place: int) -> Picture:
            frame = self.pictures.frame(index)
            if frame is None:
                return None
            random = np.random.default_rng((self.schedule.seed, epoch, place))
            return paper(frame, self.pictures.preprocess.size_hw, random), index

        def read(place: int) -> Picture:
            for step in range(count):
                index = (place + step) % count
                found = augmented(index, place) if self.schedule.augment == "paper" else self.pictures.read(index)
                if found is not None:
                    return found
            raise unreadable(self.pictures.left_out)

        return read


def _threads(pictures: Pictures, workers: int | None) -> int:
    return 0 if pictures.in_memory else thread_count(workers)

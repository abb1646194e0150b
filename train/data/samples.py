"""Images with labels, read one at a time: kept in memory, as files, as a part of others, or as several in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from pgn_edge.images import read_image
from pgn_edge.left_out import LeftOut
from pgn_edge.progress import Progress, silent


@dataclass(frozen=True)
class Reading:
    """How image files are listed and read.

    Args:
        left_out: Account of files and folders that do not count.
        white: Value of white in files of 16 bits a channel; None as for `read_image`.
        progress: Listener that is told of images listed.
    """

    left_out: LeftOut = field(default_factory=LeftOut)
    white: int | None = None
    progress: Progress = silent


class Samples(Protocol):
    """What training reads images from; any number of threads may read at once."""

    @property
    def labels(self) -> np.ndarray:
        """(n,) int64 class indices."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> np.ndarray:
        """Decode one image now.

        Args:
            index: 0..n-1.

        Returns:
            (h, w, 3) uint8 RGB, the caller's own.

        Raises:
            DataError: it is missing, truncated or no image; the error names the file.
        """

    def name(self, index: int) -> str:
        """What messages call this image."""


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images in memory, all of one size.

    Args:
        images: (n, h, w, 3) uint8 RGB.
        labels: (n,) int64.
        title: what messages call the whole.
    """

    images: np.ndarray
    labels: np.ndarray
    title: str

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> np.ndarray:
        """As `Samples.read`."""
        return np.array(self.images[index])

    def name(self, index: int) -> str:
        """As `digits/test[12]`."""
        return f"{self.title}[{index}]"


@dataclass(frozen=True, eq=False)
class Files:
    """Image files, decoded when they are read.

    Args:
        paths: n files; they need not exist until they are read.
        labels: (n,) int64.
        white: value of white in files of 16 bits a channel; None as for `read_image`.
    """

    paths: Sequence[Path]
    labels: np.ndarray
    white: int | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> np.ndarray:
        """As `Samples.read`."""
        return read_image(self.paths[index], self.white)

    def name(self, index: int) -> str:
        """Path of the file."""
        return str(self.paths[index])


@dataclass(frozen=True, eq=False)
class Subset:
    """Some samples of others, in an order of its own.

    Args:
        source: what they are taken from.
        indices: (m,) int64, which of them.
    """

    source: Samples
    indices: np.ndarray

    @cached_property
    def labels(self) -> np.ndarray:
        """(m,) int64 class indices."""
        return np.asarray(self.source.labels[self.indices])

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> np.ndarray:
        """As `Samples.read`."""
        return self.source.read(int(self.indices[index]))

    def name(self, index: int) -> str:
        """As the source calls it."""
        return self.source.name(int(self.indices[index]))


@dataclass(frozen=True, eq=False)
class Joined:
    """Several sources after one another, each with classes of its own.

    Args:
        sources: in order.
        shifts: what is added to the labels of each, so that no two sources share a class.
    """

    sources: Sequence[Samples]
    shifts: Sequence[int]

    @cached_property
    def labels(self) -> np.ndarray:
        """(n,) int64 class indices over the classes of all sources."""
        pairs = zip(self.sources, self.shifts, strict=True)
        return np.concatenate([source.labels + shift for source, shift in pairs])

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([len(source) for source in self.sources])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, index: int) -> np.ndarray:
        """As `Samples.read`."""
        source, own = self.find(index)
        return source.read(own)

    def name(self, index: int) -> str:
        """As its source calls it."""
        source, own = self.find(index)
        return source.name(own)

    def find(self, index: int) -> tuple[Samples, int]:
        """The source that an image comes from, and its index there."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        which = int(np.searchsorted(self._ends, index, side="right"))
        return self.sources[which], index - int(self._ends[which]) + len(self.sources[which])

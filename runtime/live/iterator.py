"""Frames that the app's own code makes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from types import TracebackType

import numpy as np

from pgn_edge.errors import DataError
from pgn_edge.runtime.sources import DEFAULT_FPS, Frame, Missing


class IteratorSource:
    """Frames of a Python iterable, taken one by one when they are asked for.

    Args:
        images: (h, w, 3) uint8 BGR; (h, w) and (h, w, 1) grey and (h, w, 4) BGRA are turned into BGR.
    """

    def __init__(self, images: Iterable[np.ndarray]) -> None:
        self.name, self.fps, self.missing = "iterator", DEFAULT_FPS, Missing()
        self.count: int | None = None
        self._images = images

    def __iter__(self) -> Iterator[Frame]:
        return _Frames(self.name, self._images)

    def __enter__(self) -> IteratorSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class _Frames:
    """Frames one by one; after an image that was refused the next one can be asked for, which no generator could."""

    def __init__(self, name: str, images: Iterable[np.ndarray]) -> None:
        self._name, self._images = name, enumerate(images)

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        index, image = next(self._images)
        captured_s = time.monotonic()
        name = f"{self._name}#{index}"
        image_bgr = _bgr(image, name)
        age_ms = (time.monotonic() - captured_s) * 1e3
        return Frame(index, name, None, image_bgr, captured_s, age_ms, index, camera=self._name)


def _bgr(image: object, name: str) -> np.ndarray:
    if not isinstance(image, np.ndarray):
        raise _refusal(name, type(image).__name__)
    if image.dtype != np.uint8 or not image.size or image.ndim not in (2, 3):
        raise _refusal(name, f"{image.dtype} of shape {image.shape}")
    if image.ndim == 2:
        image = image[..., None]
    if image.shape[2] not in (1, 3, 4):
        raise _refusal(name, f"{image.shape[2]} channels")
    if image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    return np.ascontiguousarray(image[..., :3])


def _refusal(name: str, got: str) -> DataError:
    return DataError(name, expected="an image, (h, w, 3) uint8 BGR", got=got, do="convert frames before they are given")

"""Pictures to write and to find again, a check of what a reader gave, and a pickler that writes as Python 2 did."""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from pgn_edge.train.data.dataset import Parts
from pgn_edge.train.data.samples import Samples

TOLERANCE = 4  # a JPEG of quality 95 in flat blocks


class Pictures:
    """Writes images that differ from one another by far more than a JPEG's error, and knows them again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pixels: dict[Path, np.ndarray] = {}

    def write(self, name: str) -> None:
        path, number = self.root / name, len(self.pixels) + 1
        image = np.empty((16, 24, 3), np.uint8)
        image[:8] = (number * 37 % 256, number * 91 % 256, number * 151 % 256)
        image[8:] = (number * 67 % 256, 255 - number * 29 % 256, number * 13 % 256)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, quality=95, subsampling=0)
        self.pixels[path] = image

    def check(self, samples: Samples, expected: Sequence[tuple[str, int]]) -> None:
        """These images with these labels, in this order."""
        assert samples.labels.dtype == np.int64
        assert samples.labels.tolist() == [label for _, label in expected]
        assert len(samples) == len(expected)
        for index, (name, _) in enumerate(expected):
            path = self.root / name
            assert Path(samples.name(index)) == path
            error = samples.read(index).astype(int) - self.pixels[path]
            assert np.abs(error).max() <= TOLERANCE, name


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    return Pictures(tmp_path)


@pytest.fixture
def listing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], Parts], Path], Parts]:
    """Call a reader while no image can be opened."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("an image was opened while its data set was listed")

    def run(read: Callable[[Path], Parts], root: Path) -> Parts:
        with monkeypatch.context() as patch:
            patch.setattr(Image, "open", refuse)
            return read(root)

    return run


class _Python2Pickler(pickle._Pickler):
    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, value: str | bytes) -> None:
        raw = value.encode("latin-1") if isinstance(value, str) else value
        short = pickle.SHORT_BINSTRING + bytes([len(raw) % 256])
        self.write(short if len(raw) < 256 else pickle.BINSTRING + struct.pack("<i", len(raw)))
        self.write(raw)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


@pytest.fixture(scope="session")
def python2_pickle() -> Callable[[Any], bytes]:
    """Protocol 2 as Python 2's cPickle wrote CIFAR: byte strings throughout, and numpy's old module path."""

    def dump(value: Any) -> bytes:
        file = io.BytesIO()
        _Python2Pickler(file, 2).dump(value)
        data = file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")

        return data

    return dump

"""Samples: read one at a time, in the order that is asked for, and never before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pgn_edge.errors import DataError
from pgn_edge.train.data import Arrays, Files, Joined, Subset


def arrays(count: int, first: int = 0, title: str = "grey") -> Arrays:
    """Images of 2 x 3 pixels, each of its own grey; the label is the parity."""
    greys = np.arange(first, first + count, dtype=np.uint8)
    return Arrays(np.tile(greys[:, None, None, None], (1, 2, 3, 3)), greys.astype(np.int64) % 2, title)


def test_an_image_that_was_read_is_the_readers_own():
    samples = arrays(3)
    samples.read(1)[:] = 200
    assert samples.read(1).max() == 1
    assert (len(samples), samples.name(1)) == (3, "grey[1]")


def test_files_are_decoded_when_they_are_read_and_not_before(tmp_path: Path):
    path = tmp_path / "late.png"
    samples = Files([path, tmp_path / "never.png"], np.array([0, 1]))
    Image.new("RGB", (3, 2), (9, 8, 7)).save(path)
    assert samples.read(0).shape == (2, 3, 3)
    assert samples.read(0)[0, 0].tolist() == [9, 8, 7]
    assert samples.name(0) == str(path)
    with pytest.raises(DataError, match=r"never\.png: expected an image, got no such file"):
        samples.read(1)


def test_a_part_of_a_part_keeps_image_label_and_name_together():
    inner = Subset(arrays(10), np.array([9, 2, 5, 4]))
    outer = Subset(inner, np.array([3, 0]))
    assert [outer.read(index).max() for index in range(len(outer))] == [4, 9]
    assert outer.labels.tolist() == [0, 1]
    assert outer.name(1) == "grey[9]"


def test_joined_sources_have_classes_of_their_own():
    joined = Joined([arrays(2), arrays(0), arrays(3, first=7, title="other")], [0, 2, 4])
    assert joined.labels.tolist() == [0, 1, 5, 4, 5]
    assert [int(joined.read(index)[0, 0, 0]) for index in range(len(joined))] == [0, 1, 7, 8, 9]
    assert [joined.name(1), joined.name(2)] == ["grey[1]", "other[0]"]


@pytest.mark.parametrize("index", [5, -1])
def test_joined_sources_end(index: int):
    with pytest.raises(IndexError):
        Joined([arrays(2), arrays(3)], [0, 2]).read(index)

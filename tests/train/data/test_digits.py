"""The embedded digits: the same frames for ever, splits that share nothing."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from pgn_edge.train.data import Arrays, DataSet, load_data
from pgn_edge.train.digits import SPLITS, digit_frames


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load_data("digits")


def splits(data: DataSet) -> dict[str, Arrays]:
    found = {"train": data.train, "validation": data.validation, "test": data.test}
    return {name: samples for name, samples in found.items() if isinstance(samples, Arrays)}


def contents(samples: Arrays) -> set[bytes]:
    return {image.tobytes() for image in samples.images}


def test_frames_are_the_ones_that_results_were_measured_on():
    # Decoded and drawn by the releases that constraints.txt holds.
    frames, labels = digit_frames()
    digest = hashlib.sha256(frames.tobytes() + labels.tobytes()).hexdigest()
    assert digest == "20353a0fbe5f77147a2db4ec105c4be60055d34f044b5602c7546c6572b811f0"


def test_digits_are_1797_frames_of_real_handwriting(digits: DataSet):
    sizes = {name: len(samples) for name, samples in splits(digits).items()}
    assert sizes == {"train": 1097, "validation": 300, "test": 400}
    for samples in splits(digits).values():
        assert samples.images.shape == (len(samples), 64, 64, 3)
        assert (samples.images.dtype, samples.labels.dtype) == (np.uint8, np.int64)
    assert digits.labels == tuple("0123456789")
    assert digits.spaces[0].template == "a photo of the number {}"
    assert digits.train.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


def test_splits_are_disjoint_and_hold_every_class(digits: DataSet):
    seen: set[bytes] = set()
    for name, samples in splits(digits).items():
        assert set(samples.labels.tolist()) == set(range(10)), name
        assert len(contents(samples)) == len(samples), f"{name} holds one image twice"
        assert not seen & contents(samples), name
        seen |= contents(samples)


def test_each_split_is_its_part_of_the_file(digits: DataSet):
    frames, labels = digit_frames()
    for name, (low, high) in SPLITS.items():
        np.testing.assert_array_equal(frames[low:high], splits(digits)[name].images)
        np.testing.assert_array_equal(labels[low:high], splits(digits)[name].labels)


def test_frames_are_made_once_and_nobody_can_change_them(digits: DataSet):
    assert digit_frames() is digit_frames()
    with pytest.raises(ValueError, match="read-only"):
        splits(digits)["train"].images[0] = 0


def test_the_first_digit_is_a_ring_that_stands_out(digits: DataSet):
    image = digits.train.read(0).astype(float)
    centre, ring = image[28:36, 28:36].mean(axis=(0, 1)), image[28:36, 17:20].mean(axis=(0, 1))
    assert np.abs(centre - ring).max() > 40, "a zero is hollow"

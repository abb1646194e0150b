"""Small data that training tests share: classes that differ in where the bright bar is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pgn_edge.preprocess import Preprocess
from pgn_edge.train.data.dataset import DataSet, LabelSpace
from pgn_edge.train.data.samples import Arrays


def bars(count: int, classes: int, side: int, seed: int) -> Arrays:
    """Noise with one bright bar, whose place is the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    images = rng.integers(0, 80, (count, side, side, 3))
    width = side // classes
    for image, label in zip(images, labels, strict=True):
        image[:, label * width : (label + 1) * width] += 150
    return Arrays(images.astype(np.uint8), labels, "bars")


@pytest.fixture(scope="session")
def bar_data() -> DataSet:
    """Two classes of 16 x 16 pixels, 24 images to learn from."""
    space = LabelSpace(("0", "1"), "{}", "bars")
    return DataSet("bars", (space,), bars(24, 2, 16, 0), bars(12, 2, 16, 1), bars(12, 2, 16, 2), {})


@pytest.fixture(scope="session")
def bar_preprocess() -> Preprocess:
    """Of `bar_data`."""
    return Preprocess((16, 16), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture(scope="session")
def bar_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the classes 0, 1 and 2, eight images of 32 x 32 pixels each."""
    folder = tmp_path_factory.mktemp("bars")
    split = bars(24, 3, 32, 3)
    for index, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
        (folder / str(label)).mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / str(label) / f"{index:02}.png")
    return folder

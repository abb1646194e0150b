"""What tests of data sets share: folders of small images that are told apart by their pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image

Fill = Callable[..., Path]


@pytest.fixture(scope="session")
def fill() -> Fill:
    """Write `counts[name]` images of 10 x 10 pixels into `folder/name`; the first channel counts them all."""

    def write(folder: Path, counts: Mapping[str, int], start: int = 0) -> Path:
        for name, count in counts.items():
            (folder / name).mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (10, 10), (start, index, len(name))).save(folder / name / f"{index:02}.png")
                start += 1
        return folder

    return write

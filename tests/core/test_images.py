"""Image files of every mode that a camera, a phone or a painter writes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pgn_edge.errors import DataError
from pgn_edge.images import read_image


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_8_bit_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode).save(path)
    image_rgb = read_image(path)
    assert (image_rgb.shape, image_rgb.dtype) == ((4, 6, 3), np.uint8)
    assert image_rgb.min() > 250


def test_colours_are_rgb_and_alpha_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.new("RGBA", (2, 2), (10, 20, 30, 0)).save(path)
    assert read_image(path)[0, 0].tolist() == [10, 20, 30]


def test_rotation_that_a_phone_stored_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn clockwise to show
    Image.new("RGB", (6, 4)).save(tmp_path / "photo.jpg", exif=exif)
    assert read_image(tmp_path / "photo.jpg").shape == (6, 4, 3)


def test_16_bit_image_is_refused_rather_than_clipped(tmp_path: Path) -> None:
    path = tmp_path / "depth.png"
    cv2.imwrite(str(path), np.full((4, 4), 1000, np.uint16))
    with pytest.raises(DataError, match=r"depth\.png: expected an image of 8 bits"):
        read_image(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_image(tmp_path / "nothing.png")

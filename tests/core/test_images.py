"""Image files of every mode that a camera, a phone or a painter writes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pgn_edge.errors import DataError
from pgn_edge.images import IMAGE_SUFFIXES, read_image


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


def write_16_bit(path: Path, white: int) -> np.ndarray:
    """A ramp of 6 x 4 pixels from black to `white`, dark on the left."""
    ramp = np.tile(np.linspace(0, white, 6).astype(np.uint16), (4, 1))
    assert cv2.imwrite(str(path), ramp)
    return ramp


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_of_16_bit_grey_the_upper_bits_are_kept(tmp_path: Path, suffix: str) -> None:
    ramp = write_16_bit(tmp_path / f"x-ray{suffix}", 65_535)
    image_rgb = read_image(tmp_path / f"x-ray{suffix}")
    assert image_rgb.dtype == np.uint8
    for channel in range(3):
        np.testing.assert_array_equal(image_rgb[..., channel], ramp // 256)


def test_16_bit_grey_is_the_same_picture_as_16_bit_colour(tmp_path: Path) -> None:
    ramp = write_16_bit(tmp_path / "grey.png", 50_000)
    cv2.imwrite(str(tmp_path / "colour.png"), np.repeat(ramp[..., None], 3, axis=2))
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), read_image(tmp_path / "colour.png"))


def test_16_bit_grey_is_turned_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    ramp = np.tile(np.linspace(0, 65_535, 6).astype(np.uint16), (4, 1))
    Image.fromarray(ramp).save(tmp_path / "turned.png", exif=exif)
    image_rgb = read_image(tmp_path / "turned.png")
    assert image_rgb.shape == (6, 4, 3)
    assert image_rgb[0].max() == 0, "dark was on the left, and is now at the top"
    assert image_rgb[-1].min() == 255


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_12_bits_in_16_are_refused_rather_than_shown_as_black(tmp_path: Path, suffix: str) -> None:
    write_16_bit(tmp_path / f"depth{suffix}", 4095)
    says = rf"depth\{suffix}: expected 16 bits.*, got values from 0 to \d+, .*say what is white: --white 4095"
    with pytest.raises(DataError, match=says):
        read_image(tmp_path / f"depth{suffix}")


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bits_have_no_stated_white(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 4), 70_000).save(tmp_path / "height.tif")
    with pytest.raises(DataError, match=f"pixels of type {mode}"):
        read_image(tmp_path / "height.tif")


def test_palette_with_half_transparent_colours(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 20, 30, 40, 250])
    image.putdata([0, 1])
    image.save(tmp_path / "logo.png", transparency=bytes([128, 0]))
    assert read_image(tmp_path / "logo.png")[0].tolist() == [[200, 10, 20], [30, 40, 250]]


def test_inverted_cmyk_of_printers_keeps_its_colours(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=95)  # with Adobe's mark
    red = read_image(tmp_path / "print.jpg").astype(int)
    assert red[..., 0].min() > 240
    assert red[..., 1:].max() < 15


def test_first_frame_of_several(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime")]
    frames[0].save(tmp_path / "pages.tiff", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "pages.tiff")[0, 0].tolist() == [255, 0, 0]


def test_half_an_image_of_any_format_is_refused(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    for suffix in IMAGE_SUFFIXES:
        path = tmp_path / f"half{suffix}"
        noise.convert("L" if suffix == ".pgm" else "RGB").save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(DataError, match=rf"half\{suffix}: expected an image"):
            read_image(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_image(tmp_path / "nothing.png")

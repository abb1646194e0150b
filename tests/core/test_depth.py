"""Images of 16 bits a channel: the same rule for grey and colour, with and without alpha, in every format."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from pgn_edge.errors import DataError
from pgn_edge.images import read_image

KINDS = ["grey.png", "grey.tif", "grey.pgm", "grey-alpha.png", "rgb.png", "rgb.tif", "rgb.ppm", "rgba.png", "rgba.tif"]


def pixels(kind: str, top: int) -> np.ndarray:
    """(16, 24, 1 to 4) uint16: noise up to `top`; opaque where there is alpha."""
    bands = {"grey": 1, "grey-alpha": 2, "rgb": 3, "rgba": 4}[kind.rpartition(".")[0]]
    noise = np.random.default_rng(0).integers(0, top, (16, 24, bands), endpoint=True).astype(np.uint16)
    if bands in (2, 4):
        noise[..., -1] = 65_535
    return noise


def write(folder: Path, kind: str, values: np.ndarray) -> Path:
    path = folder / kind
    if kind == "grey-alpha.png":
        path.write_bytes(grey_alpha_png(values))
        return path
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[values.shape[2]]  # OpenCV wants blue first
    assert cv2.imwrite(str(path), values[..., order])
    return path


def grey_alpha_png(values: np.ndarray) -> bytes:
    """A PNG of grey and alpha with 16 bits, which neither OpenCV nor Pillow writes."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, 4, 0, 0, 0),
        b"IDAT": zlib.compress(rows),
        b"IEND": b"",
    }
    chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def shown(values: np.ndarray) -> np.ndarray:
    """Colour channels as the file holds them."""
    return np.repeat(values[..., :1], 3, axis=2) if values.shape[2] < 3 else values[..., :3]


@pytest.mark.parametrize("kind", KINDS)
def test_full_16_bits_keep_their_upper_bits(tmp_path: Path, kind: str):
    values = pixels(kind, 65_535)
    np.testing.assert_array_equal(read_image(write(tmp_path, kind, values)), shown(values) >> 8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("top", "white"), [(1023, 1023), (4095, 4095), (16_383, 16_383)])
def test_fewer_bits_than_16_are_refused_with_the_range_that_was_seen(tmp_path: Path, kind: str, top: int, white: int):
    path = write(tmp_path, kind, pixels(kind, top))
    with pytest.raises(DataError, match=rf"16 bits a channel .*got values from \d+ to \d+, .* --white {white}, or"):
        read_image(path)


@pytest.mark.parametrize("kind", KINDS)
def test_white_shows_12_bits_as_they_were_taken(tmp_path: Path, kind: str):
    values = pixels(kind, 4095)
    np.testing.assert_array_equal(read_image(write(tmp_path, kind, values), white=4095), shown(values) >> 4)


@pytest.mark.parametrize("kind", KINDS)
def test_one_hot_pixel_does_not_make_12_bits_look_like_16(tmp_path: Path, kind: str):
    values = pixels(kind, 4095)
    values[3, 5] = 65_535
    with pytest.raises(DataError, match="--white 4095"):
        read_image(write(tmp_path, kind, values))


def test_a_dark_picture_is_taken_where_white_is_said_to_be_full(tmp_path: Path):
    values = pixels("rgb.png", 8000)
    np.testing.assert_array_equal(read_image(write(tmp_path, "rgb.png", values), white=65_535), values >> 8)


def test_a_black_frame_is_black_whatever_white_is(tmp_path: Path):
    assert read_image(write(tmp_path, "grey.png", pixels("grey.png", 0))).max() == 0


def test_brighter_than_white_is_white(tmp_path: Path):
    values = pixels("grey.png", 65_535)
    image_rgb = read_image(write(tmp_path, "grey.png", values), white=1000)
    assert (image_rgb[values[..., 0] >= 1000] == 255).all()


@pytest.mark.parametrize("white", [4095, 65_535, None])
def test_8_bits_are_the_same_whatever_white_is(tmp_path: Path, white: int | None):
    noise = np.random.default_rng(1).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "plain.png")
    np.testing.assert_array_equal(read_image(tmp_path / "plain.png", white), noise)


@pytest.mark.parametrize("kind", ["grey.pgm", "rgb.ppm"])
def test_a_ppm_that_says_4095_is_white_is_believed(tmp_path: Path, kind: str):
    values = pixels(kind, 4095)
    path = tmp_path / kind
    magic = b"P5" if values.shape[2] == 1 else b"P6"
    path.write_bytes(magic + b"\n24 16\n4095\n" + values.astype(">u2").tobytes())
    difference = read_image(path).astype(int) - np.round(shown(values) / 4095 * 255)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("compression", ["raw", "tiff_deflate", "tiff_lzw"])
def test_an_x_ray_tiff_whose_white_is_zero_is_no_negative(tmp_path: Path, compression: str):
    values = pixels("grey.tif", 65_535)[..., 0]
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[262] = 0  # PhotometricInterpretation: WhiteIsZero
    Image.fromarray(values).save(tmp_path / "x-ray.tif", tiffinfo=info, compression=compression)
    with Image.open(tmp_path / "x-ray.tif") as image:
        assert image.tag_v2[262] == 0
    np.testing.assert_array_equal(read_image(tmp_path / "x-ray.tif")[..., 0], 255 - (values >> 8))


@pytest.mark.parametrize("compression", [1, 5, 8], ids=["raw", "lzw", "deflate"])
def test_every_compression_of_a_colour_tiff(tmp_path: Path, compression: int):
    values = pixels("rgb.tif", 4095)
    cv2.imwrite(str(tmp_path / "scan.tif"), values[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, compression])
    np.testing.assert_array_equal(read_image(tmp_path / "scan.tif", white=4095), values >> 4)


def test_colour_of_16_bits_is_turned_as_the_camera_noted(tmp_path: Path):
    values = pixels("rgb.png", 65_535)
    data = write(tmp_path, "rgb.png", values).read_bytes()
    exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # orientation 6: turn clockwise
    part = b"eXIf" + exif
    chunk = struct.pack(">I", len(exif)) + part + struct.pack(">I", zlib.crc32(part))
    (tmp_path / "turned.png").write_bytes(data[:33] + chunk + data[33:])
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), np.rot90(values >> 8, -1))


@pytest.mark.parametrize("white", [0, -1, 65_536])
def test_a_white_that_no_pixel_can_have_is_refused(tmp_path: Path, white: int):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="expected 1 to 65535"):
        read_image(tmp_path / "a.png", white)


def test_separate_planes_of_16_bits_are_refused_and_not_read_as_8(tmp_path: Path):
    values = pixels("rgb.tif", 65_535)
    planes = values.transpose(2, 0, 1).astype("<u2").tobytes()
    size = 16 * 24 * 2
    extra = 8 + 2 + 12 * 10 + 4
    start = extra + 6 + 12 + 12
    places = [start, start + size, start + 2 * size]
    entries = [(256, 3, 24), (257, 3, 16), (258, 3, [16] * 3), (259, 3, 1), (262, 3, 2), (273, 4, places)]
    entries += [(277, 3, 3), (278, 3, 16), (279, 4, [size] * 3), (284, 3, 2)]
    body, rows = b"", []
    for tag, kind, value in entries:
        if isinstance(value, list):
            packed = struct.pack(f"<3{'HI'[kind == 4]}", *value)
            rows.append(struct.pack("<HHII", tag, kind, 3, extra + len(body)))
            body += packed
        else:
            rows.append(struct.pack("<HHII", tag, kind, 1, value))
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(rows) + b"\0\0\0\0"
    (tmp_path / "planes.tif").write_bytes(head + body + planes)
    with pytest.raises(DataError, match="16 bits a channel in separate planes"):
        read_image(tmp_path / "planes.tif")

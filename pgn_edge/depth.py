"""Images of 16 bits a channel: one rule that makes 8 bits of them, whatever their mode and format."""

from __future__ import annotations

import re
import sys
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

FULL_WHITE = 65_535
LEAST_WHITE = 1 << 14  # brightest pixels below this: a sensor's 14 bits or less, or a distance
HOT_SHARE = 1000  # one pixel in so many, and at least one, may be hot: it does not count as the brightest

OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
PHOTOMETRIC, PLANAR, BITS, WHITE_IS_ZERO, SEPARATE = 262, 284, 258, 0, 2  # tags and values of TIFF


class UnstatedWhiteError(Exception):
    """Nothing says which value is white.

    Args:
        seen: Lowest and highest value of the pixels, hot ones left out.
    """

    def __init__(self, seen: tuple[int, int]) -> None:
        super().__init__(f"values from {seen[0]} to {seen[1]}")
        self.seen = seen


def read_16_bits(image: Image.Image, source: BinaryIO, white: int | None) -> np.ndarray | None:
    """Make 8 bits of an image of 16, as `white` says; nothing happens to other images.

    Args:
        image: Image as opened and not decoded yet. Colour of 16 bits is replaced in it.
        source: File that `image` was opened from, which is read a second time for the lower bytes of colour.
        white: Value of white, 1..65,535; None takes 65,535 and refuses what would be nearly black.

    Returns:
        (h, w) uint8 for grey of 16 bits; None for everything else, where `image` holds the pixels.

    Raises:
        UnstatedWhiteError: `white` is None and the brightest pixels are below a quarter of 65,535.
        ValueError: 16 bits in a layout that Pillow does not decode.
    """
    opened = _Opened(image)
    image.load()
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _grey(opened, white)
    bands_u16 = _colour(opened, source)
    if bands_u16 is not None:
        if opened.states_white:
            white = FULL_WHITE
        _require_white(bands_u16[..., :3].max(axis=2), white)
        image.paste(Image.fromarray(_scale(bands_u16, white)))
    return None


class _Opened:
    """What the header of an image says about its pixels, looked up before they are decoded.

    Args:
        image: Image that is not decoded yet.
    """

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self.tiles: list[Any] = list(getattr(image, "tile", ()))
        options = self.tiles[0][3] if self.tiles else ""
        self.options: tuple[Any, ...] = options if isinstance(options, tuple) else (options,)
        self.rawmode = str(self.options[0]) if self.options else ""
        self.negative = self._tag(PHOTOMETRIC) == WHITE_IS_ZERO
        if self._tag(PLANAR) == SEPARATE and 16 in (self._tag(BITS) or ()):
            raise ValueError("16 bits a channel in separate planes")

    @property
    def states_white(self) -> bool:
        """Whether the format says what is white: a PPM or PGM of another maximum, which Pillow has scaled already."""
        scaled = bool(self.tiles) and str(self.tiles[0][0]).startswith("ppm")
        return scaled and self.options[1] != FULL_WHITE

    def with_rawmode(self, rawmode: str) -> list[Any]:
        """The same tiles, to be unpacked in another way."""
        made = []
        for tile in self.tiles:
            options = (rawmode, *tile[3][1:]) if isinstance(tile[3], tuple) else rawmode
            build = getattr(type(tile), "_make", tuple)  # releases before Pillow 11 have plain tuples
            made.append(build((*tile[:3], options)))
        return made

    def _tag(self, number: int) -> Any:
        return self.image.tag_v2.get(number) if self.image.format == "TIFF" else None  # type: ignore[attr-defined]


def _grey(opened: _Opened, white: int | None) -> np.ndarray:
    grey_u16 = np.asarray(opened.image).astype(np.uint16)
    if opened.rawmode == "I;12":
        white = white or 4095  # its format says so
    elif opened.states_white:
        white = FULL_WHITE
    _require_white(grey_u16, white)
    scaled = _scale(grey_u16, white)
    return np.asarray(255 - scaled if opened.negative else scaled)


def _colour(opened: _Opened, source: BinaryIO) -> np.ndarray | None:
    """(h, w, bands) uint16 of colour or grey with alpha; None of an image of 8 bits and of CMYK.

    Pillow keeps the upper byte of each channel. It is asked a second time for the other byte, by the name of the other
    byte order.
    """
    image, rawmode = opened.image, opened.rawmode
    if image.format == "PPM" and image.mode == "RGB" and opened.options[-1] == FULL_WHITE:
        return _ppm(opened, source)
    if rawmode == "LA;16B":  # four bytes a pixel: taken as four channels they are all kept
        grey_hi, grey_lo, _, _ = np.moveaxis(_again(opened, source, "RGBA"), -1, 0).astype(np.uint16)
        grey = grey_hi << 8 | grey_lo
        return np.stack([grey, grey, grey, np.full_like(grey, FULL_WHITE)], axis=-1)
    base, _, order = rawmode.rpartition(";16")
    if base not in ("RGB", "RGBA", "RGBX") or order not in OTHER_BYTE or image.format not in ("PNG", "TIFF"):
        return None
    lower = _again(opened, source, f"{base};16{OTHER_BYTE[order]}")
    return np.asarray(np.asarray(image).astype(np.uint16) << 8 | lower)


def _again(opened: _Opened, source: BinaryIO, rawmode: str) -> np.ndarray:
    """The pixels of the same file as another raw mode reads them, (h, w, bands) uint8."""
    source.seek(0)
    with Image.open(source, formats=(str(opened.image.format),)) as image:
        image.tile = opened.with_rawmode(rawmode)
        image.load()
        return np.array(image)


def _ppm(opened: _Opened, source: BinaryIO) -> np.ndarray:
    width, height = opened.image.size
    decoder, _, offset, _ = opened.tiles[0]
    source.seek(offset)
    if decoder == "ppm_plain":
        values = np.array(re.sub(rb"#[^\r\n]*", b"", source.read()).split(), np.uint16)
    else:
        values = np.frombuffer(source.read(width * height * 6), ">u2").astype(np.uint16)
    return values[: width * height * 3].reshape(height, width, 3)


def _require_white(brightest_u16: np.ndarray, white: int | None) -> None:
    """Refuse pixels (h, w) of which all but the hot ones are below a quarter of 65,535, where no white is given."""
    if white is not None:
        return
    hot = max(1, brightest_u16.size // HOT_SHARE)
    place = max(0, brightest_u16.size - 1 - hot)
    high = int(np.partition(brightest_u16, place, axis=None)[place])
    if 0 < high < LEAST_WHITE:  # a black frame is black whatever white is
        raise UnstatedWhiteError((int(brightest_u16.min()), high))


def _scale(values_u16: np.ndarray, white: int | None) -> np.ndarray:
    """0..white -> 0..255; for 65,535 these are the upper bytes, as Pillow makes them of colour."""
    white = white or FULL_WHITE
    wide = np.minimum(values_u16, white).astype(np.uint32)
    return np.asarray(wide * 256 // (white + 1), np.uint8)

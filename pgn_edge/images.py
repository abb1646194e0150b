"""Image files: one decoder for training and run time, and one rule for damage, formats and depths."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pgn_edge.damage import find_damage
from pgn_edge.depth import FULL_WHITE, UnstatedWhiteError, read_16_bits
from pgn_edge.errors import DataError
from pgn_edge.file_kind import require_kind

# Not .gif: as a source of frames it is a video.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM")  # what these suffixes stand for, as Pillow calls them
CHECKED = (b"\x89PNG", b"\xff\xd8", b"RIFF")  # their bytes tell of damage, so they are read whole before decoding

# First bytes of what often has the wrong suffix; a box of ISO media begins with its length.
FOREIGN = {
    b"GIF8": "a GIF file",
    b"%PDF": "a PDF file",
    b"<": "a text such as a web page",
    b"version https://git-lfs": "a pointer of Git LFS in the place of the file",
    b"\0\0\0\x0cJXL ": "a JPEG XL file",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 file",
}
ISO_BRANDS = {b"avif": "an AVIF file", b"avis": "an AVIF file", b"heic": "a HEIC file", b"mif1": "a HEIF file"}


def is_image(path: Path) -> bool:
    """Whether this is a file with the suffix of an image, and its name does not start with a dot."""
    return path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def require_white(white: int | None) -> None:
    """Refuse a value that no pixel of 16 bits can have.

    Raises:
        DataError: `white` is neither None nor 1 to 65,535.
    """
    if white is not None and not 1 <= white <= FULL_WHITE:
        raise DataError("white", expected="1 to 65535", got=str(white), do="give the value that white has in the files")


def read_image(path: str | Path, white: int | None = None) -> np.ndarray:
    """Decode one image; grey becomes colour, alpha is dropped, and a rotation stored by the camera is applied.

    Of several frames the first is read.

    Args:
        path: Path of a PNG, JPEG, BMP, WebP, TIFF, PPM or PGM file, whatever its suffix says.
        white: Value of white in files of 16 bits a channel, 1..65,535. None takes 65,535, and refuses files whose
            brightest pixels stay below a quarter of it.

    Returns:
        (h, w, 3) uint8 RGB, contiguous.

    Raises:
        DataError: it does not exist, is damaged or of another format, or does not say what is white.

    >>> read_image("docs/images/canvas.png").dtype
    dtype('uint8')
    """
    # Not cv2.imread: some versions return half a JPEG without a word.
    return _read(str(path), lambda: open(path, "rb"), white)


def decode_image(data: bytes, name: str, white: int | None = None) -> np.ndarray:
    """Decode one image from memory, as `read_image` does from a file.

    Args:
        data: Content of an image file.
        name: Name of the image, for messages.
        white: Value of white in files of 16 bits a channel; see `read_image`.

    Returns:
        (h, w, 3) uint8 RGB, contiguous.

    Raises:
        DataError: It is damaged or of another format, or does not say what is white.
    """
    return _read(name, lambda: io.BytesIO(data), white)


def _read(name: str, opened: Callable[[], BinaryIO], white: int | None) -> np.ndarray:
    require_white(white)
    try:
        with opened() as file:
            return _decode(name, file, white)
    except DataError:
        raise
    except FileNotFoundError as exc:
        raise DataError(name, expected="an image", got="no such file", do="check the path") from exc
    except UnidentifiedImageError as exc:  # its text names an object in memory
        require_kind(name, "image", error=DataError)
        raise _undecodable(name, "another kind of file") from exc
    except Exception as exc:  # damage makes Pillow's plugins raise errors of any kind
        raise _undecodable(name, str(exc) or type(exc).__name__) from exc


def _decode(path: str | Path, file: BinaryIO, white: int | None) -> np.ndarray:
    head = file.read(32)
    file.seek(0)
    foreign = _foreign(head)
    if foreign:
        raise _undecodable(path, foreign)
    source: BinaryIO = file
    if head.startswith(CHECKED):
        data = file.read()
        damage = find_damage(data)
        if damage:
            raise _undecodable(path, damage)
        source = io.BytesIO(data)
    with Image.open(source, formats=FORMATS) as image:
        try:
            # Grey comes back as an array, since no mode of Pillow's holds it; colour is written back into `image`.
            grey = read_16_bits(image, source, white)
        except UnstatedWhiteError as exc:
            raise _unstated(path, exc.seen) from exc
        upright = ImageOps.exif_transpose(image if grey is None else _keep_exif(grey, image))
        if upright.mode.startswith(("I", "F")):
            raise _undecodable(path, f"pixels of type {upright.mode}")
        if "transparency" in upright.info:
            upright = upright.convert("RGBA")  # the short way warns where a palette has half-transparent colours
        return np.array(upright.convert("RGB"))


def _keep_exif(grey: np.ndarray, image: Image.Image) -> Image.Image:
    made = Image.fromarray(grey)
    made.getexif().update(image.getexif())
    return made


def _foreign(head: bytes) -> str:
    """What a file is that is no image of ours, where its first bytes say so."""
    if not head.strip(b"\0"):
        return "a file of zeros" if head else "an empty file"
    if head[4:8] == b"ftyp":
        return ISO_BRANDS.get(head[8:12], "a file of the MP4 family")
    return next((name for magic, name in FOREIGN.items() if head.startswith(magic)), "")


def _unstated(path: str | Path, seen: tuple[int, int]) -> DataError:
    low, high = seen
    return DataError(
        str(path),
        expected="16 bits a channel that reach towards 65535",
        got=f"values from {low} to {high}, which would be nearly black",
        do=f"say what is white: --white {(1 << high.bit_length()) - 1}, or --white 65535 if it is dark",
    )


def _undecodable(path: str | Path, got: str) -> DataError:
    return DataError(
        str(path),
        expected="an image (PNG, JPEG, WebP, BMP, TIFF, PPM) of 8 or 16 bits a channel, whole to its last byte",
        got=got,
        do="repair it, convert it or leave it out",
    )

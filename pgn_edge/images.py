"""Image files: one decoder for training and run time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pgn_edge.errors import DataError

# Not .gif: as a source of frames it is a video.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
LEAST_WHITE_16 = 1 << 12  # no pixel this bright: a sensor's 12 bits or a distance, and what is white is not stated


def is_image(path: Path) -> bool:
    """Whether this is a file with the suffix of an image; names that start with a dot are a system's own files."""
    return path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def read_image(path: str | Path) -> np.ndarray:
    """Decode one image; grey becomes colour, alpha is dropped, and a rotation stored by the camera is applied.

    Of 16 bits a channel the upper 8 are kept, so that 65,535 is white; of several frames the first is read.

    Returns:
        (h, w, 3) uint8 RGB, contiguous.

    Raises:
        DataError: it does not exist, does not decode to its last byte, or does not say what is white: 32 bits a
            channel, or 16 of which 12 or fewer are used.
    """
    # Not cv2.imread: some versions return half a JPEG without a word.
    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
                return _upper_bits(path, np.asarray(upright))
            if image.mode.startswith(("I", "F")):
                raise _undecodable(path, f"pixels of type {image.mode}")
            if "transparency" in upright.info:
                upright = upright.convert("RGBA")  # the short way warns where a palette has half-transparent colours
            return np.array(upright.convert("RGB"))
    except FileNotFoundError as exc:
        raise DataError(str(path), expected="an image", got="no such file", do="check the path") from exc
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise _undecodable(path, str(exc)) from exc


def _upper_bits(path: str | Path, grey_u16: np.ndarray) -> np.ndarray:
    """Grey of 16 bits (h, w) -> (h, w, 3) uint8, the same picture as Pillow makes of colour with 16 bits."""
    if grey_u16.max() < LEAST_WHITE_16:
        raise _undecodable(path, f"16 bits a channel with {grey_u16.max()} for the brightest pixel")
    return np.repeat((grey_u16 >> 8).astype(np.uint8)[..., None], 3, axis=2)


def _undecodable(path: str | Path, got: str) -> DataError:
    return DataError(
        str(path),
        expected="an image of 8 or 16 full bits a channel that decodes to its last byte",
        got=got,
        do="repair it, convert it or leave it out",
    )

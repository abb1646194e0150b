"""Image files: one decoder for training and run time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pgn_edge.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def is_image(path: Path) -> bool:
    """Whether this is a file with the suffix of an image; names that start with a dot are a system's own files."""
    return path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def read_image(path: str | Path) -> np.ndarray:
    """Decode one image; grey becomes colour, alpha is dropped, and a rotation stored by the camera is applied.

    Returns:
        (h, w, 3) uint8 RGB, contiguous.

    Raises:
        DataError: it does not exist, does not decode to its last byte, or has more than 8 bits a channel.
    """
    # Not cv2.imread: some versions return half a JPEG without a word.
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode.startswith(("I", "F")):
                raise _undecodable(path, f"pixels of type {image.mode}")
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError as exc:
        raise DataError(str(path), expected="an image", got="no such file", do="check the path") from exc
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise _undecodable(path, str(exc)) from exc


def _undecodable(path: str | Path, got: str) -> DataError:
    return DataError(
        str(path),
        expected="an image of 8 bits a channel that decodes to its last byte",
        got=got,
        do="repair it, convert it or leave it out",
    )

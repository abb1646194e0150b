"""How pictures are resized by others: nobody knows whose filter it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pgn_edge.extras import cv2

Resize = Callable[[np.ndarray, int, int], np.ndarray]


def _pillow(filter: int) -> Resize:
    """Antialiased, as Pillow, torchvision and the processors of CLIP resize."""
    from PIL import Image

    def resize(levels: np.ndarray, height: int, width: int) -> np.ndarray:
        kind = Image.Resampling(filter)
        return np.stack([np.asarray(Image.fromarray(frame).resize((width, height), kind)) for frame in levels])

    return resize


def _opencv(levels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Without antialiasing, as OpenCV and the Resize of ONNX do."""
    return np.stack([cv2.resize(frame.astype(np.float64), (width, height)) for frame in levels])


FILTERS: dict[str, Resize] = {
    "bilinear": _pillow(2),
    "bicubic": _pillow(3),
    "without antialiasing": _opencv,
}

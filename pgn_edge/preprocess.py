"""From a camera frame to the image of the PGN engine: one object, the same code in training and at run time."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from pgn_edge.errors import DataError, GeometryError
from pgn_edge.extras import cv2
from pgn_edge.schemas import PreprocessJson, conform

Fit = Literal["crop", "squash"]
Filter = Literal["antialiased-bicubic", "fast"]
Order = Literal["RGB", "BGR"]
Box = tuple[float, float, float, float]

LARGE_FRAME = 200_000  # pixels; below this a second thread costs more than it saves
THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Preprocess:
    """How a frame of any size becomes the uint8 image of a PGN engine.

    Args:
        size_hw: size (H, W) of the result in pixels.
        fit: `crop` resizes the shorter side and cuts the centre (CLIP's rule); `squash` resizes both sides.
        filter: `antialiased-bicubic` equals Pillow's bicubic, columns before rows, to within 1/255 (a pixel in ten
            thousand may be 2/255 off where a small frame grows); `fast` is OpenCV's area filter
            when shrinking and bilinear when growing, and changes embeddings (bundles record it).
        mean: per channel, of pixels divided by 255, RGB order.
        std: likewise; the engines normalise inside, x = (pixel / 255 - mean) / std.
    """

    size_hw: tuple[int, int]
    fit: Fit = "crop"
    filter: Filter = "antialiased-bicubic"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        for name, value, choices in (("fit", self.fit, Fit), ("filter", self.filter, Filter)):
            if value not in get_args(choices):
                raise GeometryError(
                    f"preprocess {name}",
                    expected=" or ".join(get_args(choices)),
                    got=repr(value),
                    do="choose one of them",
                )
        finite = all(math.isfinite(value) for value in (*self.mean, *self.std))
        if min(self.size_hw) < 1 or min(self.std) <= 0 or not finite:
            raise GeometryError(
                "preprocess",
                expected="a positive size, finite means and positive standard deviations",
                got=f"size {self.size_hw}, mean {self.mean}, std {self.std}",
                do="export the file again",
            )

    def with_size(self, size_hw: tuple[int, int]) -> Preprocess:
        """The same preprocessing to another size; `squash` where the aspect ratio changes too."""
        same = self.size_hw[0] * size_hw[1] == self.size_hw[1] * size_hw[0]
        return replace(self, size_hw=size_hw, fit=self.fit if same else "squash")

    def __call__(self, frame: np.ndarray, order: Order = "RGB") -> np.ndarray:
        """Resize one frame.

        Args:
            frame: (h, w, 3) uint8, any size from 1 x 1.
            order: of the frame's channels; OpenCV delivers BGR.

        Returns:
            (H, W, 3) uint8 RGB, contiguous.

        Raises:
            DataError: not an (h, w, 3) uint8 array.
        """
        check_frame(frame)
        if frame.shape[:2] == self.size_hw:
            return np.ascontiguousarray(frame if order == "RGB" else frame[..., ::-1])
        box = self.box(*frame.shape[:2])
        resize = _resize_pillow if self.filter == "antialiased-bicubic" else _resize_fast
        return resize(frame, order, self.size_hw, box)

    def normalise(self, images_nhwc: np.ndarray) -> np.ndarray:
        """uint8 (B, H, W, 3) RGB -> float32 (B, 3, H, W), x = (pixel / 255 - mean) / std, as the engines do it."""
        scale, shift = self.affine()
        return np.ascontiguousarray(images_nhwc.transpose(0, 3, 1, 2) * scale + shift)

    def affine(self) -> tuple[np.ndarray, np.ndarray]:
        """Scale and shift, float32 (3, 1, 1), so that x = pixel * scale + shift."""
        mean, std = (np.asarray(v, np.float64).reshape(3, 1, 1) for v in (self.mean, self.std))
        return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)

    def legal(self) -> tuple[np.ndarray, np.ndarray]:
        """Normalised values of pixels 0 and 255 for each channel, float32 (3,): what a real image can hold."""
        scale, shift = (array.reshape(3) for array in self.affine())
        return shift, 255 * scale + shift

    def box(self, height: int, width: int) -> Box:
        """Part of a frame that the model sees.

        For `crop` these are the source coordinates of torchvision's `Resize(shorter side)` then `CenterCrop`, with
        their integer roundings; resampling the box alone gives the same pixels without resizing what is cut off.

        Args:
            height: Height of the frame in pixels.
            width: Width of the frame in pixels.

        Returns:
            Edges (x0, y0, x1, y1) in pixels of the frame.
        """
        if self.fit == "squash":
            return 0.0, 0.0, float(width), float(height)
        out_h, out_w = self.size_hw
        scale = max(out_h / height, out_w / width)
        full_h = out_h if scale == out_h / height else int(out_w * height / width)
        full_w = out_w if scale == out_w / width else int(out_h * width / height)
        full_h, full_w = max(full_h, out_h), max(full_w, out_w)
        top, left = round((full_h - out_h) / 2), round((full_w - out_w) / 2)
        x_scale, y_scale = width / full_w, height / full_h
        x0, y0 = left * x_scale, top * y_scale
        return x0, y0, min(x0 + out_w * x_scale, width), min(y0 + out_h * y_scale, height)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preprocess:
        """Read what `to_json` wrote.

        Raises:
            GeometryError: a field is missing or has the wrong type.
        """
        try:
            found = conform(data, PreprocessJson)
        except ValueError as exc:
            raise GeometryError(
                "preprocess",
                expected="size_hw, fit, filter, mean and std",
                got=f"{str(data)[:200]} ({exc})",
                do="export the file again",
            ) from exc
        return cls(found.size_hw, found.fit, found.filter, found.mean, found.std)


def check_frame(frame: np.ndarray) -> None:
    """Refuse what is not a colour frame.

    Raises:
        DataError: not a non-empty (h, w, 3) uint8 array.
    """
    right = isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3
    if right and 0 not in frame.shape:
        return
    got, do = _flaw(frame)
    raise DataError("frame", expected="a uint8 array (height, width, 3)", got=got, do=do)


def _flaw(frame: object) -> tuple[str, str]:
    """What is wrong with a frame, and what the user can do about it."""
    if isinstance(frame, np.ndarray):
        return f"{frame.dtype} {frame.shape}{_about(frame)[0]}", _about(frame)[1]
    if frame is None:
        do = "look at the first value that camera.read() returns, or whether cv2.imread() found the file"
        return "None: the camera gave no frame", do
    if isinstance(frame, Image.Image):
        return f"a Pillow image of mode {frame.mode}", "pass numpy.asarray(image.convert('RGB')) and colour='rgb'"
    return type(frame).__name__, "pass a numpy array"


def _about(frame: np.ndarray) -> tuple[str, str]:
    channels = frame.shape[2] if frame.ndim == 3 else 1 if frame.ndim == 2 else 0
    if 0 in frame.shape:
        return ": it has no pixels", "leave this frame out: the camera gave an empty one"
    if frame.dtype != np.uint8:
        return "", "scale it to 0..255 first, then frame.astype(numpy.uint8)"
    if channels == 1:
        return ": a grey frame", "repeat it for three channels: numpy.repeat(frame.reshape(h, w, 1), 3, axis=2)"
    if channels == 4:
        return ": four channels", "leave the fourth out: frame[..., :3]"
    return "", "pass one frame, with its channels last"


def _resize_pillow(frame: np.ndarray, order: Order, size_hw: tuple[int, int], box: Box) -> np.ndarray:
    """Resize in bands of rows, one for each thread where the frame is large: the same pixels in less time."""
    bands = THREADS if frame.shape[0] * frame.shape[1] >= LARGE_FRAME else 1
    cuts = [size_hw[0] * band // bands for band in range(bands + 1)]
    parts = [(frame, order, size_hw, box, rows) for rows in pairwise(cuts)]
    if bands == 1:
        return _resize_rows(*parts[0])
    return np.concatenate(list(_pool().map(lambda part: _resize_rows(*part), parts)))


def _resize_rows(
    frame: np.ndarray, order: Order, size_hw: tuple[int, int], box: Box, rows: tuple[int, int]
) -> np.ndarray:
    """Rows `rows[0]` to `rows[1]` of the result."""
    # Columns first, whatever Pillow's version: from 13 on it would choose the order by the frame's size, not the box's.
    (x0, y0, x1, y1), width = box, size_hw[1]
    scale = (y1 - y0) / size_hw[0]
    y0, y1 = y0 + rows[0] * scale, y0 + rows[1] * scale
    reach = 2 * max(scale, 1.0) + 1  # rows that the bicubic kernel needs above and below the box
    top, bottom = max(int(y0 - reach), 0), min(math.ceil(y1 + reach), len(frame))
    needed = np.ascontiguousarray(frame[top:bottom])
    # Pillow unpacks the frame to its own layout in any case, and sorts the channels on the way for nothing.
    image = Image.frombuffer("RGB", (frame.shape[1], bottom - top), needed, "raw", order, 0, 1)
    narrow = image.resize((width, bottom - top), Image.Resampling.BICUBIC, box=(x0, 0, x1, bottom - top))
    box_here = (0, y0 - top, width, min(y1 - top, bottom - top))
    return np.array(narrow.resize((width, rows[1] - rows[0]), Image.Resampling.BICUBIC, box=box_here))


@cache
def _pool() -> ThreadPoolExecutor:
    # Pillow lets go of the interpreter while it resizes, so threads do run side by side.
    return ThreadPoolExecutor(THREADS, thread_name_prefix="resize")


def _resize_fast(frame: np.ndarray, order: Order, size_hw: tuple[int, int], box: Box) -> np.ndarray:
    x0, y0, x1, y1 = (round(side) for side in box)
    part = frame[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    shrinks = part.shape[0] >= size_hw[0] and part.shape[1] >= size_hw[1]
    kind = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    small = cv2.resize(part, size_hw[::-1], interpolation=kind)
    return np.asarray(small if order == "RGB" else cv2.cvtColor(small, cv2.COLOR_BGR2RGB))

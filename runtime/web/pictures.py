"""Pictures for viewers, made in their threads, and once for all who look at the same one."""

from __future__ import annotations

import threading
from collections import OrderedDict
from time import monotonic

import numpy as np

from pgn_edge.contract import EngineFacts
from pgn_edge.extras import cv2
from pgn_edge.runtime.annotate import ACCENT, canvas_picture
from pgn_edge.runtime.web.state import State

LONGEST_SIDE = 960  # of a frame that is sent, pixels
JPEG_QUALITY = 80
MOST_FPS = 15.0
CANVAS_SIDE = 448  # that a canvas is enlarged to, by a whole factor
MOST_KEPT = 128  # encoded pictures

Picture = tuple[int, bytes]


class _Kept:
    """One picture, as it was last encoded."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.made_s = -1.0
        self.picture: Picture = (-1, b"")


class Pictures:
    """Encodes the newest pictures of a State, at most `MOST_FPS` times a second each; any thread may call.

    Args:
        state: where they come from.
        facts: of the ViT engine, for its canvases.
    """

    def __init__(self, state: State, facts: EngineFacts) -> None:
        self._state, self._facts = state, facts
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, ...], _Kept] = OrderedDict()

    def frame(self, camera: str) -> Picture | None:
        """The newest frame as JPEG, at most 960 pixels a side, and its number; None where there is none."""
        newest = self._state.picture(camera)
        return None if newest is None else self._encoded((camera,), newest)

    def canvas(self, camera: str, task: str) -> Picture | None:
        """The newest canvas as PNG, with its prompt slots outlined, and its number; None where there is none."""
        newest = self._state.canvas(camera, task)
        return None if newest is None else self._encoded((camera, task), newest)

    def _encoded(self, key: tuple[str, ...], newest: tuple[int, np.ndarray]) -> Picture:
        with self._lock:
            kept = self._kept.setdefault(key, _Kept())
            self._kept.move_to_end(key)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        number, image = newest
        with kept.lock:  # who wants the same picture waits for it rather than making it too
            if kept.picture[0] < number and monotonic() - kept.made_s >= 1 / MOST_FPS:
                data = _jpeg(image) if len(key) == 1 else _canvas_png(image, self._facts)
                kept.picture, kept.made_s = (number, data), monotonic()
            return kept.picture


def _jpeg(image_bgr: np.ndarray) -> bytes:
    height, width = image_bgr.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    if scale < 1:
        size_wh = max(round(width * scale), 1), max(round(height * scale), 1)
        image_bgr = cv2.resize(image_bgr, size_wh, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return bytes(data)


def _canvas_png(canvas: np.ndarray, facts: EngineFacts) -> bytes:
    picture_bgr, geometry = canvas_picture(canvas, facts), facts.geometry
    zoom = max(CANVAS_SIDE // max(geometry.canvas_hw), 1)
    picture_bgr = np.ascontiguousarray(picture_bgr.repeat(zoom, axis=0).repeat(zoom, axis=1))
    for slot in range(geometry.prompts):
        x0, y0, x1, y1 = (side * zoom for side in geometry.slot_box(slot))
        cv2.rectangle(picture_bgr, (x0, y0), (x1 - 1, y1 - 1), ACCENT, max(zoom // 3, 1))
    _, data = cv2.imencode(".png", picture_bgr)
    return bytes(data)

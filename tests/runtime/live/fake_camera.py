"""The real grabber on cameras that misbehave on cue: only `cv2.VideoCapture` is replaced, by the name of the device."""

from __future__ import annotations

import importlib.util
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

GRABBER = Path(__file__).parents[3] / "runtime" / "live" / "grabber.py"
FOREVER_S = 1e6


def frames(device: str) -> Iterator[object]:
    """Frames of the camera that `/dev/video-<name>` stands for, each of its own brightness."""
    for number in range(200):
        time.sleep(0.01)
        if device == "/dev/video-resize":
            yield np.full((48, 64, 3) if number < 100 else (96, 128, 3), number, np.uint8)
        elif device == "/dev/video-grey":
            yield np.full(((48, 64), (48, 64, 1), (48, 64, 4))[number % 3], number, np.uint8)
        elif device == "/dev/video-garbage":
            broken = (None, np.zeros((0, 0, 3), np.uint8), np.zeros((48, 64, 3), np.uint16), np.zeros((4, 4, 2), "u1"))
            yield np.zeros((48, 64, 3), np.uint8) if number < 2 else broken[int(time.monotonic() * 10) % 4]
        elif device == "/dev/video-stubborn" and number == 5:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(FOREVER_S)
        elif device == "/dev/video-large":
            yield np.full((720, 1280, 3), number, np.uint8)
        elif device == "/dev/video-huge":
            yield np.broadcast_to(np.uint8(0), (16384, 16384, 3))
        elif device == "/dev/video-vast":
            yield np.broadcast_to(np.uint8(0), (2, 20000, 3))
        else:
            yield np.full((48, 64, 3), number, np.uint8)


class FakeCapture:
    """What OpenCV would give for one of these devices."""

    def __init__(self, device: str) -> None:
        self._frames = frames(device)
        self._image: object = None

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def get(self, _: int) -> float:
        return 0.0

    def grab(self) -> bool:
        try:
            self._image = next(self._frames)
        except StopIteration:
            return False
        return True

    def retrieve(self) -> tuple[bool, object]:
        return True, self._image


if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location("grabber", GRABBER)
    assert spec is not None
    assert spec.loader is not None
    grabber = importlib.util.module_from_spec(spec)
    sys.modules["grabber"] = grabber
    spec.loader.exec_module(grabber)
    grabber.open_capture = lambda order: FakeCapture(order["address"])
    grabber.main()

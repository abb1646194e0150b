"""Processor time that each codec of an annotated video takes for a picture, on one thread.

The pictures show a smooth texture that moves by two pixels each time. The time includes the opening and the end of the
file, since an encoder holds pictures back until then.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

import cv2
import numpy as np

from pgn_edge.runtime.sinks.video_track import CODECS, Codec, VideoTrack


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--size", type=int, nargs=2, default=(896, 496), metavar=("WIDTH", "HEIGHT"))
    options.add_argument("--frames", type=int, default=50)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args(arguments)
    cv2.setNumThreads(1)
    print(f"{platform.machine()}, OpenCV {cv2.__version__}, {given.size[0]} x {given.size[1]}, {given.frames} pictures")
    for suffix, codecs in CODECS.items():
        for codec in codecs:
            costs = [_cost_ms(suffix, codec, tuple(given.size[::-1]), given.frames) for _ in range(given.rounds)]
            print(f"{suffix} {codec}: {min(costs):.1f} to {max(costs):.1f} ms for a picture")


def _cost_ms(suffix: str, codec: Codec, size_hw: tuple[int, ...], frames: int) -> float:
    reach = 2 * frames
    noise_bgr = np.random.default_rng(0).integers(0, 256, (size_hw[0] + reach, size_hw[1] + reach, 3), np.uint8)
    texture_bgr = cv2.GaussianBlur(noise_bgr, (0, 0), 3)
    pictures = [
        np.ascontiguousarray(texture_bgr[start : start + size_hw[0], start : start + size_hw[1]])
        for start in range(0, reach, 2)
    ]
    with TemporaryDirectory() as folder:
        track = VideoTrack(Path(folder) / f"out{suffix}", 25.0, codec, 1.0)
        start_s = process_time()
        for picture in pictures:
            track.put(picture, None)
        track.close()
        cost_ms = (process_time() - start_s) / frames * 1e3
        assert track.written == frames
    return cost_ms


if __name__ == "__main__":
    main()

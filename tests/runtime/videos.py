"""Videos for tests: written by OpenCV, then damaged or trimmed byte by byte."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np

FPS, SIZE_HW = 10.0, (48, 64)
CODECS = {".avi": "MJPG", ".mp4": "vp09", ".mov": "mp4v", ".webm": "VP90"}


def picture(number: int) -> np.ndarray:
    """Noise, so that each frame fills some kilobytes; the top left corner holds the number."""
    image_bgr = np.random.default_rng(number).integers(0, 256, (*SIZE_HW, 3), dtype=np.uint8)
    image_bgr[:16, :16] = 4 * number
    return image_bgr


def number_of(image_bgr: np.ndarray) -> int:
    """Number of a frame as its pixels have it, which lossy codecs leave right within one."""
    return round(float(image_bgr[2:14, 2:14].mean()) / 4)


def write_video(path: Path, frames: int, codec: str = "", fps: float = FPS) -> Path:
    """Write numbered pictures with the codec of the suffix."""
    fourcc = cv2.VideoWriter.fourcc(*(codec or CODECS[path.suffix]))
    writer = cv2.VideoWriter(str(path), fourcc, fps, SIZE_HW[::-1])
    assert writer.isOpened()
    for number in range(frames):
        writer.write(picture(number))
    writer.release()
    return path


def damage(path: Path, number: int, packets: int = 1) -> Path:
    """Overwrite the start of some packets, so that no decoder reads them."""
    data = bytearray(path.read_bytes())
    places = _avi_packets(data) if path.suffix == ".avi" else _mp4_packets(data)
    for start, size in places[number : number + packets]:
        data[start : start + min(size, 600)] = b"\xff" * min(size, 600)
    path.write_bytes(data)
    return path


def trim(path: Path, first_s: float, seconds: float) -> Path:
    """Write an edit list that shows a part of an mp4, as a lossless trim does; every frame stays in the file."""
    data = bytearray(path.read_bytes())
    movie, media = (_scale(data, *where) for where in (("mvhd",), ("trak", "mdia", "mdhd")))
    entry = struct.pack(">IIIiHH", 0, 1, round(seconds * movie), round(first_s * media), 1, 0)
    edits = _box(b"edts", _box(b"elst", entry))
    (index, _), (track, _) = _find(data, "moov"), _find(data, "moov", "trak")
    start, end = _find(data, "moov", "trak", "edts")
    data[start:end] = edits
    for place in (index, track):
        size = struct.unpack_from(">I", data, place)[0]
        struct.pack_into(">I", data, place, size + len(edits) - (end - start))
    path.write_bytes(data)
    return path


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _find(data: bytearray, *path: str) -> tuple[int, int]:
    """First byte and end of the box at a path of types."""
    start, end = 0, len(data)
    for name in path:
        place = start + (8 if (start, end) != (0, len(data)) else 0)
        while place < end:
            size, kind = struct.unpack_from(">I4s", data, place)
            if kind == name.encode():
                break
            place += size
        else:
            raise KeyError(name)
        start, end = place, place + size
    return start, end


def _scale(data: bytearray, *path: str) -> int:
    scale: int = struct.unpack_from(">I", data, _find(data, "moov", *path)[0] + 20)[0]
    return scale


def _mp4_packets(data: bytearray) -> list[tuple[int, int]]:
    table = ("moov", "trak", "mdia", "minf", "stbl")
    sizes, chunks = _find(data, *table, "stsz")[0], _find(data, *table, "stco")[0]
    (count,) = struct.unpack_from(">I", data, sizes + 16)
    (place,) = struct.unpack_from(">I", data, chunks + 16)
    packets = []
    for size in struct.unpack_from(f">{count}I", data, sizes + 20):
        packets.append((place, size))
        place += size
    return packets


def _avi_packets(data: bytearray) -> list[tuple[int, int]]:
    packets, place = [], data.index(b"movi") + 4
    while data[place : place + 4] == b"00dc":
        (size,) = struct.unpack_from("<I", data, place + 4)
        packets.append((place + 8, size))
        place += 8 + size + size % 2
    return packets

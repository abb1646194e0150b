"""When each frame of an .mp4 or .mov is shown, from its sample tables and edit list; no frame is decoded."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

LARGEST_INDEX = 64 << 20  # bytes of a `moov` box; hours of video take a few MB
MOST_SAMPLES = 20_000_000
MOST_EDITS = 1000
EARLIEST = -float(1 << 40)  # before any frame, in units of a track; exact in float64, unlike infinity


class _UnusableError(ValueError):
    """The index does not say which frames are shown."""


def shown_times(file: BinaryIO) -> np.ndarray | None:
    """Read when each frame of the video track is shown.

    A lossless trim keeps all frames in the file and only names the part to show, in the edit list. Players and decoders
    leave the other frames out, so they are not missing.

    Args:
        file: Seekable binary file.

    Returns:
        (N,) float64 seconds in ascending order, the first at 0; None where the file does not say: no index, an index in
        fragments, several video tracks, or a damaged one.
    """
    try:
        return _shown_times(_index(file))
    except (_UnusableError, struct.error, OSError, ValueError):
        return None


def _shown_times(moov: memoryview) -> np.ndarray:
    boxes = _children(moov)
    if "mvex" in boxes:
        raise _UnusableError("its frames are in fragments")
    videos = [track for track in map(_children, boxes.get("trak", [])) if _is_video(track)]
    if len(videos) != 1:
        raise _UnusableError("not one video track")
    (track,) = videos
    media = _children(_one(track, "mdia"))
    tables = _children(_one(_children(_one(media, "minf")), "stbl"))
    scale, movie_scale = _timescale(_one(media, "mdhd")), _timescale(_one(boxes, "mvhd"))
    times = _composition_times(tables)
    parts, passed = [], 0.0
    for start, duration in _edits(track, scale, movie_scale):
        part = times[(times >= start) & (times < start + duration)]
        parts.append(np.sort(part) - start + passed)
        passed += duration
    shown = np.concatenate(parts)
    if not len(shown):
        raise _UnusableError("no frame is shown")
    seconds: np.ndarray = (shown - shown[0]) / scale
    return seconds


def _composition_times(tables: dict[str, list[memoryview]]) -> np.ndarray:
    """Time of each sample in units of the track, in the order of the file: decoding time plus its offset."""
    deltas = _runs(_one(tables, "stts"), "u4")
    decoded = np.concatenate([[0], np.cumsum(deltas)[:-1]]) if len(deltas) else np.zeros(0, np.int64)
    sizes = _one(tables, "stsz")
    if struct.unpack_from(">I", sizes, 8)[0] != len(decoded):
        raise _UnusableError("tables of different lengths")
    if "ctts" not in tables:
        return decoded
    offsets = _runs(_one(tables, "ctts"), "i4")
    if len(offsets) != len(decoded):
        raise _UnusableError("tables of different lengths")
    composed: np.ndarray = decoded + offsets
    return composed


def _runs(table: memoryview, kind: str) -> np.ndarray:
    """Values of a table of (count, value) pairs, each repeated as often as it says."""
    (entries,) = struct.unpack_from(">I", table, 4)
    pairs = np.frombuffer(table, ">u4", 2 * entries, 8).reshape(-1, 2)
    counts = pairs[:, 0].astype(np.int64)
    if counts.sum() > MOST_SAMPLES:
        raise _UnusableError("more frames than any video has")
    values = np.ascontiguousarray(pairs[:, 1]).view(f">{kind}").astype(np.int64)
    return np.repeat(values, counts)


def _edits(track: dict[str, list[memoryview]], scale: int, movie_scale: int) -> list[tuple[float, float]]:
    """Parts of the track that are shown, (start, duration) in units of the track; all of it without an edit list."""
    lists = _children(track["edts"][0]).get("elst") if "edts" in track else None
    if not lists:
        return [(EARLIEST, np.inf)]
    version, (entries,) = lists[0][0], struct.unpack_from(">I", lists[0], 4)
    if entries > MOST_EDITS:
        raise _UnusableError("more edits than any video has")
    form = ">QqHH" if version == 1 else ">IiHH"
    parts = []
    for index in range(entries):
        duration, start, rate, _ = struct.unpack_from(form, lists[0], 8 + index * struct.calcsize(form))
        if start < 0:
            continue  # an empty edit: nothing is shown for a while
        if rate != 1:
            raise _UnusableError("an edit that is not at normal speed")
        parts.append((float(start), float(_rescale(duration, scale, movie_scale)) if duration else np.inf))
    return parts or [(EARLIEST, np.inf)]


def _rescale(value: int, scale: int, of: int) -> int:
    """`value` in another unit, rounded to the nearest as FFmpeg does."""
    return (value * scale + of // 2) // of


def _timescale(header: memoryview) -> int:
    """Units per second, of a `mvhd` or `mdhd` box."""
    scale: int = struct.unpack_from(">I", header, 20 if header[0] == 1 else 12)[0]
    if not scale:
        raise _UnusableError("no unit of time")
    return scale


def _is_video(track: dict[str, list[memoryview]]) -> bool:
    handlers = _children(track["mdia"][0]).get("hdlr", []) if "mdia" in track else []
    return bool(handlers) and bytes(handlers[0][8:12]) == b"vide"


def _one(boxes: dict[str, list[memoryview]], kind: str) -> memoryview:
    if kind not in boxes:
        raise _UnusableError(f"no {kind}")
    return boxes[kind][0]


def _children(box: memoryview) -> dict[str, list[memoryview]]:
    """Contents of the boxes inside a box, by their type."""
    found: dict[str, list[memoryview]] = {}
    start = 0
    while start + 8 <= len(box):
        size, kind = struct.unpack_from(">I4s", box, start)
        head = 8
        if size == 1:
            (size,), head = struct.unpack_from(">Q", box, start + 8), 16
        size = size or len(box) - start
        if not head <= size <= len(box) - start:
            raise _UnusableError("a box that does not fit")
        found.setdefault(kind.decode("latin-1"), []).append(box[start + head : start + size])
        start += size
    return found


def _index(file: BinaryIO) -> memoryview:
    """Contents of the `moov` box."""
    for kind, start, size in _top_boxes(file):
        if kind == b"moov":
            if size > LARGEST_INDEX:
                raise _UnusableError("an index larger than any video has")
            file.seek(start)
            return memoryview(file.read(size))
    raise _UnusableError("no index")


def _top_boxes(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Type, first byte and size of the contents of each box of a file."""
    end = file.seek(0, os.SEEK_END)
    start = 0
    while start + 8 <= end:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1:
            (size,), head = struct.unpack(">Q", file.read(8)), 16
        size = size or end - start
        if not head <= size <= end - start:
            raise _UnusableError("a box that does not fit")
        yield kind, start + head, size - head
        start += size

"""Damage that the bytes of an image file reveal before anything is decoded: PNG, JPEG and WebP."""

from __future__ import annotations

import re
import zlib

# In a JPEG's coded data FF is followed by 00, by a restart mark, or by more FF; anything else is the next mark.
MARK = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
END_OF_IMAGE, STANDALONE = 0xD9, (0x01, 0xD8)


def find_damage(data: bytes) -> str:
    """Say what is broken in a PNG, JPEG or WebP file.

    A PNG has a checksum for each of its parts, a JPEG an end mark, a WebP its length. An interrupted copy often has the
    full length and zeros for its tail: the first two reveal that too. Nothing reveals a damaged middle of a JPEG, nor
    zeros in a WebP.

    Args:
        data: Bytes of the whole file.

    Returns:
        What was found; empty where nothing was.
    """
    if data.startswith(b"\x89PNG"):
        return _png(data)
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    return _webp(data)


def _png(data: bytes) -> str:
    place = 8
    while place + 12 <= len(data):
        length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        end = place + 8 + length
        # Parts that begin with a small letter are remarks: the picture is whole without them.
        if kind[:1].isupper() and zlib.crc32(data[place + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return f"a broken part at byte {place} of {len(data)}"
        if not kind.isalpha():
            return f"no part of a PNG at byte {place} of {len(data)}"
        if kind == b"IEND":
            return ""
        place = end + 4
    return f"an end after {len(data)} bytes, before the end of the picture"


def _jpeg(data: bytes) -> str:
    place = 0
    while True:
        # Bytes between two parts are passed over, as the decoder does.
        found = MARK.search(data, place)
        if found is None:
            return f"no end mark in {len(data)} bytes: the tail is missing or overwritten"
        place, mark = found.end(), data[found.end() - 1]
        if mark == END_OF_IMAGE:
            return ""
        if mark not in STANDALONE:
            place += int.from_bytes(data[place : place + 2], "big")


def _webp(data: bytes) -> str:
    stated = int.from_bytes(data[4:8], "little") + 8
    return f"{len(data)} of {stated} bytes" if len(data) < stated else ""

"""Zips as this project writes them, and no others: members stored one behind the other, described twice in one way.

Readers of zips disagree about files in which the two descriptions of a member differ, members overlap, or bytes stand
before, between or behind them. Such a file is refused, so every reader finds the same members in what is taken.

Source: PKWARE's APPNOTE.TXT, sections 4.3 and 4.4.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

END = struct.Struct("<4s4H2LH")
ENTRY = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
MOST_ENTRY_BYTES = 1 << 16
REGULAR, TYPE_BITS = 0o100000, 0o170000  # of a Unix mode, which stands in the upper half of the attributes
PLAIN_VERSIONS = (10, 20)  # needed to extract


class StoredZipError(ValueError):
    """A file that is no zip of stored members in the form that this project writes."""


@dataclass(frozen=True)
class Entry:
    """One member.

    Args:
        name: Name of the member.
        offset: Where its header begins in the file.
        size: Number of its bytes.
        crc: Checksum of its bytes.
    """

    name: str
    offset: int
    size: int
    crc: int


def read_stored(file: BinaryIO, limits: Mapping[str, int] | None = None) -> dict[str, bytes]:
    """Read all members, once the directory and every header describe them in the same way.

    Args:
        file: File that can seek.
        limits: Most bytes of each member by name, checked before a member is read; None for no limits.

    Raises:
        StoredZipError: Another form than this project writes, another member than `limits` names, a member beyond its
            limit, or one that changed.
    """
    entries, start = _directory(file)
    if limits is not None:
        _check_limits(entries, limits)
    expected_offset = 0
    for entry in entries:
        if entry.offset != expected_offset:
            raise StoredZipError(f"{entry.name[:80]}, which does not begin where the member before it ends")
        _compare(file, entry)
        expected_offset = file.tell() + entry.size
    if expected_offset != start:
        raise StoredZipError("bytes that belong to no member")
    members = {}
    for entry in entries:
        file.seek(entry.offset + LOCAL.size + len(entry.name.encode()))
        data = _take(file, entry.size)
        if zlib.crc32(data) != entry.crc:
            raise StoredZipError(f"a CRC of {entry.name[:80]} that does not fit its bytes")
        members[entry.name] = data
    return members


def _directory(file: BinaryIO) -> tuple[list[Entry], int]:
    """Members as the directory at the end describes them, and where it begins."""
    size = file.seek(0, 2)
    if size < END.size:
        raise StoredZipError("a file that is too short for a zip")
    file.seek(size - END.size)
    magic, disk, first_disk, here, count, length, start, comment = END.unpack(_take(file, END.size))
    if magic != b"PK\x05\x06":
        raise StoredZipError("a file that does not end as a zip")
    if disk or first_disk or comment or here != count or start + length + END.size != size or not count:
        raise StoredZipError("a zip in parts, without members, or with other bytes before or behind them")
    if length > count * MOST_ENTRY_BYTES:
        raise StoredZipError("a directory that is longer than its members need")
    file.seek(start)
    directory = _take(file, length)
    entries: list[Entry] = []
    position = 0
    for _ in range(count):
        entry, position = _entry(directory, position)
        entries.append(entry)
    if position != length:
        raise StoredZipError("a directory with more in it than members")
    if len({entry.name for entry in entries}) < count:
        raise StoredZipError(f"the members {_names(entries)}, one of them twice")
    return entries, start


def _check_limits(entries: list[Entry], limits: Mapping[str, int]) -> None:
    if sorted(entry.name for entry in entries) != sorted(limits):
        raise StoredZipError(f"the members {_names(entries)}")
    for entry in entries:
        if entry.size > limits[entry.name]:
            raise StoredZipError(f"{entry.name} of {entry.size} bytes, where at most {limits[entry.name]} are taken")


def _names(entries: list[Entry]) -> str:
    return ", ".join(entry.name for entry in entries)[:200]


def _entry(directory: bytes, position: int) -> tuple[Entry, int]:
    """A member as the directory describes it, and where the next one begins."""
    if position + ENTRY.size > len(directory):
        raise StoredZipError("a directory that is cut short")
    magic, _, *fields = ENTRY.unpack_from(directory, position)
    needed, flags, method, _, _, crc, packed, size, name_length, extra, comment, disk, _, attributes, at = fields
    position += ENTRY.size
    raw = directory[position : position + name_length]
    if magic != b"PK\x01\x02" or len(raw) < name_length:
        raise StoredZipError("a damaged directory")
    name = _name(raw)
    if method or packed != size or flags:
        raise StoredZipError(f"{name[:80]} compressed, encrypted or described later; only stored members are taken")
    mode = attributes >> 16
    if mode & TYPE_BITS not in (0, REGULAR) or name.endswith("/"):
        raise StoredZipError(f"{name[:80]}, which is a link or a folder; only stored members are taken")
    if extra or comment or disk or needed not in PLAIN_VERSIONS:
        raise StoredZipError(f"{name[:80]} with fields that no member of ours has")
    return Entry(name, at, size, crc), position + name_length


def _compare(file: BinaryIO, entry: Entry) -> None:
    """Compare the header of a member with the directory; the file then stands at its first byte."""
    file.seek(entry.offset)
    magic, needed, flags, method, _, _, crc, packed, size, name_length, extra = LOCAL.unpack(_take(file, LOCAL.size))
    same = magic == b"PK\x03\x04" and (crc, packed, size) == (entry.crc, entry.size, entry.size)
    plain = not (flags or method or extra) and needed in PLAIN_VERSIONS
    raw = entry.name.encode()
    if not same or not plain or name_length != len(raw) or _take(file, name_length) != raw:
        raise StoredZipError(f"{entry.name[:80]}, whose header differs from the directory")


def _name(raw: bytes) -> str:
    try:
        name = raw.decode("ascii")
    except UnicodeDecodeError as exc:
        raise StoredZipError("a name that is not ASCII") from exc
    if not name or not name.isprintable():
        raise StoredZipError(f"a name that cannot be printed: {name[:80]!r}")
    return name


def _take(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise StoredZipError("a file that is cut short")
    return data

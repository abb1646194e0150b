"""Bundles: every damaged or hostile zip is one BundleError of one line."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgn_edge.bundle import MEMBER_LIMIT, MEMBERS, Bundle, read_bundle
from pgn_edge.errors import BundleError


@pytest.mark.parametrize("name", MEMBERS)
def test_a_missing_member(refusal, zipped, parts: dict[str, bytes], name: str):
    del parts[name]
    assert "the members" in refusal(zipped(parts))


@pytest.mark.parametrize(
    "name",
    ["extra.txt", "../escape", "/absolute", "pgn.onnx/", "..\\escape", "line\nbreak", "\x1b[31mred", "x" * 60_000],
    ids=["extra", "climbs out", "absolute", "folder", "climbs out on Windows", "newline", "escape code", "very long"],
)
def test_a_foreign_member(tmp_path: Path, refusal, zipped, parts: dict[str, bytes], name: str):
    message = refusal(zipped({**parts, name: b"data"}))
    assert "the members" in message
    assert len(message) < 1000
    assert message.isprintable()
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pgn"], "something was extracted"


def test_a_member_under_a_name_that_climbs(refusal, zipped, parts: dict[str, bytes]):
    parts["../pgn.onnx"] = parts.pop("pgn.onnx")
    refusal(zipped(parts))


def test_a_member_twice(refusal, parts: dict[str, bytes]):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("pgn.onnx", b"another")
    refusal(out.getvalue())


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_member(refusal, zipped, parts: dict[str, bytes], compression: int):
    assert "stored members" in refusal(zipped(parts, compression))


def patched(data: bytes, change: Callable[[zipfile.ZipInfo], None]) -> bytes:
    """`data` with another entry for pgn.onnx in the central directory."""
    out = io.BytesIO(data)
    with zipfile.ZipFile(out, "a") as archive:
        change(archive.getinfo("pgn.onnx"))
        archive._didModify = True  # writes the directory again on close
    return out.getvalue()


def set_fields(**fields: Any) -> Callable[[zipfile.ZipInfo], None]:
    def change(info: zipfile.ZipInfo) -> None:
        for name, value in fields.items():
            setattr(info, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param({"flag_bits": 1}, "stored members", id="encrypted"),
        pytest.param({"flag_bits": 0x20}, "", id="patch data"),
        pytest.param({"flag_bits": 0x40}, "", id="strongly encrypted"),
        pytest.param({"compress_type": 99}, "", id="unknown compression"),
        pytest.param(
            {"file_size": MEMBER_LIMIT + 1, "compress_size": MEMBER_LIMIT + 1}, "at most", id="claims to be oversized"
        ),
        pytest.param(
            {"file_size": 1 << 62, "compress_size": 1 << 62}, "that no member of ours has", id="claims exabytes"
        ),
        pytest.param({"file_size": 1 << 20, "compress_size": 1 << 20}, "", id="claims more than the file has"),
        pytest.param({"file_size": 10}, "stored members", id="two sizes that disagree"),
        pytest.param({"header_offset": 1 << 20}, "", id="points behind the end"),
        pytest.param({"header_offset": (1 << 63) - 1}, "", id="points behind every end"),
        pytest.param({"header_offset": (1 << 64) - 1}, "", id="points further than a file can be"),
        pytest.param({"CRC": 0}, "differs from the directory", id="another checksum than the header's"),
        pytest.param({"external_attr": 0o120777 << 16}, "a link", id="a symbolic link"),
        pytest.param({"external_attr": 0o040755 << 16}, "a link or a folder", id="a folder"),
        pytest.param({"extra": b"UT\x05\x00\x01abcd"}, "that no member of ours has", id="more fields"),
        pytest.param({"comment": b"hello"}, "that no member of ours has", id="a comment of a member"),
        pytest.param({"flag_bits": 8}, "stored members", id="sizes behind the data"),
    ],
)
def test_a_directory_that_lies(refusal, good: bytes, change: dict[str, Any], says: str):
    assert says in refusal(patched(good, set_fields(**change)))


LOCAL_FIELDS = {"version": 4, "flags": 6, "method": 8, "crc": 14, "packed": 18, "size": 22, "name length": 26}


@pytest.mark.parametrize("field", LOCAL_FIELDS)
def test_a_header_that_differs_from_the_directory(refusal, good: bytes, field: str):
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        start = archive.getinfo("head.npz").header_offset
    damaged = bytearray(good)
    damaged[start + LOCAL_FIELDS[field]] ^= 1
    assert "head.npz, whose header differs from the directory" in refusal(bytes(damaged))
    damaged = bytearray(good)
    damaged[start + 30] ^= 1  # its name
    assert "head.npz, whose header differs from the directory" in refusal(bytes(damaged))


@pytest.mark.parametrize("place", ["before", "behind", "between", "in a comment"])
def test_bytes_that_belong_to_no_member(refusal, good: bytes, parts: dict[str, bytes], place: str):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(name), data)
            if place == "between" and name == "pgn.onnx":
                out.write(b"hidden")
                archive.start_dir = out.tell()
        archive.comment = b"hidden" if place == "in a comment" else b""
    data = {"before": b"hidden" + good, "behind": good + b"hidden"}.get(place, out.getvalue())
    refusal(data)


def test_two_members_that_share_their_bytes(refusal, good: bytes):
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        start = archive.getinfo("head.npz").header_offset
    refusal(patched(good, set_fields(header_offset=start)))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"not a zip", id="text"),
        pytest.param(b"PK\x05\x06" + bytes(18), id="an empty zip"),
        pytest.param(b"PK\x05\x06" + b"\xff" * 18, id="an end record full of ones"),
        pytest.param(b"PK\x03\x04" * 1000, id="only beginnings"),
    ],
)
def test_no_bundle_at_all(refusal, data: bytes):
    refusal(data)


def test_no_file_and_a_folder(tmp_path: Path):
    for path in (tmp_path / "missing.pgn", tmp_path):
        with pytest.raises(BundleError):
            read_bundle(path)


def test_a_member_that_changed(refusal, zipped, parts: dict[str, bytes]):
    parts["pgn.onnx"] = b"\x00" + parts["pgn.onnx"][1:]
    assert "sha256" in refusal(zipped(parts))


def check_refused_or_equal(folder: Path, damaged: bytes, whole: Bundle) -> None:
    """Zip headers hold fields that mean nothing here, such as dates: a change may go unseen, and changes nothing."""
    path = folder / "damaged.pgn"
    path.write_bytes(damaged)
    try:
        bundle = read_bundle(path)
    except BundleError as exc:
        message = str(exc)
    else:
        message = ""
    assert len(message.splitlines()) <= 1
    if message:
        return
    assert bundle.pgn_onnx == whole.pgn_onnx
    assert bundle.facts == whole.facts
    assert bundle.head.weight.tobytes() == whole.head.weight.tobytes()


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_changed_byte(tmp_path: Path, bundle: Bundle, good: bytes, data: st.DataObject):
    offset = data.draw(st.integers(0, len(good) - 1), "offset")
    damaged = bytearray(good)
    damaged[offset] ^= data.draw(st.integers(1, 255), "flip")
    check_refused_or_equal(tmp_path, bytes(damaged), bundle)


def test_any_changed_byte_of_the_directory(tmp_path: Path, bundle: Bundle, good: bytes):
    # The directory is where a zip reader believes what it reads, so here every byte gets several turns.
    start = struct.unpack("<I", good[-6:-2])[0]
    for offset in range(start, len(good)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(good)
            damaged[offset] ^= flip
            check_refused_or_equal(tmp_path, bytes(damaged), bundle)


def test_every_byte_of_every_member_counts(refusal, zipped, parts: dict[str, bytes]):
    # A sample of 200 offsets in each, whatever their checksums: zip's CRC is mended here, the hash is not.
    for name in MEMBERS[1:]:
        for offset in np.linspace(0, len(parts[name]) - 1, 200).astype(int):
            damaged = bytearray(parts[name])
            damaged[offset] ^= 0x40
            assert "sha256" in refusal(zipped({**parts, name: bytes(damaged)}))


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.8, 0.95, 0.999])
def test_truncated(refusal, good: bytes, share: float):
    refusal(good[: int(share * len(good))])


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.integers(0, 200), st.integers(0, 200))
def test_any_splice(tmp_path: Path, bundle: Bundle, good: bytes, noise: bytes, cut_front: int, cut_back: int):
    check_refused_or_equal(tmp_path, good[cut_front : len(good) - cut_back] + noise, bundle)

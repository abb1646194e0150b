"""Bundles: bit-identical both ways, and every damaged or hostile file is one BundleError of one line."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgn_edge.bundle import MEMBER_LIMIT, MEMBERS, Bundle, Golden, read_bundle, write_bundle
from pgn_edge.contract import EngineFacts
from pgn_edge.errors import BundleError
from pgn_edge.geometry import Geometry
from pgn_edge.heads import Head
from pgn_edge.npz import npz_arrays, npz_bytes
from pgn_edge.preprocess import Preprocess

RNG = np.random.default_rng(0)
FACTS = EngineFacts("pgn", "builtin", "ab" * 32, Geometry((16, 16), 8, 3), Preprocess((16, 16)), "fp32", 20, "canvas")
GOLDEN = Golden(
    images=RNG.integers(0, 256, (2, 16, 16, 3), np.uint8),
    prompt_rows=RNG.standard_normal((2, 3, 16, 16)).astype(np.float32),
    embedding=RNG.standard_normal((2, 4)).astype(np.float32),
    top1=np.array([1, 0]),
)
BUNDLE = Bundle(
    name="pets",
    facts=FACTS,
    pgn_onnx=RNG.bytes(300),
    head=Head.linear(RNG.standard_normal((2, 4)), np.zeros(2), ("cat", "dög")),
    golden=GOLDEN,
    certificate={"rank": 128, "residual": 1e-15},
    parity=({"rung": "torch canvas", "passed": True},),
    provenance={"data": "pets", "accuracy": 0.9},
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("bundle") / "good.pgn"
    write_bundle(path, BUNDLE)
    return path.read_bytes()


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return out.getvalue()


def rehashed(parts: dict[str, bytes], change: Callable[[dict[str, Any]], None] = lambda manifest: None) -> bytes:
    """A bundle by someone who knows the format: any members, any manifest, every hash right."""
    manifest = json.loads(parts["manifest.json"])
    for name in manifest["members"]:
        manifest["members"][name]["sha256"] = hashlib.sha256(parts[name]).hexdigest()
    change(manifest)
    return zipped({**parts, "manifest.json": json.dumps(manifest).encode()})


def refusal(folder: Path, data: bytes) -> str:
    """The one line that reading `data` is refused with; any other exception escapes and fails the test."""
    path = folder / "bad.pgn"
    path.write_bytes(data)
    with pytest.raises(BundleError) as caught:
        read_bundle(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert "bad.pgn" in message
    return message


def test_round_trip(tmp_path: Path, good: bytes):
    path = tmp_path / "task.pgn"
    path.write_bytes(good)
    copy = read_bundle(path)
    for field in dataclasses.fields(Bundle):
        if field.name not in ("head", "golden"):
            assert getattr(copy, field.name) == getattr(BUNDLE, field.name), field.name
    assert copy.head.labels == BUNDLE.head.labels
    for name, array in BUNDLE.head.to_arrays().items():
        assert copy.head.to_arrays()[name].tobytes() == array.tobytes(), name
    for field in dataclasses.fields(Golden):
        ours, theirs = getattr(copy.golden, field.name), getattr(GOLDEN, field.name)
        assert (ours.dtype, ours.shape, ours.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes()), field.name


def test_the_same_bundle_gives_the_same_bytes(tmp_path: Path, good: bytes):
    path = tmp_path / "again.pgn"
    write_bundle(path, read_bundle_bytes(tmp_path, good))
    assert path.read_bytes() == good


def read_bundle_bytes(folder: Path, data: bytes) -> Bundle:
    path = folder / "given.pgn"
    path.write_bytes(data)
    return read_bundle(path)


def test_every_member_is_stored_and_hashed(good: bytes):
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        assert tuple(archive.namelist()) == MEMBERS
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
    parts = members(good)
    stated = json.loads(parts["manifest.json"])["members"]
    assert stated == {
        name: {"sha256": hashlib.sha256(parts[name]).hexdigest(), "bytes": len(parts[name])} for name in MEMBERS[1:]
    }


def test_the_forger_of_these_tests_makes_good_bundles(tmp_path: Path, good: bytes):
    # Otherwise the refusals below could come from the forgery itself.
    assert read_bundle_bytes(tmp_path, rehashed(members(good))).name == "pets"


@pytest.mark.parametrize(
    "golden",
    [
        pytest.param(dataclasses.replace(GOLDEN, images=GOLDEN.images[:, :8]), id="images of another size"),
        pytest.param(dataclasses.replace(GOLDEN, images=GOLDEN.images.astype(np.float32)), id="float images"),
        pytest.param(dataclasses.replace(GOLDEN, prompt_rows=GOLDEN.prompt_rows[:, :, :8]), id="a row too few"),
        pytest.param(dataclasses.replace(GOLDEN, embedding=GOLDEN.embedding[:1]), id="one embedding too few"),
        pytest.param(dataclasses.replace(GOLDEN, embedding=np.float32(1)), id="embedding without an axis"),
        pytest.param(dataclasses.replace(GOLDEN, images=np.uint8(1)), id="images without an axis"),
        pytest.param(dataclasses.replace(GOLDEN, top1=GOLDEN.top1.astype(np.int32)), id="int32 classes"),
        pytest.param(Golden(*(getattr(GOLDEN, f.name)[:0] for f in dataclasses.fields(Golden))), id="no frames"),
    ],
)
def test_golden_pairs_that_do_not_fit(tmp_path: Path, good: bytes, golden: Golden):
    with pytest.raises(BundleError, match="golden"):
        write_bundle(tmp_path / "never.pgn", dataclasses.replace(BUNDLE, golden=golden))
    assert not (tmp_path / "never.pgn").exists()
    arrays = {field.name: getattr(golden, field.name) for field in dataclasses.fields(Golden)}
    refusal(tmp_path, rehashed({**members(good), "golden.npz": npz_bytes(arrays)}))


@pytest.mark.parametrize("name", MEMBERS)
def test_a_missing_member(tmp_path: Path, good: bytes, name: str):
    parts = members(good)
    del parts[name]
    assert "the members" in refusal(tmp_path, zipped(parts))


@pytest.mark.parametrize(
    "name",
    ["extra.txt", "../escape", "/absolute", "pgn.onnx/", "..\\escape", "line\nbreak", "\x1b[31mred", "x" * 60_000],
    ids=["extra", "climbs out", "absolute", "folder", "climbs out on Windows", "newline", "escape code", "very long"],
)
def test_a_foreign_member(tmp_path: Path, good: bytes, name: str):
    message = refusal(tmp_path, zipped({**members(good), name: b"data"}))
    assert "the members" in message
    assert len(message) < 1000
    assert message.isprintable()
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pgn"], "something was extracted"


def test_a_member_under_a_name_that_climbs(tmp_path: Path, good: bytes):
    parts = members(good)
    parts["../pgn.onnx"] = parts.pop("pgn.onnx")
    refusal(tmp_path, zipped(parts))


def test_a_member_twice(tmp_path: Path, good: bytes):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members(good).items():
            archive.writestr(name, data)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("pgn.onnx", b"another")
    refusal(tmp_path, out.getvalue())


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_member(tmp_path: Path, good: bytes, compression: int):
    assert "stored members" in refusal(tmp_path, zipped(members(good), compression))


def patched(data: bytes, change: Callable[[zipfile.ZipInfo], None]) -> bytes:
    """`data` with another entry for pgn.onnx in the central directory."""
    out = io.BytesIO(data)
    with zipfile.ZipFile(out, "a") as archive:
        change(archive.getinfo("pgn.onnx"))
        archive._didModify = True  # writes the directory again on close
    return out.getvalue()


def set_fields(**fields: int) -> Callable[[zipfile.ZipInfo], None]:
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
        pytest.param({"file_size": 1 << 62, "compress_size": 1 << 62}, "at most", id="claims exabytes"),
        pytest.param({"file_size": 1 << 20, "compress_size": 1 << 20}, "", id="claims more than the file has"),
        pytest.param({"file_size": 10}, "stored members", id="two sizes that disagree"),
        pytest.param({"header_offset": 1 << 20}, "", id="points behind the end"),
        pytest.param({"header_offset": (1 << 63) - 1}, "", id="points behind every end"),
        pytest.param({"header_offset": (1 << 64) - 1}, "", id="points further than a file can be"),
        pytest.param({"CRC": 0}, "CRC", id="wrong checksum"),
    ],
)
def test_a_directory_that_lies(tmp_path: Path, good: bytes, change: dict[str, int], says: str):
    assert says in refusal(tmp_path, patched(good, set_fields(**change)))


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
def test_no_bundle_at_all(tmp_path: Path, data: bytes):
    refusal(tmp_path, data)


def test_no_file_and_a_folder(tmp_path: Path):
    for path in (tmp_path / "missing.pgn", tmp_path):
        with pytest.raises(BundleError):
            read_bundle(path)


def put(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = value

    return change


def drop(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest.pop(key)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(put("schema", value=2), id="a later schema"),
        pytest.param(put("format", value="another task"), id="another format"),
        *(
            pytest.param(drop(key), id=f"without {key}")
            for key in ("schema", "name", "engine", "labels", "members", "certificate", "parity", "provenance")
        ),
        pytest.param(put("labels", value=["cat"]), id="fewer labels than rows"),
        pytest.param(put("labels", value=None), id="labels are null"),
        pytest.param(put("engine", value=[]), id="facts are a list"),
        pytest.param(put("engine", "geometry", value=None), id="geometry is null"),
        pytest.param(put("engine", "geometry", "patch", value=7), id="a patch that does not divide"),
        pytest.param(put("engine", "geometry", "patch", value=float("inf")), id="an infinite patch"),
        pytest.param(put("engine", "geometry", "prompts", value=10**30), id="more prompts than atoms"),
        pytest.param(put("engine", "opset", value=float("inf")), id="an infinite opset"),
        pytest.param(put("engine", "preprocess", "std", value=[0, 1, 1]), id="zero std"),
        pytest.param(put("engine", "preprocess", "mean", value=[float("nan")] * 3), id="NaN mean"),
        pytest.param(put("certificate", value=3), id="certificate is a number"),
        pytest.param(put("parity", value=1), id="parity is a number"),
        pytest.param(put("provenance", value="text"), id="provenance is text"),
        pytest.param(put("members", "pgn.onnx", value={}), id="a member without a hash"),
        pytest.param(put("members", "pgn.onnx", "sha256", value="line\nbreak"), id="a hash with a newline"),
    ],
)
def test_a_manifest_that_makes_no_sense(tmp_path: Path, good: bytes, change: Callable[[dict[str, Any]], None]):
    refusal(tmp_path, rehashed(members(good), change))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b" " * ((4 << 20) + 1),
        b'{"format": "pgn-edge task", "schema": 1, "members": ' + b"9" * 5000 + b"}",
    ],
    ids=["empty", "null", "list", "truncated", "no text", "deep list", "deep object", "too large", "a long number"],
)
def test_a_manifest_that_is_none(tmp_path: Path, good: bytes, text: bytes):
    refusal(tmp_path, zipped({**members(good), "manifest.json": text}))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        pytest.param("head.npz", b"no npz", id="head is no npz"),
        pytest.param("golden.npz", npz_bytes({"images": GOLDEN.images}), id="golden without its outputs"),
        pytest.param("head.npz", npz_bytes({"kind": np.array("text")}), id="head without weights"),
        pytest.param(
            "head.npz",
            npz_bytes({**BUNDLE.head.to_arrays(), "weight": np.full((2, 4), np.nan, np.float32)}),
            id="NaN in the head",
        ),
    ],
)
def test_members_with_right_hashes_and_wrong_content(tmp_path: Path, good: bytes, name: str, data: bytes):
    refusal(tmp_path, rehashed({**members(good), name: data}))


def test_a_pickle_in_a_member_with_a_right_hash(tmp_path: Path, good: bytes):
    out = io.BytesIO()
    np.savez(out, **{**BUNDLE.head.to_arrays(), "weight": np.array([{}], dtype=object)})
    refusal(tmp_path, rehashed({**members(good), "head.npz": out.getvalue()}))


def test_a_member_that_changed(tmp_path: Path, good: bytes):
    parts = members(good)
    parts["pgn.onnx"] = b"\x00" + parts["pgn.onnx"][1:]
    assert "sha256" in refusal(tmp_path, zipped(parts))


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_changed_byte(tmp_path: Path, good: bytes, data: st.DataObject):
    offset = data.draw(st.integers(0, len(good) - 1), "offset")
    damaged = bytearray(good)
    damaged[offset] ^= data.draw(st.integers(1, 255), "flip")
    check_refused_or_equal(tmp_path, bytes(damaged))


def test_any_changed_byte_of_the_directory(tmp_path: Path, good: bytes):
    # The directory is where a zip reader believes what it reads, so here every byte gets several turns.
    start = struct.unpack("<I", good[-6:-2])[0]
    for offset in range(start, len(good)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(good)
            damaged[offset] ^= flip
            check_refused_or_equal(tmp_path, bytes(damaged))


def check_refused_or_equal(folder: Path, damaged: bytes) -> None:
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
    assert bundle.pgn_onnx == BUNDLE.pgn_onnx
    assert bundle.facts == FACTS
    assert bundle.head.weight.tobytes() == BUNDLE.head.weight.tobytes()


def test_every_byte_of_every_member_counts(tmp_path: Path, good: bytes):
    # A sample of 200 offsets in each, whatever their checksums: zip's CRC is mended here, the hash is not.
    parts = members(good)
    for name in MEMBERS[1:]:
        for offset in np.linspace(0, len(parts[name]) - 1, 200).astype(int):
            damaged = bytearray(parts[name])
            damaged[offset] ^= 0x40
            assert "sha256" in refusal(tmp_path, zipped({**parts, name: bytes(damaged)}))


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.8, 0.95, 0.999])
def test_truncated(tmp_path: Path, good: bytes, share: float):
    refusal(tmp_path, good[: int(share * len(good))])


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.integers(0, 200), st.integers(0, 200))
def test_any_splice(tmp_path: Path, good: bytes, noise: bytes, cut_front: int, cut_back: int):
    check_refused_or_equal(tmp_path, good[cut_front : len(good) - cut_back] + noise)


def test_nothing_is_allocated_for_a_lie(good: bytes):
    # The golden arrays are a few kB: whatever a header claims, no larger array comes out.
    arrays = npz_arrays(members(good)["golden.npz"], "here")
    assert sum(array.nbytes for array in arrays.values()) < len(good)

"""Bundles: bit-identical both ways, and what is in one is looked at, whatever its hashes say."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgn_edge.bundle import MEMBERS, Bundle, Golden, read_bundle, write_bundle
from pgn_edge.errors import BundleError
from pgn_edge.npz import npz_arrays, npz_bytes

Zipped = Callable[..., bytes]


def read_bundle_bytes(folder: Path, data: bytes) -> Bundle:
    path = folder / "given.pgn"
    path.write_bytes(data)
    return read_bundle(path)


def test_round_trip(tmp_path: Path, bundle: Bundle, good: bytes):
    path = tmp_path / "task.pgn"
    path.write_bytes(good)
    copy = read_bundle(path)
    for field in dataclasses.fields(Bundle):
        if field.name not in ("head", "golden", "digest"):
            assert getattr(copy, field.name) == getattr(bundle, field.name), field.name
    assert copy.head.labels == bundle.head.labels
    for name, array in bundle.head.to_arrays().items():
        assert copy.head.to_arrays()[name].tobytes() == array.tobytes(), name
    for field in dataclasses.fields(Golden):
        ours, theirs = getattr(copy.golden, field.name), getattr(bundle.golden, field.name)
        assert (ours.dtype, ours.shape, ours.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes()), field.name


def test_the_same_bundle_gives_the_same_bytes(tmp_path: Path, good: bytes):
    path = tmp_path / "again.pgn"
    write_bundle(path, read_bundle_bytes(tmp_path, good))
    assert path.read_bytes() == good


def test_a_manifest_without_a_profile_is_a_bundle_too(
    tmp_path: Path, bundle: Bundle, rehashed: Callable[..., bytes], parts: dict[str, bytes]
):
    read = read_bundle_bytes(tmp_path, rehashed(parts, lambda manifest: manifest.pop("profile")))
    assert read.profile is None
    write_bundle(tmp_path / "task.pgn", read)
    assert b'"profile"' not in (tmp_path / "task.pgn").read_bytes()
    assert read.provenance == bundle.provenance


def test_every_member_is_stored_and_hashed(good: bytes, parts: dict[str, bytes]):
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        assert tuple(archive.namelist()) == MEMBERS
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
    stated = json.loads(parts["manifest.json"])["members"]
    assert stated == {
        name: {"sha256": hashlib.sha256(parts[name]).hexdigest(), "bytes": len(parts[name])} for name in MEMBERS[1:]
    }


@pytest.fixture
def rehashed(zipped: Zipped) -> Callable[..., bytes]:
    """Make a bundle as someone does who knows the format: any members, any manifest, every hash right."""

    def forge(parts: dict[str, bytes], change: Callable[[dict[str, Any]], None] = lambda manifest: None) -> bytes:
        manifest = json.loads(parts["manifest.json"])
        for name in manifest["members"]:
            manifest["members"][name]["sha256"] = hashlib.sha256(parts[name]).hexdigest()
        change(manifest)
        return zipped({**parts, "manifest.json": json.dumps(manifest).encode()})

    return forge


def test_the_forger_of_these_tests_makes_good_bundles(tmp_path: Path, rehashed, parts: dict[str, bytes]):
    # Otherwise the refusals below could come from the forgery itself.
    assert read_bundle_bytes(tmp_path, rehashed(parts)).name == "pets"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            lambda golden: dataclasses.replace(golden, images=golden.images[:, :8]), id="images of another size"
        ),
        pytest.param(
            lambda golden: dataclasses.replace(golden, images=golden.images.astype(np.float32)), id="float images"
        ),
        pytest.param(
            lambda golden: dataclasses.replace(golden, prompt_rows=golden.prompt_rows[:, :, :8]), id="a row too few"
        ),
        pytest.param(
            lambda golden: dataclasses.replace(golden, embedding=golden.embedding[:1]), id="one embedding too few"
        ),
        pytest.param(
            lambda golden: dataclasses.replace(golden, embedding=np.float32(1)), id="embedding without an axis"
        ),
        pytest.param(lambda golden: dataclasses.replace(golden, images=np.uint8(1)), id="images without an axis"),
        pytest.param(lambda golden: dataclasses.replace(golden, top1=golden.top1.astype(np.int32)), id="int32 classes"),
        pytest.param(
            lambda golden: Golden(*(getattr(golden, f.name)[:0] for f in dataclasses.fields(Golden))), id="no frames"
        ),
    ],
)
def test_golden_pairs_that_do_not_fit(
    tmp_path: Path, refusal, rehashed, bundle: Bundle, parts: dict[str, bytes], change: Callable[[Golden], Golden]
):
    golden = change(bundle.golden)
    with pytest.raises(BundleError, match="golden"):
        write_bundle(tmp_path / "never.pgn", dataclasses.replace(bundle, golden=golden))
    assert not (tmp_path / "never.pgn").exists()
    arrays = {field.name: getattr(golden, field.name) for field in dataclasses.fields(Golden)}
    refusal(rehashed({**parts, "golden.npz": npz_bytes(arrays)}))


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
        pytest.param(put("profile", value=None), id="profile is null"),
        pytest.param(put("profile", "usage", value=[]), id="a profile of no tokens"),
        pytest.param(put("profile", "usage", value=[0.5, 0.6]), id="a usage that sums to more than 1"),
        pytest.param(put("profile", "usage", value=[1.5, -0.5]), id="a negative usage"),
        pytest.param(put("profile", "usage", value=[float("nan"), 1]), id="NaN in the usage"),
        pytest.param(put("profile", "usage", value=[1, float("nan")]), id="NaN at the end of the usage"),
        pytest.param(put("profile", "usage", value={"a": 1}), id="usage is an object"),
        pytest.param(put("profile", "frames", value=0), id="a profile of no frames"),
        pytest.param(put("profile", "entropy_mean", value=1.5), id="an entropy beyond 1"),
        pytest.param(put("profile", "entropy_std", value=0), id="an entropy without spread"),
        pytest.param(put("profile", "entropy_std", value=float("inf")), id="an infinite spread"),
        pytest.param(put("profile", "divergence_of_halves", value=float("nan")), id="NaN between the halves"),
        pytest.param(put("members", "pgn.onnx", value={}), id="a member without a hash"),
        pytest.param(put("members", "pgn.onnx", "sha256", value="line\nbreak"), id="a hash with a newline"),
    ],
)
def test_a_manifest_that_makes_no_sense(
    refusal, rehashed, parts: dict[str, bytes], change: Callable[[dict[str, Any]], None]
):
    refusal(rehashed(parts, change))


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
def test_a_manifest_that_is_none(refusal, zipped, parts: dict[str, bytes], text: bytes):
    refusal(zipped({**parts, "manifest.json": text}))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        pytest.param("head.npz", lambda bundle: b"no npz", id="head is no npz"),
        pytest.param(
            "golden.npz", lambda bundle: npz_bytes({"images": bundle.golden.images}), id="golden without its outputs"
        ),
        pytest.param("head.npz", lambda bundle: npz_bytes({"kind": np.array("text")}), id="head without weights"),
        pytest.param(
            "head.npz",
            lambda bundle: npz_bytes({**bundle.head.to_arrays(), "weight": np.full((2, 4), np.nan, np.float32)}),
            id="NaN in the head",
        ),
    ],
)
def test_members_with_right_hashes_and_wrong_content(
    refusal, rehashed, bundle: Bundle, parts: dict[str, bytes], name: str, change: Callable[[Bundle], bytes]
):
    refusal(rehashed({**parts, name: change(bundle)}))


def test_a_pickle_in_a_member_with_a_right_hash(refusal, rehashed, bundle: Bundle, parts: dict[str, bytes]):
    out = io.BytesIO()
    np.savez(out, **{**bundle.head.to_arrays(), "weight": np.array([{}], dtype=object)})
    refusal(rehashed({**parts, "head.npz": out.getvalue()}))


def test_nothing_is_allocated_for_a_lie(good: bytes, parts: dict[str, bytes]):
    # The golden arrays are a few kB: whatever a header claims, no larger array comes out.
    arrays = npz_arrays(parts["golden.npz"], "here")
    assert sum(array.nbytes for array in arrays.values()) < len(good)

"""The task bundle `task.pgn`: the only thing that crosses from export to runtime.

A zip whose members are STORED: `manifest.json`, `pgn.onnx`, `head.npz`, `golden.npz`. The manifest holds the sha256 of
each other member. Nothing is extracted to disk, and every limit is checked before a member is read.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pgn_edge.contract import EngineFacts
from pgn_edge.errors import BundleError, PgnEdgeError
from pgn_edge.file_kind import require_kind
from pgn_edge.files import write_bytes
from pgn_edge.graph_gate import check_graph
from pgn_edge.heads import Head
from pgn_edge.mixtures import Profile
from pgn_edge.npz import npz_arrays, npz_bytes

FORMAT = "pgn-edge task"
SCHEMA = 1
MEMBERS = ("manifest.json", "pgn.onnx", "head.npz", "golden.npz")
MANIFEST_LIMIT = 4 << 20
MEMBER_LIMIT = 256 << 20
MOST_GOLDEN = 32  # frames; export stores 4, and each costs the device a run of both engines
DIGEST = 12  # hexadecimal digits of a bundle's sha256 that answers carry


@dataclass(frozen=True)
class Golden:
    """Stored inputs and the outputs that a device must reproduce before it sees its first frame.

    Args:
        images: (M, H, W, 3) uint8 RGB, inputs of the PGN engine.
        prompt_rows: the canvas rows that hold the prompt slots, (M, 3, rP, W) float32, or (M, rP, W, 3) uint8 where
            that is the canvas; the rows above are the image itself.
        embedding: (M, D) float32, from the float32 reference in torch, prompts given as tokens; of a canvas of uint8,
            after its transport.
        top1: (M,) int64, class index of the reference.
    """

    images: np.ndarray
    prompt_rows: np.ndarray
    embedding: np.ndarray
    top1: np.ndarray

    def check(self, facts: EngineFacts) -> None:
        """Refuse arrays that do not fit the geometry.

        Raises:
            BundleError: a shape or dtype is wrong.
        """
        geometry = facts.geometry
        count = len(self.images) if self.images.ndim else 0
        rows_hw = geometry.rows * geometry.patch, geometry.canvas_hw[1]
        by_vit = facts.canvas == "uint8"
        prompt_rows = (count, *rows_hw, 3) if by_vit else (count, 3, *rows_hw)
        expected = {
            "images": ((count, *geometry.content_hw, 3), np.uint8, self.images),
            "prompt_rows": (prompt_rows, np.uint8 if by_vit else np.float32, self.prompt_rows),
            "embedding": ((count, *self.embedding.shape[-1:]), np.float32, self.embedding),
            "top1": ((count,), np.int64, self.top1),
        }
        if count > MOST_GOLDEN:
            raise BundleError(
                "golden.npz", expected=f"at most {MOST_GOLDEN} frames", got=str(count), do="export the task again"
            )
        for name, (shape, dtype, array) in expected.items():
            if count == 0 or array.shape != shape or array.dtype != dtype:
                raise BundleError(
                    f"golden.npz {name}",
                    expected=f"{np.dtype(dtype)} {shape}, at least one",
                    got=f"{array.dtype} {array.shape}",
                    do="export the task again",
                )


@dataclass(frozen=True)
class Bundle:
    """One task, in memory.

    Args:
        name: short name of the task.
        facts: of the PGN engine, and of the ViT it was made for.
        pgn_onnx: the PGN engine as ONNX bytes.
        head: the classifier on embeddings; its labels are the task's labels.
        golden: stored inputs and expected outputs.
        certificate: what export measured of the inversion.
        parity: rungs of the parity ladder, as export measured them.
        numerics: which nodes of the PGN engine stay float32 and why; empty for fp32.
        profile: of the mixture coefficients on the golden images of the checkpoint; None where drift is not measured.
        provenance: where the task came from (data set, training configuration, accuracies, sha256 of the checkpoint).
        digest: First 12 hexadecimal digits of the file's sha256; empty before the bundle is written.
    """

    name: str
    facts: EngineFacts
    pgn_onnx: bytes
    head: Head
    golden: Golden
    certificate: Mapping[str, Any] = field(default_factory=dict)
    parity: tuple[Mapping[str, Any], ...] = ()
    numerics: Mapping[str, Any] = field(default_factory=dict)
    profile: Profile | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    digest: str = field(default="", compare=False)


def write_bundle(path: str | Path, bundle: Bundle) -> None:
    """Write `bundle` to `path` whole or not at all; the same bundle gives the same bytes.

    Raises:
        OutputError: the path cannot be written.
        BundleError: the golden pair does not fit the geometry, or the graph is none that a device would accept.
    """
    bundle.golden.check(bundle.facts)
    check_graph(bundle.pgn_onnx, bundle.facts, f"{path}: pgn.onnx")
    golden = bundle.golden
    members = {
        "pgn.onnx": bundle.pgn_onnx,
        "head.npz": npz_bytes(bundle.head.to_arrays()),
        "golden.npz": npz_bytes(
            {
                "images": golden.images,
                "prompt_rows": golden.prompt_rows,
                "embedding": golden.embedding,
                "top1": golden.top1,
            }
        ),
    }
    manifest = {
        "format": FORMAT,
        "schema": SCHEMA,
        "name": bundle.name,
        "engine": bundle.facts.to_json(),
        "labels": list(bundle.head.labels),
        "members": {name: {"sha256": _sha256(data), "bytes": len(data)} for name, data in members.items()},
        "certificate": dict(bundle.certificate),
        "parity": [dict(rung) for rung in bundle.parity],
        "numerics": dict(bundle.numerics),
        **({} if bundle.profile is None else {"profile": bundle.profile.to_json()}),
        "provenance": dict(bundle.provenance),
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("manifest.json"), json.dumps(manifest, indent=2))
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    write_bytes(path, out.getvalue())


def read_bundle(path: str | Path) -> Bundle:
    """Read and verify a task bundle.

    Raises:
        BundleError: not a bundle, a missing, foreign, compressed or oversized member, a byte that changed, a manifest
            of another schema, or a graph that export would not have written.
    """
    source = str(path)
    require_kind(path, "bundle", error=BundleError)
    members, digest = _read_members(source)
    try:
        manifest = json.loads(members.pop("manifest.json"))
        _check_manifest(manifest, members, source)
        labels = tuple(str(label) for label in manifest["labels"])
        golden = npz_arrays(members["golden.npz"], f"{source}: golden.npz")
        bundle = Bundle(
            name=str(manifest["name"]),
            facts=EngineFacts.from_json(manifest["engine"], source),
            pgn_onnx=members["pgn.onnx"],
            head=Head.from_arrays(npz_arrays(members["head.npz"], f"{source}: head.npz"), labels),
            golden=Golden(**{key: golden[key] for key in Golden.__dataclass_fields__}),
            certificate=dict(manifest["certificate"]),
            parity=tuple(manifest["parity"]),
            numerics=dict(manifest.get("numerics", {})),
            profile=Profile.from_json(manifest["profile"]) if "profile" in manifest else None,
            provenance=dict(manifest["provenance"]),
            digest=digest,
        )
        bundle.golden.check(bundle.facts)
        check_graph(bundle.pgn_onnx, bundle.facts, f"{source}: pgn.onnx")
    except PgnEdgeError as exc:
        if isinstance(exc, BundleError) and exc.subject.startswith(source):
            raise
        raise _refuse(source, "a manifest that makes sense", str(exc)) from exc
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as exc:
        raise _refuse(source, f"a manifest of schema {SCHEMA}", f"{type(exc).__name__}: {exc}") from exc
    return bundle


def _read_members(source: str) -> tuple[dict[str, bytes], str]:
    """Give the members by name, and the digest of the file that they were read from."""
    try:
        with open(source, "rb") as file, zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            names = [info.filename for info in infos]
            if sorted(names) != sorted(MEMBERS):
                raise _refuse(source, f"the members {', '.join(MEMBERS)}", ", ".join(names)[:200] or "none")
            for info in infos:
                _check_member(source, info)
            members = {info.filename: archive.read(info) for info in infos}
            file.seek(0)
            whole = hashlib.sha256()
            while block := file.read(1 << 20):
                whole.update(block)
            return members, whole.hexdigest()[:DIGEST]
    except FileNotFoundError as exc:
        raise BundleError(source, expected="a task bundle", got="no such file", do="check the path") from exc
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as exc:
        raise _refuse(source, "a task bundle (a zip)", f"{type(exc).__name__}: {exc}") from exc


def _check_member(source: str, info: zipfile.ZipInfo) -> None:
    limit = MANIFEST_LIMIT if info.filename == "manifest.json" else MEMBER_LIMIT
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
        raise _refuse(source, "stored members", f"{info.filename} compressed or encrypted")
    if info.file_size > limit:
        raise _refuse(source, f"{info.filename} of at most {limit} bytes", f"{info.file_size} bytes")


def _check_manifest(manifest: Mapping[str, Any], members: Mapping[str, bytes], source: str) -> None:
    if manifest.get("format") != FORMAT or manifest.get("schema") != SCHEMA:
        got = f"{manifest.get('format')!r} of schema {manifest.get('schema')!r}"
        raise _refuse(source, f"{FORMAT!r} of schema {SCHEMA}", got)
    for name, data in members.items():
        stated = manifest["members"][name]["sha256"]
        if stated != _sha256(data):
            raise _refuse(source, f"{name} with sha256 {stated}", _sha256(data))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _refuse(source: str, expected: str, got: str) -> BundleError:
    return BundleError(
        source, expected=expected, got=got, do="copy the file again, or make it with: pgn-edge export ckpt.pt"
    )

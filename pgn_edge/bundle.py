"""The task bundle `task.pgn`: the only thing that crosses from export to runtime.

A zip whose members are STORED: `manifest.json`, `pgn.onnx`, `head.npz`, `golden.npz`. The manifest holds the sha256 of
each other member. Nothing is extracted to disk, and every limit is checked before a member is read.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import UnsetType

from pgn_edge.contract import EngineFacts
from pgn_edge.documents import parse_json
from pgn_edge.errors import BundleError, PgnEdgeError
from pgn_edge.file_kind import require_kind
from pgn_edge.files import write_bytes
from pgn_edge.graph_gate import check_graph
from pgn_edge.heads import Head, check_labels
from pgn_edge.mixtures import Profile
from pgn_edge.npz import npz_arrays, npz_bytes
from pgn_edge.schemas import ManifestJson, conform
from pgn_edge.stored_zip import read_stored

FORMAT = "pgn-edge task"
SCHEMA = 1
MEMBERS = ("manifest.json", "pgn.onnx", "head.npz", "golden.npz")
MANIFEST_LIMIT = 4 << 20
MEMBER_LIMIT = 256 << 20
LIMITS = {name: MANIFEST_LIMIT if name == "manifest.json" else MEMBER_LIMIT for name in MEMBERS}
REMEDY = "copy the file again, or make it with: pgn-edge export ckpt.pt"
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

    def check(self, facts: EngineFacts, head: Head) -> None:
        """Refuse arrays that do not fit the geometry or the head.

        Raises:
            BundleError: a shape, a dtype or a class is wrong, or a number is not finite.
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
        if not (np.isfinite(self.embedding).all() and np.isfinite(self.prompt_rows).all()):
            raise BundleError("golden.npz", expected="finite numbers", got="NaN or Inf", do="export the task again")
        width, classes = self.embedding.shape[-1], len(head.labels)
        fits = width == head.weight.shape[-1] if head.kind != "mapping" else width > int(head.index.max())
        if not fits or not ((self.top1 >= 0) & (self.top1 < classes)).all():
            raise BundleError(
                "golden.npz",
                expected=f"embeddings for the head, and classes from 0 to {classes - 1}",
                got=f"width {width}, classes {int(self.top1.min())} to {int(self.top1.max())}",
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
        BundleError: the golden pair does not fit the geometry or the head, a label is none, or the graph is none that a
            device would accept.
    """
    check_labels(bundle.head.labels, str(path))
    bundle.golden.check(bundle.facts, bundle.head)
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
        archive.writestr(zipfile.ZipInfo("manifest.json"), json.dumps(_finite(manifest), indent=2, allow_nan=False))
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
        parsed = parse_json(members.pop("manifest.json"), f"{source}: manifest.json", BundleError, REMEDY)
        manifest = _check_manifest(parsed, members, source)
        check_labels(manifest.labels, source)
        golden = npz_arrays(members["golden.npz"], f"{source}: golden.npz")
        profile = manifest.profile
        bundle = Bundle(
            name=manifest.name,
            facts=EngineFacts.from_json(manifest.engine, source),
            pgn_onnx=members["pgn.onnx"],
            head=Head.from_arrays(npz_arrays(members["head.npz"], f"{source}: head.npz"), manifest.labels),
            golden=Golden(**golden),
            certificate=manifest.certificate,
            parity=manifest.parity,
            numerics=manifest.numerics,
            profile=None if isinstance(profile, UnsetType) else Profile.from_json(profile),
            provenance=manifest.provenance,
            digest=digest,
        )
        bundle.golden.check(bundle.facts, bundle.head)
        check_graph(bundle.pgn_onnx, bundle.facts, f"{source}: pgn.onnx")
    except PgnEdgeError as exc:
        if isinstance(exc, BundleError) and exc.subject.startswith(source):
            raise
        raise _refuse(source, "a manifest that makes sense", str(exc)) from exc
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as exc:
        raise _refuse(source, f"a manifest of schema {SCHEMA}", f"{type(exc).__name__}: {exc}"[:300]) from exc
    return bundle


def _read_members(source: str) -> tuple[dict[str, bytes], str]:
    """Give the members by name, and the digest of the file that they were read from."""
    try:
        with open(source, "rb") as file:
            members = read_stored(file, LIMITS)
            file.seek(0)
            whole = hashlib.sha256()
            while block := file.read(1 << 20):
                whole.update(block)
            return members, whole.hexdigest()[:DIGEST]
    except FileNotFoundError as exc:
        raise BundleError(source, expected="a task bundle", got="no such file", do="check the path") from exc
    except (OSError, ValueError) as exc:
        raise _refuse(source, f"a zip of the members {', '.join(MEMBERS)}", str(exc)) from exc


def _check_manifest(parsed: object, members: Mapping[str, bytes], source: str) -> ManifestJson:
    """The manifest, if it is of our schema and names the bytes of every member."""
    if not isinstance(parsed, dict) or (parsed.get("format"), parsed.get("schema")) != (FORMAT, SCHEMA):
        got = [parsed.get(name) for name in ("format", "schema")] if isinstance(parsed, dict) else parsed
        raise _refuse(source, f"{FORMAT!r} of schema {SCHEMA}", str(got)[:200])
    manifest = conform(parsed, ManifestJson)
    if manifest.members.keys() != members.keys():
        raise _refuse(source, f"hashes of {', '.join(members)}", ", ".join(manifest.members)[:200])
    for name, data in members.items():
        stated = manifest.members[name]
        if stated.sha256 != _sha256(data):
            raise _refuse(source, f"{name} with sha256 {stated.sha256}", _sha256(data))
        if stated.bytes != len(data):
            raise _refuse(source, f"{name} of {stated.bytes} bytes", str(len(data)))
    return manifest


def _finite(value: Any) -> Any:
    """The value without NaN and infinity, which JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _refuse(source: str, expected: str, got: str) -> BundleError:
    return BundleError(source, expected=expected, got=got, do=REMEDY)

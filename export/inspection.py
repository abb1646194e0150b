"""`pgn-edge inspect`: what a file of ours says of itself, once it has been verified.

Bundles and plans need the base install only. A plan is hashed and never parsed: its sidecar speaks for it.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pgn_edge.bundle import MEMBERS, read_bundle
from pgn_edge.contract import PREFIX, EngineFacts
from pgn_edge.errors import EngineError, MissingExtraError
from pgn_edge.file_kind import ABOUT, find_kind
from pgn_edge.fingerprint import sha256_file
from pgn_edge.geometry import Geometry
from pgn_edge.heads import Head
from pgn_edge.mixtures import Profile
from pgn_edge.sidecar import FORMAT as PLAN_FORMAT
from pgn_edge.sidecar import SIZE_LIMIT, read_sidecar, sidecar_path

Kind = Literal["bundle", "onnx", "plan", "checkpoint"]
Sections = dict[str, Any]
HEAD_BYTES = 4096
NUMERICS = f"{PREFIX}numerics"
DEEPEST = 32  # levels of nesting; nothing that we write comes near, and a file made to be deep would end the recursion


@dataclass(frozen=True)
class Inspection:
    """What a file is.

    Args:
        path: of the file.
        kind: by its content.
        size_bytes: of the file.
        sha256: of the file.
        notes: what is not shown, and why.
        sections: JSON values by name, only those that the file has: `name`, `facts`, `plan`, `graph`, `pgn`,
            `external`, `certificate`, `parity`, `numerics`, `head`, `labels`, `golden`, `provenance`.
    """

    path: Path
    kind: Kind
    size_bytes: int
    sha256: str
    notes: tuple[str, ...]
    sections: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """One flat JSON object: the fields, then the sections."""
        fields = {"path": str(self.path), "kind": self.kind, "size_bytes": self.size_bytes, "sha256": self.sha256}
        return {**fields, "notes": list(self.notes), **self.sections}


def inspect_file(path: str | Path) -> Inspection:
    """Read a bundle, an ONNX graph, a plan with its sidecar, or a training checkpoint.

    Args:
        path: of the file; its content says which of them it is.

    Raises:
        EngineError: no such file, none of these, a damaged graph, or a plan that its sidecar does not vouch for.
        BundleError: a damaged bundle.
        CheckpointError: a damaged or foreign checkpoint.
        MissingExtraError: an ONNX graph without onnx, or a checkpoint without torch.
    """
    path = Path(path)
    readers: dict[Kind, Callable[[Path], tuple[Sections, list[str]]]] = {
        "bundle": _read_bundle,
        "onnx": _read_onnx,
        "plan": _read_plan,
        "checkpoint": _read_checkpoint,
    }
    try:
        kind = _kind(path)
        sections, notes = readers[kind](path)
        size, digest = path.stat().st_size, sha256_file(path)
    except OSError as exc:
        raise EngineError(
            str(path), expected="a file that can be read", got=exc.strerror or str(exc), do="check the path"
        ) from exc
    present = {name: value for name, value in _plain(sections).items() if value not in ({}, [])}
    return Inspection(path, kind, size, digest, tuple(notes), present)


def _kind(path: Path) -> Kind:
    if path.exists() and not path.is_file():
        raise _unknown(path, "a folder" if path.is_dir() else "no regular file")
    with open(path, "rb") as file:
        start = file.read(HEAD_BYTES)
    if start.startswith(b"PK\x03\x04"):
        names = _zip_names(path, start)
        if not names.isdisjoint(MEMBERS):
            return "bundle"
        if any(name.endswith("data.pkl") for name in names):
            return "checkpoint"
    elif path.suffix == ".plan" or _is_sidecar(sidecar_path(path)):
        return "plan"
    # Every writer of ONNX begins with field 1, the version of the format.
    elif start.startswith(b"\x08") or (start and path.suffix == ".onnx"):
        return "onnx"
    raise _unknown(path, "none of these" if start else "an empty file")


def _zip_names(path: Path, start: bytes) -> set[str]:
    """Names of the members; only the first one where the rest of the zip is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return set(archive.namelist())
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError):
        return {start[30 : 30 + int.from_bytes(start[26:28], "little")].decode(errors="replace")}


def _is_sidecar(path: Path) -> bool:
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return PLAN_FORMAT.encode() in file.read(SIZE_LIMIT)


def _unknown(path: Path, got: str) -> EngineError:
    kind = find_kind(path)
    if kind is not None:
        about = ABOUT[kind]
        return EngineError(str(path), expected="a file that pgn-edge makes", got=about.name, do=about.use)
    return EngineError(
        str(path),
        expected="a task bundle, an ONNX graph, a plan with its sidecar, or a training checkpoint",
        got=got,
        do="name a file from pgn-edge train, export, export-vit or compile",
    )


def _read_bundle(path: Path) -> tuple[Sections, list[str]]:
    bundle = read_bundle(path)
    golden, notes = bundle.golden, []
    sections: Sections = {
        "name": bundle.name,
        "facts": _facts(bundle.facts),
        "pgn": {
            "onnx_bytes": len(bundle.pgn_onnx),
            "onnx_sha256": hashlib.sha256(bundle.pgn_onnx).hexdigest(),
            **_profile(bundle.profile),
        },
        "certificate": bundle.certificate,
        "parity": bundle.parity,
        "numerics": bundle.numerics,
        **_head(bundle.head),
        "golden": {
            "frames": len(golden.images),
            "top1": [bundle.head.labels[index] for index in golden.top1 if 0 <= index < len(bundle.head.labels)],
        },
        "provenance": bundle.provenance,
    }
    try:
        graph = _graph(bundle.pgn_onnx, f"{path}: pgn.onnx")[0]
        del graph["external"]  # read_bundle refuses such a graph
        sections["graph"] = graph
    except MissingExtraError as exc:
        notes.append(f"the graph inside is left out: {exc}")
    return sections, notes


def _read_onnx(path: Path) -> tuple[Sections, list[str]]:
    graph, metadata = _graph(path.read_bytes(), str(path))
    external, notes = _external_files(path, graph.pop("external"))
    if not any(key.startswith(PREFIX) for key in metadata):
        shown = {key: graph[key] for key in ("inputs", "outputs", "opset")}
        notes.insert(0, "not exported by pgn-edge: only inputs, outputs and opset are shown")
        return {"graph": shown, "external": external}, notes
    facts = EngineFacts.from_metadata(metadata, str(path))
    # from_metadata has parsed every value of ours once.
    numerics = json.loads(metadata.get(NUMERICS, "{}"))
    return {"facts": _facts(facts), "numerics": numerics, "graph": graph, "external": external}, notes


def _external_files(path: Path, names: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Size and hash of each file of weights beside a graph; only plain files in its own folder are opened."""
    found: dict[str, Any] = {}
    for name in names:
        file = path.parent / name
        inside = file.resolve().is_relative_to(path.parent.resolve()) and not Path(name).is_absolute()
        if not inside:
            found[name] = {"state": "outside the folder of the graph: not read"}
        elif file.is_file():
            found[name] = {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
        else:
            found[name] = {"state": "missing"}
    if not names:
        return found, []
    size_bytes = sum(entry.get("bytes", 0) for entry in found.values())
    return found, [f"weights of {size_bytes} bytes are in other files; size and sha256 above are the graph's alone"]


def _graph(data: bytes, source: str) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        from pgn_edge.export.inspection_graph import read_graph
    except ModuleNotFoundError as exc:
        # A graph needs onnx alone; the extra `export` would bring torch.
        raise MissingExtraError(str(exc.name), "compile") from exc
    return read_graph(data, source)


def _read_plan(path: Path) -> tuple[Sections, list[str]]:
    sidecar = read_sidecar(path)
    plan = {key: value for key, value in asdict(sidecar).items() if key not in ("facts", "plan_sha256")}
    return {"facts": _facts(sidecar.facts), "plan": plan}, []


def _read_checkpoint(path: Path) -> tuple[Sections, list[str]]:
    try:
        from pgn_edge.nn.checkpoint import load_checkpoint
    except ModuleNotFoundError as exc:
        raise MissingExtraError(str(exc.name), "export") from exc
    checkpoint = load_checkpoint(path)
    parameters = sum(tensor.numel() for tensor in checkpoint.pgn.parameters())
    sections = {
        "name": checkpoint.name,
        "facts": {
            "backbone": checkpoint.backbone,
            "fingerprint": checkpoint.fingerprint,
            "weights_sha256": checkpoint.weights_sha256,
            "geometry": _geometry(checkpoint.geometry),
            "preprocess": checkpoint.preprocess.to_json(),
        },
        "pgn": {**asdict(checkpoint.pgn.config), "parameters": parameters},
        **_head(checkpoint.head),
        "golden": {"frames": len(checkpoint.golden_images)},
        "provenance": checkpoint.provenance,
    }
    return sections, []


def _facts(facts: EngineFacts) -> dict[str, Any]:
    return {**facts.to_json(), "geometry": _geometry(facts.geometry)}


def _geometry(geometry: Geometry) -> dict[str, Any]:
    derived = ("grid_hw", "rows", "spare", "content_hw", "canvas_hw")
    return {**geometry.to_json(), **{name: getattr(geometry, name) for name in derived}}


def _profile(profile: Profile | None) -> Sections:
    """The usage as a digest: hundreds of numbers are for no reader, and a difference must show."""
    if profile is None:
        return {}
    about = profile.to_json()
    digest = hashlib.sha256(json.dumps(about.pop("usage")).encode()).hexdigest()
    return {"profile": {**about, "library": len(profile.usage), "usage_sha256": digest}}


def _head(head: Head) -> Sections:
    about = {"kind": head.kind, "classes": len(head.labels), "scale": head.scale}
    if head.kind != "mapping":
        about["width"] = head.weight.shape[1]
    return {"head": about, "labels": head.labels}


def _plain(value: Any, depth: int = 0) -> Any:
    """JSON values only: what a file calls provenance may hold NaN or tensors."""
    if depth > DEEPEST:
        return "..."
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner, depth + 1) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (str, int, float)) else type(value).__name__

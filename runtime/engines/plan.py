"""A plan's bytes, verified: they are code, and nobody parses one of them before."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgn_edge.backends import load_backend
from pgn_edge.errors import EngineError
from pgn_edge.sidecar import sidecar_path, verify_plan


@dataclass(frozen=True)
class Plan:
    """A plan that may be loaded.

    Args:
        name: its path, for messages.
        data: its bytes, as they were verified.
        sha256: of them.
        backend: `tensorrt` or `tensorrt-rtx`.
        module: of the backend.
        metadata: facts of the engine, as its ONNX has them; empty for a plan that is not ours.
        onnx_sha256: of the graph that it was compiled from; empty likewise.
        rebuild: what to do where the library refuses it.
    """

    name: str
    data: bytes
    sha256: str
    backend: str
    module: Any
    metadata: Mapping[str, str]
    onnx_sha256: str
    rebuild: str


def read_plan(path: str | Path, trusted: frozenset[str] = frozenset()) -> Plan:
    """Read a plan that its sidecar or the user vouches for.

    Args:
        path: of the plan.
        trusted: sha256 of plans without a sidecar that the user vouches for.

    Raises:
        EngineError: it is not what was vouched for, or not for this machine; what `verify_plan` refuses.
        MissingExtraError: the backend is not installed.
    """
    if not sidecar_path(path).exists():
        return _foreign(path, trusted)
    data = _bytes(path)
    sidecar = verify_plan(path, data=data)
    return Plan(
        name=str(path),
        data=data,
        sha256=sidecar.plan_sha256,
        backend=sidecar.backend,
        module=load_backend(sidecar.backend),
        metadata=sidecar.facts.to_metadata(),
        onnx_sha256=sidecar.onnx_sha256,
        rebuild=f"compile it again: {sidecar.rebuild(path)}",
    )


def _foreign(path: str | Path, trusted: frozenset[str]) -> Plan:
    data = _bytes(path)
    digest = hashlib.sha256(data).hexdigest()
    if digest not in trusted:
        raise EngineError(
            str(path),
            expected=f"its sidecar {sidecar_path(path).name} beside it",
            got="none, and a plan is code that this process would run",
            do=f"compile it with pgn-edge; or, if you know where it comes from: pgn-edge bench --trust {digest}",
        )
    return Plan(
        name=str(path),
        data=data,
        sha256=digest,
        backend="tensorrt",
        module=load_backend("tensorrt"),
        metadata={},
        onnx_sha256="",
        rebuild="compile it with the release of TensorRT that is installed here, on this GPU",
    )


def _bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as exc:
        raise EngineError(
            str(path), expected="a plan", got=exc.strerror or str(exc), do="compile it: pgn-edge compile vit.onnx"
        ) from exc

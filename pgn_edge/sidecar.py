"""`vit.plan.json`: what is known of a compiled plan, kept beside it. Nothing is ever prepended to the plan itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pgn_edge.contract import EngineFacts
from pgn_edge.errors import EngineError, PgnEdgeError
from pgn_edge.files import write_text
from pgn_edge.fingerprint import sha256_file

FORMAT = "pgn-edge plan"
SCHEMA = 1
SIZE_LIMIT = 1 << 20


@dataclass(frozen=True)
class Sidecar:
    """Facts of a plan.

    Args:
        plan_sha256: of the plan's bytes.
        onnx_sha256: of the graph that it was compiled from.
        backend: `tensorrt-rtx`.
        backend_version: that compiled it; plans do not load elsewhere.
        targets: GPU architectures, for example `("sm_86",)`; empty for the backend's default set.
        batch: smallest, best and largest batch.
        facts: of the engine, as in the ONNX.
    """

    plan_sha256: str
    onnx_sha256: str
    backend: str
    backend_version: str
    targets: tuple[str, ...]
    batch: tuple[int, int, int]
    facts: EngineFacts


def sidecar_path(plan: str | Path) -> Path:
    """`vit.plan` -> `vit.plan.json`."""
    return Path(f"{plan}.json")


def write_sidecar(plan: str | Path, sidecar: Sidecar) -> None:
    """Write the sidecar of `plan` whole or not at all.

    Raises:
        OutputError: the path cannot be written.
    """
    data = {"format": FORMAT, "schema": SCHEMA, **asdict(sidecar), "facts": sidecar.facts.to_json()}
    write_text(sidecar_path(plan), json.dumps(data, indent=2) + "\n")


def read_sidecar(plan: str | Path) -> Sidecar:
    """Read the sidecar of `plan`, and verify the plan's sha256 before anyone parses a byte of it.

    A plan is code that the driver will run, so one without a matching sidecar is refused.

    Raises:
        EngineError: plan or sidecar is missing, unreadable, or they do not belong together.
    """
    path = sidecar_path(plan)
    try:
        if path.stat().st_size > SIZE_LIMIT:
            raise _refuse(path, f"at most {SIZE_LIMIT} bytes", f"{path.stat().st_size}")
        data: Mapping[str, Any] = json.loads(path.read_bytes())
        if data.get("format") != FORMAT or data.get("schema") != SCHEMA:
            raise _refuse(path, f"{FORMAT!r} of schema {SCHEMA}", f"{data.get('format')!r} {data.get('schema')!r}")
        smallest, best, largest = (int(size) for size in data["batch"])
        sidecar = Sidecar(
            plan_sha256=str(data["plan_sha256"]),
            onnx_sha256=str(data["onnx_sha256"]),
            backend=str(data["backend"]),
            backend_version=str(data["backend_version"]),
            targets=tuple(str(target) for target in data["targets"]),
            batch=(smallest, best, largest),
            facts=EngineFacts.from_json(data["facts"], str(path)),
        )
        digest = sha256_file(plan)
    except PgnEdgeError:
        raise
    except OSError as exc:
        raise _refuse(plan, "a plan with its sidecar beside it", f"{exc.strerror}: {exc.filename}") from exc
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as exc:
        raise _refuse(path, "a readable sidecar", f"{type(exc).__name__}: {exc}") from exc
    if digest != sidecar.plan_sha256:
        raise _refuse(plan, f"sha256 {sidecar.plan_sha256}", digest)
    return sidecar


def _refuse(path: str | Path, expected: str, got: str) -> EngineError:
    return EngineError(str(path), expected=expected, got=got, do="compile it again: pgn-edge compile vit.onnx")
